//! The open connections, their tasks, a limit, and the drain.

use std::{collections::HashMap, io, pin::Pin, sync::Arc, time::Duration};

use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    task::{Id, JoinError, JoinSet},
    time::sleep,
};
use tracing::{Instrument, Span, debug_span, info, warn};

use crate::http::{Activities, Activity, fair_timeout};

/// How long to wait when the system has no descriptor or memory for one more connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The open connections and their tasks.
///
/// A connection counts as open while its [`Activity`] exists. Usually the connection's task holds it. A task
/// may also give it to another task, so one task can serve many connections ([`spawner`](Self::spawner)).
///
/// An accept loop awaits [`changed`](Self::changed) all the time. It accepts while there is
/// [room](Self::has_room), and then calls [`spawn`](Self::spawn). At shutdown it calls [`drain`](Self::drain).
///
/// At the limit, one more is accepted and waits. The connection that was idle longest is closed for it. So
/// clients that are silent, slow or refused do not keep publishers and health checks out.
#[allow(missing_debug_implementations, reason = "a future has none")]
pub struct Connections {
    /// How many may be served.
    limit: usize,
    tasks: JoinSet<()>,
    /// The connections with a task, by that task.
    served: HashMap<Id, Activity>,
    /// The connection that was accepted at the limit.
    next: Option<(Activity, Task)>,
    activities: Arc<Activities>,
    /// Further tasks to spawn.
    further: mpsc::UnboundedReceiver<Task>,
    spawner: Spawner,
    /// Turns true when the drain begins.
    draining: watch::Sender<bool>,
}

/// Spawns tasks that serve open connections. They end with [`Connections`].
#[derive(Debug, Clone)]
pub struct Spawner(mpsc::UnboundedSender<Task>);

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Spawner {
    /// Spawns a task, unless [`Connections`] is gone.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let _ = self.0.send(Box::pin(task));
    }
}

/// How a drain went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections that ended by themselves after the signal.
    pub finished: usize,
    /// Connections that were cut at the deadline.
    pub cut: usize,
}

impl Connections {
    /// No connections yet, and room for `limit`.
    pub fn new(limit: usize) -> Self {
        let (spawner, further) = mpsc::unbounded_channel();
        Self {
            limit,
            tasks: JoinSet::new(),
            served: HashMap::new(),
            next: None,
            activities: Arc::default(),
            further,
            spawner: Spawner(spawner),
            draining: watch::Sender::new(false),
        }
    }

    /// Whether one more may be accepted. Others wait in the kernel's backlog.
    pub fn has_room(&self) -> bool {
        self.next.is_none()
    }

    /// Runs one connection in a task, within the current span. At the limit, it first waits for a slot.
    pub fn spawn(
        &mut self,
        activity: Activity,
        connection: impl Future<Output = ()> + Send + 'static,
    ) {
        let span = Span::current();
        let connection: Task = match span.is_disabled() {
            true => Box::pin(connection), // A span would make each idle connection larger.
            false => Box::pin(connection.instrument(span)),
        };
        self.next = Some((activity, connection));
        self.make_room();
    }

    /// Spawns tasks that take over connections from the tasks of [`spawn`](Self::spawn).
    pub fn spawner(&self) -> Spawner {
        self.spawner.clone()
    }

    /// The activity of a connection that is open and idle from now on.
    pub fn activity(&self) -> Activity {
        self.activities.add()
    }

    /// A receiver for a connection: its `changed()` resolves when the drain begins.
    pub fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    /// Waits until a connection ends or becomes idle, and gives its slot to the connection that waits for one.
    pub async fn changed(&mut self) {
        self.make_room();
        self.event(self.next.is_some()).await;
        self.make_room();
    }

    /// Waits for a task to spawn or to end. Waits for a change of the activities only if `activities` says so:
    /// otherwise each request would wake the accept loop.
    async fn event(&mut self, activities: bool) {
        tokio::select! {
            Some(task) = self.further.recv() => drop(self.tasks.spawn(task)),
            Some(ended) = self.tasks.join_next_with_id() => self.forget(ended),
            () = self.activities.changed(), if activities => {}
        }
    }

    /// A panic needs no log line here: the panic hook has written one.
    fn forget(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
        self.served.remove(&id);
    }

    /// Starts the next connection if there is a slot for it. Otherwise closes an idle one.
    fn make_room(&mut self) {
        // `open` counts the next one too.
        let is_slot_free = self.activities.open() <= self.limit;
        if let Some((activity, connection)) = self.next.take_if(|_| is_slot_free) {
            let task = self.tasks.spawn(activity.until_closed(connection));
            self.served.insert(task.id(), activity);
        } else if self.next.is_some()
            && let Some(longest) = self.longest_idle()
        {
            // Called again for the same connection until it has closed, or until a request began.
            longest.close_if_idle();
        }
    }

    fn longest_idle(&self) -> Option<&Activity> {
        let idle = self
            .served
            .values()
            .filter_map(|activity| Some((activity.idle_since()?, activity)));
        idle.min_by_key(|(since, _)| *since)
            .map(|(_, longest)| longest)
    }

