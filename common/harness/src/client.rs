//! A plain HTTP/1.1 client on hyper. It opens one connection per request, unless told otherwise, and accepts any
//! answer.

use std::{error::Error, io, net::SocketAddr, sync::Arc};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Method, StatusCode,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header::{HOST, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, sync::Mutex, task::JoinHandle};

use super::{Wait, end_of};

/// Sends requests to one address.
#[derive(Debug, Clone)]
pub struct Client {
    addr: SocketAddr,
    /// The one connection of [`Client::keep_alive`].
    kept: Option<Arc<Mutex<Connection>>>,
}

/// A request that is being built.
#[derive(Debug)]
pub struct Request<'c> {
    client: &'c Client,
    request: hyper::Request<Full<Bytes>>,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The header fields.
    pub headers: HeaderMap,
    /// The body, complete.
    pub body: Bytes,
}

/// An answer whose body is read while it arrives. Dropping it closes the connection.
#[derive(Debug)]
pub struct Streamed {
    /// The status.
    pub status: StatusCode,
    /// The header fields.
    pub headers: HeaderMap,
    body: Incoming,
    /// Received, but not returned yet, by [`Streamed::read_until`].
    buffer: BytesMut,
    _connection: Connection,
}

/// hyper's sender of requests, and the task that drives the connection. Dropping it closes the connection.
#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    task: JoinHandle<()>,
}

impl Client {
    /// One connection for each request.
    pub fn new(addr: SocketAddr) -> Self {
        Self { addr, kept: None }
    }

    /// One connection for all requests. It is never reopened: after the server closes it, requests fail.
    ///
    /// # Panics
    ///
    /// If the connection fails.
    pub async fn keep_alive(addr: SocketAddr) -> Self {
        let connection = Connection::open(addr)
            .await
            .unwrap_or_else(|error| panic!("connecting to {addr}: {error}"));
        Self {
            addr,
            kept: Some(Arc::new(Mutex::new(connection))),
        }
    }

    /// A request for `path`, which may carry a query. Its only header field is `Host`.
    ///
    /// # Panics
    ///
    /// If `path` is invalid.
    #[track_caller]
    pub fn request(&self, method: Method, path: &str) -> Request<'_> {
        let builder = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.addr.to_string());
        Request {
            client: self,
            request: builder.body(Full::default()).expect("the path is valid"),
        }
    }

    /// A `GET`.
    #[track_caller]
    pub fn get(&self, path: &str) -> Request<'_> {
        self.request(Method::GET, path)
    }

    /// A `POST` of this body.
    #[track_caller]
    pub fn post(&self, path: &str, body: impl Into<Bytes>) -> Request<'_> {
        self.request(Method::POST, path).body(body)
    }
}

