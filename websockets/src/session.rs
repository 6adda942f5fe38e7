//! A session: one task, one `select!` over socket, feed, time and shutdown.
//!
//! There is no queue. What one read brought is answered with one write. A page is pulled from the feed when all before it is written, so a peer that
//! does not read costs its socket and a page, and pushes back as far as the feed, where it falls
//! behind and is told of the gap. A peer that sends and does not read what is answered is not read
//! any further, and its own socket fills.
//!
//! A subscription is a set of topics and a cursor of its own, so that one which catches up does not
//! move the cursor of one which is live. No topic is in two of them: nothing is sent twice. What a
//! client keeps is the same: per subscription, the last id that it got, to subscribe after when it
//! comes back.

use std::{
    future::pending,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use common::{
    After, Cursor, Data, Draft, Feed, FeedError, Page, PageLimit, Problem, Published, Topic, Topics,
};
use futures_util::future::select_all;
use hyper::StatusCode;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    time::{Instant, sleep_until},
};
use tracing::{debug, info, warn};
use tungstenite::{Message, protocol::frame::coding::CloseCode};

use crate::{
    App,
    close::{self, Ending},
    frames,
    protocol::{self, Command, Publish, Received, Ref, Subscribe},
    socket::{Event, Reset, Socket},
};

/// What one page may carry: about what a socket takes at once.
const PAGE: PageLimit = PageLimit {
    messages: 100,
    bytes: 16 * 1024,
};
/// When so many bytes wait to be written, nothing more is read: the answers would have no place.
const MAX_UNSENT: usize = 64 * 1024;
/// Subscriptions of one session. Of publishes that are not acknowledged there is one: the next frame
/// is read when its `ack` is pushed, and no further frame while [`MAX_UNSENT`] of answers wait.
const MAX_SUBSCRIPTIONS: usize = 16;
/// Topics of all subscriptions of one session. Whatever happens in a session, its wait in the feed is
/// made again, under a lock that all share: this bounds the work that one frame causes.
const MAX_TOPICS: usize = 64;

/// What the client asked for in its handshake.
#[derive(Debug)]
pub(crate) enum Asked {
    /// A session, perhaps subscribed from the first byte, perhaps with heartbeats.
    Feed {
        subscription: Option<(Topics, After)>,
        heartbeat: Option<Duration>,
    },
    /// Its own messages back.
    Echo,
}

