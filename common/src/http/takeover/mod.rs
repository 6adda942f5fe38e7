//! Takes a connection back from hyper, to save memory.
//!
//! hyper keeps two buffers of 8 KiB for as long as a connection is open, one to read and one to write. A
//! client that only waits needs neither. So the service inside hyper hands over its request, or an answer
//! to write. The task around hyper then drops hyper with its buffers and continues with the bare socket.
//! This is optional: a server on plain hyper is complete without it.
//!
//! # The contract
//!
//! hyper documents `Connection::into_parts` for a finished connection. Here it is not finished: the
//! service never answers, or has just answered. Three things could be lost. For each there is a rule.
//!
//! - **Bytes of an earlier answer.** Usually hyper writes an answer out before it parses the next head.
//!   There is one exception: the service answered before it had read the whole request body. Then hyper
//!   discards the rest of that body and parses the next head, while the answer may still be in its buffer
//!   (hyper 1.12, `poll_drain_or_close_read`). So the handover waits for a successful flush.
//! - **Bytes that hyper read beyond the head.** [`Taken::read_beyond`] has them.
//! - **A part of a body.** Only hyper knows where a body ends and the next request begins. So a service
//!   hands over no request with a body, and nothing after a body that it has not read to the end.
//!
//! [`StallGuard`] knows whether everything is flushed, `head.rs` writes an answer's head as hyper would, and
//! `unbuffered.rs` is a whole keep-alive connection built on the handover.

mod head;
mod unbuffered;

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Poll,
};

