//! Registers and is called: here the client is the one who listens.

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::SystemTime,
};

use bytes::Bytes;
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

use super::{Connection, Message, Subscription, TOPIC, expect};
use crate::traffic::{Counted, Traffic};

#[derive(Debug)]
pub(crate) struct Webhooks {
    deliveries: mpsc::UnboundedReceiver<io::Result<Message>>,
    closing: oneshot::Sender<()>,
    listening: JoinHandle<io::Result<()>>,
}

/// What each connection shares.
#[derive(Debug)]
struct Receiver {
    secret: Secret,
    traffic: Arc<Traffic>,
    deliveries: mpsc::UnboundedSender<io::Result<Message>>,
}

/// The answer to a registration; its secret is told this one time.
#[derive(Debug, Deserialize)]
struct Registered {
    secret: String,
}

impl Webhooks {
    /// Until the secret is there, calls wait in the listener's backlog.
    pub(super) async fn register(
        to: Subscription,
        reroute: impl AsyncFnOnce(SocketAddr) -> SocketAddr,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = reroute(listener.local_addr()?).await;
        let secret = register(to.server, addr).await?;
        let (deliveries, delivered) = mpsc::unbounded_channel();
        let (closing, closed) = oneshot::channel();
        let receiver = Receiver {
            secret,
            traffic: to.traffic,
            deliveries,
        };
        Ok(Self {
            deliveries: delivered,
            closing,
            listening: tokio::spawn(listen(listener, Arc::new(receiver), closed)),
        })
    }

    pub(super) async fn next(&mut self) -> io::Result<Vec<Message>> {
        let message = self.deliveries.recv().await;
        let message = message.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(vec![message?])
    }

    /// Waits until all answers are sent.
    pub(super) async fn close(self) -> io::Result<()> {
        // Gone already, it tells why.
        let _ = self.closing.send(());
        self.listening.await?
    }
}

async fn register(server: SocketAddr, receiver: SocketAddr) -> io::Result<Secret> {
    let mut connection = Connection::open(server, Arc::default()).await?;
    let endpoint = json!({ "url": format!("http://{receiver}/webhook"), "topics": [TOPIC] });
    let request = Request::post("/endpoints").header(CONTENT_TYPE, "application/json");
    let (head, body) = connection.exchange(request, endpoint.to_string()).await?;
    expect(StatusCode::CREATED, head.status, &body)?;
    let registered: Registered = serde_json::from_slice(&body)?;
    registered.secret.parse().map_err(io::Error::other)
}

async fn listen(
    listener: TcpListener,
    receiver: Arc<Receiver>,
    mut closed: oneshot::Receiver<()>,
) -> io::Result<()> {
    let connections = GracefulShutdown::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            _ = &mut closed => break,
        };
        stream.set_nodelay(true)?;
        let counted = Counted {
            io: stream,
            traffic: receiver.traffic.clone(),
        };
        let receiver = receiver.clone();
        let service = service_fn(move |request| answer(receiver.clone(), request));
        let connection = http1::Builder::new().serve_connection(TokioIo::new(counted), service);
        tokio::spawn(connections.watch(connection));
    }
    connections.shutdown().await;
    Ok(())
}

async fn answer(
    receiver: Arc<Receiver>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    receiver.traffic.request();
    let message = receiver.believe(request).await;
    let mut response = Response::default();
    if message.is_err() {
        *response.status_mut() = StatusCode::BAD_REQUEST;
    }
    // Nobody is there any more to hear it once the run is over.
    let _ = receiver.deliveries.send(message);
    Ok(response)
}

impl Receiver {
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
}
