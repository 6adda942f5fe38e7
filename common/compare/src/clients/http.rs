//! Requests on hyper's client half.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header::{CONTENT_TYPE, HOST},
    http::{request, response},
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::expect;
use crate::{Traffic, socket::connect};

/// One kept connection. Dropped, it closes.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// The `Host` field, which HTTP/1.1 requires (RFC 9112 §3.2).
    host: String,
    traffic: Arc<Traffic>,
    /// The timeout of each step: the connection, the head of an answer, and its body.
    patience: Duration,
    /// Reads and writes for the sender: hyper's client half does nothing by itself.
    _driver: AbortOnDropHandle<hyper::Result<()>>,
}

impl Connection {
    pub(super) async fn open(
        addr: SocketAddr,
        traffic: &Arc<Traffic>,
        patience: Duration,
    ) -> io::Result<Self> {
        let io = TokioIo::new(timeout(patience, connect(addr, traffic)).await??);
        let (sender, connection) = http1::handshake(io).await.map_err(io::Error::other)?;
        Ok(Self {
            sender,
            host: addr.to_string(),
            traffic: traffic.clone(),
            patience,
            _driver: AbortOnDropHandle::new(tokio::spawn(connection)),
        })
    }

    /// Sends a request and returns the answer once its head has arrived.
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
        let answer = async {
            self.sender.ready().await?;
            self.sender.send_request(request).await
        };
        let answer = timeout(self.patience, answer).await?;
        answer.map_err(io::Error::other)
    }

    /// Sends a request and reads the whole answer.
    pub(super) async fn exchange(
        &mut self,
        request: request::Builder,
        body: impl Into<Bytes>,
    ) -> io::Result<(response::Parts, Bytes)> {
        let (head, body) = self.send(request, body).await?.into_parts();
        let collected = timeout(self.patience, body.collect()).await?;
        Ok((head, collected.map_err(io::Error::other)?.to_bytes()))
    }

    /// The JSON at a path.
    pub(super) async fn get<T: DeserializeOwned>(&mut self, path: &str) -> io::Result<T> {
        let (head, body) = self.exchange(Request::get(path), "").await?;
        expect(StatusCode::OK, head.status, &body)?;
        Ok(serde_json::from_slice(&body)?)
    }

    /// Posts JSON and reads the JSON of what was created.
    pub(super) async fn post<T: DeserializeOwned>(
        &mut self,
        path: &str,
        json: &Value,
    ) -> io::Result<T> {
        let request = Request::post(path).header(CONTENT_TYPE, "application/json");
        let (head, body) = self.exchange(request, json.to_string()).await?;
        expect(StatusCode::CREATED, head.status, &body)?;
        Ok(serde_json::from_slice(&body)?)
    }
}
