//! The open connections: one task each, a limit, and the drain.

use std::{future::pending, io, time::Duration};

use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
    time::{sleep, timeout},
};
use tracing::{error, info, warn};

/// How long to wait when the system has no descriptor or memory for one more connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The tasks of the open connections.
///
/// An accept loop asks [`has_room`](Self::has_room), [`spawn`](Self::spawn)s, and awaits
/// [`ended`](Self::ended) all the while. At shutdown it calls [`drain`](Self::drain).
#[derive(Debug)]
pub struct Connections {
    /// How many may be open.
    limit: usize,
    tasks: JoinSet<()>,
    /// Turns true when the drain begins.
    draining: watch::Sender<bool>,
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
        Self {
            limit,
            tasks: JoinSet::new(),
            draining: watch::Sender::new(false),
        }
    }

    /// Whether one more may be accepted. Others wait in the kernel's backlog.
    pub fn has_room(&self) -> bool {
        self.tasks.len() < self.limit
    }

    /// Runs one connection in a task.
    pub fn spawn(&mut self, connection: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(connection);
    }

    /// Waits until a connection has ended, and frees its slot. Pending while there is none.
    pub async fn ended(&mut self) {
        match self.tasks.join_next().await {
            Some(ended) => log_panic(ended),
            None => pending().await,
        }
    }

    /// Tells a connection when the drain begins: its `changed()` then resolves.
    pub fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    /// Tells every connection to finish, waits for all of them, and cuts those that are still open
    /// after `limit`.
    pub async fn drain(mut self, limit: Duration) -> Drained {
        self.draining.send_replace(true);
        let open = self.tasks.len();
        // Whether all ended or the time did, what is left is counted and cut.
        let _ = timeout(limit, self.all_ended()).await;
        let cut = self.tasks.len();
        self.tasks.shutdown().await;
        let finished = open - cut;
        info!(finished, cut, "drained");
        Drained { finished, cut }
    }

    async fn all_ended(&mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            log_panic(ended);
        }
    }
}

fn log_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        error!(%error, "a connection's task failed");
    }
}

/// What an accept loop does after an error, before it accepts again. No error ends the server.
pub async fn accept_failed(error: io::Error) {
    // The client closed before it was accepted: the next one may be waiting already.
    if error.kind() == io::ErrorKind::ConnectionAborted {
        return;
    }
    // Most likely the descriptors are used up. Without a pause the loop would spin.
    warn!(%error, "cannot accept");
    sleep(ACCEPT_PAUSE).await;
}

#[cfg(test)]
mod tests {
    use tokio::{task::yield_now, time::Instant};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn what_has_not_ended_by_the_deadline_is_cut_and_counted() {
        let mut connections = Connections::new(2);
        connections.spawn(sleep(Duration::from_secs(9)));
        connections.spawn(pending());
        let started = Instant::now();
        let drained = connections.drain(LIMIT).await;
        assert_eq!((drained.finished, drained.cut), (1, 1));
        assert_eq!(started.elapsed(), LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_tells_each_connection_and_ends_with_the_last() {
        let mut connections = Connections::new(2);
        for _ in 0..2 {
            let mut draining = connections.draining();
            connections.spawn(async move {
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
        assert!(connections.has_room());
        connections.spawn(async { panic!("a test's") });
        yield_now().await;
        assert!(!connections.has_room(), "it has not been seen to end");
        connections.ended().await;
        assert!(connections.has_room());
        assert!(timeout(LIMIT, connections.ended()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn only_an_error_of_the_system_pauses_the_accepting() {
        let started = Instant::now();
        accept_failed(io::ErrorKind::ConnectionAborted.into()).await;
        assert_eq!(started.elapsed(), Duration::ZERO);
        accept_failed(io::Error::other("no descriptors")).await;
        assert_eq!(started.elapsed(), ACCEPT_PAUSE);
    }
}
