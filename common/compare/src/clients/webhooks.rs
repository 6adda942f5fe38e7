//! Registers and is called: here the client is the one who listens.

use std::{
    collections::HashSet,
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::SystemTime,
};

use bytes::Bytes;
use common::Cursor;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, StatusCode, body::Incoming, header::CONTENT_TYPE, server::conn::http1,
    service::service_fn,
};
use hyper_util::{rt::TokioIo, server::graceful::GracefulShutdown};
use serde::Deserialize;
use serde_json::json;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use webhooks::verify::{
    Tolerance, Unverified,
    standard::{Secret, verify},
};

use super::{Exchanges, Gap, Heard, Message, Subscription, expect};
use crate::traffic::{Counted, Traffic};

/// Ours for every registration, so that what comes before its answer can be verified too.
const SECRET: &str = "whsec_Y29tcGFyZSBhbGwgZml2ZSBvZiB0aGVtIGhlcmU=";

/// One who is called: it listens for as long as it lives, whoever registers it.
#[derive(Debug)]
pub struct Receiver {
    addr: SocketAddr,
    /// Where to call it, if not there.
    public: SocketAddr,
    shared: Arc<Shared>,
    deliveries: tokio::sync::Mutex<mpsc::UnboundedReceiver<Message>>,
    closing: Mutex<Option<oneshot::Sender<()>>>,
    listening: Mutex<Option<JoinHandle<io::Result<()>>>>,
}

/// What each of its connections shares.
#[derive(Debug)]
struct Shared {
    secret: Secret,
    traffic: Arc<Traffic>,
    /// Whether connections are kept.
    keep_alive: bool,
    /// Answers 503: nothing is received.
    paused: AtomicBool,
    /// What was received before; repeats are dropped.
    seen: Mutex<HashSet<String>>,
    deliveries: mpsc::UnboundedSender<Message>,
}

impl Receiver {
    /// Listens on a free port of loopback.
    ///
    /// # Errors
    /// If there is none.
    pub async fn listen(traffic: Arc<Traffic>) -> io::Result<Self> {
        Self::listen_as(traffic, true).await
    }

    /// The same, and says whether it wants to keep a connection after its answer.
    pub(super) async fn listen_as(traffic: Arc<Traffic>, keep_alive: bool) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let (deliveries, delivered) = mpsc::unbounded_channel();
        let (closing, closed) = oneshot::channel();
        let shared = Arc::new(Shared {
            secret: SECRET.parse().expect("the constant is a secret"),
            traffic,
            keep_alive,
            paused: AtomicBool::new(false),
            seen: Mutex::default(),
            deliveries,
        });
        let listening = tokio::spawn(listen(listener, shared.clone(), closed));
        Ok(Self {
            addr,
            public: addr,
            shared,
            deliveries: tokio::sync::Mutex::new(delivered),
            closing: Mutex::new(Some(closing)),
            listening: Mutex::new(Some(listening)),
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// It is to be called at this address, which leads to it.
    pub fn called_at(mut self, addr: SocketAddr) -> Self {
        self.public = addr;
        self
    }

    /// While it is paused it takes nothing, and the sender has to try again.
    pub fn pause(&self, paused: bool) {
        self.shared.paused.store(paused, Relaxed);
    }

    /// Waits until all answers are sent.
    async fn close(&self) -> io::Result<()> {
        let closing = self.closing.lock().expect(UNPOISONED).take();
        // Gone already, it tells why.
        let _ = closing.map(|closing| closing.send(()));
        let listening = self.listening.lock().expect(UNPOISONED).take();
        match listening {
            Some(listening) => listening.await?,
            None => Ok(()),
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let listening = self.listening.lock().expect(UNPOISONED).take();
        listening.inspect(JoinHandle::abort);
    }
}

const UNPOISONED: &str = "nothing panics under this lock";

async fn listen(
    listener: TcpListener,
    shared: Arc<Shared>,
    mut closed: oneshot::Receiver<()>,
) -> io::Result<()> {
    let connections = GracefulShutdown::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            _ = &mut closed => break,
        };
        stream.set_nodelay(true)?;
        let counted = Counted::new(stream, shared.traffic.clone());
        let mut http = http1::Builder::new();
        http.keep_alive(shared.keep_alive);
        let shared = shared.clone();
        let service = service_fn(move |request| answer(shared.clone(), request));
        let connection = http.serve_connection(TokioIo::new(counted), service);
        tokio::spawn(connections.watch(connection));
    }
    connections.shutdown().await;
    Ok(())
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    shared.traffic.request();
    let mut response = Response::default();
    if shared.paused.load(Relaxed) {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        return Ok(response);
    }
    match shared.believe(request).await {
        Ok(message) => shared.take(message),
        Err(_) => *response.status_mut() = StatusCode::BAD_REQUEST,
    }
    Ok(response)
}

impl Shared {
    /// What it says, if it is genuine.
    async fn believe(&self, request: Request<Incoming>) -> io::Result<Message> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = since_1970.map_err(io::Error::other)?.as_secs();
        let fields = head.headers.iter();
        let fields = fields.map(|(name, value)| (name.as_str(), value.as_bytes()));
        let (secrets, tolerance) = (std::slice::from_ref(&self.secret), Tolerance::default());
        let event = verify(Unverified::new(body), fields, secrets, now, tolerance)
            .map_err(io::Error::other)?;
        Ok(serde_json::from_slice(&event.body)?)
    }