    /// Tells every connection to finish, waits for all of them, and cuts those that are still open
    /// after `limit`.
    pub async fn drain(mut self, limit: Duration) -> Drained {
        self.draining.send_replace(true);
        let open = self.activities.open();
        self.next = None;
        // After the time limit, the connections that are left are counted and cut.
        let _ = fair_timeout(limit, self.all_closed()).await;
        let cut = self.activities.open();
        self.tasks.shutdown().await;
        let finished = open - cut;
        info!(finished, cut, "drained");
        Drained { finished, cut }
    }

    async fn all_closed(&mut self) {
        while self.activities.open() > 0 {
            self.event(true).await;
        }
    }
}

/// The span of a connection, with its peer. Its level is `DEBUG`, so it is disabled and free by default. Enter
/// it before [`Connections::spawn`].
pub fn peer_span(stream: &TcpStream) -> Span {
    debug_span!(
        "connection",
        peer = stream.peer_addr().ok().map(tracing::field::display)
    )
}

/// What an accept loop does after an error, before it accepts again. No error ends the server.
pub async fn accept_failed(error: io::Error) {
    // The client left before its connection was accepted. The next client may be waiting already.
    if error.kind() == io::ErrorKind::ConnectionAborted {
        return;
    }
    // Most likely the descriptors are used up. Without a pause the loop would spin.
    warn!(%error, "cannot accept");
    sleep(ACCEPT_PAUSE).await;
}

#[cfg(test)]
mod tests {
    use std::{future::pending, ptr, sync::Weak};

    use tokio::{
        sync::oneshot,
        task::yield_now,
        time::{Instant, advance, timeout},
    };

