//! A keep-alive connection that has no buffers while it waits.
//!
//! Each request gets a new hyper connection, when its first bytes have arrived. A `GET` is taken out of
//! hyper before it is answered: the route answers it, and the answer is written here. hyper answers all
//! other requests itself, and the connection is taken back when that answer is flushed.
//!
//! A client may send its next request before it has the answer. Up to [`MAX_EARLY`] bytes of that are
//! kept; then nothing more is read until the answer is written. If the client resets the connection, its
//! answer is dropped. If it only closes its sending side, it still gets its answer (RFC 9112 §9.6).

use std::{
    convert::Infallible,
    error::Error,
    future::{pending, poll_fn},
    io::{self, Cursor},
    mem::MaybeUninit,
    pin::Pin,
    task::{Poll, ready},
    time::Duration,
};

use bytes::Buf;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Version,
    body::{Body, Incoming},
    header::{self, HeaderValue},
    server::conn::http1,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, ReadBuf, join},
    net::TcpStream,
    sync::watch,
    time::Instant,
};
use tracing::debug;

use super::{Handover, encode_head};
use crate::{
    feed::Pieces,
    http::{Activity, StallGuard, fair::FairSleep},
};

/// The most bytes kept of what a client sends before it has its answer.
const MAX_EARLY: usize = 8 * 1_024;

/// What a route answers: a complete body, not a stream.
type Routed = Result<Response<Pieces>, Infallible>;

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// From the end of the last answer to the end of the next request's head: the wait and the head share
    /// one limit, as in hyper.
    pub read: Duration,
    /// How long a client may accept no data.
    pub stall: Duration,
}

/// Serves one connection from its first byte to its last. The client sees the same bytes as from plain
/// hyper. `http` makes hyper's settings, and `route` answers a request.
pub fn serve_unbuffered<H, R, A>(
    socket: TcpStream,
    timeouts: Timeouts,
    activity: Activity,
    draining: watch::Receiver<bool>,
    http: H,
    route: R,
) -> impl Future<Output = ()>
where
    H: Fn() -> http1::Builder,
    R: Fn(Request<Incoming>) -> A,
    A: Future<Output = Routed>,
{
    let mut connection = Connection {
        socket,
        early: Vec::new(),
        timeouts,
        activity,
        draining,
        http,
        route,
    };
    // Borrowed, not moved: a value moved across an await is stored twice in the future
    // (rust-lang/rust#62958).
    async move {
        if let Err(error) = connection.serve().await {
            debug!(%error, "connection ended");
        }
    }
}

/// A connection while hyper does not have it.
struct Connection<H, R> {
    socket: TcpStream,
    /// What was read and is not parsed yet.
    early: Vec<u8>,
    timeouts: Timeouts,
    activity: Activity,
    draining: watch::Receiver<bool>,
    http: H,
    route: R,
}

impl<H, R, A> Connection<H, R>
where
    H: Fn() -> http1::Builder,
    R: Fn(Request<Incoming>) -> A,
    A: Future<Output = Routed>,
{
    /// Serves one request after another. Short steps with large futures are boxed, so that a waiting client
    /// does not reserve memory for them.
    async fn serve(&mut self) -> Result<(), Box<dyn Error + Send + Sync>> {
        loop {
            let deadline = Instant::now() + self.timeouts.read;
            if !self.request_comes(deadline).await? {
                return Ok(());
            }
            // Keeps two facts and not the request, which would take memory until the answer is ready.
            let (version, closes, answer) = match Box::pin(self.parse(deadline)).await? {
                Some(Parsed::Request(request)) => {
                    (request.version(), is_last(&request), (self.route)(request))
                }
                Some(Parsed::Answered) => continue,
                None => return Ok(()),
            };
            // Not by a guard, which would make this future larger by 150 bytes.
            self.activity.set_busy();
            let answer = tokio::select! {
                biased; // The answer first: it is the usual reason for a wake-up.
                Ok(answer) = answer => answer,
                gone = self.gone() => return Ok(gone?),
            };
            self.activity.set_idle();
            let last = closes || close_is_said(answer.headers()) || *self.draining.borrow();
            Box::pin(self.write(version, last, answer)).await?;
            if last {
                return Ok(());
            }
        }
    }

    /// Waits for the first bytes of a request. `false` if the client leaves, is silent until the deadline,
    /// or the server drains. A request in `early` is still served while draining.
    async fn request_comes(&mut self, deadline: Instant) -> io::Result<bool> {
        if !self.early.is_empty() || *self.draining.borrow() {
            return Ok(!self.early.is_empty());
        }
        tokio::select! {
            biased; // The request first: it is the usual reason for a wake-up.
            sent = reads(&mut self.socket, &mut self.early) => sent,
            () = FairSleep::new(deadline - Instant::now()) => Ok(false),
            _ = self.draining.changed() => Ok(false),
        }
    }

    /// Makes a hyper connection for one request.
    async fn parse(&mut self, deadline: Instant) -> hyper::Result<Option<Parsed>> {
        let mut http = (self.http)();
        http.header_read_timeout(deadline - Instant::now());
        let (reader, writer) = self.socket.split();
        let (early, draining) = (&mut self.early, &mut self.draining);
        let stall = self.timeouts.stall;
        parse(http, stall, early, reader, writer, draining, &|request| {
            self.activity.serve(request, &self.route)
        })
        .await
    }

    /// Resolves when the connection is broken. The end of what the client sends is not that. A client that
    /// closed both sides looks the same, until it answers the first write with a reset.
    async fn gone(&mut self) -> io::Result<()> {
        while self.early.len() < MAX_EARLY && reads(&mut self.socket, &mut self.early).await? {}
        // Boxed, because few clients come here while they wait.
        Box::pin(self.socket.ready(Interest::ERROR)).await.map(drop)
    }

    async fn write(
        &mut self,
        version: Version,
        last: bool,
        answer: Response<Pieces>,
    ) -> io::Result<()> {
        let mut bytes = encode(version, last, answer);
        let mut socket = StallGuard::new(&mut self.socket, self.timeouts.stall);
        socket.write_all_buf(&mut bytes).await?;
        if last {
            socket.shutdown().await?;
        }
        Ok(())
    }
}

