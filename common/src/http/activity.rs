//! Which connections are open, and whether each is busy or waits for its client.
//!
//! A connection is open while its [`Activity`] or a clone of it exists, in any task.
//!
//! A connection is busy while the server works on a request, and while it belongs to a subscriber. It is idle
//! while the client has to act: send a request or its body, or read an answer. At the connection limit, an idle
//! connection is closed for a new one.

use std::{
    future::poll_fn,
    mem,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Poll, Waker, ready},
};

use hyper::{Request, body::Body};
use tokio::sync::Notify;
use tracing::info;

/// The activity of one open connection. The connection counts as open until all clones are dropped.
#[derive(Debug, Clone)]
pub struct Activity(pub(crate) Arc<Connection>);

/// An open connection.
#[derive(Debug)]
pub(crate) struct Connection {
    state: Mutex<State>,
    server: Arc<Activities>,
}

#[derive(Debug)]
struct State {
    /// The server's count when this connection became idle. `None` while it is busy.
    idle_since: Option<u64>,
    /// Whether it closes if it is still idle when its task runs next.
    closes: bool,
    /// Wakes the task that serves the connection.
    task: Waker,
}

/// While it exists, the connection is busy.
#[derive(Debug)]
pub struct Busy(Option<Activity>);

/// While it exists, a connection that serves a request is idle.
#[derive(Debug)]
pub struct Idle(Activity);

/// What the connections of a server share.
#[derive(Debug, Default)]
pub struct Activities {
    /// How many connections are open.
    open: AtomicUsize,
    /// How often a connection became idle. It orders idle connections without reading a clock.
    count: AtomicU64,
    /// Notified when a connection closes, becomes idle, or does not close although it was told to.
    changed: Notify,
}

impl Activity {
    /// Busy until the value is dropped.
    pub fn busy(&self) -> Busy {
        self.set_busy();
        Busy(Some(self.clone()))
    }

    /// Busy until the value is dropped, except while [`read_body`](super::read_body) waits for the body.
    pub fn busy_with<B: Body>(&self, request: &mut Request<B>) -> Busy {
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
        let _busy = self.busy_with(&mut request);
        route(request).await
    }

    /// Idle until the value is dropped, although a request is being answered: the client has to send its body.
    pub fn idle(&self) -> Idle {
        self.set_idle();
        Idle(self.clone())
    }

    /// The connection with the smallest value has been idle longest. `None` while busy.
    pub fn idle_since(&self) -> Option<u64> {
        self.state().idle_since
    }

    /// Lets the connection's task close it, unless a request begins first. Call it for an idle connection.
    pub fn close_if_idle(&self) {
        let mut state = self.state();
        state.closes = state.idle_since.is_some();
        state.task.wake_by_ref();
    }

    /// Serves the connection until it ends, or until [`close_if_idle`](Self::close_if_idle) closes it.
    ///
    /// The task itself closes it, and looks between two polls of `connection`. A request begins in such a
    /// poll, so no request is cut.
    ///
    /// `connection` is boxed: tokio aligns a task to 128 bytes, which costs more for a large one.
    pub fn until_closed(
        &self,
        mut connection: Pin<Box<dyn Future<Output = ()> + Send>>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let activity = self.clone();
        poll_fn(move |task| {
            if activity.is_closed_by(task.waker()) {
                info!("at the connection limit: an idle connection is closed for a new one");
                return Poll::Ready(());
            }
            ready!(connection.as_mut().poll(task));
            // Another task may have taken the connection over. The waker would keep this task's memory.
            activity.state().task = Waker::noop().clone();
            Poll::Ready(())
        })
    }

    /// Whether the task has to close the connection now. If not, `task` is woken when it has to.
    fn is_closed_by(&self, task: &Waker) -> bool {
        let mut state = self.state();
        state.task.clone_from(task);
        state.closes
    }

    pub(super) fn set_busy(&self) {
        let mut state = self.state();
        state.idle_since = None;
        if mem::take(&mut state.closes) {
            self.0.server.changed.notify_one();
        }
    }

    pub(super) fn set_idle(&self) {
        self.state().idle_since = Some(self.0.server.next());
        self.0.server.changed.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("nothing panics under this lock")
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.server.open.fetch_sub(1, Ordering::SeqCst);
        self.server.changed.notify_one();
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
    /// The activity of one more open connection, which is idle from now on.
    pub fn add(self: &Arc<Self>) -> Activity {
        self.open.fetch_add(1, Ordering::SeqCst);
        let state = State {
            idle_since: Some(self.next()),
            closes: false,
            task: Waker::noop().clone(),
        };
        Activity(Arc::new(Connection {
            state: Mutex::new(state),
            server: self.clone(),
        }))
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Resolves when a connection has closed, has become idle, or stays open although it was told to close.
    /// A change that comes before the call counts, too.
    pub fn changed(&self) -> impl Future<Output = ()> {
        self.changed.notified()
    }

    fn next(&self) -> u64 {
        self.count.fetch_add(1, Ordering::SeqCst)
    }
}
