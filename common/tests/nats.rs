//! The contract of the feed, of one on NATS; and what only a stream can promise. They need
//! `nats-server`: `cargo test -p common --features nats --test nats`.
#![cfg(all(feature = "nats", unix))]
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "contract/verbs.rs"]
mod contract;

use std::{sync::LazyLock, thread};

use common::{Feed, FeedSource, Retention, harness::NatsServers};
use tokio::runtime::Runtime;

/// Where the clients live, whatever becomes of a test's own runtime.
static CLIENTS: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
static SERVER: LazyLock<NatsServers> = LazyLock::new(|| CLIENTS.block_on(NatsServers::start(1)));

/// A feed on a stream of its own. What it has in memory is so little that most is read from the stream.
fn feed(retention: Retention) -> Feed {
    let retention = Retention {
        in_memory: 400,
        ..retention
    };
    let opened = thread::spawn(|| {
        let source: FeedSource = SERVER.feed().parse().unwrap();
        CLIENTS.block_on(source.open(retention, false)).unwrap()
    });
    opened.join().unwrap()
}
