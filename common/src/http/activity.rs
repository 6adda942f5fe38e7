//! Whether a connection is busy, or waits for its client.
//!
//! A connection is busy while the server works on a request, and for as long as it is a subscriber's. It is
//! idle while the client has to act: send a request or its body, or read an answer. When no more connections
//! may be open, one that is idle is closed for a new one.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use hyper::{Request, body::Body};
use tokio::sync::Notify;

/// The activity of one connection.
#[derive(Debug, Clone)]
pub struct Activity(Arc<Connection>);

#[derive(Debug)]
struct Connection {
    /// The server's count when this connection became idle, or [`BUSY`].
    idle_since: AtomicU64,
    server: Arc<Server>,
}

/// While it exists, the connection is busy.
#[derive(Debug)]
pub struct Busy(Option<Activity>);

/// While it exists, a connection that serves a request is idle.
#[derive(Debug)]
pub struct Idle(Activity);

/// Makes the activities of all connections of a server.
#[derive(Debug, Clone)]
pub struct Activities(Arc<Server>);

#[derive(Debug)]
struct Server {
    /// How often a connection became idle.
    count: AtomicU64,
    /// Whether someone waits until a connection is idle.
    awaited: AtomicBool,
    idle: Notify,
}

/// In place of a count.
const BUSY: u64 = u64::MAX;

impl Activity {
    /// Busy until the value is dropped.
    pub fn busy(&self) -> Busy {
        self.set_busy();
        Busy(Some(self.clone()))
    }

    /// Busy until the value is dropped, except while [`read_body`](super::read_body) waits for the body.
    pub fn serves<B: Body>(&self, request: &mut Request<B>) -> Busy {
        if !request.body().is_end_stream() {
            request.extensions_mut().insert(self.clone());
        }
        self.busy()
    }

    /// Busy while `route` answers.
    pub async fn serve<B: Body, A: Future>(
        &self,
        mut request: Request<B>,
        route: impl FnOnce(Request<B>) -> A,
    ) -> A::Output {
        let _busy = self.serves(&mut request);
        route(request).await
    }

    /// Idle until the value is dropped, though a request is being answered: the client has to send its body.
    pub fn idle(&self) -> Idle {
        self.set_idle();
        Idle(self.clone())
    }

    /// The connections with the smallest value are idle longest. `None` while busy.
    pub fn idle_since(&self) -> Option<u64> {
        let since = self.0.idle_since.load(Ordering::SeqCst);
        (since != BUSY).then_some(since)
    }

    /// Whether the two are of the same connection.
    #[cfg(test)]
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn set_busy(&self) {
        self.0.idle_since.store(BUSY, Ordering::SeqCst);
    }

    pub(super) fn set_idle(&self) {
        self.0
            .idle_since
            .store(self.0.server.next(), Ordering::SeqCst);
        if self.0.server.awaited.swap(false, Ordering::SeqCst) {
            self.0.server.idle.notify_one();
        }
    }
}

impl Busy {
    /// The connection is busy until it ends.
    pub fn to_the_end(mut self) {
        self.0 = None;
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(activity) = &self.0 {
            activity.set_idle();
        }
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.0.set_busy();
    }
}

impl Activities {
    /// One more connection, idle from now on.
    pub fn one(&self) -> Activity {
        Activity(Arc::new(Connection {
            idle_since: AtomicU64::new(self.0.next()),
            server: self.0.clone(),
        }))
    }

    /// From now on [`idle`](Self::idle) reports a connection that becomes idle. Call it before looking for
    /// one that is idle already, so that none is missed.
    pub fn await_idle(&self) {
        self.0.awaited.store(true, Ordering::SeqCst);
    }

    /// Resolves when a connection has become idle.
    pub fn idle(&self) -> impl Future<Output = ()> {
        self.0.idle.notified()
    }
}

impl Default for Activities {
    fn default() -> Self {
        Self(Arc::new(Server {
            count: AtomicU64::new(0),
            awaited: AtomicBool::new(false),
            idle: Notify::new(),
        }))
    }
}

impl Server {
    fn next(&self) -> u64 {
        self.count.fetch_add(1, Ordering::SeqCst)
    }
}
