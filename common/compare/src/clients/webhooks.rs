//! Registers an endpoint and is called: here the client is a server too.

use std::{
    collections::HashSet,
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::SystemTime,
};

use bytes::Bytes;
use common::Cursor;
use futures_util::{StreamExt, stream::try_unfold};
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::json;
use tokio::{net::TcpListener, sync::mpsc, time::timeout};
use tokio_util::task::AbortOnDropHandle;
use webhooks::verify::{
    Tolerance, Unverified,
    standard::{Secret, verify},
    unix_seconds,
};

use super::{Client, Connection, Gap, Heard, Message, News, Subscription};
use crate::{
    Traffic,
    socket::{accept, counted},
};

/// Chosen here and not by the sender. So a call that comes before the answer to the registration can be verified.
const SECRET: &str = "whsec_Y29tcGFyZSBhbGwgZml2ZSBvZiB0aGVtIGhlcmU=";

const UNPOISONED: &str = "nothing panics under this lock";

/// A small HTTP server that takes deliveries. Dropped, it stops listening.
#[derive(Debug)]
pub struct Receiver {
    /// The address to register: where it listens, or a proxy's.
    pub(super) addr: SocketAddr,
    shared: Arc<Shared>,
    /// Everything up to here was delivered, as a sender last said. Like the deliveries it outlives a registration:
    /// after a restart of the sender, the same receiver registers again.
    after: Mutex<Option<String>>,
    deliveries: tokio::sync::Mutex<mpsc::UnboundedReceiver<Message>>,
    _listening: AbortOnDropHandle<()>,
}

/// What each of its connections shares.
#[derive(Debug)]
struct Shared {
    secret: Secret,
    traffic: Arc<Traffic>,
    /// Answers 500, and receives nothing. Several 503 in a row would make the sender pause for seconds.
    paused: AtomicBool,
    /// Ids that were received; a repeated delivery is dropped.
    seen: Mutex<HashSet<String>>,
    deliveries: mpsc::UnboundedSender<Message>,
}

impl Receiver {
    /// Listens on a free port of loopback.
    ///
    /// # Errors
    /// If no port is free.
    pub(crate) async fn listen(traffic: Arc<Traffic>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let (deliveries, delivered) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            secret: SECRET.parse().expect("the constant is a secret"),
            traffic,
            paused: AtomicBool::new(false),
            seen: Mutex::default(),
            deliveries,
        });
        let listening = tokio::spawn(serve(listener, shared.clone()));
        Ok(Self {
            addr,
            shared,
            after: Mutex::default(),
            deliveries: tokio::sync::Mutex::new(delivered),
            _listening: AbortOnDropHandle::new(listening),
        })
    }

    /// While it is paused it takes nothing, and the sender has to try again.
    pub(crate) fn pause(&self, paused: bool) {
        self.shared.paused.store(paused, Relaxed);
    }

    fn after(&self) -> MutexGuard<'_, Option<String>> {
        self.after.lock().expect(UNPOISONED)
    }
}

/// Connections outlive it, until the sender closes them.
async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let stream = accept(&listener).await;
        let io = TokioIo::new(counted(stream, &shared.traffic));
        let shared = shared.clone();
        let service = service_fn(move |request| answer(shared.clone(), request));
        tokio::spawn(http1::Builder::new().serve_connection(io, service));
    }
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    shared.traffic.request();
    let mut response = Response::default();
    if shared.paused.load(Relaxed) {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        return Ok(response);
    }
    match shared.verified(request).await {
        Ok(message) => shared.take(message),
        Err(_) => *response.status_mut() = StatusCode::BAD_REQUEST,
    }
    Ok(response)
}

impl Shared {
    /// The message, if its signature holds.
    async fn verified(&self, request: Request<Incoming>) -> io::Result<Message> {
        let (head, body) = request.into_parts();
        let bytes = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let headers = head.headers.iter();
        let verified = verify(
            Unverified::new(bytes),
            headers.map(|(name, value)| (name.as_str(), value.as_bytes())),
            std::slice::from_ref(&self.secret),
            unix_seconds(SystemTime::now()),
            Tolerance::default(),
        );
        let event = verified.map_err(io::Error::other)?;
        Ok(serde_json::from_slice(&event.body)?)
    }

