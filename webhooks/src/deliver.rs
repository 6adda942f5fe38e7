//! One attempt: resolve, connect, shake hands, send, and hear the answer to its end, all within one
//! deadline, of which each of the first three may take no more than its share.
//!
//! The other side is a stranger. It may be slow, endless, or point us elsewhere: only a 2xx counts
//! that is complete, or longer than 16 KiB, within the deadline, and no redirect is followed. No
//! encoding is asked for and none undone: what an answer says does not matter.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, HOST, LOCATION, RETRY_AFTER, USER_AGENT},
};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use url::{Position, Url};

use crate::{
    guard::{Guard, Unresolved},
    pool::{Line, Pool},
    schedule::retry_after,
    sign::sign,
    store::Body,
    tls::Tls,
    verify::{standard::Secret, unix_seconds},
};

/// Of the answer's body no more than this is read.
const MAX_RESPONSE: usize = 16 * 1024;
/// The part of the deadline that the lookup may take: 3 s of the 15.
const LOOKUP_SHARE: u32 = 5;
/// The part that connecting may take, and as much for TLS: 5 s of the 15.
const CONNECT_SHARE: u32 = 3;

/// What an attempt needs.
#[derive(Clone)]
pub(crate) struct Attempt {
    pub(crate) guard: Guard,
    pub(crate) tls: Tls,
    /// The endpoint's own.
    pub(crate) pool: Pool,
    pub(crate) url: Url,
    /// Newest first.
    pub(crate) secrets: Vec<Secret>,
    /// From the first lookup to the last byte of the answer's body.
    pub(crate) deadline: Duration,
}

/// How an attempt went.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) at: SystemTime,
    pub(crate) duration: Duration,
    /// The address that was dialed, if it came to that.
    pub(crate) remote: Option<SocketAddr>,
    /// The status of a delivery that counts.
    pub(crate) result: Result<StatusCode, Failure>,
}

impl Outcome {
    /// What the other side answered, if it did.
    pub(crate) fn status(&self) -> Option<StatusCode> {
        match &self.result {
            Ok(status) | Err(Failure::Status { status, .. }) => Some(*status),
            Err(_) => None,
        }
    }
}

/// Why an attempt does not count.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The connection broke, or what came over it is not HTTP.
    #[error("the exchange broke off: {0}")]
    Broken(#[from] hyper::Error),
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("the attempt's task failed")]
    Panicked,
    #[error("answered {status}{}", redirect(*status, location.as_deref()))]
    Status {
        status: StatusCode,
        location: Option<String>,
        retry_after: Option<Duration>,
    },
    #[error("no {part} within {} s", limit.as_secs_f64())]
    Timeout { part: &'static str, limit: Duration },
    #[error("no TLS: {0}")]
    Tls(io::Error),
    #[error(transparent)]
    Unresolved(#[from] Unresolved),
}

impl Failure {
    /// The class of the failure: one word for a program.
    pub(crate) fn class(&self) -> &'static str {
        match self {
            Self::Broken(_) => "broken",
            Self::Connect(_) => "connect",
            Self::Panicked => "panicked",
            Self::Status { .. } => "status",
            Self::Timeout { .. } => "timeout",
            Self::Tls(_) => "tls",
            Self::Unresolved(Unresolved::Dns(_)) => "dns",
            Self::Unresolved(Unresolved::Refused(_)) => "refused",
        }
    }
}

/// What a failure means for the endpoint and the rest of its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing: the delivery is tried again by the schedule.
    Retry,
    /// The endpoint is to be left alone, for so long if it said so. No other message's attempt is spent
    /// on it meanwhile.
    Pause(Option<Duration>),
    /// It is not to be called any more.
    Gone,
}

impl Failure {
    /// 410 says that it is over. 429, 502, 503 and 504 say that it is too much, or that nobody is there;
    /// `Retry-After` is honoured with any status.
    pub(crate) fn verdict(&self) -> Verdict {
        match self {
            Self::Status { status, .. } if status.as_u16() == 410 => Verdict::Gone,
            Self::Status {
                status,
                retry_after,
                ..
            } if retry_after.is_some() || matches!(status.as_u16(), 429 | 502..=504) => {
                Verdict::Pause(*retry_after)
            }
            _ => Verdict::Retry,
        }
    }
}

