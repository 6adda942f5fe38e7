//! Many clients that wait, and the server's memory for each.

use std::{io, sync::Arc, time::Duration};

use tokio::time::sleep;

use super::{Bench, waiting};
use crate::{Figure, Knobs, Process, Receiver, Row, Subscription, Technique};

/// Clients that subscribe at one time: the listen backlog is bounded.
const GROUP: usize = 100;
/// Between two polls: every client polls once and then only keeps its connection.
const INTERVAL: Duration = Duration::from_secs(3_600);

impl Bench {
    /// Memory per waiting client, with and without the takeover.
    pub(super) async fn memory(&self) -> io::Result<()> {
        for technique in Technique::ALL {
            self.memory_of(technique, true, Figure::Memory).await?;
            if !matches!(technique, Technique::Webhooks | Technique::Websockets) {
                self.memory_of(technique, false, Figure::Plain).await?;
            }
        }
        Ok(())
    }

    async fn memory_of(
        &self,
        technique: Technique,
        takeover: bool,
        figure: Figure,
    ) -> io::Result<()> {
        let knobs = Knobs {
            takeover,
            ..Knobs::default()
        };
        let server = Process::start(&self.program, technique, knobs).await?;
        let mut to = Subscription::new(server.addr(), "crowd");
        to.interval = INTERVAL;
        if technique == Technique::Webhooks {
            // One for all endpoints. Nothing is published, so it is never called.
            to.receiver = Some(Arc::new(Receiver::listen(to.traffic.clone()).await?));
        }
        // The first pay for what is allocated once: threads, tables, the allocator's first pages.
        let mut crowd = vec![waiting(technique, &to, GROUP, Duration::ZERO).await?];
        let Some(empty) = settled(&server).await else {
            return Ok(());
        };
        for _ in 1..self.crowd / GROUP {
            crowd.push(waiting(technique, &to, GROUP, Duration::ZERO).await?);
        }
        if crowd.len() == 1 {
            return Ok(()); // the process may open too few files
        }
        let used = settled(&server).await.unwrap_or(empty);
        let each = used.saturating_sub(empty) as f64 / ((crowd.len() - 1) * GROUP) as f64;
        for row in Row::ALL
            .into_iter()
            .filter(|row| row.technique == technique)
        {
            self.note(figure, row, each);
        }
        Ok(())
    }
}

/// The server's memory, once it has stopped changing.
async fn settled(server: &Process) -> Option<u64> {
    let mut last = server.resident()?;
    for _ in 0..20 {
        sleep(Duration::from_millis(100)).await;
        let now = server.resident()?;
        if now.abs_diff(last) < 16 << 10 {
            return Some(now);
        }
        last = now;
    }
    Some(last)
}
