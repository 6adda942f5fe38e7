//! Density, an addition to plain hyper: a poll that waits costs a socket and a position, and so does
//! a connection between two polls.
//!
//! hyper keeps a read and a write buffer of 8 KiB each for as long as a connection lives. A client
//! that waits, or has not asked yet, needs neither. So hyper is made anew for each request, when its
//! first words are there. It parses the head, and what a client may wait for, a `GET`, is taken out
//! of it together with the socket, before anything is answered: everything of hyper is dropped, the
//! route answers as ever, and the answer is written here. All else hyper answers itself, and the
//! socket is taken back when that answer is out.
//!
//! The contract. `Connection::into_parts` is documented for a connection that is done; ours is idle,
//! waiting for a service that never answers, or for the next head. Two things it could still hold:
//!
//! - an answer that the client has not taken yet, this one or an earlier one that a `GET` was
//!   pipelined behind. hyper 1.12 writes an answer out before it parses the next head, but does not
//!   promise to; [`FlushWatch`] sees every write and flush, and nothing is taken between a write and a
//!   successful flush;
//! - a part of a body. A `GET` with a body, which is refused, and whatever was answered before its
//!   body was read to the end stay with hyper, which alone knows where the next request begins.
//!
//! The tests below and in `tests/takeover.rs` hold both.
//!
//! What the client says during a wait is kept for its turn, up to [`EARLY`] bytes; then nothing is
//! read until the answer is out. The end of what it says, or a reset, means that it has left.

use std::{
    convert::Infallible,
    error::Error,
    future::{pending, poll_fn},
    io::{self, IoSlice, Write},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::SystemTime,
};

use common::{FlushNotes, FlushWatch, StallGuard};
use http_body_util::BodyExt;
use hyper::{
    Method, Request, Response, StatusCode, Version,
    body::{Body, Incoming},
    header::{self, HeaderValue},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    sync::watch,
    time::{Instant, sleep_until},
};
use tracing::debug;

use crate::{
    App,
    route::{self, AnswerBody},
    serve,
};

/// So much of what a client says during a wait is kept.
const EARLY: usize = 8 * 1_024;

/// One connection, as `serve::connection` is with plain hyper.
pub(crate) fn connection(
    stream: TcpStream,
    app: Arc<App>,
    mut draining: watch::Receiver<bool>,
) -> impl Future<Output = ()> {
    let mut client = Client {
        socket: StallGuard::new(stream, app.config.stall),
        early: Vec::new(),
    };
    // Captured and used where it lies: what is moved has room in the future twice.
    async move {
        if let Err(error) = serve(&mut client, &app, &mut draining).await {
            debug!(%error, "connection ended");
        }
    }
}

/// Request after request: waits for its first words, has it parsed, answers it. What takes room and
/// is soon over is boxed, so that who waits does not hold it.
async fn serve(
    client: &mut Client<TcpStream>,
    app: &Arc<App>,
    draining: &mut watch::Receiver<bool>,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    loop {
        // One limit for the time until a head comes and for the head, as hyper's is.
        let deadline = Instant::now() + app.config.read_timeout;
        if !client.asks(deadline, draining).await? {
            return Ok(());
        }
        let (version, closes, answer) =
            match Box::pin(parse(client, app, deadline, draining)).await? {
                Parsed::Poll(request) => (
                    request.version(),
                    is_last(&request),
                    route::route(app.clone(), request),
                ),
                Parsed::Answered => continue,
                Parsed::Ended => return Ok(()),
            };
        let answer = tokio::select! {
            // First: an answer that is there already goes out, also to who will say no more.
            biased;
            Ok(answer) = answer => answer,
            left = client.left() => return Ok(left?),
        };
        let last = closes || *draining.borrow();
        Box::pin(client.write(version, last, answer)).await?;
        if last {
            return Ok(());
        }
    }
}