    /// Once: after an answer that was lost the sender calls again.
    fn take(&self, message: Message) {
        if self
            .seen
            .lock()
            .expect(UNPOISONED)
            .insert(message.id.clone())
        {
            // Nobody is there any more to hear it once the run is over.
            let _ = self.deliveries.send(message);
        }
    }
}

/// The receiver, registered.
#[derive(Debug)]
pub struct Webhooks {
    receiver: Arc<Receiver>,
    /// Of the endpoints' management, which is not counted.
    management: Exchanges,
    endpoint: String,
    /// All up to here was delivered, as far as the sender has told.
    after: String,
    /// What is to be told first.
    gap: Option<Gap>,
    /// How many of the endpoint's gaps were told.
    told: usize,
}

/// What the sender says of an endpoint.
#[derive(Debug, Deserialize)]
struct Endpoint {
    id: String,
    /// All up to here was claimed for it.
    after: String,
    in_flight: usize,
    waiting: usize,
}

#[derive(Debug, Deserialize)]
struct Deliveries {
    gaps: Vec<Gap>,
}

impl Webhooks {
    /// An endpoint begins at the feed's head. Where that is not where an earlier one ended, the
    /// messages between the two are a gap, which only the receiver can name.
    pub(super) async fn register(to: Subscription) -> io::Result<Self> {
        let receiver = match to.receiver {
            Some(receiver) => receiver,
            None => Arc::new(Receiver::listen_as(to.traffic, to.keep_alive).await?),
        };
        let topics: Vec<String> = to.topics.split(',').map(str::to_owned).collect();
        let url = format!("http://{}/webhook", receiver.public);
        let endpoint = json!({ "url": url, "topics": topics, "secret": SECRET });
        let request = Request::post("/endpoints").header(CONTENT_TYPE, "application/json");
        let mut management = Exchanges::new(to.server, Arc::default(), true);
        let (head, body) = management.exchange(request, endpoint.to_string()).await?;
        expect(StatusCode::CREATED, head.status, &body)?;
        let endpoint: Endpoint = serde_json::from_slice(&body)?;
        Ok(Self {
            receiver,
            management,
            gap: between(&topics, &to.after, &endpoint.after),
            endpoint: endpoint.id,
            after: endpoint.after,
            told: 0,
        })
    }

    pub(super) fn after(&self) -> &str {
        &self.after
    }

    pub(super) async fn next(&mut self) -> io::Result<Vec<Heard>> {
        if let Some(gap) = self.gap.take() {
            return Ok(vec![Heard::Gap(gap)]);
        }
        let message = self.receiver.deliveries.lock().await.recv().await;
        let message = message.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(vec![Heard::Message(message)])
    }

    /// Asks the sender whether the endpoint is still there, how far it is, and what it has lost.
    pub(super) async fn check(&mut self) -> io::Result<Vec<Heard>> {
        let path = format!("/endpoints/{}", self.endpoint);
        let (head, body) = self.management.fetch(&path).await?;
        expect(StatusCode::OK, head.status, &body)?;
        let endpoint: Endpoint = serde_json::from_slice(&body)?;
        if endpoint.in_flight + endpoint.waiting == 0 {
            self.after = endpoint.after;
        }
        let (head, body) = self.management.fetch(&(path + "/deliveries")).await?;
        expect(StatusCode::OK, head.status, &body)?;
        let deliveries: Deliveries = serde_json::from_slice(&body)?;
        let new = deliveries.gaps.into_iter().skip(self.told);
        let new: Vec<Heard> = new.map(Heard::Gap).collect();
        self.told += new.len();
        Ok(new)
    }

    pub(super) async fn close(self) -> io::Result<()> {
        self.receiver.close().await
    }
}

/// What lies between where one endpoint ended and the next begins.
fn between(topics: &[String], ended: &str, begins: &str) -> Option<Gap> {
    let (from, to): (Cursor, Cursor) = (ended.parse().ok()?, begins.parse().ok()?);
    let reason = match from.epoch == to.epoch {
        true if from.seq >= to.seq => return None,
        true => "trimmed",
        false => "foreign",
    };
    Some(Gap {
        reason: reason.to_owned(),
        topics: topics.to_vec(),
        requested: ended.to_owned(),
        resumed: begins.to_owned(),
    })
}
