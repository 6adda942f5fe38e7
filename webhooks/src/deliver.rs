//! One attempt: resolve, connect, send, and hear the answer to its end, all within one deadline.
//!
//! The other side is a stranger. It may be slow, endless, or point us elsewhere: only a 2xx counts
//! that is complete, or longer than 16 KiB, within the deadline, and no redirect is followed.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use common::Message;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, StatusCode,
    body::Incoming,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST, LOCATION, RETRY_AFTER, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, timeout},
};
use url::{Position, Url};

use crate::{
    guard::{Guard, Unresolved},
    schedule::retry_after,
    sign::sign,
    verify::{standard::Secret, unix_seconds},
};

/// Of the answer's body no more than this is read; what it says does not matter.
const MAX_RESPONSE: usize = 16 * 1024;
/// The longest head of an answer.
const MAX_HEAD: usize = 16 * 1024;
/// The part of the deadline that resolving and connecting may take.
const CONNECT_SHARE: u32 = 3;

/// What an attempt needs.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    pub(crate) guard: Guard,
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
    #[error("no whole answer within {} s", .0.as_secs_f64())]
    Timeout(Duration),
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
            Self::Timeout(_) => "timeout",
            Self::Unresolved(Unresolved::Dns(_)) => "dns",
            Self::Unresolved(Unresolved::Refused(_)) => "refused",
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
    /// Sends `message` once.
    pub(crate) async fn run(self, message: &Message) -> Outcome {
        let (at, started) = (SystemTime::now(), Instant::now());
        let mut remote = None;
        let exchange = self.exchange(message, at, &mut remote);
        let result = timeout(self.deadline, exchange)
            .await
            .unwrap_or(Err(Failure::Timeout(self.deadline)));
        Outcome {
            at,
            duration: started.elapsed(),
            remote,
            result,
        }
    }

    async fn exchange(
        &self,
        message: &Message,
        at: SystemTime,
        remote: &mut Option<SocketAddr>,
    ) -> Result<StatusCode, Failure> {
        let connect = self.connect(remote);
        let share = self.deadline / CONNECT_SHARE;
        let stream = timeout(share, connect)
            .await
            .unwrap_or(Err(Failure::Timeout(share)))?;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .handshake(TokioIo::new(stream))
            .await?;
        // Ends with this function, however that ends.
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let (head, body) = sender
            .send_request(self.request(message, at))
            .await?
            .into_parts();
        hear_out(body).await?;
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

    /// Dials the addresses that the guard has judged, and no others.
    async fn connect(&self, remote: &mut Option<SocketAddr>) -> Result<TcpStream, Failure> {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in self.guard.resolve(&self.url).await? {
            *remote = Some(address);
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

    /// The stored bytes as they are, signed for this moment.
    fn request(&self, message: &Message, at: SystemTime) -> Request<Full<Bytes>> {
        let timestamp = unix_seconds(at);
        let id = message.id.to_string();
        let mut request = Request::post(&self.url[Position::BeforePath..Position::AfterQuery])
            .header(HOST, &self.url[Position::BeforeHost..Position::AfterPort])
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("webhooks/", env!("CARGO_PKG_VERSION")));
        for (name, value) in sign(&self.secrets, &id, timestamp, &message.json) {
            request = request.header(name, value);
        }
        request
            .body(Full::new(message.json.clone()))
            .expect("a parsed URL and a cursor are header text")
    }
}

/// Reads an answer's body, which a slow or endless one does not get to abuse: the attempt's deadline
/// holds here too, and after [`MAX_RESPONSE`] the connection is dropped. An answer that breaks off
/// is none.
async fn hear_out(mut body: Incoming) -> Result<(), hyper::Error> {
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        read += frame?.data_ref().map_or(0, Bytes::len);
        if read > MAX_RESPONSE {
            break;
        }
    }
    Ok(())
}
