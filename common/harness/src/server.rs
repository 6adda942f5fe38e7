//! A server on a free port. Its test fails if the server does not drain when asked.

use std::{
    future::Future,
    io,
    net::{Ipv4Addr, SocketAddr},
    panic::resume_unwind,
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    net::TcpListener,
    sync::oneshot,
    task::{JoinError, JoinHandle},
    time::sleep,
};

use super::{Client, EventReader, Reply, Streamed, Wait, Wire, WsWire, wire::socket_for};
use common::Drained;

/// A server that runs in its own task. End it with [`TestServer::stop`]. Dropping it aborts the task.
#[derive(Debug)]
pub struct TestServer {
    addr: SocketAddr,
    /// `None` after shutdown was requested.
    shutdown: Mutex<Option<oneshot::Sender<()>>>,
    task: JoinHandle<io::Result<Drained>>,
}

/// Resolves when the server must drain.
#[derive(Debug)]
pub struct Shutdown(oneshot::Receiver<()>);

impl TestServer {
    /// Binds `127.0.0.1:0`, and runs the server that `start` returns for the listener.
    ///
    /// # Panics
    ///
    /// If no port is free.
    pub async fn start<S, F>(start: S) -> Self
    where
        S: FnOnce(TcpListener, Shutdown) -> F,
        F: Future<Output = io::Result<Drained>> + Send + 'static,
    {
        Self::start_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), start).await
    }

    /// The same on `addr`, for restarts. It retries while the address is in use.
    ///
    /// # Panics
    ///
    /// If the address cannot be bound.
    pub async fn start_on<S, F>(addr: SocketAddr, start: S) -> Self
    where
        S: FnOnce(TcpListener, Shutdown) -> F,
        F: Future<Output = io::Result<Drained>> + Send + 'static,
    {
        let wait = Wait::until(format!("{addr} to be free"));
        let listener = wait
            .patiently(bind(addr))
            .await
            .unwrap_or_else(|error| panic!("binding {addr}: {error}"));
        let addr = listener
            .local_addr()
            .expect("a bound socket has an address");
        let (shutdown, asked) = oneshot::channel();
        let task = tokio::spawn(start(listener, Shutdown(asked)));
        Self {
            addr,
            shutdown: Mutex::new(Some(shutdown)),
            task,
        }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://ADDR` and `path`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// A client with a connection for each request.
    pub fn client(&self) -> Client {
        Client::new(self.addr)
    }

    /// One `GET`, with the whole answer.
    ///
    /// # Panics
    ///
    /// If there is no answer.
    pub async fn get(&self, path: &str) -> Reply {
        self.client().get(path).send().await
    }

    /// One `POST`, with the whole answer.
    ///
    /// # Panics
    ///
    /// If there is no answer.
    pub async fn post(&self, path: &str, body: impl Into<Bytes>) -> Reply {
        self.client().post(path, body).send().await
    }

    /// One `GET`. The body is read while it arrives.
    ///
    /// # Panics
    ///
    /// If there is no answer.
    pub async fn open(&self, path: &str) -> Streamed {
        self.client().get(path).open().await
    }

    /// A bare connection.
    ///
    /// # Panics
    ///
    /// If it is refused.
    pub async fn wire(&self) -> Wire {
        Wire::connect(self.addr).await
    }

    /// An event stream on a bare connection.
    ///
    /// # Panics
    ///
    /// If there is no answer.
    pub async fn events(&self, path: &str) -> EventReader {
        EventReader::connect(self.addr, path).await
    }

    /// A websocket on a bare connection.
    ///
    /// # Panics
    ///
    /// If the handshake fails.
    pub async fn websocket(&self, path: &str) -> WsWire {
        WsWire::connect(self.addr, path).await
    }

    /// Requests shutdown, and does not wait.
    pub fn shut_down(&self) {
        let mut shutdown = self.shutdown.lock().unwrap_or_else(PoisonError::into_inner);
        // It fails if the server has ended already. `stop` reports that.
        let _ = shutdown.take().map(|shutdown| shutdown.send(()));
    }

    /// Requests shutdown, and waits until the server has drained.
    ///
    /// # Panics
    ///
    /// If the server ended before shutdown was requested, does not end in time, or ended with an error. A panic of
    /// the server is raised again.
    pub async fn stop(mut self) -> Drained {
        let asked = self
            .shutdown
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .is_none();
        let unasked = !asked && self.task.is_finished();
        self.shut_down();
        let wait = Wait::until(format!("the server on {} to drain", self.addr));
        let drained = wait
            .patiently(&mut self.task)
            .await
            .unwrap_or_else(|error| raise(error));
        assert!(
            !unasked,
            "the server on {} ended before it was asked to: {drained:?}",
            self.addr
        );
        drained.unwrap_or_else(|error| panic!("the server on {} failed: {error}", self.addr))
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Future for Shutdown {
    type Output = ();

    /// Also resolves when the sender is dropped.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(cx).map(drop)
    }
}

/// Polls, because the system does not report when an address becomes free.
async fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    loop {
        match try_bind(addr) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                sleep(Duration::from_millis(5)).await
            }
            bound => return bound,
        }
    }
}

/// Sets `SO_REUSEADDR`, because connections of the previous server may still be in TIME-WAIT.
fn try_bind(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket_for(addr)?;
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(1024)
}

fn raise(error: JoinError) -> ! {
    match error.try_into_panic() {
        Ok(panic) => resume_unwind(panic),
        Err(error) => panic!("the server's task was cancelled: {error}"),
    }
}
