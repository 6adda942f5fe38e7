//! One delivery attempt: resolve, connect, TLS, send, and read the head of the answer. One deadline covers all
//! of it, and each of the first three steps may take only its share.
//!
//! The endpoint is not trusted. It may be slow, send without end, or point elsewhere. The status decides, once
//! the head is complete: after a 2xx nothing else may turn the delivery into a failure, because the endpoint
//! has the message. The body is read for a short time, to show its beginning and to use the connection again.
//! No redirect is followed.
//!
//! ```no_run
//! # async fn deliver() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::{Duration, SystemTime};
//! use webhooks::sender::{deliver::{Attempt, Payload}, guard::Guard, tls::Tls};
//!
//! let attempt = Attempt {
//!     guard: Guard::default(),
//!     tls: Tls::system(),
//!     url: "https://example.com/webhook".parse()?,
//!     fields: Default::default(),
//!     secrets: vec!["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse()?],
//!     deadline: Duration::from_secs(15),
//! };
//! let message = Payload { id: "msg_1".into(), json: "{}".into() };
//! let mut lane = None; // keep it for the next message to this endpoint
//! match attempt.run(&mut lane, &message, SystemTime::now()).await.result {
//!     Ok(status) => println!("delivered: {status}"),
//!     Err(failure) => println!("{failure}: {:?}", failure.verdict()),
//! }
//! # Ok(()) }
//! ```

use std::{
    io,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::Incoming,
    header::{ACCEPT, CONTENT_TYPE, HOST, LOCATION, RETRY_AFTER, USER_AGENT},
};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use url::{Position, Url};

use super::{
    guard::{Guard, Unresolved},
    lane::Lane,
    tls::Tls,
};
use crate::verify::{
    standard::{Secret, sign},
    unix_seconds,
};

/// The most bytes of an answer's body that are read.
const MAX_RESPONSE: usize = 16 * 1024;
/// How many bytes of an answer's body are shown.
const SHOWN: usize = 1_024;
/// How long an answer's body may take. After that its connection is closed.
const BODY: Duration = Duration::from_secs(1);
/// How long an address may take before the next one is tried as well (RFC 8305 §5).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);
/// The lookup may take this part of the deadline: 3 s of 15.
const LOOKUP_SHARE: u32 = 5;
/// Connecting may take this part of the deadline, and TLS as much again: 5 s of 15 each.
const CONNECT_SHARE: u32 = 3;
/// The shortest pause that an endpoint may request, so that a `Retry-After: 0` is not repeated without end.
const MIN_RETRY_AFTER: Duration = Duration::from_secs(1);
/// The longest pause that an endpoint may request.
pub(crate) const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3_600);

/// What an attempt sends. It is the same at every attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// The message's id, sent as `webhook-id`. Without a dot: see [`sign`].
    pub id: String,
    /// The body.
    pub json: Bytes,
}

/// What an attempt needs.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Which addresses may be dialed.
    pub guard: Guard,
    /// Which certificates are trusted.
    pub tls: Tls,
    /// The endpoint's URL, checked by [`Guard::check`].
    pub url: Url,
    /// More header fields to send.
    pub fields: HeaderMap,
    /// The secrets that sign, newest first.
    pub secrets: Vec<Secret>,
    /// The time limit, from the lookup to the answer's head.
    pub deadline: Duration,
}

/// How an attempt went.
#[derive(Debug)]
pub struct Outcome {
    /// When it began.
    pub at: SystemTime,
    /// How long it took.
    pub duration: Duration,
    /// The connected address, or the last one that was dialed. `None` if the attempt ended before that.
    pub remote: Option<SocketAddr>,
    /// The beginning of the answer's body.
    pub answer: String,
    /// The 2xx status of a successful delivery.
    pub result: Result<StatusCode, Failure>,
}