/// One session, from the upgrade to the last byte.
pub(crate) async fn run<S>(
    app: Arc<App>,
    socket: Socket<S>,
    asked: Asked,
    draining: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Reset,
{
    let mut session = Session::new(app.clone(), socket, draining);
    session.open(asked);
    let ending = session.live().await;
    let (published, received) = (session.published, session.received);
    debug!(%ending, published, received, "session ended");
    // Boxed: a session that lives need not hold the room for its end.
    if !Box::pin(close::close(session.socket, ending)).await {
        let stalled = app.stalled.fetch_add(1, Ordering::Relaxed) + 1;
        info!(stalled, "reset a peer that took no byte");
    }
}

struct Session<S> {
    app: Arc<App>,
    socket: Socket<S>,
    draining: watch::Receiver<bool>,
    subscriptions: Subscriptions,
    /// Messages are only sent back.
    echo: bool,
    /// When the last ping was sent.
    pinged: Option<Instant>,
    /// Silence until then does not count.
    excused: Instant,
    /// How often quiet subscriptions are moved on, and when next.
    beat: Duration,
    beat_at: Instant,
    /// When it is this session's turn to leave, once the server drains.
    leave_at: Option<Instant>,
    /// Whether the client wants to be told then where it stands.
    heartbeat: bool,
    /// Messages that the client published.
    published: u64,
    /// Messages that the client said it had received.
    received: u64,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    fn new(app: Arc<App>, socket: Socket<S>, draining: watch::Receiver<bool>) -> Self {
        let subscriptions = Subscriptions {
            feed: app.feed.clone(),
            all: Vec::new(),
        };
        let now = Instant::now();
        Self {
            beat: app.config.ping,
            beat_at: now + app.config.ping,
            app,
            socket,
            draining,
            subscriptions,
            echo: false,
            pinged: None,
            excused: now,
            leave_at: None,
            heartbeat: false,
            published: 0,
            received: 0,
        }
    }

    fn open(&mut self, asked: Asked) {
        let Asked::Feed {
            subscription,
            heartbeat,
        } = asked
        else {
            self.echo = true;
            return;
        };
        if let Some(every) = heartbeat {
            self.heartbeat = true;
            self.beat = every;
            self.beat_at = Instant::now() + every;
        }
        if let Some((topics, after)) = subscription {
            let next = self.subscriptions.add(topics, after);
            self.socket.push_text(&protocol::subscribed(None, next));
        }
    }

    /// Goes on until one side ends it.
    async fn live(&mut self) -> Ending {
        loop {
            let unsent = self.socket.unsent();
            let (tick_at, stays) = (self.tick_at(), self.leave_at.is_none());
            let step = tokio::select! {
                event = self.socket.next(unsent < MAX_UNSENT) => self.handle(event).await,
                page = self.subscriptions.next(), if unsent == 0 && stays => self.deliver(page),
                () = sleep_until(tick_at) => self.tick().await,
                () = drain(&mut self.draining), if stays => self.plan_to_leave(),
            };
            if let Err(ending) = step {
                return ending;
            }
        }
    }

    async fn handle(&mut self, event: Result<Event, tungstenite::Error>) -> Result<(), Ending> {
        let Event::Received(message) = event? else {
            return Ok(()); // All is written: there is room for a page.
        };
        self.take(message).await?;
        while self.socket.unsent() < MAX_UNSENT
            && let Some(message) = self.socket.buffered()
        {
            self.take(message?).await?;
        }
        Ok(())
    }

    async fn take(&mut self, message: Message) -> Result<(), Ending> {
        match message {
            Message::Text(_) | Message::Binary(_) if self.echo => self.socket.push_back(&message),
            // Boxed, as publishing is rare where thousands listen.
            Message::Text(text) => Box::pin(self.obey(&text)).await,
            Message::Binary(_) => {
                return Err(Ending::ours(CloseCode::Unsupported, "text messages only"));
            }
            Message::Close(_) => return Err(Ending::ByPeer),
            // tungstenite answers pings; a pong was life, as any byte is.
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
        Ok(())
    }

    async fn obey(&mut self, text: &str) {
        let answer = match protocol::parse(text) {
            Ok(Command::Publish(publish)) => {
                let published = self.publish(&publish).await;
                answer(publish.reference, published, protocol::ack)
            }
            Ok(Command::Subscribe(subscribe)) => {
                let next = self.subscribe(&subscribe);
                answer(subscribe.reference, next, subscribed)
            }
            Ok(Command::Unsubscribe(unsubscribe)) => {
                let topics = parse_topics(&unsubscribe.topics);
                let next = topics.map(|topics| self.subscriptions.remove(&topics));
                answer(unsubscribe.reference, next, subscribed)
            }
            Ok(Command::Received(received)) => match self.note(&received) {
                Ok(()) => return,
                Err(problem) => protocol::error(None, &problem),
            },
            Ok(Command::Ping {}) => protocol::pong(),
            Err(problem) => protocol::error(None, &problem),
        };
        self.socket.push_text(&answer);
    }

    async fn publish(&mut self, publish: &Publish<'_>) -> Result<Published, Problem> {
        let topic: Topic = publish.topic.parse().map_err(Problem::bad_request)?;
        let kind = publish.kind.as_deref().map(str::parse).transpose();
        let draft = Draft {
            kind: kind.map_err(Problem::bad_request)?.unwrap_or_default(),
            data: Data::json(publish.data.get().as_bytes()).map_err(Problem::bad_request)?,
        };
        let published = match &publish.key {
            None => self.app.feed.publish(topic, draft).await?,
            Some(key) => {
                let key = key.parse().map_err(Problem::bad_request)?;
                self.app.feed.publish_once(topic, draft, key).await?
            }
        };
        self.published += 1;
        Ok(published)
    }

    /// Where the new subscription starts, if that can be told.
    fn subscribe(&mut self, subscribe: &Subscribe<'_>) -> Result<Option<Cursor>, Problem> {
        let topics = parse_topics(&subscribe.topics)?;
        let after = subscribe.after.as_deref();
        let after = after.map_or(Ok(After::Latest), str::parse);
        let after = after.map_err(|error| Problem::bad_request(format!("after: {error}")))?;
        if let Some(topic) = self.subscriptions.first_of(&topics) {
            let detail = format!("topic {topic} is subscribed already: unsubscribe first");
            return Err(Problem::new(StatusCode::CONFLICT, detail));
        }
        if self.subscriptions.all.len() == MAX_SUBSCRIPTIONS {
            let detail = format!("this session has {MAX_SUBSCRIPTIONS} subscriptions already");
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, detail));
        }
        if self.subscriptions.topics() + topics.iter().len() > MAX_TOPICS {
            let detail = format!("a session has at most {MAX_TOPICS} topics");
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, detail));
        }
        Ok(self.subscriptions.add(topics, after))
    }

    fn note(&mut self, received: &Received) -> Result<(), Problem> {
        let id: Cursor = received.id.parse().map_err(Problem::bad_request)?;
        self.received += 1;
        debug!(%id, "received by the client");
        Ok(())
    }

    fn deliver(&mut self, page: Result<Page, FeedError>) -> Result<(), Ending> {
        match page {
            Ok(page) => self.push_page(&page),
            Err(FeedError::Closed) => return self.plan_to_leave(),
            Err(error) => {
                warn!(%error, "the feed failed a session");
                return Err(Ending::ours(CloseCode::Error, "the feed failed"));
            }
        }
        Ok(())
    }

    fn push_page(&mut self, page: &Page) {
        if let Some(gap) = &page.gap {
            self.socket.push_text(&protocol::gap(gap));
        }
        if !page.messages.is_empty() {
            self.socket.push_frames(frames::of(&page.messages));
        }
        if page.gap.is_some() {
            // Until here the client's position was the old one: cut off in between, it hears of the
            // gap again.
            self.tell_position();
        }
    }

    fn tell_position(&mut self) {
        if let Some(next) = self.subscriptions.position() {
            self.socket.push_text(&protocol::heartbeat(next));
        }
    }

    /// Sessions do not leave all at once: whoever takes the clients over has to accept every one of
    /// them.
    fn plan_to_leave(&mut self) -> Result<(), Ending> {
        let config = &self.app.config;
        let open = config.max_subscribers - self.app.subscribers.available_permits();
        let wait = spread(open, config.drain).mul_f64(rand::random());
        self.leave_at.get_or_insert(Instant::now() + wait);
        Ok(())
    }

    /// The last of what was published, as far as the peer takes it, and then a close.
    async fn leave(&mut self) -> Ending {
        while self.socket.unsent() < MAX_UNSENT
            && let Some(page) = self.subscriptions.read().await
        {
            self.push_page(&page);
        }
        Ending::ours(CloseCode::Restart, "the server restarts")
    }

    /// When there is something to do without anything happening.
    fn tick_at(&self) -> Instant {
        let tick_at = self.beat_at.min(self.check_at());
        self.leave_at
            .map_or(tick_at, |leave_at| leave_at.min(tick_at))
    }

    async fn tick(&mut self) -> Result<(), Ending> {
        let now = Instant::now();
        if self.leave_at.is_some_and(|leave_at| leave_at <= now) {
            return Err(Box::pin(self.leave()).await);
        }
        if self.beat_at <= now {
            self.beat_at = now + self.beat;
            Box::pin(self.subscriptions.pass_by_quiet()).await;
            if self.heartbeat {
                self.tell_position();
            }
        }
        if self.check_at() <= now {
            self.check(now)?;
        }
        Ok(())
    }

    /// When a silent peer is to be pinged, or given up.
    fn check_at(&self) -> Instant {
        match self.unanswered_ping() {
            Some(pinged) => pinged + self.app.config.pong(),
            None => self.socket.heard().max(self.excused) + self.app.config.ping,
        }
    }

    /// Any byte answers a ping.
    fn unanswered_ping(&self) -> Option<Instant> {
        self.pinged.filter(|pinged| self.socket.heard() < *pinged)
    }

    fn check(&mut self, now: Instant) -> Result<(), Ending> {
        if self.socket.unsent() > 0 {
            // A ping would wait behind what the peer does not take: here the stall guard judges.
            self.excused = now;
            self.pinged = None;
            return Ok(());
        }
        if self.unanswered_ping().is_some() {
            return Err(Ending::ours(CloseCode::Policy, "no answer to a ping"));
        }
        self.pinged = Some(now);
        self.socket.push_ping(rand::random());
        Ok(())
    }
}