/// Waits until the client sends something, and appends it to `early`. `false` if it leaves.
fn reads(socket: &mut TcpStream, early: &mut Vec<u8>) -> impl Future<Output = io::Result<bool>> {
    // `poll_fn` is smaller than an async block, and its buffer exists only during a poll: ten thousand clients wait
    // here.
    poll_fn(move |task| {
        let mut bytes = [MaybeUninit::uninit(); 1_024];
        let room = bytes.len().min(MAX_EARLY - early.len());
        let mut read = ReadBuf::uninit(&mut bytes[..room]);
        ready!(Pin::new(&mut *socket).poll_read(task, &mut read))?;
        early.extend_from_slice(read.filled());
        Poll::Ready(Ok(!read.filled().is_empty()))
    })
}

/// What the service inside hyper hands over.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "it is short-lived")]
enum Parsed {
    /// A request that is to be answered without hyper.
    Request(Request<Incoming>),
    /// hyper has answered the request.
    Answered,
}

/// Lets hyper read `early` and then the socket, until the connection can be taken back. `None` if hyper
/// has ended it. Bytes that hyper read beyond the request go back to `early`.
async fn parse<A: Future<Output = Routed>>(
    http: http1::Builder,
    stall: Duration,
    early: &mut Vec<u8>,
    reader: impl AsyncRead + Unpin,
    writer: impl AsyncWrite + Unpin,
    draining: &mut watch::Receiver<bool>,
    route: &impl Fn(Request<Incoming>) -> A,
) -> hyper::Result<Option<Parsed>> {
    let handover = Handover::default();
    let sent = std::mem::take(early);
    let io = StallGuard::new(join(AsyncReadExt::chain(&sent[..], reader), writer), stall);
    let taken = handover.serve(&http, io, draining, |request| {
        hand_over(request, &handover, route)
    });
    let Some(taken) = taken.await? else {
        return Ok(None);
    };
    // The reader is a chain of `sent` and the socket: this is what hyper has not read of `sent`.
    let (unread, _) = taken.io.into_inner().into_inner().0.into_inner();
    // Copied, because a slice of hyper's buffer would keep the whole buffer alive.
    *early = [&taken.read_beyond[..], unread].concat();
    Ok(Some(taken.given))
}

/// The service inside hyper.
async fn hand_over<A: Future<Output = Routed>>(
    request: Request<Incoming>,
    handover: &Handover<Parsed>,
    route: &impl Fn(Request<Incoming>) -> A,
) -> Routed {
    let (has_body, closes) = (!request.body().is_end_stream(), is_last(&request));
    if request.method() == Method::GET && !has_body {
        handover.give(Parsed::Request(request));
        return pending().await;
    }
    let answer = route(request).await?;
    // 201 means that the body was published, so it was read to its end. After any other body only hyper
    // knows where the next request begins.
    let was_read = !has_body || answer.status() == StatusCode::CREATED;
    if was_read && !closes {
        handover.give_after_answer(Parsed::Answered);
    }
    Ok(answer)
}

/// Whether the connection ends with this answer (RFC 9112 §9.3). With HTTP/1.0 it always does, because
/// keep-alive for HTTP/1.0 is not supported.
fn is_last<B>(request: &Request<B>) -> bool {
    request.version() != Version::HTTP_11 || close_is_said(request.headers())
}

fn close_is_said(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::CONNECTION).iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    let mut options = texts.flat_map(|text| text.split(','));
    options.any(|option| option.trim().eq_ignore_ascii_case("close"))
}