fn redirect(status: StatusCode, location: Option<&str>) -> String {
    match location {
        Some(location) if status.is_redirection() => format!("; not followed to {location}"),
        _ => String::new(),
    }
}

impl Attempt {
    /// Sends `message` once, signed as of `at`.
    pub(crate) async fn run(self, message: &Body, at: SystemTime) -> Outcome {
        let started = Instant::now();
        let mut remote = None;
        let exchange = self.exchange(message, at, &mut remote);
        let result = within("whole answer", self.deadline, exchange).await;
        Outcome {
            at,
            duration: started.elapsed(),
            remote,
            result,
        }
    }

    /// Over a connection that is open already, or else a new one. That an open one was closed meanwhile
    /// shows only when it is used: if no byte of an answer came, another is tried at once.
    async fn exchange(
        &self,
        message: &Body,
        at: SystemTime,
        remote: &mut Option<SocketAddr>,
    ) -> Result<StatusCode, Failure> {
        if let Some(mut line) = self.pool.take() {
            *remote = Some(line.remote);
            match line.send(self.request(message, at)).await {
                Err(_) if !line.heard_anything() => {}
                answer => return self.hear(line, answer?, at).await,
            }
        }
        // In a box: it is seldom, and ten times as large as all the rest.
        let mut line = Box::pin(self.dial(remote)).await?;
        let answer = line.send(self.request(message, at)).await?;
        self.hear(line, answer, at).await
    }

    /// Hears an answer to its end. The connection is kept if that was the end.
    async fn hear(
        &self,
        line: Line,
        answer: Response<Incoming>,
        at: SystemTime,
    ) -> Result<StatusCode, Failure> {
        let (head, body) = answer.into_parts();
        if hear_out(body).await? {
            self.pool.keep(line);
        }
        if head.status.is_success() {
            return Ok(head.status);
        }
        let field = |name| head.headers.get(name);
        Err(Failure::Status {
            status: head.status,
            location: field(LOCATION).map(|to| String::from_utf8_lossy(to.as_bytes()).into()),
            retry_after: field(RETRY_AFTER).and_then(|value| retry_after(value.as_bytes(), at)),
        })
    }

    /// A new connection: looked up and judged, dialed, and with https proven.
    async fn dial(&self, remote: &mut Option<SocketAddr>) -> Result<Line, Failure> {
        let lookup = async { Ok(self.guard.resolve(&self.url).await?) };
        let addresses = within("address", self.deadline / LOOKUP_SHARE, lookup).await?;
        let share = self.deadline / CONNECT_SHARE;
        let stream = within("connection", share, connect(&addresses, remote)).await?;
        let to = remote.expect("it is set before it is dialed");
        if self.url.scheme() != "https" {
            return Ok(Line::over(stream, to).await?);
        }
        let secured = self.tls.connect(&self.url, stream);
        let secured = async { secured.await.map_err(Failure::Tls) };
        let stream = within("TLS", share, secured).await?;
        Ok(Line::over(stream, to).await?)
    }

    /// The stored bytes as they are, signed for this moment.
    fn request(&self, message: &Body, at: SystemTime) -> Request<Full<Bytes>> {
        let timestamp = unix_seconds(at);
        let mut request = Request::post(&self.url[Position::BeforePath..Position::AfterQuery])
            .header(HOST, &self.url[Position::BeforeHost..Position::AfterPort])
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("webhooks/", env!("CARGO_PKG_VERSION")));
        for (name, value) in sign(&self.secrets, &message.id, timestamp, &message.json) {
            request = request.header(name, value);
        }
        request
            .body(Full::new(message.json.clone()))
            .expect("a parsed URL and a message's id are header text")
    }
}

async fn within<T>(
    part: &'static str,
    limit: Duration,
    step: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let done = timeout(limit, step).await;
    done.unwrap_or(Err(Failure::Timeout { part, limit }))
}