impl Outcome {
    /// The status that the endpoint answered, if it answered.
    pub fn status(&self) -> Option<StatusCode> {
        match &self.result {
            Ok(status) | Err(Failure::Status { status, .. }) => Some(*status),
            Err(_) => None,
        }
    }
}

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The connection broke, or the peer does not speak HTTP.
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
    /// No TCP connection.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// The task that ran the attempt panicked.
    #[error("the attempt's task failed")]
    Panicked,
    /// An answer that is not 2xx.
    #[error("answered {status}{}", redirect(*status, location.as_deref()))]
    Status {
        /// Its status.
        status: StatusCode,
        /// Its `Location`, for the log.
        location: Option<String>,
        /// The pause that it requests.
        retry_after: Option<Duration>,
    },
    /// A part took longer than its share of the deadline.
    #[error("no {part} within {} s", limit.as_secs_f64())]
    Timeout {
        /// Which part.
        part: &'static str,
        /// Its share.
        limit: Duration,
    },
    /// No TLS session, or the certificate is not trusted.
    #[error("no TLS: {0}")]
    Tls(io::Error),
    /// No address, or none that may be dialed.
    #[error(transparent)]
    Unresolved(#[from] Unresolved),
}

impl Failure {
    /// The kind of failure, in one word for programs.
    pub fn class(&self) -> &'static str {
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

/// What a failure means for the delivery, and for the endpoint's other messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Retry this delivery by the schedule.
    Retry,
    /// Retry by the schedule. If several different messages fail this way, the endpoint is overloaded and needs
    /// a pause.
    Overloaded,
    /// Retry by the schedule, and call the endpoint no earlier than after this time.
    Pause(Duration),
    /// This is no failure of the message: send it again after the pause, and fewer messages at a time.
    Throttled(Option<Duration>),
    /// Never call the endpoint again.
    Gone,
}

impl Failure {
    /// 410 disables the endpoint. 429, and 503 with `Retry-After`, are throttling. Any other status with
    /// `Retry-After` is a pause. 502, 503 and 504 without it mean overload or a missing back end.
    pub fn verdict(&self) -> Verdict {
        let Self::Status {
            status,
            retry_after,
            ..
        } = self
        else {
            return Verdict::Retry;
        };
        let asked = retry_after.map(|pause| pause.max(MIN_RETRY_AFTER));
        match (status.as_u16(), asked) {
            (410, _) => Verdict::Gone,
            (429, asked) => Verdict::Throttled(asked),
            (503, Some(pause)) => Verdict::Throttled(Some(pause)),
            (_, Some(pause)) => Verdict::Pause(pause),
            (502..=504, None) => Verdict::Overloaded,
            _ => Verdict::Retry,
        }
    }
}

fn redirect(status: StatusCode, location: Option<&str>) -> String {
    match location {
        Some(location) if status.is_redirection() => format!("; not followed to {location:.100}"),
        _ => String::new(),
    }
}

impl Attempt {
    /// Sends `message` once, signed at the time `at`. Uses the kept connection, if there is one, and keeps its own.
    pub async fn run(&self, kept: &mut Option<Lane>, message: &Payload, at: SystemTime) -> Outcome {
        let started = Instant::now();
        let (mut remote, mut shown) = (None, Vec::new());
        let exchange = self.exchange(kept.take(), message, at, &mut remote);
        let result = match within("answer", self.deadline, exchange).await {
            Ok(answer) => judge(answer, kept, &mut shown, at).await,
            Err(failure) => Err(failure),
        };
        Outcome {
            at,
            duration: started.elapsed(),
            remote,
            answer: String::from_utf8_lossy(&shown).into_owned(),
            result,
        }
    }

    /// Uses the kept connection, or dials a new one. The peer may have closed a kept connection, which shows
    /// only when it is used. So if it fails before the first byte of an answer, a new one is dialed at once.
    /// Notes the address in `remote`, so that it is known even if the deadline cuts the attempt.
    async fn exchange(
        &self,
        kept: Option<Lane>,
        message: &Payload,
        at: SystemTime,
        remote: &mut Option<SocketAddr>,
    ) -> Result<Answer, Failure> {
        if let Some(mut lane) = kept.filter(Lane::is_usable) {
            *remote = Some(lane.remote);
            let answer = lane.send(self.request(message, at)).await;
            if answer.is_ok() || lane.has_received() {
                return answered(lane, answer);
            }
        }
        // Boxed: dialing is rare, and its future is ten times as large as the rest.
        let mut lane = Box::pin(self.dial(remote)).await?;
        let answer = lane.send(self.request(message, at)).await;
        answered(lane, answer)
    }