    /// Passes a message on, once. After a lost answer the sender calls again.
    fn take(&self, message: Message) {
        let mut seen = self.seen.lock().expect(UNPOISONED);
        if seen.insert(message.id.clone()) {
            // It fails only when the client is gone.
            let _ = self.deliveries.send(message);
        }
    }
}

/// A registered receiver.
struct Webhooks {
    receiver: Arc<Receiver>,
    /// The address of the sender's API is in it. Bytes to there are not counted.
    to: Subscription,
    endpoint: String,
    /// The gap before the first delivery. It is returned first.
    gap: Option<Gap>,
    /// How many of the gaps that the sender lists were returned.
    told: usize,
}

/// What the sender says about an endpoint.
#[derive(Debug, Deserialize)]
struct Endpoint {
    id: String,
    /// The sender has read the feed up to here.
    after: String,
    in_flight: usize,
    waiting: usize,
}

#[derive(Debug, Deserialize)]
struct Deliveries {
    gaps: Vec<Gap>,
}

/// A new endpoint begins at the feed's head. Messages between the end of an earlier endpoint and that
/// head are a gap, which only the receiver can name.
pub(super) async fn register(to: Subscription) -> io::Result<Client> {
    let receiver = match &to.receiver {
        Some(receiver) => receiver.clone(),
        None => Arc::new(Receiver::listen(to.traffic.clone()).await?),
    };
    let topics: Vec<String> = to.topics.split(',').map(str::to_owned).collect();
    let url = format!("http://{}/webhook", receiver.addr);
    let body = json!({ "url": url, "topics": topics, "secret": SECRET });
    let mut api = Connection::open(to.server, &Arc::default(), to.patience).await?;
    let endpoint: Endpoint = api.post("/endpoints", &body).await?;
    let earlier = receiver.after().replace(endpoint.after.clone());
    let ended = earlier.as_ref().unwrap_or(&to.after);
    let webhooks = Webhooks {
        gap: between(topics, ended, &endpoint.after),
        receiver,
        to,
        endpoint: endpoint.id,
        told: 0,
    };
    Ok(try_unfold(webhooks, Webhooks::next).boxed())
}

impl Webhooks {
    async fn next(mut self) -> io::Result<Option<(News, Self)>> {
        let heard = match self.gap.take() {
            Some(gap) => vec![Heard::Gap(gap)],
            None => self.delivered().await?,
        };
        let after = self.receiver.after().clone().unwrap_or_default();
        Ok(Some((News { heard, after }, self)))
    }

    /// The next delivery, or after some silence what the sender says about the endpoint.
    async fn delivered(&mut self) -> io::Result<Vec<Heard>> {
        let delivery = async { self.receiver.deliveries.lock().await.recv().await };
        match timeout(self.to.check, delivery).await {
            Ok(Some(message)) => Ok(vec![Heard::Message(message)]),
            Ok(None) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(_) => self.ask().await,
        }
    }

    /// Asks the sender whether the endpoint still exists, how far it is, and what it has lost.
    async fn ask(&mut self) -> io::Result<Vec<Heard>> {
        let path = format!("/endpoints/{}", self.endpoint);
        let mut api = Connection::open(self.to.server, &Arc::default(), self.to.patience).await?;
        let endpoint: Endpoint = api.get(&path).await?;
        let deliveries: Deliveries = api.get(&(path + "/deliveries")).await?;
        // Otherwise some deliveries up to there may still fail.
        if endpoint.in_flight + endpoint.waiting == 0 {
            *self.receiver.after() = Some(endpoint.after);
        }
        let gaps = deliveries.gaps.into_iter().skip(self.told);
        let new: Vec<Heard> = gaps.map(Heard::Gap).collect();
        self.told += new.len();
        Ok(new)
    }
}

/// The gap between the end of one endpoint and the beginning of the next.
fn between(topics: Vec<String>, ended: &str, begins: &str) -> Option<Gap> {
    let (from, to): (Cursor, Cursor) = (ended.parse().ok()?, begins.parse().ok()?);
    let reason = match from.epoch == to.epoch {
        true if from.seq >= to.seq => return None,
        true => "trimmed",
        false => "foreign",
    };
    Some(Gap {
        reason: reason.to_owned(),
        topics,
        requested: ended.to_owned(),
        resumed: begins.to_owned(),
    })
}