/// A connection without hyper.
struct Client<S> {
    socket: StallGuard<S>,
    /// What was read and is not yet parsed.
    early: Vec<u8>,
}

impl Client<TcpStream> {
    /// Waits for the first words of a request. `false` if the client leaves or says nothing in time,
    /// or the server drains.
    async fn asks(
        &mut self,
        deadline: Instant,
        draining: &mut watch::Receiver<bool>,
    ) -> io::Result<bool> {
        if !self.early.is_empty() || *draining.borrow() {
            return Ok(!self.early.is_empty());
        }
        tokio::select! {
            biased; // Who was woken was most likely woken by a request.
            heard = self.hears() => heard,
            () = sleep_until(deadline) => Ok(false),
            _ = draining.changed() => Ok(false),
        }
    }

    /// Resolves when the client has left.
    async fn left(&mut self) -> io::Result<()> {
        while self.early.len() < EARLY {
            if !self.hears().await? {
                return Ok(());
            }
        }
        pending().await
    }

    /// Waits until the client says something more, which is kept. `false` if it leaves.
    fn hears(&mut self) -> impl Future<Output = io::Result<bool>> {
        // Not an async block, and not `TcpStream::readable`, which keep more: ten thousand wait here.
        poll_fn(|task| {
            loop {
                let socket = self.socket.get_ref();
                ready!(socket.poll_read_ready(task))?;
                let mut bytes = [0; 1_024];
                let room = bytes.len().min(EARLY - self.early.len());
                match socket.try_read(&mut bytes[..room]) {
                    Ok(read) => {
                        self.early.extend_from_slice(&bytes[..read]);
                        return Poll::Ready(Ok(read > 0));
                    }
                    // A new socket is taken for readable at first.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
        })
    }

    async fn write(
        &mut self,
        version: Version,
        last: bool,
        answer: Response<AnswerBody>,
    ) -> io::Result<()> {
        let bytes = encode(version, last, answer).await;
        self.socket.write_all(&bytes).await?;
        if last {
            self.socket.shutdown().await?;
        }
        Ok(())
    }
}

/// What came of a request.
#[allow(clippy::large_enum_variant, reason = "it is not kept")]
enum Parsed {
    /// It is taken out, and the connection with it.
    Poll(Request<Incoming>),
    /// hyper has answered it, and the connection is taken back.
    Answered,
    /// hyper has ended the connection.
    Ended,
}

/// Lets hyper read, and answer what is not for us, until the connection can be taken back.
async fn parse<S: AsyncRead + AsyncWrite + Unpin>(
    client: &mut Client<S>,
    app: &Arc<App>,
    deadline: Instant,
    draining: &mut watch::Receiver<bool>,
) -> hyper::Result<Parsed> {
    let desk = Desk::default();
    let io = FlushWatch::new(Lent(client), desk.flushes.clone());
    let service = service_fn(|request| hand_over(app, &desk, request));
    let mut http = serve::http(app)
        .header_read_timeout(deadline - Instant::now())
        .serve_connection(TokioIo::new(io), service);
    let (mut drain, mut told) = (pin!(draining.changed()), false);
    let parsed = poll_fn(|task| {
        loop {
            let served = Pin::new(&mut http).poll(task).map_ok(|()| Parsed::Ended);
            if let Some(request) = desk.take() {
                return Poll::Ready(Ok(Parsed::Poll(request)));
            }
            if served.is_ready() || told {
                return served;
            }
            if desk.is_cleared() {
                return Poll::Ready(Ok(Parsed::Answered));
            }
            if drain.as_mut().poll(task).is_pending() {
                return Poll::Pending;
            }
            told = true;
            Pin::new(&mut http).graceful_shutdown();
        }
    });
    let parsed = parsed.await?;
    let read_beyond = http.into_parts().read_buf;
    // Copied: as a part of hyper's buffer it would keep the whole of it, even if it is empty.
    client.early.splice(..0, read_beyond);
    Ok(parsed)
}

/// The service inside hyper. What is taken out is put on the desk, and hyper waits for ever.
async fn hand_over(
    app: &Arc<App>,
    desk: &Desk,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Infallible> {
    desk.answered.store(false, Ordering::Relaxed);
    let has_body = !request.body().is_end_stream();
    if request.method() == Method::GET && !has_body {
        *desk.request.lock().expect(UNPOISONED) = Some(request);
        return pending().await;
    }
    let answer = route::route(app.clone(), request).await?;
    // A publish that was taken has been read to its end. After any other body hyper knows better
    // what is the rest of it and what the next request.
    if !has_body || answer.status() == StatusCode::CREATED {
        desk.flushes.expect_write();
        desk.answered.store(true, Ordering::Relaxed);
    }
    Ok(answer)
}

/// What the service inside hyper and the task around it tell each other.
#[derive(Default)]
struct Desk {
    request: Mutex<Option<Request<Incoming>>>,
    /// hyper has an answer to the last request, which was read to its end.
    answered: AtomicBool,
    /// Whether hyper holds bytes of an answer, or is about to.
    flushes: FlushNotes,
}

impl Desk {
    fn take(&self) -> Option<Request<Incoming>> {
        let flushed = self.flushes.is_flushed();
        let mut request = self.request.lock().expect(UNPOISONED);
        request.take_if(|_| flushed)
    }

    /// Whether nothing is left to do for hyper.
    fn is_cleared(&self) -> bool {
        self.answered.load(Ordering::Relaxed) && self.flushes.is_flushed()
    }
}

const UNPOISONED: &str = "nothing panics under this lock";

/// Whether the connection ends with this answer (RFC 9112 §9.3). HTTP/1.0 would have to ask for
/// more, and is not heard.
fn is_last<B>(request: &Request<B>) -> bool {
    let closes = |value: &HeaderValue| {
        let value = value.to_str().unwrap_or_default();
        let mut options = value.split(',');
        options.any(|option| option.trim().eq_ignore_ascii_case("close"))
    };
    let connection = request.headers().get_all(header::CONNECTION);
    request.version() != Version::HTTP_11 || connection.iter().any(closes)
}

/// The answer's bytes (RFC 9112 §4), as hyper would have written them.
async fn encode(version: Version, last: bool, answer: Response<AnswerBody>) -> Vec<u8> {
    let (mut head, body) = answer.into_parts();
    let Ok(body) = body.collect().await.map(|body| body.to_bytes());
    if last && version == Version::HTTP_11 {
        head.headers
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let mut bytes = Vec::with_capacity(512 + body.len());
    write!(bytes, "{version:?} {}\r\n", head.status).expect(INFALLIBLE);
    for (name, value) in &head.headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            bytes.extend_from_slice(part);
        }
    }
    let date = httpdate::fmt_http_date(SystemTime::now());
    let length = body.len();
    write!(bytes, "content-length: {length}\r\ndate: {date}\r\n\r\n").expect(INFALLIBLE);
    bytes.extend_from_slice(&body);
    bytes
}

const INFALLIBLE: &str = "a Vec takes any bytes";

/// A connection while hyper has it: what was read early is read first.
struct Lent<'a, S>(&'a mut Client<S>);

impl<S: AsyncRead + Unpin> AsyncRead for Lent<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let early = &mut self.0.early;
        if early.is_empty() {
            return Pin::new(&mut self.0.socket).poll_read(task, buffer);
        }
        let rest = early.split_off(early.len().min(buffer.remaining()));
        buffer.put_slice(early);
        *early = rest; // And the room of what is read is free.
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Lent<'_, S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0.socket).poll_write(task, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0.socket).poll_write_vectored(task, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.socket).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.socket).poll_shutdown(task)
    }
}