/// What a session reads of the feed. No topic is in two subscriptions.
struct Subscriptions {
    feed: Feed,
    /// The one that was served longest ago is in front.
    all: Vec<Subscription>,
}

struct Subscription {
    topics: Topics,
    /// Everything up to here was handed to the socket.
    after: After,
}

impl Subscriptions {
    /// Where the subscription starts, if that can be told.
    fn add(&mut self, topics: Topics, mut after: After) -> Option<Cursor> {
        let start = self.feed.position(&topics, &after);
        if let (After::Latest, Some(start)) = (&after, start) {
            after = start.into();
        }
        self.all.push(Subscription { topics, after });
        start
    }

    /// Up to where everything of these topics was sent.
    fn remove(&mut self, topics: &Topics) -> Option<Cursor> {
        let leaves = |topic: &Topic| topics.iter().any(|leaving| leaving == topic);
        let all = std::mem::take(&mut self.all);
        let (touched, untouched): (Vec<_>, _) = all
            .into_iter()
            .partition(|subscription| subscription.topics.iter().any(leaves));
        self.all = untouched;
        let position = self.position_of(&touched);
        for Subscription { topics, after } in touched {
            let stay = topics.iter().filter(|topic| !leaves(topic)).cloned();
            if let Ok(topics) = Topics::try_from(stay.collect::<Vec<_>>()) {
                self.all.push(Subscription { topics, after });
            }
        }
        position
    }