use bytes::{Buf, Bytes};
use hyper::{
    Request, Response,
    body::{Body, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};

use super::StallGuard;

pub use head::encode_head;
pub use unbuffered::{Timeouts, serve_unbuffered};

/// Where the service inside hyper leaves a `T` for the task around hyper.
#[derive(Debug)]
pub struct Handover<T> {
    given: Mutex<Option<T>>,
    /// Whether hyper still has to write a part of an answer.
    unflushed: Arc<AtomicBool>,
}

/// What is left of a connection when hyper is dropped.
#[derive(Debug)]
pub struct Taken<S, T> {
    /// What the service handed over.
    pub given: T,
    /// The connection itself.
    pub io: StallGuard<S>,
    /// What hyper had read beyond the last head.
    pub read_beyond: Bytes,
}

impl<T> Default for Handover<T> {
    fn default() -> Self {
        Self {
            given: Mutex::new(None),
            unflushed: Arc::default(),
        }
    }
}

impl<T> Handover<T> {
    /// Hands `value` over. After this the service must not answer: it waits forever (`pending`) until it is
    /// dropped together with hyper.
    pub fn give(&self, value: T) {
        *self.given.lock().expect(UNPOISONED) = Some(value);
    }

    /// Hands `value` over once the answer that the service now returns is flushed.
    pub fn give_after_answer(&self, value: T) {
        // hyper writes the answer later. Until then nothing would look unflushed.
        self.unflushed.store(true, Relaxed);
        self.give(value);
    }

    /// Lets hyper serve `io` until the service has handed something over and everything is flushed.
    /// `None` means that hyper has ended the connection. When `draining` changes, hyper ends it
    /// after the answer in progress.
    ///
    /// # Errors
    /// hyper's: a head that does not parse, a timeout, a broken connection.
    pub async fn serve<S, A, B>(
        &self,
        http: &http1::Builder,
        mut io: StallGuard<S>,
        draining: &mut watch::Receiver<bool>,
        service: impl Fn(Request<Incoming>) -> A,
    ) -> hyper::Result<Option<Taken<S, T>>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        A: Future<Output = Result<Response<B>, Infallible>>,
        B: Body<Data: Buf, Error = Infallible> + 'static,
    {
        io.watch(Some(self.unflushed.clone()));
        let service = service_fn(|request| {
            self.withdraw();
            service(request)
        });
        let mut connection = http.serve_connection(TokioIo::new(io), service);
        let given = tokio::select! {
            biased; // A request that has come already is still taken during the drain.
            given = self.given_by(&mut connection) => given?,
            _ = draining.changed() => {
                Pin::new(&mut connection).graceful_shutdown();
                self.given_by(&mut connection).await?
            }
        };
        let parts = connection.into_parts();
        let mut io = parts.io.into_inner();
        io.watch(None);
        let read_beyond = parts.read_buf;
        Ok(given.map(|given| Taken {
            given,
            io,
            read_beyond,
        }))
    }

    /// Takes back what was given. Called before each request, because hyper may start a pipelined request
    /// before the connection is taken.
    fn withdraw(&self) {
        self.given.lock().expect(UNPOISONED).take();
    }

    /// Drives `connection` until it ends, or there is something to take.
    async fn given_by(
        &self,
        connection: &mut (impl Future<Output = hyper::Result<()>> + Unpin),
    ) -> hyper::Result<Option<T>> {
        poll_fn(|task| match Pin::new(&mut *connection).poll(task) {
            Poll::Ready(ended) => Poll::Ready(ended.map(|()| None)),
            Poll::Pending => self
                .take()
                .map_or(Poll::Pending, |given| Poll::Ready(Ok(Some(given)))),
        })
        .await
    }

    fn take(&self) -> Option<T> {
        let mut given = self.given.lock().expect(UNPOISONED);
        given.take_if(|_| !self.unflushed.load(Relaxed))
    }
}

const UNPOISONED: &str = "nothing panics under this lock";

#[cfg(test)]
mod tests {
    use std::{future::pending, time::Duration};

    use http_body_util::{BodyExt, Full};
    use hyper::Method;
    use hyper_util::rt::TokioTimer;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, Join, SimplexStream, join, simplex},
        time::Instant,
    };

    use super::*;

    type Pipes = Join<tokio::io::ReadHalf<SimplexStream>, tokio::io::WriteHalf<SimplexStream>>;

    const POST: &str = "POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx";

    /// Hands over the path of a `GET`. Hands `answered` over after a `POST /read`, if its body is
    /// whole. Answers with the path in a field, and without a body.
    async fn service(
        request: Request<Incoming>,
        handover: &Handover<String>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let path = request.uri().path().to_owned();
        if request.method() == Method::GET {
            handover.give(path);
            return pending().await;
        }
        if path == "/read" && request.into_body().collect().await.is_ok() {
            handover.give_after_answer("answered".into());
        }
        let answer = Response::builder().status(404).header("x-path", path);
        Ok(answer.body(Full::default()).unwrap())
    }

    /// What happens once the requests are sent.
    #[derive(PartialEq)]
    enum Then {
        Nothing,
        Drain,
        ClientEnds,
    }

    /// What is taken after `requests`, and everything that the client is sent. Its side of the
    /// connection holds a thousand bytes.
    async fn taken(requests: &str, then: Then) -> (Option<Taken<Pipes, String>>, String) {
        let (reader, mut client) = simplex(16_384);
        let (mut answers, writer) = simplex(1_000);
        client.write_all(requests.as_bytes()).await.unwrap();
        if then == Then::ClientEnds {
            client.shutdown().await.unwrap();
        }
        let reading = tokio::spawn(async move {
            let mut answered = String::new();
            answers.read_to_string(&mut answered).await.unwrap();
            answered
        });
        let (drains, mut draining) = watch::channel(false);
        if then == Then::Drain {
            drains.send_replace(true);
        }
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).half_close(true);
        let handover = Handover::default();
        let service = |request| service(request, &handover);
        let io = StallGuard::new(join(reader, writer), Duration::MAX);
        let taken = handover.serve(&http, io, &mut draining, service).await;
        let mut taken = taken.ok().flatten();
        if let Some(taken) = &mut taken {
            taken.io.shutdown().await.unwrap();
        }
        (taken, reading.await.unwrap())
    }

    #[tokio::test]
    async fn a_handover_behind_an_answer_that_is_not_written_yet_waits_for_it() {
        // `Expect` keeps hyper from reading the body before the service has answered without it. So
        // hyper parses the GET while the answer is still in its buffer.
        let path = format!("/{}", "x".repeat(8_000));
        let fields = "Host: a\r\nExpect: 100-continue\r\nContent-Length: 1";
        let early = format!("POST {path} HTTP/1.1\r\n{fields}\r\n\r\nx");
        let get = "GET /wait HTTP/1.1\r\nHost: a\r\n\r\nGET /next";
        let (taken, answered) = taken(&[&early, get].concat(), Then::Nothing).await;
        let taken = taken.expect("a GET was sent");
        assert_eq!(taken.given, "/wait");
        assert_eq!(&taken.read_beyond[..], b"GET /next");
        assert!(answered.starts_with("HTTP/1.1 404 Not Found\r\n"));
        assert!(answered.contains(&path) && answered.ends_with("\r\n\r\n"));
    }

    #[tokio::test]
    async fn what_is_given_after_an_answer_is_taken_when_the_answer_is_flushed() {
        let (taken, answered) = taken(&[POST, "GET /next"].concat(), Then::Nothing).await;
        let taken = taken.expect("the body was read");
        assert_eq!(taken.given, "answered");
        assert_eq!(&taken.read_beyond[..], b"GET /next");
        assert!(answered.contains("x-path: /read\r\n"), "{answered}");
    }

    #[tokio::test]
    async fn a_pipelined_request_withdraws_what_was_given_before_it() {
        let get = "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n";
        let (given, _) = taken(&[POST, get].concat(), Then::Nothing).await;
        assert_eq!(given.expect("a GET was sent").given, "/wait");
        let half = "POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx";
        let (given, _) = taken(&[POST, half].concat(), Then::ClientEnds).await;
        assert!(given.is_none(), "hyper is in the middle of a body");
    }

    #[tokio::test]
    async fn a_drain_takes_what_was_sent_and_ends_a_connection_that_is_idle() {
        let (given, _) = taken("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n", Then::Drain).await;
        assert_eq!(given.expect("a GET was sent").given, "/wait");
        assert!(taken("", Then::Drain).await.0.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_head_ends_the_connection_after_the_timeout() {
        let (mut client, server) = tokio::io::duplex(16_384);
        let server = StallGuard::new(server, Duration::MAX);
        client.write_all(b"GET /wait HTTP/1.1\r\n").await.unwrap();
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(30));
        let (_drains, mut draining) = watch::channel(false);
        let handover = Handover::default();
        let service = |request| service(request, &handover);
        let started = Instant::now();
        let taken = handover.serve(&http, server, &mut draining, service).await;
        assert!(!matches!(taken, Ok(Some(_))));
        assert_eq!(started.elapsed().as_secs(), 30);
    }
}