#[cfg(test)]
mod tests {
    use common::{Feed, Retention};
    use tokio::io::{AsyncReadExt, join, simplex};

    use super::*;
    use crate::Config;

    fn app() -> Arc<App> {
        let feed = Feed::new(Retention::default());
        Arc::new(App::new(
            &feed,
            Config::default(),
            "[::]:0".parse().unwrap(),
        ))
    }

    /// What comes of `asked`, and what is kept of it; and what the client is sent, whose side of
    /// the connection holds a thousand bytes.
    async fn parsed(asked: &str) -> (Parsed, Vec<u8>, String) {
        let (requests, mut sender) = simplex(16_384);
        let (mut answers, server) = simplex(1_000);
        sender.write_all(asked.as_bytes()).await.unwrap();
        let reading = tokio::spawn(async move {
            let mut written = String::new();
            answers.read_to_string(&mut written).await.unwrap();
            written
        });
        let app = app();
        let mut client = Client {
            socket: StallGuard::new(join(requests, server), app.config.stall),
            early: Vec::new(),
        };
        let (_drain, mut draining) = watch::channel(false);
        let deadline = Instant::now() + app.config.read_timeout;
        let parsed = parse(&mut client, &app, deadline, &mut draining).await;
        client.socket.shutdown().await.unwrap();
        (parsed.unwrap(), client.early, reading.await.unwrap())
    }

