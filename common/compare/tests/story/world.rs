//! All five servers on one feed, a client of each behind its own proxy, and the truth: what was
//! published. The rule for every client: each message either arrives once, or is named by a gap.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    time::Duration,
};

use common::{After, Cursor, Drained, Feed, FeedSource, PageLimit};
use compare::{Follower, Gap, Heard, Knobs, Publisher, State, Subscription, Technique, run};
use harness::{Fault, FaultProxy, PATIENCE, TestServer};
use serde_json::json;
use tokio::{
    sync::mpsc::UnboundedReceiver,
    time::{Instant, timeout, timeout_at},
};

use crate::home::{self, Home};

/// Messages kept per topic.
pub(crate) const RETAIN: usize = 8;
/// What the clients subscribe to. There are messages in another topic, too.
pub(crate) const TOPICS: [&str; 2] = ["a", "b"];
/// How often a receiver of webhooks asks about its endpoint.
const CHECK: Duration = Duration::from_millis(20);
/// How long until a failed webhook is sent again.
const RETRY: Duration = Duration::from_millis(10);

const NOTHING_OPEN: Drained = Drained {
    finished: 0,
    cut: 0,
};

/// What was published to the clients' topics, in the order of the feed, and the epochs in their order.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    epochs: Vec<String>,
    topics: BTreeMap<Id, String>,
}

/// The index of an epoch, and a message's number in it.
pub(crate) type Id = (usize, u64);

impl Truth {
    pub(crate) fn begin(&mut self, epoch: String) {
        self.epochs.push(epoch);
    }

    pub(crate) fn published(&mut self, id: &str, topic: &str) {
        let id = self.id(id).expect("a server answers with its own ids");
        self.topics.insert(id, topic.to_owned());
    }

    fn id(&self, cursor: &str) -> Option<Id> {
        let cursor: Cursor = cursor.parse().ok()?;
        let epoch = cursor.epoch.as_str();
        let life = self.epochs.iter().position(|known| known == epoch)?;
        Some((life, cursor.seq))
    }

    /// The published messages that a gap names.
    fn named(&self, gap: &Gap) -> BTreeSet<Id> {
        let (Some(from), Some(to)) = (self.id(&gap.requested), self.id(&gap.resumed)) else {
            return BTreeSet::new();
        };
        let between = self.topics.range((
            std::ops::Bound::Excluded(from),
            std::ops::Bound::Included(to),
        ));
        let lost = between.filter(|(_, topic)| gap.topics.contains(topic));
        lost.map(|(id, _)| *id).collect()
    }
}

/// One client, and all that it received.
pub(crate) struct Listener {
    pub(crate) technique: Technique,
    pub(crate) follower: Follower,
    pub(crate) proxy: FaultProxy,
    hearing: UnboundedReceiver<Heard>,
    pub(crate) received: Vec<Id>,
    pub(crate) named: BTreeSet<Id>,
}

impl Listener {
    fn take(&mut self, heard: Heard, truth: &Truth) {
        match heard {
            Heard::Message(message) => {
                let id = truth.id(&message.id).expect("its epoch is known");
                self.received.push(id);
            }
            Heard::Gap(gap) => self.named.extend(truth.named(&gap)),
        }
    }

    /// The messages that it neither received nor knows to be missing.
    fn unheard(&self, truth: &Truth) -> Vec<Id> {
        let received: BTreeSet<Id> = self.received.iter().copied().collect();
        let ids = truth.topics.keys();
        let unheard = ids.filter(|id| !received.contains(id) && !self.named.contains(id));
        unheard.copied().collect()
    }

    /// Waits until it received each message or knows that it is missing.
    async fn catch_up(&mut self, truth: &Truth, patience: Duration) -> Result<(), String> {
        let deadline = Instant::now() + patience;
        loop {
            while let Ok(heard) = self.hearing.try_recv() {
                self.take(heard, truth);
            }
            let unheard = self.unheard(truth);
            if unheard.is_empty() {
                return Ok(());
            }
            match timeout_at(deadline, self.hearing.recv()).await {
                Ok(Some(heard)) => self.take(heard, truth),
                _ => {
                    return Err(format!(
                        "{}: neither came nor is named: {unheard:?}",
                        self.technique
                    ));
                }
            }
        }
    }

