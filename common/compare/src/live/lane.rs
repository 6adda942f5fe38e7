//! One technique on the page: its server, its client, and the wire between them.

use std::{io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use serde_json::json;
use tokio::sync::{Mutex, mpsc::UnboundedReceiver, watch};

use super::{
    RETAIN,
    log::Log,
    wire::{Mode, Wire},
};
use crate::{Follower, Heard, Knobs, Process, Publisher, State, Subscription, Technique};

const TOPIC: &str = "live";
/// How long until a webhook that failed is sent again.
const RETRY: Duration = Duration::from_secs(1);
/// How often a receiver checks that its endpoint still exists.
const CHECK: Duration = Duration::from_millis(500);
/// How long a server is away in a restart.
const AWAY: Duration = Duration::from_secs(2);

/// A server and its client.
pub(super) struct Lane {
    pub(super) technique: Technique,
    addr: SocketAddr,
    /// Locked during a restart, so that two of them do not overlap.
    process: Mutex<Process>,
    follower: Follower,
    wire: watch::Sender<Mode>,
    log: Arc<Log>,
}

impl Lane {
    pub(super) async fn start(program: &Path, technique: Technique, log: &Log) -> io::Result<Self> {
        let knobs = Knobs {
            retain: RETAIN,
            retry: Some(RETRY),
            ..Knobs::default()
        };
        let process = Process::start(program, technique, knobs).await?;
        let addr = process.addr();
        let log = Arc::new(log.of_lane(technique));
        let (wire, mode) = watch::channel(Mode::Passes);
        let to = Subscription {
            check: CHECK,
            acknowledges: true,
            ..Subscription::new(addr, TOPIC)
        };
        let ends = match technique {
            Technique::Webhooks => ["server", "client"],
            _ => ["client", "server"],
        };
        let wired = to.through(technique, async |to| {
            let log = log.clone();
            Wire {
                to,
                ends,
                mode,
                log,
            }
            .listen()
            .await
        });
        let (mut follower, hearing) = Follower::start(technique, wired.await?).await?;
        // A receiver begins at the feed's head, and would miss messages that were published before.
        follower.reaches(State::Open).await;
        tokio::spawn(gaps(hearing, log.clone()));
        Ok(Self {
            technique,
            addr,
            process: Mutex::new(process),
            follower,
            wire,
            log,
        })
    }

    /// Publishes a number. It is lost while the server is down.
    pub(super) async fn publish(&self, number: u64) {
        // A connection for each message: a kept one would break when the server restarts.
        let data = json!({ "number": number });
        let published = Publisher::new(self.addr).publish(TOPIC, &data).await;
        if published.is_err() {
            self.log.tell("lost", data).await;
        }
    }

    /// Does what a button is for. Returns whether there is such a button.
    ///
    /// # Errors
    /// If the server does not start again.
    pub(super) async fn control(&self, button: &str) -> io::Result<bool> {
        match button {
            "pause" => self.follower.pause(true),
            "resume" => self.follower.pause(false),
            "cut" => drop(self.wire.send_replace(Mode::Cut)),
            "slow" => drop(self.wire.send_replace(Mode::Slow)),
            "mend" => drop(self.wire.send_replace(Mode::Passes)),
            "restart" => return self.restart().await.map(|()| true),
            _ => return Ok(false),
        }
        self.log.tell(button, json!({})).await;
        Ok(true)
    }

    /// Restarts the server. Its feed is in memory, so a new epoch begins.
    async fn restart(&self) -> io::Result<()> {
        let mut process = self.process.lock().await;
        self.log.tell("down", json!({})).await;
        process.restart(AWAY).await?;
        self.log.tell("up", json!({})).await;
        Ok(())
    }
}

/// Reports the gaps that the client receives.
async fn gaps(mut hearing: UnboundedReceiver<Heard>, log: Arc<Log>) {
    while let Some(heard) = hearing.recv().await {
        if let Heard::Gap(gap) = heard {
            log.tell("gap", json!(gap)).await;
        }
    }
}
