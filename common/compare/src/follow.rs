//! A client that goes on: whatever breaks, it subscribes again after what it has.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    Technique,
    clients::{Client, Heard, Receiver, Subscription},
};

/// The first pause before subscribing again; each that follows a failure is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// And the longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How it stands with the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Subscribing, for the first time or again.
    Connecting,
    /// Subscribed; of polls, connected.
    Open,
    /// Paused by the user.
    Paused,
}

impl State {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Open => "open",
            Self::Paused => "paused",
        }
    }
}

/// A client in a task of its own. Dropped, it leaves.
#[derive(Debug)]
pub struct Follower {
    paused: watch::Sender<bool>,
    state: watch::Receiver<State>,
    receiver: Option<Arc<Receiver>>,
    task: JoinHandle<()>,
}

/// What its task works with.
struct Following {
    technique: Technique,
    /// Its `after` is where to go on.
    to: Subscription,
    /// How often to ask what can only be heard by asking.
    check: Duration,
    paused: watch::Receiver<bool>,
    state: watch::Sender<State>,
    heard: mpsc::UnboundedSender<Heard>,
}

impl Follower {
    /// Subscribes and tells what it hears. `check` is how often it looks after an endpoint.
    ///
    /// # Errors
    /// If a receiver of webhooks cannot listen.
    pub async fn start(
        technique: Technique,
        mut to: Subscription,
        check: Duration,
    ) -> io::Result<(Self, mpsc::UnboundedReceiver<Heard>)> {
        if technique == Technique::Webhooks && to.receiver.is_none() {
            to.receiver = Some(Arc::new(Receiver::listen(to.traffic.clone()).await?));
        }
        let (paused, pausing) = watch::channel(false);
        let (state, shown) = watch::channel(State::Connecting);
        let (heard, hearing) = mpsc::unbounded_channel();
        let receiver = to.receiver.clone();
        let following = Following {
            technique,
            to,
            check,
            paused: pausing,
            state,
            heard,
        };
        let follower = Self {
            paused,
            state: shown,
            receiver,
            task: tokio::spawn(following.run()),
        };
        Ok((follower, hearing))
    }

    /// Leaves, or comes back to go on after what it has. Whoever is called stays registered, and
    /// answers that it cannot.
    pub fn pause(&self, paused: bool) {
        if let Some(receiver) = &self.receiver {
            receiver.pause(paused);
        }
        self.paused.send_replace(paused);
    }

    /// How it stands.
    pub fn state(&self) -> State {
        match *self.paused.borrow() {
            true => State::Paused,
            false => *self.state.borrow(),
        }
    }

    /// Waits until it stands like this.
    pub async fn reaches(&mut self, state: State) {
        // The task lives as long as this does.
        let _ = self.state.wait_for(|now| *now == state).await;
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Following {
    async fn run(mut self) {
        let mut failures = 0;
        loop {
            self.state.send_replace(State::Connecting);
            let (tried, retry) = self.connection(&mut failures).await;
            if tried.is_ok() {
                self.state.send_replace(State::Paused);
                let goes_on = self.paused.wait_for(|paused| !paused).await;
                if goes_on.is_err() {
                    return;
                }
                continue;
            }
            sleep(retry.unwrap_or_else(|| pause(failures, rand::random()))).await;
            failures += 1;
        }
    }

    /// One connection, until it breaks or is paused. The other half is after how long the server
    /// wants to be asked again.
    async fn connection(&mut self, failures: &mut u32) -> (io::Result<()>, Option<Duration>) {
        let mut client = match Client::subscribe(self.technique, self.to.clone()).await {
            Ok(client) => client,
            Err(error) => return (Err(error), None),
        };
        self.state.send_replace(State::Open);
        *failures = 0;
        let ended = self.listen(&mut client).await;
        client.after().clone_into(&mut self.to.after);
        (ended, client.retry())
    }

    async fn listen(&mut self, client: &mut Client) -> io::Result<()> {
        // Whoever is called has nothing to leave.
        let leaves = self.technique != Technique::Webhooks;
        loop {
            let mut paused = self.paused.clone();
            let heard = tokio::select! {
                heard = self.next(client) => heard?,
                Ok(_) = paused.wait_for(|paused| *paused), if leaves => return Ok(()),
            };
            client.after().clone_into(&mut self.to.after);
            for heard in heard {
                // Nobody listens any more once the run is over.
                let _ = self.heard.send(heard);
            }
        }
    }

    async fn next(&self, client: &mut Client) -> io::Result<Vec<Heard>> {
        if self.technique != Technique::Webhooks {
            return client.next().await;
        }
        match timeout(self.check, client.next()).await {
            Ok(heard) => heard,
            Err(_) => client.check().await,
        }
    }
}

/// Doubling, and by chance up to half shorter: who left together does not come back together.
fn pause(failures: u32, random: f64) -> Duration {
    let longest = FIRST_PAUSE * 2_u32.saturating_pow(failures.min(16));
    longest.min(LONGEST_PAUSE).mul_f64(1.0 - random / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_differ_by_half() {
        assert_eq!(pause(0, 0.0), FIRST_PAUSE);
        assert_eq!(pause(2, 0.0), FIRST_PAUSE * 4);
        assert_eq!(pause(2, 1.0), FIRST_PAUSE * 2);
        assert_eq!(pause(u32::MAX, 0.0), LONGEST_PAUSE);
    }
}
