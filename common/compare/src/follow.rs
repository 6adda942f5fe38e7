//! A client that reconnects: whatever breaks, it subscribes again after what it has.

use std::{io, sync::Arc, time::Duration};

use serde::Serialize;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    Technique,
    clients::{Client, Heard, Receiver, Subscription},
};

/// The first pause before subscribing again. It doubles with each failure.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The state of the subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Subscribing, for the first time or again.
    Connecting,
    /// Subscribed; a polling client has connected.
    Open,
    /// Paused by the user.
    Paused,
}

/// A client in its own task. Dropped, it leaves.
#[derive(Debug)]
pub struct Follower {
    paused: watch::Sender<bool>,
    state: watch::Receiver<State>,
    receiver: Option<Arc<Receiver>>,
    task: JoinHandle<()>,
}

/// What the task works with.
struct Following {
    technique: Technique,
    /// Its `after` is where the next subscription begins.
    to: Subscription,
    /// How often to ask the sender of webhooks.
    check: Duration,
    paused: watch::Receiver<bool>,
    state: watch::Sender<State>,
    heard: mpsc::UnboundedSender<Heard>,
}

impl Follower {
    /// Subscribes; what it hears comes from the second value. `check` is how often a receiver of
    /// webhooks asks after its endpoint.
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
        let receiver = to.receiver.clone();
        let (paused, pausing) = watch::channel(false);
        let (state, shown) = watch::channel(State::Connecting);
        let (heard, hearing) = mpsc::unbounded_channel();
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

    /// Leaves, or comes back after what it has. A receiver of webhooks stays registered and answers
    /// 503 while it is paused.
    pub fn pause(&self, paused: bool) {
        if let Some(receiver) = &self.receiver {
            receiver.pause(paused);
        }
        self.paused.send_replace(paused);
    }

    /// The state now.
    pub fn state(&self) -> State {
        match *self.paused.borrow() {
            true => State::Paused,
            false => *self.state.borrow(),
        }
    }

    /// Waits for a state.
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
            // Any error is answered alike: wait, and subscribe again after the last position.
            if self.connection(&mut failures).await.is_err() {
                sleep(pause(failures, rand::random())).await;
                failures += 1;
                continue;
            }
            self.state.send_replace(State::Paused);
            if self.paused.wait_for(|paused| !paused).await.is_err() {
                return;
            }
        }
    }

    /// One connection, until it breaks or is paused.
    async fn connection(&mut self, failures: &mut u32) -> io::Result<()> {
        let mut client = Client::subscribe(self.technique, self.to.clone()).await?;
        self.state.send_replace(State::Open);
        *failures = 0;
        let ended = self.listen(&mut client).await;
        client.after().clone_into(&mut self.to.after);
        ended
    }

    async fn listen(&mut self, client: &mut Client) -> io::Result<()> {
        // A receiver that is paused stays registered.
        let leaves = self.technique != Technique::Webhooks;
        loop {
            let mut paused = self.paused.clone();
            let heard = tokio::select! {
                heard = self.next(client) => heard?,
                Ok(_) = paused.wait_for(|paused| *paused), if leaves => return Ok(()),
            };
            // Before it is passed on: what was received is not asked for again.
            client.after().clone_into(&mut self.to.after);
            for heard in heard {
                // It fails only when the run is over.
                let _ = self.heard.send(heard);
            }
        }
    }

    async fn next(&self, client: &mut Client) -> io::Result<Vec<Heard>> {
        if self.technique != Technique::Webhooks {
            return client.next().await;
        }
        // A receiver that hears nothing cannot know whether it is still registered.
        match timeout(self.check, client.next()).await {
            Ok(heard) => heard,
            Err(_) => client.check().await,
        }
    }
}

/// Doubles, minus up to half by chance: clients that left together do not return together.
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
