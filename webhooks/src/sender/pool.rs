//! The idle connections of one endpoint. A new connection costs a lookup and the handshakes of TCP and TLS.
//!
//! A kept connection leads to the address that was checked when it was dialed. It is closed after it was
//! idle for a while, so a name that changes its address is resolved, and checked, again.

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

/// How long an idle connection is kept. Most servers keep theirs longer.
const IDLE: Duration = Duration::from_secs(15);
/// The longest head of an answer.
const MAX_HEAD: usize = 16 * 1024;
/// The most bytes of a whole answer. It includes interim answers (1xx), which hyper does not limit.
const MAX_ANSWER: usize = 64 * 1024;

/// Idle connections. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Pool(Arc<Mutex<Idle>>);

#[derive(Debug, Default)]
struct Idle {
    /// Longest idle first.
    lines: Vec<(Instant, Line)>,
    /// A task runs that closes those that were idle for too long.
    swept: bool,
}

impl Pool {
    /// The most recently used connection, if there is one.
    pub fn take(&self) -> Option<Line> {
        let mut idle = self.idle();
        while let Some((_, line)) = idle.lines.pop() {
            if !line.sender.is_closed() {
                return Some(line);
            }
        }
        None
    }

    /// Keeps a connection whose answer was read to its end.
    pub fn keep(&self, line: Line) {
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

/// Closes connections that were idle for too long, until none is left.
async fn sweep(pool: Weak<Mutex<Idle>>) {
    let mut next = Instant::now() + IDLE;
    loop {
        sleep_until(next).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut idle = lock(&pool);
        idle.lines
            .retain(|(since, line)| since.elapsed() < IDLE && !line.sender.is_closed());
        match idle.lines.first() {
            Some((since, _)) => next = *since + IDLE,
            None => {
                idle.swept = false;
                return;
            }
        }
    }
}

/// One connection. One attempt uses it at a time.
#[derive(Debug)]
pub struct Line {
    /// The dialed address.
    pub remote: SocketAddr,
    sender: http1::SendRequest<Full<Bytes>>,
    received: Arc<AtomicUsize>,
    /// The task that drives the connection. It ends when this is dropped.
    _driver: JoinSet<hyper::Result<()>>,
}

impl Line {
    /// Speaks HTTP/1 over a connected stream.
    ///
    /// # Errors
    /// hyper's.
    pub async fn over(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        remote: SocketAddr,
    ) -> hyper::Result<Self> {
        let received = Arc::new(AtomicUsize::new(0));
        let counted = Counted {
            stream,
            received: received.clone(),
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
            received,
            _driver: driver,
        })
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// # Errors
    /// If the connection breaks, or the answer is not HTTP.
    pub async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> hyper::Result<Response<Incoming>> {
        self.received.store(0, Ordering::Relaxed);
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }

    /// Whether any byte of an answer to the last request came.
    pub fn has_received(&self) -> bool {
        self.received.load(Ordering::Relaxed) > 0
    }
}

/// A stream that counts the bytes read from it, and breaks off an answer that is too long.
struct Counted<S> {
    stream: S,
    received: Arc<AtomicUsize>,
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
        if self.received.fetch_add(read, Ordering::Relaxed) + read > MAX_ANSWER {
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