    /// It received nothing twice, nothing out of order, and nothing that a gap names.
    fn is_exact(&self) -> Result<(), String> {
        let name = self.technique;
        let received: BTreeSet<Id> = self.received.iter().copied().collect();
        if received.len() < self.received.len() {
            return Err(format!("{name}: came twice: {:?}", self.received));
        }
        if name.keeps_order() && !self.received.is_sorted() {
            return Err(format!("{name}: out of order: {:?}", self.received));
        }
        // A receiver of webhooks names a whole range, and may have received some of its messages.
        let both: Vec<&Id> = received.intersection(&self.named).collect();
        if name.keeps_order() && !both.is_empty() {
            return Err(format!("{name}: received, and named as missing: {both:?}"));
        }
        Ok(())
    }

    /// The ids that it received, and those that it knows to be missing.
    fn end(&self) -> (BTreeSet<Id>, BTreeSet<Id>) {
        let received: BTreeSet<Id> = self.received.iter().copied().collect();
        let missing = self.named.difference(&received).copied().collect();
        (received, missing)
    }
}

pub(crate) struct World {
    home: Home,
    source: FeedSource,
    pub(crate) feed: Feed,
    /// The feed of each server.
    feeds: BTreeMap<Technique, Feed>,
    pub(crate) servers: BTreeMap<Technique, TestServer>,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) truth: Truth,
    /// How long a client may take to catch up.
    pub(crate) patience: Duration,
    /// The message with this number is lost, although it is acknowledged.
    pub(crate) loses: Option<usize>,
    published: usize,
}

impl World {
    /// The servers, without clients. A topic keeps `messages` messages.
    pub(crate) async fn roomy(messages: usize) -> Self {
        let roomy = Knobs {
            retain: messages,
            ..knobs()
        };
        Self::start(Home::Memory, FeedSource::Memory, roomy.feed()).await
    }

    async fn start(home: Home, source: FeedSource, feed: Feed) -> Self {
        let mut truth = Truth::default();
        truth.begin(feed.head().epoch.as_str().to_owned());
        let mut world = Self {
            home,
            source,
            servers: BTreeMap::new(),
            feeds: BTreeMap::new(),
            listeners: Vec::new(),
            feed,
            truth,
            patience: PATIENCE,
            loses: None,
            published: 0,
        };
        for technique in Technique::ALL {
            let anywhere = SocketAddr::from((world.home.host(), 0));
            world.serve(technique, anywhere).await;
        }
        world
    }

    /// The servers, and a client for each.
    pub(crate) async fn with_listeners(home: Home) -> Self {
        let source = home.place();
        let feed = home::open(&source).await;
        let mut world = Self::start(home, source, feed).await;
        for technique in Technique::ALL {
            let listener = world.listener(technique).await.expect("it begins");
            world.listeners.push(listener);
        }
        world.settle().await;
        world
    }

    async fn serve(&mut self, technique: Technique, addr: SocketAddr) {
        let feed = match self.home.is_shared() {
            true => home::open(&self.source).await,
            false => self.feed.handle(),
        };
        self.feeds.insert(technique, feed.handle());
        let server = TestServer::start_on(addr, |listener, shutdown| async move {
            let drained = run(technique, listener, feed, knobs(), shutdown).await;
            match drained {
                // With a feed in memory the sender loses what it has not delivered, and says so.
                Err(_) if technique == Technique::Webhooks => Ok(NOTHING_OPEN),
                drained => drained,
            }
        })
        .await;
        self.servers.insert(technique, server);
    }

    async fn listener(&self, technique: Technique) -> io::Result<Listener> {
        let server = self.servers[&technique].addr();
        let to = Subscription {
            interval: RETRY,
            check: CHECK,
            after: self.feed.head().to_string(),
            ..Subscription::new(server, TOPICS.join(","))
        };
        let mut proxy = None;
        let through = to.through(technique, async |addr| {
            let started = FaultProxy::start(addr, Fault::Pass).await;
            Ok(proxy.insert(started).addr())
        });
        let (follower, hearing) = Follower::start(technique, through.await?).await?;
        Ok(Listener {
            technique,
            follower,
            proxy: proxy.expect("it was started"),
            hearing,
            received: Vec::new(),
            named: BTreeSet::new(),
        })
    }

    /// Waits until the receivers of webhooks are registered.
    async fn settle(&mut self) {
        let webhooks = self.listeners.iter_mut();
        let webhooks = webhooks.filter(|one| one.technique == Technique::Webhooks);
        for listener in webhooks {
            let open = listener.follower.reaches(State::Open);
            timeout(PATIENCE, open).await.expect("it registers");
        }
    }

    /// Publishes to `topic` through the server of `technique`. All servers share the feed.
    pub(crate) async fn publish(&mut self, technique: Technique, topic: &str) {
        let lost = self.loses == Some(self.published);
        self.published += 1;
        let actual = if lost { "nobody-listens" } else { topic };
        let id = self.publish_by(technique, actual).await;
        if TOPICS.contains(&topic) {
            self.truth.published(&id, topic);
        }
    }