    /// A new connection: resolve, check the addresses, and connect to the first one that answers.
    async fn dial(&self, remote: &mut Option<SocketAddr>) -> Result<Lane, Failure> {
        let lookup = async { Ok(self.guard.resolve(&self.url).await?) };
        let addresses = within("address", self.deadline / LOOKUP_SHARE, lookup).await?;
        let mut addresses = addresses.into_iter();
        let mut dialing = FuturesUnordered::new();
        let mut last = Failure::Connect(io::ErrorKind::AddrNotAvailable.into());
        loop {
            if let Some(address) = addresses.next() {
                *remote = Some(address);
                dialing.push(self.connect(address));
            }
            tokio::select! {
                dialed = dialing.next() => match dialed {
                    Some(Ok(lane)) => {
                        *remote = Some(lane.remote);
                        return Ok(lane);
                    }
                    Some(Err(failure)) => last = failure,
                    None => return Err(last),
                },
                () = sleep(NEXT_ADDRESS), if addresses.len() > 0 => {}
            }
        }
    }

    /// TCP, and for https TLS with a certificate that is valid for the URL's host.
    async fn connect(&self, address: SocketAddr) -> Result<Lane, Failure> {
        let share = self.deadline / CONNECT_SHARE;
        let tcp = async { TcpStream::connect(address).await.map_err(Failure::Connect) };
        let stream = within("connection", share, tcp).await?;
        // It fails only on a socket that is closed already, and then the exchange fails too.
        let _ = stream.set_nodelay(true);
        if self.url.scheme() != "https" {
            return Ok(Lane::over(stream, address).await?);
        }
        let handshake = async {
            let secured = self.tls.connect(&self.url, stream).await;
            secured.map_err(Failure::Tls)
        };
        let stream = within("TLS", share, handshake).await?;
        Ok(Lane::over(stream, address).await?)
    }

    /// The request: the message's bytes, unchanged, signed for this attempt.
    fn request(&self, message: &Payload, at: SystemTime) -> Request<Full<Bytes>> {
        let timestamp = unix_seconds(at);
        let mut request = Request::post(&self.url[Position::BeforePath..Position::AfterQuery])
            .header(HOST, &self.url[Position::BeforeHost..Position::AfterPort])
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "*/*") // some firewalls refuse requests without it
            // Name and version of the crate that holds this file: yours in a copy.
            .header(
                USER_AGENT,
                concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")),
            );
        for (name, value) in &self.fields {
            request = request.header(name, value);
        }
        for (name, value) in sign(&self.secrets, &message.id, timestamp, &message.json) {
            request = request.header(name, value);
        }
        request
            .body(Full::new(message.json.clone()))
            .expect("a parsed URL and a message's id are header text")
    }
}

/// Reads the body for a short time, and judges by the status alone. A connection whose answer was read to its
/// end is kept.
async fn judge(
    answer: Answer,
    kept: &mut Option<Lane>,
    shown: &mut Vec<u8>,
    at: SystemTime,
) -> Result<StatusCode, Failure> {
    let (head, rest) = answer.into_parts();
    if let Some((lane, body)) = rest
        && timeout(BODY, has_ended(body, shown)).await == Ok(true)
    {
        *kept = Some(lane.idle());
    }
    if head.status.is_success() {
        return Ok(head.status);
    }
    let location = head.headers.get(LOCATION);
    let retry_after = head.headers.get(RETRY_AFTER);
    Err(Failure::Status {
        status: head.status,
        location: location.map(|to| String::from_utf8_lossy(to.as_bytes()).into()),
        retry_after: retry_after.and_then(|value| parse_retry_after(value.as_bytes(), at)),
    })
}

