//! A client that reconnects: whatever breaks, it subscribes again after the last message that it has.

use std::{io, sync::Arc, time::Duration};

use futures_util::TryStreamExt;
use serde::Serialize;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    Technique,
    clients::{Heard, Receiver, Subscription, subscribe},
};

/// The pause before subscribing again. It doubles when a connection lasts less than twice the pause.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

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
    _task: AbortOnDropHandle<()>,
}

/// What the task works with.
struct Following {
    technique: Technique,
    /// Where to subscribe. Its `after` follows what was received.
    to: Subscription,
    state: watch::Sender<State>,
    heard: mpsc::UnboundedSender<Heard>,
}

impl Follower {
    /// Subscribes. The second value receives what it hears.
    ///
    /// # Errors
    /// If a receiver of webhooks cannot listen.
    pub async fn start(
        technique: Technique,
        mut to: Subscription,
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
            state,
            heard,
        };
        let follower = Self {
            paused,
            state: shown,
            receiver,
            _task: AbortOnDropHandle::new(tokio::spawn(following.run(pausing))),
        };
        Ok((follower, hearing))
    }

    /// Leaves, or comes back after what it has. A receiver of webhooks stays registered, and refuses
    /// deliveries while it is paused.
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

impl Following {
    async fn run(mut self, mut paused: watch::Receiver<bool>) {
        // A receiver that is paused stays registered.
        let leaves = self.technique != Technique::Webhooks;
        let mut pause = PAUSE;
        loop {
            self.state.send_replace(State::Connecting);
            let started = Instant::now();
            let left = tokio::select! {
                biased; // what has arrived is received before a pause
                _ = self.connection() => false,
                _ = paused.wait_for(|paused| *paused), if leaves => true,
            };
            if left {
                self.state.send_replace(State::Paused);
                // It fails only if the follower is dropped, which ends this task too.
                let _ = paused.wait_for(|paused| !paused).await;
            } else {
                // However the connection ended: subscribe again after the last position.
                sleep(pause).await;
                pause = match started.elapsed() > 2 * pause {
                    true => PAUSE,
                    false => LONGEST_PAUSE.min(2 * pause),
                };
            }
        }
    }

    /// One connection, until it breaks.
    async fn connection(&mut self) -> io::Result<()> {
        let mut client = subscribe(self.technique, self.to.clone()).await?;
        self.state.send_replace(State::Open);
        while let Some(news) = client.try_next().await? {
            // Before it is passed on: what was received is not asked for again.
            self.to.after = news.after;
            for heard in news.heard {
                // It fails only if the receiver of the channel was dropped.
                let _ = self.heard.send(heard);
            }
        }
        Ok(())
    }
}
