//! Requests on hyper's client half.

use std::{io, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header::{self, HOST},
    http::{request, response},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinHandle};

use crate::traffic::{Counted, Traffic};

/// One connection. Dropped, it closes.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// The `Host` field.
    host: String,
    traffic: Arc<Traffic>,
    /// Does the work.
    driver: JoinHandle<hyper::Result<()>>,
}

impl Connection {
    pub(super) async fn open(addr: SocketAddr, traffic: Arc<Traffic>) -> io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let counted = Counted::new(stream, traffic.clone());
        let (sender, connection) = http1::handshake(TokioIo::new(counted))
            .await
            .map_err(io::Error::other)?;
        Ok(Self {
            sender,
            host: addr.to_string(),
            traffic,
            driver: tokio::spawn(connection.with_upgrades()),
        })
    }

    /// Sends a request and gives the answer as soon as its head is there.
    pub(super) async fn send(
        &mut self,
        request: request::Builder,
        body: impl Into<Bytes>,
    ) -> io::Result<Response<Incoming>> {
        let request = request.header(HOST, &self.host);
        let request = request
            .body(Full::new(body.into()))
            .map_err(io::Error::other)?;
        self.traffic.request();
        self.sender.ready().await.map_err(io::Error::other)?;
        let response = self.sender.send_request(request).await;
        response.map_err(io::Error::other)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Whole exchanges with one server, over one connection that is kept or over one for each.
#[derive(Debug)]
pub(super) struct Exchanges {
    addr: SocketAddr,
    traffic: Arc<Traffic>,
    keep_alive: bool,
    kept: Option<Connection>,
}

impl Exchanges {
    pub(super) fn new(addr: SocketAddr, traffic: Arc<Traffic>, keep_alive: bool) -> Self {
        Self {
            addr,
            traffic,
            keep_alive,
            kept: None,
        }
    }

    /// Opens the connection of the first exchange.
    pub(super) async fn connect(&mut self) -> io::Result<()> {
        self.kept = Some(Connection::open(self.addr, self.traffic.clone()).await?);
        Ok(())
    }

    /// Sends a request and reads the whole answer.
    pub(super) async fn exchange(
        &mut self,
        mut request: request::Builder,
        body: impl Into<Bytes>,
    ) -> io::Result<(response::Parts, Bytes)> {
        let mut connection = match self.kept.take() {
            Some(kept) => kept,
            None => Connection::open(self.addr, self.traffic.clone()).await?,
        };
        if !self.keep_alive {
            request = request.header(header::CONNECTION, "close");
        }
        let (head, body) = connection.send(request, body).await?.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?;
        self.kept = self.keep_alive.then_some(connection);
        Ok((head, body.to_bytes()))
    }

    pub(super) async fn fetch(&mut self, path: &str) -> io::Result<(response::Parts, Bytes)> {
        self.exchange(Request::get(path), "").await
    }
}