/// An answer whose head is complete, its connection and its body. Without these two if hyper refused the head:
/// its status counts, but the connection is closed.
type Answer = Response<Option<(Lane, Incoming)>>;

fn answered(lane: Lane, answer: hyper::Result<Response<Incoming>>) -> Result<Answer, Failure> {
    match answer {
        Ok(answer) => Ok(answer.map(|body| Some((lane, body)))),
        Err(error) => {
            let mut refused = Response::new(None);
            *refused.status_mut() = lane.status().ok_or(error)?;
            Ok(refused)
        }
    }
}

/// The pause that `Retry-After` requests (RFC 9110 §10.2.3): seconds, or a date. At most 24 hours. An
/// invalid value counts as absent, because it must not cost a delivery.
pub fn parse_retry_after(value: &[u8], now: SystemTime) -> Option<Duration> {
    let text = str::from_utf8(value).ok()?.trim_ascii();
    let requested = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number with more digits than a u64 is valid, and over the maximum.
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        let date = httpdate::parse_http_date(text).ok()?;
        date.duration_since(now).unwrap_or_default()
    };
    Some(requested.min(MAX_RETRY_AFTER))
}

async fn within<T>(
    part: &'static str,
    limit: Duration,
    step: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let done = timeout(limit, step).await;
    done.unwrap_or(Err(Failure::Timeout { part, limit }))
}