impl Request<'_> {
    /// Sets a header field. Replaces any field of that name.
    ///
    /// # Panics
    ///
    /// If it is invalid.
    #[must_use]
    #[track_caller]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name = HeaderName::try_from(name).expect("the name is valid");
        self.request.headers_mut().insert(
            name,
            HeaderValue::try_from(value).expect("the value is valid"),
        );
        self
    }

    /// Sets the body. It is sent with its length.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        *self.request.body_mut() = Full::new(body.into());
        self
    }

    /// Sends it and reads the whole answer.
    ///
    /// # Panics
    ///
    /// If there is no answer.
    pub async fn send(self) -> Reply {
        let what = self.what();
        self.try_send()
            .await
            .unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    /// Sends it and reads the whole answer, over a network that may fail.
    ///
    /// # Errors
    ///
    /// If the connection is refused or breaks before the answer is complete.
    pub async fn try_send(self) -> io::Result<Reply> {
        let wait = Wait::until(format!("the whole answer to {}", self.what()));
        wait.patiently(async {
            let Self { client, request } = self;
            match &client.kept {
                Some(kept) => kept.lock().await.exchange(request).await,
                None => Connection::open(client.addr).await?.exchange(request).await,
            }
        })
        .await
    }

    /// Sends it on a new connection, and reads the head of the answer.
    ///
    /// # Panics
    ///
    /// If there is no answer.
    pub async fn open(self) -> Streamed {
        let what = self.what();
        self.try_open()
            .await
            .unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    /// [`Request::open`] over a network that may fail.
    ///
    /// # Errors
    ///
    /// If the connection is refused or breaks before the head is complete.
    pub async fn try_open(self) -> io::Result<Streamed> {
        let wait = Wait::until(format!("the head of the answer to {}", self.what()));
        wait.patiently(async {
            let mut connection = Connection::open(self.client.addr).await?;
            let (head, body) = connection.send(self.request).await?.into_parts();
            let (status, headers) = (head.status, head.headers);
            Ok(Streamed {
                status,
                headers,
                body,
                buffer: BytesMut::new(),
                _connection: connection,
            })
        })
        .await
    }

    fn what(&self) -> String {
        format!(
            "{} http://{}{}",
            self.request.method(),
            self.client.addr,
            self.request.uri()
        )
    }
}

impl Connection {
    async fn open(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(as_io)?;
        // An error also reaches the caller that waits for an answer.
        let task = tokio::spawn(async { drop(connection.await) });
        Ok(Self { sender, task })
    }

    async fn exchange(&mut self, request: hyper::Request<Full<Bytes>>) -> io::Result<Reply> {
        let (head, body) = self.send(request).await?.into_parts();
        let body = body.collect().await.map_err(as_io)?.to_bytes();
        Ok(Reply {
            status: head.status,
            headers: head.headers,
            body,
        })
    }

    async fn send(
        &mut self,
        request: hyper::Request<Full<Bytes>>,
    ) -> io::Result<hyper::Response<Incoming>> {
        self.sender.ready().await.map_err(as_io)?;
        self.sender.send_request(request).await.map_err(as_io)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Reply {
    /// The body as text.
    ///
    /// # Panics
    ///
    /// If it is not UTF-8.
    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }

    /// The body as JSON.
    ///
    /// # Panics
    ///
    /// If it is not JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }

    /// The value of the first header field of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Streamed {
    /// The value of the first header field of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The next frame of the body, as hyper returns it. `None` at the end.
    ///
    /// # Panics
    ///
    /// If the body breaks off, or patience ends.
    pub async fn next_frame(&mut self) -> Option<Bytes> {
        let wait = Wait::until("the next frame of the body");
        self.frame(&wait)
            .await
            .unwrap_or_else(|error| panic!("the body ended early: {error}"))
    }

    /// [`Streamed::next_frame`] over a network that may fail.
    ///
    /// # Errors
    ///
    /// If the body breaks off.
    pub async fn try_next_frame(&mut self) -> io::Result<Option<Bytes>> {
        self.frame(&Wait::until("the next frame of the body")).await
    }

    /// Reads up to and including `pattern`. Later bytes stay for the next call.
    ///
    /// # Panics
    ///
    /// If the body ends or patience ends first, or if the body is not text.
    pub async fn read_until(&mut self, pattern: &str) -> String {
        let wait = Wait::until(format!("{pattern:?} in the body"));
        loop {
            if let Some(end) = end_of(pattern.as_bytes(), &self.buffer) {
                return String::from_utf8(self.buffer.split_to(end).to_vec())
                    .expect("the body is text");
            }
            let more = self.fill(&wait).await;
            assert!(
                more,
                "no {pattern:?} before the end; what had arrived: \"{}\"",
                self.buffer.escape_ascii()
            );
        }
    }

    /// The rest of the body.
    ///
    /// # Panics
    ///
    /// If the body breaks off, or patience ends.
    pub async fn rest(mut self) -> Bytes {
        let wait = Wait::until("the end of the body");
        while self.fill(&wait).await {}
        self.buffer.split().freeze()
    }

    /// Reads more. `false` at the end.
    async fn fill(&mut self, wait: &Wait) -> bool {
        let kept = self.buffer.split();
        let frame = match wait.for_event(next_frame_of(&mut self.body)).await {
            Some(frame) => frame.unwrap_or_else(|error| {
                panic!("{}: {error}; what had arrived: {kept:?}", wait.what)
            }),
            None => wait.ran_out(&kept),
        };
        self.buffer = kept;
        self.buffer
            .extend_from_slice(frame.as_deref().unwrap_or_default());
        frame.is_some()
    }

    /// The bytes that [`Streamed::read_until`] left, or the next frame.
    async fn frame(&mut self, wait: &Wait) -> io::Result<Option<Bytes>> {
        if !self.buffer.is_empty() {
            return Ok(Some(self.buffer.split().freeze()));
        }
        wait.patiently(next_frame_of(&mut self.body)).await
    }
}

async fn next_frame_of(body: &mut Incoming) -> io::Result<Option<Bytes>> {
    let Some(frame) = body.frame().await.transpose().map_err(as_io)? else {
        return Ok(None);
    };
    Ok(Some(frame.into_data().unwrap_or_else(|trailers| {
        panic!("unexpected trailers: {trailers:?}")
    })))
}

/// hyper's error, with the kind of its underlying I/O error, if there is one.
fn as_io(error: hyper::Error) -> io::Error {
    let below = error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>())
        .map(io::Error::kind);
    io::Error::new(below.unwrap_or(io::ErrorKind::Other), error)
}