    /// The first of these topics that is in a subscription.
    fn first_of<'a>(&self, topics: &'a Topics) -> Option<&'a Topic> {
        let has = |subscription: &Subscription, topic: &Topic| {
            subscription.topics.iter().any(|other| other == topic)
        };
        let is_subscribed = |topic: &&Topic| self.all.iter().any(|one| has(one, topic));
        topics.iter().find(is_subscribed)
    }

    /// How many topics there are in all subscriptions.
    fn topics(&self) -> usize {
        self.all.iter().map(|one| one.topics.iter().len()).sum()
    }

    /// The next page of any subscription.
    async fn next(&mut self) -> Result<Page, FeedError> {
        // One is the rule, and waits without the rest of the machinery.
        if let [Subscription { topics, after }] = &mut self.all[..] {
            let page = self.feed.next(topics, after, PAGE).await?;
            *after = page.next.into();
            return Ok(page);
        }
        Box::pin(self.next_of_any()).await
    }

    async fn next_of_any(&mut self) -> Result<Page, FeedError> {
        if self.all.is_empty() {
            return pending().await;
        }
        let pages = self
            .all
            .iter()
            .map(|Subscription { topics, after }| Box::pin(self.feed.next(topics, after, PAGE)));
        let (page, index, _) = select_all(pages).await;
        let page = page?;
        self.all[index].after = page.next.into();
        self.all.rotate_left(index + 1);
        Ok(page)
    }

    /// A page of news, if there is one now.
    async fn read(&mut self) -> Option<Page> {
        for Subscription { topics, after } in &mut self.all {
            let page = self.feed.read(topics, after, PAGE).await;
            if let Some(page) = page.ok().filter(Page::is_news) {
                *after = page.next.into();
                return Some(page);
            }
        }
        None
    }

    /// Up to where everything of all subscriptions was sent, if that can be told.
    fn position(&self) -> Option<Cursor> {
        self.position_of(&self.all)
    }

    fn position_of(&self, subscriptions: &[Subscription]) -> Option<Cursor> {
        let positions = subscriptions.iter().map(|subscription| {
            self.feed
                .position(&subscription.topics, &subscription.after)
        });
        let positions = positions.collect::<Option<Vec<_>>>()?;
        let lowest = positions.into_iter().min_by_key(|position| position.seq);
        Some(lowest.unwrap_or_else(|| self.feed.head()))
    }

    /// Moves the cursors of subscriptions without news to the head, so that what is trimmed of
    /// other topics does not look like a gap in theirs.
    async fn pass_by_quiet(&mut self) {
        for Subscription { topics, after } in &mut self.all {
            if let Ok(page) = self.feed.read(topics, after, PAGE).await
                && !page.is_news()
            {
                *after = page.next.into();
            }
        }
    }
}

/// Resolves when the server drains.
async fn drain(draining: &mut watch::Receiver<bool>) {
    // That nobody is left to say so says it too.
    let _ = draining.wait_for(|draining| *draining).await;
}

/// The time over which so many sessions leave: a thousand a second, but the last one by half of the
/// drain, so that there is time for its closing.
fn spread(open: usize, drain: Duration) -> Duration {
    let open = u32::try_from(open).unwrap_or(u32::MAX);
    Duration::from_millis(1).saturating_mul(open).min(drain / 2)
}

fn parse_topics(names: &[String]) -> Result<Topics, Problem> {
    let topics = names.iter().map(|name| name.parse());
    let topics = topics.collect::<Result<Vec<Topic>, _>>();
    Topics::try_from(topics.map_err(Problem::bad_request)?).map_err(Problem::bad_request)
}

fn subscribed(reference: Ref<'_>, next: Option<Cursor>) -> String {
    protocol::subscribed(Some(reference), next)
}

/// The frame for what was done, or for why it was not.
fn answer<'a, T>(
    reference: Ref<'a>,
    outcome: Result<T, Problem>,
    frame: impl FnOnce(Ref<'a>, T) -> String,
) -> String {
    match outcome {
        Ok(done) => frame(reference, done),
        Err(problem) => protocol::error(Some(reference), &problem),
    }
}

#[cfg(test)]
mod tests;