/// Dials the addresses that the guard has judged, and no others.
async fn connect(
    addresses: &[SocketAddr],
    remote: &mut Option<SocketAddr>,
) -> Result<TcpStream, Failure> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        *remote = Some(*address);
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // Fails only on a socket that is closed already; the exchange will tell.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(Failure::Connect(last))
}

/// Reads an answer's body, which a slow or endless one does not get to abuse: the attempt's deadline
/// holds here too, and after [`MAX_RESPONSE`] no more is read. Returns whether that was its end. An answer
/// that breaks off is none.
async fn hear_out(mut body: Incoming) -> Result<bool, hyper::Error> {
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        read += frame?.data_ref().map_or(0, Bytes::len);
        if read > MAX_RESPONSE {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };
    use tokio_rustls::{
        TlsAcceptor,
        rustls::{
            RootCertStore, ServerConfig,
            crypto::ring,
            pki_types::{CertificateDer, PrivateKeyDer},
        },
    };

    use super::*;
    use crate::guard::Addresses;

    fn message() -> Body {
        Body {
            id: "a-1".into(),
            json: r#"{"id":"a-1","data":"hello"}"#.into(),
        }
    }

    fn attempt(url: &str, guard: Guard) -> Attempt {
        Attempt {
            guard: Guard {
                loopback: true,
                ..guard
            },
            tls: Tls::trusting(RootCertStore::empty()),
            pool: Pool::default(),
            url: Url::parse(url).unwrap(),
            secrets: vec![Secret::from_random([7; 32])],
            deadline: Duration::from_secs(15),
        }
    }

    /// Answers one request on each connection and closes it. Counts them.
    async fn sink() -> (u16, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, count) = (
            listener.local_addr().unwrap().port(),
            Arc::new(AtomicUsize::new(0)),
        );
        let counted = count.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                let mut head = vec![0; 4096];
                let _ = stream.read(&mut head).await;
                let answer = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        (port, count)
    }

    /// DNS that changes its answer: it leads here when it is asked first, and then to the metadata service.
    #[tokio::test]
    async fn what_was_judged_is_what_is_dialed_and_each_new_connection_is_judged_anew() {
        static LOOKUPS: AtomicUsize = AtomicUsize::new(0);
        fn rebinding(_: &str, port: u16) -> Addresses<'_> {
            let ip = match LOOKUPS.fetch_add(1, Ordering::SeqCst) {
                0 => [127, 0, 0, 1],
                _ => [169, 254, 169, 254],
            };
            Box::pin(async move { Ok(vec![(ip, port).into()]) })
        }
        let (port, connections) = sink().await;
        let guard = Guard {
            http: true,
            lookup: rebinding,
            ..Guard::default()
        };
        let attempt = attempt(&format!("http://name.example:{port}/"), guard);
        let message = message();
        let first = attempt.clone().run(&message, SystemTime::now()).await;
        assert_eq!(first.result.unwrap(), 200);
        assert_eq!(first.remote, Some(([127, 0, 0, 1], port).into()));
        assert_eq!(
            LOOKUPS.load(Ordering::SeqCst),
            1,
            "one lookup for a connection"
        );
        let second = attempt.run(&message, SystemTime::now()).await;
        assert_eq!(second.result.unwrap_err().class(), "refused");
        assert_eq!(second.remote, None, "nobody is dialed");
        assert_eq!(connections.load(Ordering::SeqCst), 1);
    }

    /// A name that is looked up for ever.
    #[tokio::test(start_paused = true)]
    async fn a_lookup_may_take_a_fifth_of_the_deadline() {
        fn never(_: &str, _: u16) -> Addresses<'_> {
            Box::pin(std::future::pending())
        }
        let guard = Guard {
            lookup: never,
            ..Guard::default()
        };
        let outcome = attempt("https://name.example/", guard)
            .run(&message(), SystemTime::now())
            .await;
        let error = outcome.result.unwrap_err();
        assert_eq!(error.to_string(), "no address within 3 s");
        assert_eq!(outcome.duration, Duration::from_secs(3));
    }

    /// A server that accepts and says nothing: TCP, and no TLS.
    #[tokio::test(start_paused = true)]
    async fn tls_may_take_a_third_of_the_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/", listener.local_addr().unwrap());
        let outcome = attempt(&url, Guard::default())
            .run(&message(), SystemTime::now())
            .await;
        let error = outcome.result.unwrap_err();
        assert_eq!(
            (error.class(), error.to_string().as_str()),
            ("timeout", "no TLS within 5 s")
        );
    }

    /// Accepts, reads, and answers a byte a second for ever.
    #[tokio::test(start_paused = true)]
    async fn one_byte_a_second_is_given_up_at_the_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
                .iter()
                .cycle()
            {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if stream.write_all(&[*byte]).await.is_err() {
                    break;
                }
            }
        });
        let guard = Guard {
            http: true,
            ..Guard::default()
        };
        let outcome = attempt(&url, guard)
            .run(&message(), SystemTime::now())
            .await;
        let error = outcome.result.unwrap_err();
        assert_eq!(error.to_string(), "no whole answer within 15 s");
        assert_eq!(outcome.duration, Duration::from_secs(15));
    }

    async fn no_content(acceptor: TlsAcceptor, stream: TcpStream) {
        let Ok(mut stream) = acceptor.accept(stream).await else {
            return;
        };
        let mut request = vec![0; 4096];
        while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
            let answer = "HTTP/1.1 204 No Content\r\n\r\n";
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    }

    /// A server for `name`, and the root that vouches for it.
    async fn secure(name: &str) -> (u16, RootCertStore) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let certificate = CertificateDer::from(made.cert.der().to_vec());
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth();
        let config = config
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(no_content(acceptor.clone(), stream));
            }
        });
        let mut roots = RootCertStore::empty();
        roots.add(certificate).unwrap();
        (port, roots)
    }

    fn here(_: &str, port: u16) -> Addresses<'_> {
        Box::pin(async move { Ok(vec![([127, 0, 0, 1], port).into()]) })
    }

    #[tokio::test]
    async fn by_https_who_is_not_vouched_for_gets_no_message() {
        let (port, roots) = secure("pay.example").await;
        let guard = Guard {
            lookup: here,
            ..Guard::default()
        };
        let message = message();
        let mut genuine = attempt(&format!("https://pay.example:{port}/"), guard);
        let unknown = genuine.clone().run(&message, SystemTime::now()).await;
        assert_eq!(
            unknown.result.unwrap_err().class(),
            "tls",
            "nobody vouches for it"
        );
        genuine.tls = Tls::trusting(roots.clone());
        for _ in 0..2 {
            assert_eq!(
                genuine
                    .clone()
                    .run(&message, SystemTime::now())
                    .await
                    .result
                    .unwrap(),
                204
            );
        }
        let mut other = attempt(&format!("https://other.example:{port}/"), guard);
        other.tls = Tls::trusting(roots);
        let refused = other
            .run(&message, SystemTime::now())
            .await
            .result
            .unwrap_err();
        assert_eq!(refused.class(), "tls", "the certificate is another's");
    }

    #[test]
    fn what_a_failure_means_for_the_endpoint() {
        let status = |status: u16, retry_after| {
            Failure::Status {
                status: StatusCode::from_u16(status).unwrap(),
                location: None,
                retry_after,
            }
            .verdict()
        };
        let minute = Some(Duration::from_secs(60));
        for overloaded in [429, 502, 503, 504] {
            assert_eq!(status(overloaded, None), Verdict::Pause(None));
            assert_eq!(status(overloaded, minute), Verdict::Pause(minute));
        }
        for failed in [301, 400, 401, 404, 500, 501, 505] {
            assert_eq!(status(failed, None), Verdict::Retry);
            assert_eq!(status(failed, minute), Verdict::Pause(minute));
        }
        assert_eq!(status(410, minute), Verdict::Gone);
        assert_eq!(Failure::Panicked.verdict(), Verdict::Retry);
    }
}