/// Reads an answer's body up to [`MAX_RESPONSE`], and copies its beginning. Returns whether the body has ended.
async fn has_ended(mut body: Incoming, shown: &mut Vec<u8>) -> bool {
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        if let Some(data) = frame.data_ref() {
            read += data.len();
            shown.extend(data.iter().take(SHOWN - shown.len()));
        }
        if read > MAX_RESPONSE {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    };

    use proptest::{prop_assert, proptest};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpSocket},
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
    use crate::sender::guard::Addresses;

    fn message() -> Payload {
        Payload {
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
            fields: HeaderMap::new(),
            url: Url::parse(url).unwrap(),
            secrets: vec![Secret::from_key([7; 32])],
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
        let first = attempt
            .clone()
            .run(&mut None, &message, SystemTime::now())
            .await;
        assert_eq!(first.result.unwrap(), 200);
        assert_eq!(first.remote, Some(([127, 0, 0, 1], port).into()));
        assert_eq!(
            LOOKUPS.load(Ordering::SeqCst),
            1,
            "one lookup for a connection"
        );
        let second = attempt.run(&mut None, &message, SystemTime::now()).await;
        assert_eq!(second.result.unwrap_err().class(), "refused");
        assert_eq!(second.remote, None, "nobody is dialed");
        assert_eq!(connections.load(Ordering::SeqCst), 1);
    }

    /// A listener whose queue is full: the kernel answers no further SYN.
    async fn silent() -> (SocketAddr, Vec<TcpStream>, TcpListener) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        while let Ok(stream) =
            timeout(Duration::from_millis(300), TcpStream::connect(address)).await
        {
            queued.push(stream.unwrap());
        }
        (address, queued, listener)
    }

    #[tokio::test]
    async fn a_silent_first_address_costs_a_quarter_of_a_second() {
        static ADDRESSES: OnceLock<Vec<SocketAddr>> = OnceLock::new();
        let (dead, _queued, _listener) = silent().await;
        let (port, _) = sink().await;
        let well = SocketAddr::from(([127, 0, 0, 1], port));
        ADDRESSES.set(vec![dead, dead, well]).unwrap();
        let guard = Guard {
            http: true,
            lookup: |_, _| Box::pin(async { Ok(ADDRESSES.get().unwrap().clone()) }),
            ..Guard::default()
        };
        let attempt = attempt("http://name.example/", guard);
        let outcome = attempt.run(&mut None, &message(), SystemTime::now()).await;
        assert_eq!(outcome.result.unwrap(), 200);
        assert_eq!(outcome.remote, Some(well));
        assert!(
            outcome.duration >= 2 * NEXT_ADDRESS,
            "{:?}",
            outcome.duration
        );
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
            .run(&mut None, &message(), SystemTime::now())
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
            .run(&mut None, &message(), SystemTime::now())
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
                sleep(Duration::from_secs(1)).await;
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
            .run(&mut None, &message(), SystemTime::now())
            .await;
        let error = outcome.result.unwrap_err();
        assert_eq!(error.to_string(), "no answer within 15 s");
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
        let unknown = genuine
            .clone()
            .run(&mut None, &message, SystemTime::now())
            .await;
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
                    .run(&mut None, &message, SystemTime::now())
                    .await
                    .result
                    .unwrap(),
                204
            );
        }
        let mut other = attempt(&format!("https://other.example:{port}/"), guard);
        other.tls = Tls::trusting(roots);
        let refused = other
            .run(&mut None, &message, SystemTime::now())
            .await
            .result
            .unwrap_err();
        assert_eq!(refused.class(), "tls", "the certificate is another's");
    }

    #[tokio::test]
    async fn after_an_address_without_a_certificate_comes_the_next_one() {
        static ADDRESSES: OnceLock<Vec<SocketAddr>> = OnceLock::new();
        let (wrong, _) = secure("other.example").await;
        let (right, roots) = secure("pay.example").await;
        let addresses = [wrong, right].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        ADDRESSES.set(addresses.to_vec()).unwrap();
        let guard = Guard {
            lookup: |_, _| Box::pin(async { Ok(ADDRESSES.get().unwrap().clone()) }),
            ..Guard::default()
        };
        let mut attempt = attempt("https://pay.example/", guard);
        attempt.tls = Tls::trusting(roots);
        let outcome = attempt.run(&mut None, &message(), SystemTime::now()).await;
        assert_eq!(outcome.result.unwrap(), 204);
        assert_eq!(outcome.remote, Some(addresses[1]));
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
        let pause = Verdict::Pause(Duration::from_secs(60));
        assert_eq!(status(429, None), Verdict::Throttled(None));
        for throttled in [429, 503] {
            assert_eq!(status(throttled, minute), Verdict::Throttled(minute));
        }
        let at_once = Some(Duration::ZERO);
        let second = Duration::from_secs(1);
        assert_eq!(status(429, at_once), Verdict::Throttled(Some(second)));
        assert_eq!(status(500, at_once), Verdict::Pause(second));
        for overloaded in [502, 503, 504] {
            assert_eq!(status(overloaded, None), Verdict::Overloaded);
        }
        for paused in [502, 504] {
            assert_eq!(status(paused, minute), pause);
        }
        for failed in [301, 400, 401, 404, 500, 501, 505] {
            assert_eq!(status(failed, None), Verdict::Retry);
            assert_eq!(status(failed, minute), pause);
        }
        assert_eq!(status(410, minute), Verdict::Gone);
        assert_eq!(Failure::Panicked.verdict(), Verdict::Retry);
    }

    #[test]
    fn retry_after_has_two_forms_and_anything_else_is_ignored() {
        // 1994-11-06 08:49:37 UTC, the example of RFC 9110 §5.6.7.
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let before = then - Duration::from_secs(90);
        for (value, asked) in [
            ("120", Some(120)),
            (" 120 ", Some(120)),
            ("0", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(90)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(90)),
            ("Sun Nov  6 08:49:37 1994", Some(90)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("Fri, 06 Nov 2099 08:49:37 GMT", Some(86_400)),
            ("86401", Some(86_400)),
            ("99999999999999999999999", Some(86_400)),
            ("1e99", None),
            ("-1", None),
            ("+1", None),
            ("1.5", None),
            ("", None),
            ("soon", None),
        ] {
            let got = parse_retry_after(value.as_bytes(), before).map(|delay| delay.as_secs());
            assert_eq!(got, asked, "{value:?}");
        }
        assert_eq!(parse_retry_after(b"\xff", before), None);
    }

    proptest! {
        #[test]
        fn any_retry_after_is_capped(value: Vec<u8>) {
            prop_assert!(parse_retry_after(&value, SystemTime::UNIX_EPOCH).is_none_or(|delay| delay <= MAX_RETRY_AFTER));
        }
    }
}
