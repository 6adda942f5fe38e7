//! What a client's commands do.

use common::{After, Cursor, Data, Draft, Feed, Problem, Published, Topic, Topics};
use hyper::StatusCode;
use tracing::debug;

use crate::{
    protocol::{self, Command, Publish, Received, Ref, Subscribe},
    subscriptions::Subscriptions,
};

/// Subscriptions of one session. Of publishes that are not acknowledged there is one: the next command
/// is obeyed when the `ack` of the one before is pushed.
const MAX_SUBSCRIPTIONS: usize = 16;
/// Topics of all subscriptions of one session. Whatever happens in a session, its wait in the feed may
/// be made again, under a lock that all share: this bounds the work that one frame causes.
const MAX_TOPICS: usize = 64;

/// What its client has asked of a session.
pub(crate) struct Client {
    pub(crate) subscriptions: Subscriptions,
    /// Messages that the client published.
    pub(crate) published: u32,
    /// Messages that the client said it had received.
    pub(crate) received: u32,
}

impl Client {
    /// One that has asked for nothing yet.
    pub(crate) fn new(feed: &Feed) -> Self {
        Self {
            subscriptions: Subscriptions::new(feed.clone()),
            published: 0,
            received: 0,
        }
    }

    /// Obeys one command. The answer is a frame's text, if there is any.
    pub(crate) async fn obey(&mut self, feed: &Feed, text: &str) -> Option<String> {
        Some(match protocol::parse(text) {
            Ok(Command::Publish(publish)) => {
                let published = self.publish(feed, &publish).await;
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
                Ok(()) => return None,
                Err(problem) => protocol::error(None, &problem),
            },
            Ok(Command::Ping {}) => protocol::pong(),
            Err((reference, problem)) => protocol::error(reference, &problem),
        })
    }

    async fn publish(&mut self, feed: &Feed, publish: &Publish<'_>) -> Result<Published, Problem> {
        let topic: Topic = publish.topic.parse().map_err(Problem::bad_request)?;
        let kind = publish.kind.as_deref().map(str::parse).transpose();
        let draft = Draft {
            kind: kind.map_err(Problem::bad_request)?.unwrap_or_default(),
            data: Data::json(publish.data.get().as_bytes()).map_err(Problem::bad_request)?,
        };
        let published = match &publish.key {
            None => feed.publish(topic, draft).await?,
            Some(key) => {
                let key = key.parse().map_err(Problem::bad_request)?;
                feed.publish_once(topic, draft, key).await?
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
        if self.subscriptions.len() == MAX_SUBSCRIPTIONS {
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