    use super::*;
    use crate::http::Connection;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn what_has_not_ended_by_the_deadline_is_cut_and_counted() {
        let mut connections = Connections::new(2);
        connections.spawn(connections.activity(), sleep(Duration::from_secs(9)));
        connections.spawn(connections.activity(), pending());
        let started = Instant::now();
        let drained = connections.drain(LIMIT).await;
        assert_eq!((drained.finished, drained.cut), (1, 1));
        assert_eq!(started.elapsed(), LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_is_noticed_late_cuts_a_moment_later() {
        let mut connections = Connections::new(1);
        let stopped = LIMIT * 100;
        // Its peer has sent everything while the process was stopped.
        let connection = async move {
            sleep(stopped).await;
            sleep(Duration::from_millis(50)).await;
        };
        connections.spawn(connections.activity(), connection);
        let drained = tokio::spawn(connections.drain(LIMIT));
        yield_now().await;
        advance(stopped).await;
        let drained = drained.await.unwrap();
        assert_eq!((drained.finished, drained.cut), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_tells_each_connection_and_ends_with_the_last() {
        let mut connections = Connections::new(2);
        for _ in 0..2 {
            let mut draining = connections.draining();
            connections.spawn(connections.activity(), async move {
                draining.changed().await.unwrap();
                assert!(*draining.borrow());
            });
        }
        let started = Instant::now();
        let drained = connections.drain(LIMIT).await;
        assert_eq!((drained.finished, drained.cut), (2, 0));
        assert_eq!(started.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_is_free_again_when_its_connection_ended_even_by_a_panic() {
        let mut connections = Connections::new(1);
        let activity = connections.activity();
        activity.busy().to_the_end(); // So it panics before it could be closed.
        connections.spawn(activity, async { panic!("a test's") });
        let next = open(&mut connections);
        assert!(!is_served(&connections, &next), "the first has not ended");
        connections.changed().await;
        assert!(is_served(&connections, &next));
        assert!(timeout(LIMIT, connections.changed()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn only_an_error_of_the_system_pauses_the_accepting() {
        let started = Instant::now();
        accept_failed(io::ErrorKind::ConnectionAborted.into()).await;
        assert_eq!(started.elapsed(), Duration::ZERO);
        accept_failed(io::Error::other("no descriptors")).await;
        assert_eq!(started.elapsed(), ACCEPT_PAUSE);
    }

    /// Tells a connection from others, and does not keep it open.
    struct Watched(Weak<Connection>);

    impl Watched {
        fn new(activity: &Activity) -> Self {
            Self(Arc::downgrade(&activity.0))
        }

        fn is(&self, activity: &Activity) -> bool {
            ptr::eq(self.0.as_ptr(), Arc::as_ptr(&activity.0))
        }

        fn is_closed(&self) -> bool {
            self.0.strong_count() == 0
        }

        fn activity(&self) -> Activity {
            Activity(self.0.upgrade().expect("the connection is open"))
        }
    }

    /// One more connection, which never ends by itself.
    fn open(connections: &mut Connections) -> Watched {
        let activity = connections.activity();
        let watched = Watched::new(&activity);
        connections.spawn(activity, pending());
        watched
    }

    fn is_served(connections: &Connections, watched: &Watched) -> bool {
        let mut served = connections.served.values();
        served.any(|activity| watched.is(activity))
    }

    /// Lets everything happen that happens without a further event.
    async fn settle(connections: &mut Connections) {
        let _ = timeout(LIMIT, async {
            loop {
                connections.changed().await;
            }
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_limit_a_new_connection_takes_the_slot_of_the_one_that_was_idle_longest() {
        let mut connections = Connections::new(3);
        let first = open(&mut connections);
        let second = open(&mut connections);
        let busy = open(&mut connections).activity().busy();
        drop(first.activity().busy());
        let next = open(&mut connections);
        assert!(!connections.has_room() && !is_served(&connections, &next));
        settle(&mut connections).await;
        assert!(connections.has_room() && is_served(&connections, &next));
        assert!(is_served(&connections, &first) && !is_served(&connections, &second));
        assert_eq!(connections.tasks.len(), 3);
        assert_eq!(connections.activities.open(), 3);
        drop(busy);
    }

    #[tokio::test(start_paused = true)]
    async fn no_busy_connection_is_closed_and_the_first_that_becomes_idle_makes_room() {
        let mut connections = Connections::new(1);
        let first = open(&mut connections);
        let busy = first.activity().busy();
        let second = open(&mut connections);
        settle(&mut connections).await;
        assert!(is_served(&connections, &first));
        drop(busy);
        settle(&mut connections).await;
        assert!(is_served(&connections, &second));
        // A client that has to send the body of its request is waited for, too.
        let busy = second.activity().busy();
        let third = open(&mut connections);
        settle(&mut connections).await;
        assert!(is_served(&connections, &second));
        let body = second.activity().idle();
        settle(&mut connections).await;
        assert!(!is_served(&connections, &second));
        drop((body, busy));
        settle(&mut connections).await;
        assert!(is_served(&connections, &third));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_begins_before_its_connection_is_closed_is_served_and_another_makes_room()
     {
        let mut connections = Connections::new(2);
        let first = open(&mut connections);
        let second = open(&mut connections);
        let next = open(&mut connections);
        connections.make_room(); // Chooses the first. Its task runs later.
        // Its task may run on another thread, and just have read a request.
        let busy = first.activity().busy();
        settle(&mut connections).await;
        assert!(is_served(&connections, &first));
        assert!(second.is_closed() && is_served(&connections, &next));
        drop(busy);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_begins_and_ends_before_its_connection_is_closed_makes_it_the_last_to_close()
     {
        let mut connections = Connections::new(2);
        let first = open(&mut connections);
        let second = open(&mut connections);
        let next = open(&mut connections);
        connections.make_room(); // Chooses the first. Its task runs later.
        drop(first.activity().busy());
        settle(&mut connections).await;
        assert!(is_served(&connections, &first));
        assert!(second.is_closed() && is_served(&connections, &next));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_waits_for_a_slot_ends_with_the_drain() {
        let mut connections = Connections::new(0);
        open(&mut connections);
        let drained = connections.drain(LIMIT).await;
        assert_eq!((drained.finished, drained.cut), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_another_task_took_over_counts_until_that_drops_it() {
        let mut connections = Connections::new(1);
        let (activity, spawner) = (connections.activity(), connections.spawner());
        let (taken, ends) = oneshot::channel::<()>();
        let busy = activity.busy();
        connections.spawn(activity, async move {
            spawner.spawn(async move {
                let _ = ends.await;
                drop(busy);
            });
        });
        let next = open(&mut connections);
        settle(&mut connections).await;
        assert!(!is_served(&connections, &next), "a busy one is not closed");
        drop(taken);
        settle(&mut connections).await;
        assert!(is_served(&connections, &next));
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_waits_for_a_connection_that_another_task_takes_over_meanwhile_and_cuts_it() {
        for seconds in [9, 11] {
            let mut connections = Connections::new(1);
            let (activity, spawner) = (connections.activity(), connections.spawner());
            let (inner, mut draining) = (activity.clone(), connections.draining());
            let watched = Watched::new(&activity);
            connections.spawn(activity, async move {
                draining.changed().await.unwrap();
                spawner.spawn(async move {
                    sleep(Duration::from_secs(seconds)).await;
                    drop(inner);
                });
            });
            let drained = connections.drain(LIMIT).await;
            let cut = usize::from(seconds > LIMIT.as_secs());
            assert_eq!((drained.finished, drained.cut), (1 - cut, cut));
            assert!(watched.is_closed());
        }
    }

    #[tokio::test]
    async fn a_connection_has_a_span_if_its_level_is_enabled_and_none_by_default() {
        use tracing::level_filters::LevelFilter;
        use tracing_subscriber::{Registry, layer::SubscriberExt};

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await;
        let stream = client.unwrap();
        for (level, expected) in [
            (LevelFilter::INFO, None),
            (LevelFilter::DEBUG, Some("connection")),
        ] {
            let subscriber = Registry::default().with(level);
            let _default = tracing::subscriber::set_default(subscriber);
            let (inside, span) = oneshot::channel();
            let mut connections = Connections::new(1);
            let activity = connections.activity();
            {
                let _span = peer_span(&stream).entered();
                connections.spawn(activity, async {
                    let span = Span::current().metadata().map(|span| span.name());
                    inside.send(span).unwrap();
                });
            }
            assert_eq!(span.await.unwrap(), expected);
        }
    }
}
