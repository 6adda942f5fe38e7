//! One connection, kept alive, on hyper's client half.

use std::{io, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Response,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header::HOST,
    http::{request, response},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinHandle};

use crate::traffic::{Counted, Traffic};

/// Dropped, it closes.
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
        let counted = Counted {
            io: stream,
            traffic: traffic.clone(),
        };
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
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