    /// The same, but not recorded in the truth.
    pub(crate) async fn publish_by(&self, technique: Technique, topic: &str) -> String {
        let mut publisher = Publisher::new(self.servers[&technique].addr());
        let id = publisher.publish(topic, &json!(self.published)).await;
        id.expect("the server is up")
    }

    /// Cuts every connection between clients and servers.
    pub(crate) fn cut(&self) {
        self.listeners.iter().for_each(|one| one.proxy.drop_all());
    }

    /// All clients leave, or come back.
    pub(crate) async fn pause(&mut self, paused: bool) {
        if !paused {
            self.level().await;
        }
        for Listener {
            technique,
            follower,
            ..
        } in &mut self.listeners
        {
            follower.pause(paused);
            if paused && *technique != Technique::Webhooks {
                let paused = timeout(PATIENCE, follower.reaches(State::Paused)).await;
                paused.expect("it leaves");
            }
        }
    }

    /// Waits until all servers have the same head. Otherwise a server that lags would still have messages that
    /// another one has dropped.
    async fn level(&self) {
        let head = |feed: &Feed| feed.head().seq;
        let deadline = Instant::now() + PATIENCE;
        let furthest = self.feeds.values().map(head).max();
        while self.feeds.values().map(head).min() < furthest {
            assert!(Instant::now() < deadline, "a server stays behind");
            tokio::task::yield_now().await;
        }
    }

    /// Drains every server and starts it again at its address, over the same feed or a new one.
    pub(crate) async fn restart(&mut self, new_life: bool) {
        let mut places = Vec::new();
        for (technique, server) in std::mem::take(&mut self.servers) {
            places.push((technique, server.addr()));
            server.stop().await;
        }
        self.reopen(new_life).await;
        for (technique, addr) in places {
            self.serve(technique, addr).await;
        }
    }

    /// Opens the feed again. A feed in memory stays open, because its messages would be lost.
    async fn reopen(&mut self, new_life: bool) {
        if new_life {
            self.source = self.home.place();
        } else if matches!(self.home, Home::Memory) {
            return;
        }
        // Closes the file.
        self.feeds.clear();
        self.feed = knobs().feed();
        self.feed = home::open(&self.source).await;
        if new_life {
            let epoch = self.feed.head().epoch.as_str().to_owned();
            self.truth.begin(epoch);
        }
    }

    /// Waits until every client knows of every message, and checks what it received.
    pub(crate) async fn catch_up(&mut self) -> Result<(), String> {
        for listener in &mut self.listeners {
            listener.catch_up(&self.truth, self.patience).await?;
            listener.is_exact()?;
        }
        Ok(())
    }

    /// What each server has and each client received last, for a failed story.
    pub(crate) async fn state(&self) -> String {
        let topics = TOPICS.join(",").parse().expect("they are topics");
        let mut lines = Vec::new();
        for (technique, feed) in &self.feeds {
            let read = feed.read(&topics, &After::Earliest, PageLimit::default());
            let ids: Result<Vec<u64>, _> = read
                .await
                .map(|page| page.messages.iter().map(|message| message.id.seq).collect());
            lines.push(format!("{technique}: head {}, has {ids:?}", feed.head()));
        }
        for listener in &self.listeners {
            let last = listener.received.last();
            lines.push(format!("{}: last received {last:?}", listener.technique));
        }
        lines.join("\n")
    }

    /// The number of messages that clients know to be missing.
    pub(crate) fn gaps(&self) -> usize {
        self.listeners.iter().map(|one| one.end().1.len()).sum()
    }

    /// Every client received the same messages, and misses the same. Not so with webhooks: the sender's queue
    /// keeps messages that the feed has dropped, and is lost with the process.
    pub(crate) fn tell_the_same(&self) -> Result<(), String> {
        let ends = self
            .listeners
            .iter()
            .filter(|one| one.technique.keeps_order());
        let ends: Vec<_> = ends.map(|one| (one.technique, one.end())).collect();
        let (first, expected) = &ends[0];
        match ends.iter().find(|(_, end)| end != expected) {
            Some((other, end)) => Err(format!("{first}: {expected:?}\n{other}: {end:?}")),
            None => Ok(()),
        }
    }
}

fn knobs() -> Knobs {
    Knobs {
        retain: RETAIN,
        retry: Some(RETRY),
        ..Knobs::default()
    }
}
