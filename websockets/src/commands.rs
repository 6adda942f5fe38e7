//! What the commands of `feed.v1.json` do.

use common::{After, Cursor, FeedError, Problem, Topics};
use hyper::StatusCode;
use tracing::{debug, warn};
use tungstenite::protocol::frame::coding::CloseCode;

use crate::{
    close::Ending,
    protocol::{self, Command},
    session::Subprotocol,
    subscriptions::Subscriptions,
};

/// The most subscriptions of one session.
const MAX_SUBSCRIPTIONS: usize = 16;
/// The most topics of all subscriptions of one session. A session registers its wait anew after every
/// frame, under a lock that all sessions share: this bounds the work that one frame causes.
const MAX_TOPICS: usize = 64;

impl Subprotocol for Subscriptions {
    // Every command except `received` is answered. If it fails, the answer is an `error` with its `ref`. Only
    // broken frames end a session. The session reads the next command when this one is answered.
    async fn handle(&mut self, text: &str) -> Option<String> {
        let (reference, command) = protocol::parse(text);
        let answer = match command {
            Ok(Command::Publish(topic, draft, key)) => {
                let published = self.feed.publish_once(topic, draft, key).await;
                let ack = published.map(|published| protocol::ack(reference, published));
                ack.map_err(Problem::from)
            }
            Ok(Command::Subscribe(topics, after, newest)) => {
                let start = self.subscribe(topics, after, newest);
                start.map(|next| protocol::subscribed(reference, next))
            }
            Ok(Command::Unsubscribe(topics)) => {
                Ok(protocol::subscribed(reference, self.remove(&topics)))
            }
            Ok(Command::Received(id)) => {
                confirm(id);
                return None;
            }
            Ok(Command::Ping) => Ok(protocol::pong()),
            Err(problem) => Err(problem),
        };
        Some(answer.unwrap_or_else(|problem| protocol::error(reference, &problem)))
    }

    async fn next(&mut self) -> Result<Option<Vec<u8>>, Ending> {
        match self.next_page().await {
            Ok(frames) => Ok(Some(frames)),
            Err(FeedError::Closed) => Ok(None), // No more will come.
            Err(error) => {
                warn!(%error, "the feed failed a session");
                Err(Ending::Ours(CloseCode::Error, "the feed failed"))
            }
        }
    }

    async fn heartbeat(&mut self) -> Option<String> {
        self.advance_quiet().await;
        self.position().map(protocol::heartbeat)
    }
}

impl Subscriptions {
    /// Returns where the new subscription starts, if that is known. A topic may be in one subscription
    /// only: otherwise its messages would be sent twice. Merging would move one of the two cursors.
    fn subscribe(
        &mut self,
        topics: Topics,
        after: After,
        newest: bool,
    ) -> Result<Option<Cursor>, Problem> {
        let taken = topics
            .iter()
            .find(|topic| self.topics().any(|other| other == *topic));
        if let Some(topic) = taken {
            let detail = format!("topic {topic} is already subscribed: unsubscribe first");
            return Err(Problem::new(StatusCode::CONFLICT, detail));
        }
        if self.all.len() == MAX_SUBSCRIPTIONS {
            let detail = format!("this session has {MAX_SUBSCRIPTIONS} subscriptions already");
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, detail));
        }
        if self.topics().count() + topics.iter().len() > MAX_TOPICS {
            let detail = format!("a session has at most {MAX_TOPICS} topics");
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, detail));
        }
        Ok(self.add(topics, after, newest))
    }
}

/// Put here what your server does with a confirmation. This one logs it.
fn confirm(id: Cursor) {
    debug!(%id, "received by the client");
}