/// The whole answer, as hyper would write it.
fn encode(version: Version, last: bool, answer: Response<Pieces>) -> impl Buf {
    let (mut head, body) = answer.into_parts();
    if last && version == Version::HTTP_11 {
        head.headers
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let head = encode_head(version, &head, Some(body.remaining()));
    Buf::chain(Cursor::new(head), body)
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, sync::Arc};

    use http_body_util::BodyExt;
    use hyper_util::rt::TokioTimer;
    use tokio::{
        io::simplex,
        net::TcpListener,
        time::{advance, timeout},
    };

    use super::*;
    use crate::http::Activities;

    /// Publishes every `POST`, and answers everything else with 404 and a long body.
    async fn route(request: Request<Incoming>) -> Routed {
        let mut answer = Response::new(Pieces::from("x".repeat(8_000)));
        *answer.status_mut() = StatusCode::NOT_FOUND;
        if request.method() == Method::POST {
            let body = request.into_body().collect().await;
            body.expect("the body is whole");
            *answer.status_mut() = StatusCode::CREATED;
        }
        Ok(answer)
    }

    /// What comes of `sent`, what is early after it, and what the client is sent. Its side of the
    /// connection holds a thousand bytes.
    async fn parsed(sent: &str) -> (Option<Parsed>, Vec<u8>, String) {
        let (reader, _client) = simplex(1);
        parsed_then(sent, reader).await
    }

    /// The same, with a reader for what the client sends after `sent`.
    async fn parsed_then(
        sent: &str,
        reader: impl AsyncRead + Unpin,
    ) -> (Option<Parsed>, Vec<u8>, String) {
        let (mut answers, mut writer) = simplex(1_000);
        let reading = tokio::spawn(async move {
            let mut written = String::new();
            answers.read_to_string(&mut written).await.unwrap();
            written
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).half_close(true);
        let (_drain, mut draining) = watch::channel(false);
        let mut early = sent.as_bytes().to_vec();
        let parsed = parse(
            http,
            Duration::MAX,
            &mut early,
            reader,
            &mut writer,
            &mut draining,
            &route,
        )
        .await;
        writer.shutdown().await.unwrap();
        (parsed.unwrap(), early, reading.await.unwrap())
    }

    #[tokio::test]
    async fn a_get_is_taken_out_and_what_follows_it_is_kept() {
        let next = "GET /next".repeat(2_000); // more than hyper reads at once
        let sent = ["GET /topics/a HTTP/1.1\r\nHost: a\r\n\r\n", &next].concat();
        let (parsed, early, written) = parsed(&sent).await;
        let Some(Parsed::Request(request)) = parsed else {
            panic!("a GET was sent");
        };
        assert_eq!(request.uri().path(), "/topics/a");
        assert_eq!((early, written), (next.into_bytes(), String::new()));
    }

    #[tokio::test]
    async fn a_connection_is_taken_back_when_its_answer_is_written() {
        let post = "POST /topics/a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx";
        let head = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
        let delete = "DELETE / HTTP/1.1\r\nHost: a\r\n\r\n";
        for (sent, status, length) in [
            (post, "201 Created", 8_000),
            (head, "404 Not Found", 0),
            (delete, "404 Not Found", 8_000),
        ] {
            let (parsed, early, written) = parsed(&[sent, "GET /next"].concat()).await;
            assert!(matches!(parsed, Some(Parsed::Answered)), "{sent}");
            assert_eq!(early, b"GET /next");
            let (head, body) = written.split_once("\r\n\r\n").unwrap();
            assert!(
                head.starts_with(&format!("HTTP/1.1 {status}\r\n")),
                "{head}"
            );
            assert_eq!(body.len(), length);
        }
    }

    #[tokio::test]
    async fn the_last_word_of_a_client_that_sends_no_more_is_a_request_too() {
        let get = "GET /topics/a HTTP/1.1\r\nHost: a\r\n\r\n";
        let (parsed, ..) = parsed_then(get, tokio::io::empty()).await;
        assert!(matches!(parsed, Some(Parsed::Request(_))));
        let head = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
        let (_, _, written) = parsed_then(head, tokio::io::empty()).await;
        assert!(written.starts_with("HTTP/1.1 404 "), "{written}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_came_while_the_process_was_stopped_is_answered() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = std::net::TcpStream::connect(address).unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        const LIMIT: Duration = Duration::from_secs(75);
        let timeouts = Timeouts {
            read: LIMIT,
            stall: LIMIT,
        };
        let activity = Arc::<Activities>::default().add();
        let (_drain, draining) = watch::channel(false);
        let mut served = pin!(serve_unbuffered(
            socket,
            timeouts,
            activity,
            draining,
            || {
                let mut http = http1::Builder::new();
                http.timer(TokioTimer::new());
                http
            },
            route,
        ));
        assert!(timeout(Duration::ZERO, served.as_mut()).await.is_err());
        // The timers run before the request is seen.
        advance(LIMIT * 100).await;
        assert!(timeout(Duration::ZERO, served.as_mut()).await.is_err());
        let last = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        io::Write::write_all(&mut client, last).unwrap();
        served.await;
        let mut status = [0; 22];
        io::Read::read_exact(&mut client, &mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 404 Not Found");
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
}
