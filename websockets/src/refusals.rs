//! The connections that were refused and are still closing.
//!
//! A refused peer may take seconds to close its side. The connections beyond the sessions are for
//! publishers and health checks. Refused peers may have half of these: then the oldest is cut for the next.

use tokio::sync::watch;

/// Counts the refused connections.
#[derive(Debug)]
pub(crate) struct Refusals {
    /// How many may be closing at one time.
    most: usize,
    /// How many were refused so far.
    count: watch::Sender<usize>,
}

impl Refusals {
    /// `spare` connections are not for sessions.
    pub(crate) fn new(spare: usize) -> Self {
        Self {
            most: spare / 2,
            count: watch::Sender::new(0),
        }
    }

    /// Counts one more. The future resolves when this one has to make room for a later one.
    pub(crate) fn outnumbered(&self) -> impl Future<Output = ()> + use<> {
        let mut count = self.count.subscribe();
        self.count.send_modify(|count| *count += 1);
        let last = *count.borrow() + self.most;
        async move {
            // It fails only if the server has ended.
            let _ = count.wait_for(|count| *count >= last).await;
        }
    }
}
