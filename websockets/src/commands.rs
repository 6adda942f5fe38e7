//! What the commands of `feed.v1.json` do.

use common::{After, Cursor, Data, Draft, Feed, FeedError, Problem, Published, Topic, Topics};
use hyper::StatusCode;
use tracing::{debug, warn};
use tungstenite::protocol::frame::coding::CloseCode;

use crate::{
    close::Ending,
    protocol::{self, Command, Publish, Received, Ref, Subscribe},
    session::Subprotocol,
    subscriptions::Subscriptions,
};

/// The most subscriptions of one session.
const MAX_SUBSCRIPTIONS: usize = 16;
/// The most topics of all subscriptions of one session. A session registers its wait anew after every
/// frame, under a lock that all sessions share: this bounds the work that one frame causes.
const MAX_TOPICS: usize = 64;

/// The subprotocol `feed.v1.json` in one session.
///
/// One command is handled at a time: after a publish, the next command waits until the `ack` is queued.
#[derive(Debug)]
pub struct FeedV1 {
    subscriptions: Subscriptions,
}

impl FeedV1 {
    /// A session without subscriptions.
    pub fn new(feed: Feed) -> Self {
        let subscriptions = Subscriptions::new(feed);
        Self { subscriptions }
    }

    /// Adds the subscription that the handshake asked for. Returns the `subscribed` frame's text.
    pub fn open(&mut self, topics: Topics, after: After, newest: bool) -> String {
        let next = self.subscriptions.add(topics, after, newest);
        protocol::subscribed(None, next)
    }
}

impl Subprotocol for FeedV1 {
    // Every command except `received` is answered. If it fails, the answer is an `error` with its `ref`. Only
    // broken frames end a session.
    async fn handle(&mut self, text: &str) -> Option<String> {
        match protocol::parse(text) {
            Ok(Command::Publish(publish)) => {
                let published = self.publish(&publish).await;
                Some(answer(publish.reference, published, protocol::ack))
            }
            Ok(Command::Subscribe(subscribe)) => {
                let next = self.subscribe(&subscribe);
                Some(answer(subscribe.reference, next, subscribed))
            }
            Ok(Command::Unsubscribe(unsubscribe)) => {
                let next = self.unsubscribe(&unsubscribe.topics);
                Some(answer(unsubscribe.reference, next, subscribed))
            }
            Ok(Command::Received(received)) => {
                let problem = confirm(&received).err()?; // Success is not answered.
                Some(protocol::error(None, &problem))
            }
            Ok(Command::Ping) => Some(protocol::pong()),
            Err((reference, problem)) => Some(protocol::error(reference, &problem)),
        }
    }

    async fn next(&mut self) -> Result<Option<Vec<u8>>, Ending> {
        match self.subscriptions.next().await {
            Ok(frames) => Ok(Some(frames)),
            Err(FeedError::Closed) => Ok(None), // The server drains.
            Err(error) => {
                warn!(%error, "the feed failed a session");
                Err(Ending::Ours(CloseCode::Error, "the feed failed"))
            }
        }
    }

    // Sends at a drain what was published before the signal.
    async fn read(&mut self) -> Option<Vec<u8>> {
        self.subscriptions.read().await
    }

    async fn heartbeat(&mut self) -> Option<String> {
        self.subscriptions.advance_quiet().await;
        let next = self.subscriptions.position()?;
        Some(protocol::heartbeat(next))
    }
}

impl FeedV1 {
    /// Returns when the message is stored. Meanwhile the session reads nothing more from this client.
    async fn publish(&self, publish: &Publish<'_>) -> Result<Published, Problem> {
        let topic: Topic = publish.topic.parse().map_err(Problem::bad_request)?;
        let kind = publish.kind.as_deref().map(str::parse).transpose();
        // The data is checked once more, because serde takes some JSON that breaks other parsers.
        let draft = Draft {
            kind: kind.map_err(Problem::bad_request)?.unwrap_or_default(),
            data: Data::json(publish.data.get().as_bytes()).map_err(Problem::bad_request)?,
        };
        let feed = &self.subscriptions.feed;
        // A client that was cut off does not know whether it has published. With a key it may repeat.
        let Some(key) = &publish.key else {
            return Ok(feed.publish(topic, draft).await?);
        };
        let key = key.parse().map_err(Problem::bad_request)?;
        Ok(feed.publish_once(topic, draft, key).await?)
    }

    /// Returns where the new subscription starts, if that is known. A topic may be in one subscription
    /// only: otherwise its messages would be sent twice.
    fn subscribe(&mut self, subscribe: &Subscribe<'_>) -> Result<Option<Cursor>, Problem> {
        let topics = parse_topics(&subscribe.topics)?;
        let after = match subscribe.after.as_deref().map(str::parse) {
            None => After::Latest,
            Some(Ok(after)) => after,
            Some(Err(error)) => return Err(Problem::bad_request(format!("after: {error}"))),
        };
        // Refused, because merging would move one of the two cursors.
        if let Some(topic) = self.subscriptions.first_of(&topics) {
            let detail = format!("topic {topic} is already subscribed: unsubscribe first");
            return Err(Problem::new(StatusCode::CONFLICT, detail));
        }
        if self.subscriptions.len() == MAX_SUBSCRIPTIONS {
            let detail = format!("this session has {MAX_SUBSCRIPTIONS} subscriptions already");
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, detail));
        }
        if self.subscriptions.topics() + topics.iter().len() > MAX_TOPICS {
            let detail = format!("a session has at most {MAX_TOPICS} topics");
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, detail));
        }
        Ok(self.subscriptions.add(topics, after, subscribe.newest))
    }

    /// Returns the position up to which these topics were sent, if that is known.
    fn unsubscribe(&mut self, topics: &[String]) -> Result<Option<Cursor>, Problem> {
        let topics = parse_topics(topics)?;
        Ok(self.subscriptions.remove(&topics))
    }
}

/// Put here what your server does with a confirmation. This one logs it.
fn confirm(received: &Received) -> Result<(), Problem> {
    let id: Cursor = received.id.parse().map_err(Problem::bad_request)?;
    debug!(%id, "received by the client");
    Ok(())
}

fn parse_topics(names: &[String]) -> Result<Topics, Problem> {
    let topics: Result<Vec<Topic>, _> = names.iter().map(|name| name.parse()).collect();
    Topics::try_from(topics.map_err(Problem::bad_request)?).map_err(Problem::bad_request)
}

fn subscribed(reference: Ref<'_>, next: Option<Cursor>) -> String {
    protocol::subscribed(Some(reference), next)
}

/// The frame that reports the outcome of a command.
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
