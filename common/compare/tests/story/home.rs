//! Where the story's feed is kept, by `STORY_FEED`: in `memory`, in a `file`, or on `nats`. On NATS each
//! server has its own connection to the stream, as if it ran on another machine.

use std::{
    env, fs,
    net::Ipv4Addr,
    process,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use common::{Feed, FeedSource, Retention};
use harness::{NatsServers, PATIENCE};
use tokio::{task::yield_now, time::Instant};

use crate::world::RETAIN;

#[derive(Clone)]
pub(crate) enum Home {
    Memory,
    File,
    Nats(Arc<NatsServers>),
}

impl Home {
    pub(crate) async fn from_env() -> Self {
        match env::var("STORY_FEED").as_deref() {
            Err(_) | Ok("memory") => Self::Memory,
            Ok("file") => Self::File,
            Ok("nats") => Self::Nats(Arc::new(NatsServers::start(1).await)),
            Ok(other) => panic!("STORY_FEED={other}: memory, file or nats"),
        }
    }

    /// A new and empty place for a feed.
    pub(crate) fn place(&self) -> FeedSource {
        let value = match self {
            Self::Memory => "memory".into(),
            Self::File => format!("file:{}", new_file()),
            Self::Nats(servers) => servers.feed(),
        };
        let source = value.parse();
        source.unwrap_or_else(|error| panic!("{value}: {error}"))
    }

    /// Where the servers listen. The connections to NATS use ports of 127.0.0.1. One of them could take the
    /// port of a server that restarts.
    pub(crate) fn host(&self) -> Ipv4Addr {
        Ipv4Addr::new(127, 0, 0, if self.is_shared() { 2 } else { 1 })
    }

    /// Whether every server opens the feed by itself.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self, Self::Nats(_))
    }
}

fn new_file() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let folder = env::temp_dir().join(format!("story-{}-{number}", process::id()));
    fs::create_dir_all(&folder).expect("there is a folder for temporary files");
    folder.join("feed.sqlite").display().to_string()
}

/// Opens a feed as soon as its last holder has closed it.
pub(crate) async fn open(source: &FeedSource) -> Feed {
    let retention = Retention {
        messages: RETAIN,
        ..Retention::default()
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        match source.open(retention.clone(), false).await {
            Ok(feed) => return feed,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        yield_now().await;
    }
}
