//! Density, an addition to plain hyper: an open stream costs a socket and a position.
//!
//! hyper keeps a read and a write buffer of 8 KiB each for as long as an answer streams. A stream
//! that mostly waits needs neither. So hyper parses the head and the route answers as ever; but
//! before any byte of a streaming answer is written, the socket is taken back, everything of hyper
//! is dropped, and the answer is written here: its head, then its body until one side ends it.
//!
//! The contract. `Connection::into_parts` is documented for a connection that is done; ours is idle,
//! waiting for a service that never answers. What it could still hold is an *earlier* answer that
//! the client has not taken yet, if the stream's request was pipelined behind it. hyper 1.12 writes
//! an answer out before it parses the next head, but does not promise to; [`FlushWatch`] sees every
//! write and flush, and nothing is taken over between a write and a successful flush. The tests
//! below and in `tests/takeover.rs` hold that an earlier answer arrives whole.

use std::{
    convert::Infallible,
    future::{pending, poll_fn},
    io::{self, Write},
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    task::Poll,
    time::SystemTime,
};

use bytes::Bytes;
use common::{FlushNotes, FlushWatch, StallGuard};
use http_body_util::{Either, Full};
use hyper::{Request, Response, Version, body::Incoming, http::response, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
};
use tracing::debug;

use crate::{App, route, serve, stream::Subscriber};

/// One connection, as `serve::connection` is with plain hyper. A stream is its last answer: the
/// body ends where the connection does (RFC 9112 §6.3, rule 8).
pub(crate) fn connection(
    stream: TcpStream,
    app: Arc<App>,
    draining: watch::Receiver<bool>,
) -> impl Future<Output = ()> {
    // Boxed, so that hyper's room is free again once the stream is open.
    let parsing = Box::pin(parse(stream, app, draining));
    async move {
        // Used where it lies: what is moved has room in the future twice.
        match &mut parsing.await {
            Ok(Some((socket, stream))) => {
                if let Err(error) = write(socket, stream).await {
                    debug!(%error, "stream ended");
                }
            }
            Ok(None) => {}
            Err(error) => debug!(%error, "connection ended"),
        }
    }
}

/// Lets hyper answer until a stream opens; then the socket, and the answer to write on it.
async fn parse<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    app: Arc<App>,
    mut draining: watch::Receiver<bool>,
) -> hyper::Result<Option<(StallGuard<S>, Taken)>> {
    let desk = Arc::new(Desk::default());
    let guarded = StallGuard::new(stream, app.config.stall);
    let io = FlushWatch::new(guarded, desk.flushes.clone());
    let builder = serve::http(&app);
    let service = service_fn(|request| answer(app.clone(), desk.clone(), request));
    let mut http = builder.serve_connection(TokioIo::new(io), service);
    let (mut drain, mut told) = (pin!(draining.changed()), false);
    let taken = poll_fn(|task| {
        if !told && drain.as_mut().poll(task).is_ready() {
            told = true;
            Pin::new(&mut http).graceful_shutdown();
        }
        let served = Pin::new(&mut http).poll(task).map_ok(|()| None);
        desk.take()
            .map_or(served, |taken| Poll::Ready(Ok(Some(taken))))
    });
    let Some(taken) = taken.await? else {
        return Ok(None);
    };
    // What was read beyond the head is dropped: a request behind a stream has no turn.
    Ok(Some((
        http.into_parts().io.into_inner().into_inner(),
        taken,
    )))
}

/// A stream to be written without hyper.
struct Taken {
    head: Vec<u8>,
    subscriber: Subscriber,
}

/// What the service inside hyper and the task around it tell each other.
#[derive(Default)]
struct Desk {
    taken: Mutex<Option<Taken>>,
    /// Whether hyper holds bytes of an earlier answer.
    flushes: FlushNotes,
}

impl Desk {
    fn take(&self) -> Option<Taken> {
        let flushed = self.flushes.is_flushed();
        self.taken
            .lock()
            .expect("nothing panics under this lock")
            .take_if(|_| flushed)
    }
}

/// The route's answer; a stream goes to the desk, and hyper waits for it for ever.
async fn answer(
    app: Arc<App>,
    desk: Arc<Desk>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let version = request.version();
    let (head, body) = route::route(app, request).await?.into_parts();
    match body {
        Either::Left(body) => Ok(Response::from_parts(head, body)),
        Either::Right(subscriber) => {
            let head = encode(version, &head);
            *desk.taken.lock().expect("nothing panics under this lock") =
                Some(Taken { head, subscriber });
            pending().await
        }
    }
}

