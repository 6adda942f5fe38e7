//! The connections of one endpoint, kept open between attempts: a new one costs a lookup, a handshake of
//! TCP and one of TLS.
//!
//! A kept connection leads to the address that was judged when it was made. It is given up when it was
//! idle for a while, and a name that moves is then looked up, and judged, anew.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::JoinSet,
    time::{Instant, sleep_until},
};

/// For so long an idle connection is kept: shorter than most servers keep theirs.
const IDLE: Duration = Duration::from_secs(15);
/// The longest head of an answer.
const MAX_HEAD: usize = 16 * 1024;
/// Bytes of one whole answer, with the interim ones before it (1xx), of which hyper takes any number.
const MAX_ANSWER: usize = 64 * 1024;

/// The connections that are idle now.
#[derive(Clone, Default)]
pub(crate) struct Pool(Arc<Mutex<Idle>>);

#[derive(Default)]
struct Idle {
    /// Longest idle first.
    lines: Vec<(Instant, Line)>,
    /// A task closes those that are idle for too long.
    swept: bool,
}

impl Pool {
    /// The one that was used last, if there is any.
    pub(crate) fn take(&self) -> Option<Line> {
        let mut idle = self.idle();
        while let Some((_, line)) = idle.lines.pop() {
            if !line.sender.is_closed() {
                return Some(line);
            }
        }
        None
    }

    /// Keeps a connection whose answer was read to its end.
    pub(crate) fn keep(&self, line: Line) {
        let mut idle = self.idle();
        idle.lines.push((Instant::now(), line));
        if !std::mem::replace(&mut idle.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(&self.0)));
        }
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        lock(&self.0)
    }
}

fn lock(idle: &Mutex<Idle>) -> MutexGuard<'_, Idle> {
    idle.lock().expect("nothing panics under this lock")
}

/// Closes what is idle for too long, until nothing is.
async fn sweep(pool: Weak<Mutex<Idle>>) {
    let mut next = Instant::now() + IDLE;
    loop {
        sleep_until(next).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut idle = lock(&pool);
        let old =
            |(since, line): &(Instant, Line)| since.elapsed() >= IDLE || line.sender.is_closed();
        idle.lines.retain(|one| !old(one));
        match idle.lines.first() {
            Some((since, _)) => next = *since + IDLE,
            None => {
                idle.swept = false;
                return;
            }
        }
    }
}

/// One connection, used by one attempt at a time.
pub(crate) struct Line {
    pub(crate) remote: SocketAddr,
    sender: http1::SendRequest<Full<Bytes>>,
    heard: Arc<AtomicUsize>,
    /// hyper's half. It ends with this, however that ends.
    _driver: JoinSet<hyper::Result<()>>,
}

impl Line {
    pub(crate) async fn over(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        remote: SocketAddr,
    ) -> hyper::Result<Self> {
        let heard = Arc::new(AtomicUsize::new(0));
        let counted = Counted {
            stream,
            heard: heard.clone(),
        };
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .handshake(TokioIo::new(counted))
            .await?;
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        Ok(Self {
            remote,
            sender,
            heard,
            _driver: driver,
        })
    }

    /// Sends a request and waits for the head of its answer.
    pub(crate) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> hyper::Result<Response<Incoming>> {
        self.heard.store(0, Ordering::Relaxed);
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }

    /// Whether any byte of an answer to the last request came.
    pub(crate) fn heard_anything(&self) -> bool {
        self.heard.load(Ordering::Relaxed) > 0
    }
}

/// A stream that counts what is read from it, and ends an answer that is too long.
struct Counted<S> {
    stream: S,
    heard: Arc<AtomicUsize>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let read = buffer.filled().len() - before;
        if self.heard.fetch_add(read, Ordering::Relaxed) + read > MAX_ANSWER {
            return Poll::Ready(Err(io::Error::other("the answer is too long")));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
