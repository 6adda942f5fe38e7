//! Many clients that wait: the memory of the server and of the kernel for each, and what the server keeps
//! when they have gone.

use std::{fs, io, path::Path, sync::Arc, time::Duration};

use tokio::{task::JoinSet, time::sleep};

use super::{Bench, waiting};
use crate::{
    Figure, Knobs, News, Process, Receiver, Row, Subscription, Technique, process::bytes_in,
};

/// Clients that subscribe at the same time. The listen backlog is bounded.
const GROUP: usize = 100;
/// The time between two polls: every client polls once, and then only keeps its connection.
const INTERVAL: Duration = Duration::from_secs(3_600);

/// One task for each client, in groups.
type Crowd = Vec<JoinSet<io::Result<Option<News>>>>;

impl Bench {
    /// Memory per waiting client, with and without the takeover.
    pub(super) async fn memory(&self) -> io::Result<()> {
        for technique in Technique::ALL {
            self.memory_of(technique, true).await?;
            if !matches!(technique, Technique::Webhooks | Technique::Websockets) {
                self.memory_of(technique, false).await?;
            }
        }
        Ok(())
    }

    async fn memory_of(&self, technique: Technique, takeover: bool) -> io::Result<()> {
        let knobs = Knobs {
            takeover,
            ..Knobs::default()
        };
        let server = Process::start(&self.program, technique, knobs).await?;
        let mut to = Subscription::new(server.addr(), "crowd");
        to.interval = INTERVAL;
        if technique == Technique::Webhooks {
            // One receiver for all endpoints. Nothing is published, so it is never called.
            to.receiver = Some(Arc::new(Receiver::listen(to.traffic.clone()).await?));
        }
        // The first group is not counted: it pays for what is allocated once, such as threads and tables.
        let mut crowd = vec![waiting(technique, &to, GROUP, Duration::ZERO).await?];
        let (empty, kernel) = (settled(&server).await, slab());
        for _ in 1..self.crowd / GROUP {
            crowd.push(waiting(technique, &to, GROUP, Duration::ZERO).await?);
        }
        let clients = (crowd.len() - 1) * GROUP;
        if clients == 0 {
            return Ok(()); // The process may open too few files.
        }
        let used = per_client(settled(&server).await, empty, clients);
        if !takeover {
            self.note_technique(Figure::Plain, technique, used);
            return Ok(());
        }
        self.note_technique(Figure::Memory, technique, used);
        if technique != Technique::Webhooks {
            // Both ends of each connection are on this machine.
            let each = per_client(slab(), kernel, 2 * clients);
            self.note_technique(Figure::Kernel, technique, each);
            self.wait_and_leave(technique, &server, crowd, empty).await;
        }
        Ok(())
    }

    /// The server's processor time while the clients wait, and the memory that it keeps when they have gone.
    async fn wait_and_leave(
        &self,
        technique: Technique,
        server: &Process,
        crowd: Crowd,
        empty: Option<u64>,
    ) {
        if let Some(period) = period(technique) {
            let before = server.cpu_time();
            sleep(period).await;
            let used = server.cpu_time().zip(before);
            let used = used.map(|(after, before)| (after - before).div_duration_f64(period));
            self.note_technique(Figure::IdleCpu, technique, used);
        }
        let clients = (crowd.len() - 1) * GROUP;
        drop(crowd);
        let kept = per_client(settled(server).await, empty, clients);
        self.note_technique(Figure::Kept, technique, kept);
    }

    /// Notes a figure, if there is one, in all rows of a technique: it does not depend on the interval.
    fn note_technique(&self, figure: Figure, technique: Technique, value: Option<f64>) {
        for row in Row::ALL {
            if row.technique == technique
                && let Some(value) = value
            {
                self.note(figure, row, value);
            }
        }
    }
}

/// How often a server sends something to a client for which there is no news, by default. `None` if never.
fn period(technique: Technique) -> Option<Duration> {
    let seconds = match technique {
        Technique::LongPolling => 25,
        Technique::Websockets => 20,
        Technique::Sse => 15,
        Technique::ShortPolling | Technique::Webhooks => return None,
    };
    Some(Duration::from_secs(seconds))
}

/// How many ports the system has for clients. Every connection to one server needs its own. Unlimited if there is no
/// `/proc`, because Windows and macOS have 16,384 by default, which is enough.
pub(super) fn free_ports() -> usize {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    ports_in(&range).unwrap_or(usize::MAX)
}

fn ports_in(range: &str) -> Option<usize> {
    let (first, last) = range.trim().split_once(char::is_whitespace)?;
    let (first, last): (usize, usize) = (first.parse().ok()?, last.trim().parse().ok()?);
    Some((last + 1).saturating_sub(first))
}

fn per_client(used: Option<u64>, empty: Option<u64>, clients: usize) -> Option<f64> {
    Some(used?.saturating_sub(empty?) as f64 / clients as f64)
}

/// The memory of the kernel's objects, sockets among them. `None` where there is no `/proc`.
fn slab() -> Option<u64> {
    bytes_in(Path::new("/proc/meminfo"), "Slab:")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_of_a_range_are_ports() {
        assert_eq!(ports_in("32768\t60999\n"), Some(28_232));
        assert_eq!(ports_in("5 5"), Some(1));
        assert_eq!(ports_in(""), None);
    }
}