/// Writes the stream until it ends or the client does.
async fn write(socket: &mut StallGuard<TcpStream>, stream: &mut Taken) -> io::Result<()> {
    socket.write_all(&std::mem::take(&mut stream.head)).await?;
    loop {
        let blocks = tokio::select! {
            biased; // While there is something to write, writing tells of a client that left.
            blocks = stream.subscriber.next() => blocks,
            left = left(socket.get_ref()) => return left,
        };
        match blocks {
            Some(blocks) => socket.write_all(&blocks).await?,
            None => return socket.shutdown().await,
        }
    }
}

/// The head's bytes (RFC 9112 §4). hyper would have added the date and the framing.
fn encode(version: Version, head: &response::Parts) -> Vec<u8> {
    let version = if version == Version::HTTP_10 {
        "HTTP/1.0"
    } else {
        "HTTP/1.1"
    };
    let mut bytes = format!("{version} {}\r\n", head.status).into_bytes();
    for (name, value) in &head.headers {
        bytes.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    let date = httpdate::fmt_http_date(SystemTime::now());
    write!(bytes, "connection: close\r\ndate: {date}\r\n\r\n").expect("a Vec takes any bytes");
    bytes
}

/// Resolves when the client has left. What it says during the stream is read and thrown away.
async fn left(socket: &TcpStream) -> io::Result<()> {
    loop {
        poll_fn(|task| socket.poll_read_ready(task)).await?;
        match socket.try_read(&mut [0; 1_024]) {
            Ok(0) => return Ok(()),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use common::{Feed, Retention};
    use tokio::{
        io::{AsyncReadExt, join, simplex},
        time::Instant,
    };

    use super::*;
    use crate::Config;

    #[tokio::test]
    async fn a_stream_behind_an_answer_that_is_not_written_yet_waits_for_it() {
        let path = "x".repeat(8_000);
        let (requests, mut client) = simplex(16_384);
        let (mut answers, server) = simplex(1_000);
        let early = format!("POST /{path} HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
        client.write_all(early.as_bytes()).await.unwrap();
        client
            .write_all(b"GET /topics/a HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap();

        let address = "[::]:0".parse().unwrap();
        let app = App::new(&Feed::new(Retention::default()), Config::default(), address);
        let (_drain, draining) = watch::channel(false);
        let parsing = tokio::spawn(parse(join(requests, server), Arc::new(app), draining));
        let mut written = String::new();
        let reading = tokio::spawn(async move {
            answers.read_to_string(&mut written).await.unwrap();
            written
        });
        let (mut socket, taken) = parsing
            .await
            .unwrap()
            .unwrap()
            .expect("a stream was asked for");
        socket.shutdown().await.unwrap();
        assert!(taken.head.starts_with(b"HTTP/1.1 200 OK\r\n"));
        let written = reading.await.unwrap();
        let (head, body) = written.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 404 Not Found\r\n"));
        assert!(
            body.contains(&path) && body.ends_with('}'),
            "{} bytes",
            body.len()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_head_ends_the_connection_after_thirty_seconds() {
        let (requests, mut client) = simplex(16_384);
        let (_answers, server) = simplex(16_384);
        client
            .write_all(b"GET /topics/a HTTP/1.1\r\n")
            .await
            .unwrap();
        let address = "[::]:0".parse().unwrap();
        let app = App::new(&Feed::new(Retention::default()), Config::default(), address);
        let (_drain, draining) = watch::channel(false);
        let started = Instant::now();
        let parsed = parse(join(requests, server), Arc::new(app), draining).await;
        assert!(!matches!(parsed, Ok(Some(_))));
        assert_eq!(started.elapsed().as_secs(), 30);
    }

    #[tokio::test]
    async fn what_a_stream_keeps_of_its_connection_is_small() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let app = App::new(&Feed::new(Retention::default()), Config::default(), address);
        let (_drain, draining) = watch::channel(false);
        let size = size_of_val(&connection(stream, Arc::new(app), draining));
        // 760 with rustc 1.95; ten thousand of them are open.
        assert!(size <= 800, "{size} bytes");
    }
}