    #[tokio::test]
    async fn a_wait_behind_an_answer_that_is_not_written_yet_waits_for_it() {
        let path = "x".repeat(8_000);
        let early = format!("POST /{path} HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
        let wait = "GET /topics/a HTTP/1.1\r\nHost: a\r\n\r\nGET /next";
        let (parsed, kept, written) = parsed(&[&early, wait].concat()).await;
        let Parsed::Poll(request) = parsed else {
            panic!("a poll was sent");
        };
        assert_eq!(
            (request.uri().path(), &kept[..]),
            ("/topics/a", &b"GET /next"[..])
        );
        let (head, body) = written.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 404 Not Found\r\n"));
        assert!(
            body.contains(&path) && body.ends_with('}'),
            "{} bytes",
            body.len()
        );
    }

    #[tokio::test]
    async fn a_connection_is_taken_back_when_its_answer_is_written() {
        let publish = "POST /topics/a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx";
        let head = "HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
        let long = format!("HEAD /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(8_000));
        for (asked, status) in [
            (publish, "201 Created"),
            (head, "200 OK"),
            (&long, "404 Not Found"),
        ] {
            let (parsed, kept, written) = parsed(&[asked, "GET /next"].concat()).await;
            assert!(matches!(parsed, Parsed::Answered), "{asked}");
            assert_eq!(kept, b"GET /next");
            assert!(
                written.starts_with(&format!("HTTP/1.1 {status}\r\n")),
                "{written}"
            );
        }
    }

    #[test]
    fn a_client_ends_its_connection_by_the_word_or_by_an_old_version() {
        let ends = |version, values: &[&str]| {
            let request = Request::builder().version(version);
            let request = values.iter().fold(request, |request, value| {
                request.header("connection", *value)
            });
            is_last(&request.body(()).unwrap())
        };
        assert!(!ends(Version::HTTP_11, &[]) && !ends(Version::HTTP_11, &["keep-alive, closed"]));
        assert!(ends(Version::HTTP_11, &["close"]) && ends(Version::HTTP_11, &["te , Close"]));
        assert!(ends(Version::HTTP_11, &["te", "close"]));
        assert!(ends(Version::HTTP_10, &[]) && ends(Version::HTTP_10, &["keep-alive"]));
    }

    #[tokio::test]
    async fn what_a_connection_keeps_while_it_waits_is_small() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let (_drain, draining) = watch::channel(false);
        let size = size_of_val(&connection(stream, app(), draining));
        // 488 with rustc 1.95; ten thousand of them are open.
        assert!(size <= 512, "{size} bytes");
    }
}
