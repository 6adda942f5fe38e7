//! Which connections are open, and whether each is busy or waits for its client.
//!
//! A connection is open while its [`Activity`] or a clone of it exists, in any task.
//!
//! A connection is busy while the server works on a request, and while it belongs to a subscriber. It is idle
//! while the client has to act: send a request or its body, or read an answer. At the connection limit, an idle
//! connection is closed for a new one.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use hyper::{Request, body::Body};
use tokio::sync::Notify;

/// The activity of one open connection. The connection counts as open until all clones are dropped.
#[derive(Debug, Clone)]
pub struct Activity(Arc<Connection>);

#[derive(Debug)]
struct Connection {
    /// The server's count when this connection became idle, or [`BUSY`].
    idle_since: AtomicU64,
    server: Arc<Server>,
}

/// An activity that a test watches.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Watched(std::sync::Weak<Connection>);

#[cfg(test)]
impl Watched {
    pub(crate) fn is(&self, activity: &Activity) -> bool {
        std::ptr::eq(self.0.as_ptr(), Arc::as_ptr(&activity.0))
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.0.strong_count() == 0
    }

    pub(crate) fn activity(&self) -> Activity {
        Activity(self.0.upgrade().expect("the connection is open"))
    }
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
    /// How many connections are open.
    open: AtomicUsize,
    /// How often a connection became idle. It orders idle connections without reading a clock.
    count: AtomicU64,
    /// Whether the accept loop waits for the next connection that closes or becomes idle.
    awaited: AtomicBool,
    changed: Notify,
}

/// Stands in `idle_since` while the connection is busy.
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

    /// Idle until the value is dropped, although a request is being answered: the client has to send its body.
    pub fn idle(&self) -> Idle {
        self.set_idle();
        Idle(self.clone())
    }

    /// The connection with the smallest value has been idle longest. `None` while busy.
    pub fn idle_since(&self) -> Option<u64> {
        let since = self.0.idle_since.load(Ordering::SeqCst);
        (since != BUSY).then_some(since)
    }

    /// Tells connections apart, and does not keep this one open.
    #[cfg(test)]
    pub(crate) fn watch(&self) -> Watched {
        Watched(Arc::downgrade(&self.0))
    }

    pub(super) fn set_busy(&self) {
        self.0.idle_since.store(BUSY, Ordering::SeqCst);
    }

    pub(super) fn set_idle(&self) {
        self.0
            .idle_since
            .store(self.0.server.next(), Ordering::SeqCst);
        self.0.server.notify();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.server.open.fetch_sub(1, Ordering::SeqCst);
        self.server.notify();
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
    /// One more open connection, idle from now on.
    pub fn one(&self) -> Activity {
        self.0.open.fetch_add(1, Ordering::SeqCst);
        Activity(Arc::new(Connection {
            idle_since: AtomicU64::new(self.0.next()),
            server: self.0.clone(),
        }))
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.0.open.load(Ordering::SeqCst)
    }

    /// From now on [`changed`](Self::changed) reports the next connection that closes or becomes idle. Call it
    /// before you look for such a connection, so that none is missed.
    pub fn await_change(&self) {
        self.0.awaited.store(true, Ordering::SeqCst);
    }

    /// Ends what [`await_change`](Self::await_change) began.
    pub fn ignore_changes(&self) {
        self.0.awaited.store(false, Ordering::SeqCst);
    }

    /// Resolves when a connection has closed or become idle, if that is awaited.
    pub fn changed(&self) -> impl Future<Output = ()> {
        self.0.changed.notified()
    }
}

impl Default for Activities {
    fn default() -> Self {
        Self(Arc::new(Server {
            open: AtomicUsize::new(0),
            count: AtomicU64::new(0),
            awaited: AtomicBool::new(false),
            changed: Notify::new(),
        }))
    }
}

impl Server {
    fn next(&self) -> u64 {
        self.count.fetch_add(1, Ordering::SeqCst)
    }

    /// Wakes the accept loop, if it awaits a change.
    fn notify(&self) {
        if self.awaited.swap(false, Ordering::SeqCst) {
            self.changed.notify_one();
        }
    }
}
