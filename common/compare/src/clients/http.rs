//! Requests on hyper's client half.

use std::{io, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header::HOST,
    http::{request, response},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinHandle};

use crate::traffic::{Counted, Traffic};

/// One kept connection. Dropped, it closes.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// The `Host` field, which HTTP/1.1 requires (RFC 9112 §3.2).
    host: String,
    traffic: Arc<Traffic>,
    /// Reads and writes for the sender: hyper's client half does nothing by itself.
    driver: JoinHandle<hyper::Result<()>>,
}

impl Connection {
    pub(super) async fn open(addr: SocketAddr, traffic: Arc<Traffic>) -> io::Result<Self> {
        let io = TokioIo::new(connect(addr, traffic.clone()).await?);
        let (sender, connection) = http1::handshake(io).await.map_err(io::Error::other)?;
        Ok(Self {
            sender,
            host: addr.to_string(),
            traffic,
            driver: tokio::spawn(connection),
        })
    }

    /// Sends a request and returns the answer as soon as its head is there.
    pub(super) async fn send(
        &mut self,
        request: request::Builder,
        body: impl Into<Bytes>,
    ) -> io::Result<Response<Incoming>> {
        let request = request
            .header(HOST, &self.host)
            .body(Full::new(body.into()))
            .map_err(io::Error::other)?;
        self.traffic.request();
        self.sender.ready().await.map_err(io::Error::other)?;
        let response = self.sender.send_request(request).await;
        response.map_err(io::Error::other)
    }

    /// Sends a request and reads the whole answer.
    pub(super) async fn exchange(
        &mut self,
        request: request::Builder,
        body: impl Into<Bytes>,
    ) -> io::Result<(response::Parts, Bytes)> {
        let (head, body) = self.send(request, body).await?.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?;
        Ok((head, body.to_bytes()))
    }

    pub(super) async fn get(&mut self, path: &str) -> io::Result<(response::Parts, Bytes)> {
        self.exchange(Request::get(path), "").await
    }
}

impl Drop for Connection {
    /// Without it, the driver would keep the socket open until the server closes it.
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A socket whose bytes are counted. `TCP_NODELAY`, because Nagle's algorithm would hold small requests
/// back and add to the latency.
pub(super) async fn connect(
    addr: SocketAddr,
    traffic: Arc<Traffic>,
) -> io::Result<Counted<TcpStream>> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    Ok(Counted::new(stream, traffic))
}
