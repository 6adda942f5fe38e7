//! Webhooks from a tokio program, by the files of the copy sets *feed* and *send*. A background task sends each message,
//! signed, to one endpoint, until that answers 2xx or the attempts are used up.
//! `WEBHOOK_SECRET=whsec_… cargo run -p webhooks --example send -- https://example.com/webhook`
//! To call a receiver on this machine: `… -- http://127.0.0.1:8006/webhook --local`
//!
//! One `Sender` is one endpoint. For several, run one for each, over clones of the same `Feed`.
//!
//! To copy it: `cargo run -p copy -- common feed webhooks send DIR`. Add this file up to `guard` as a module. Replace
//! `webhooks::` by `crate::`, and `common::` by `crate::feed::`.
//!
//! What [`webhooks::run`] has, and this does not: deliveries that outlive the process (`--feed file:PATH`), many
//! endpoints and their management, a list of dead deliveries, a pause for an endpoint that fails. To get them,
//! start it in a task of your program, with its own listener. It takes the same `Feed`. Register endpoints over HTTP:
//! `POST /endpoints` with an `Idempotency-Key` that is the same at each start, so that it registers each one once.

use std::{error::Error, sync::Arc, time::Duration, time::SystemTime};

use common::{After, Feed, Message, PageLimit, Topics};
use tokio::{sync::watch, task::JoinSet, time::timeout};
use url::Url;
use webhooks::schedule::Schedule;
use webhooks::sender::deliver::{Attempt, Failure, Payload, Verdict};
use webhooks::sender::{guard::Guard, lane::Lane, tls::Tls};

/// The most deliveries at one time. One that waits for its next attempt also holds a slot, so eight messages that fail
/// stop the others until a slot is free. These wait in the feed, up to what it retains.
const CONCURRENCY: usize = 8;

/// The background task.
#[derive(Debug, Clone)]
pub struct Sender {
    /// How the endpoint is called.
    pub attempt: Attempt,
    /// When it is called again.
    pub schedule: Schedule,
    /// Set it to true when the program drains. Then a delivery that waits gets its last attempt at once.
    pub drain: watch::Sender<bool>,
}

impl Sender {
    /// For one endpoint. The default guard allows only https, and only public addresses.
    pub fn to(url: &str, secret: &str, guard: Guard) -> Result<Self, Box<dyn Error>> {
        let attempt = Attempt {
            guard,
            tls: Tls::system(),
            fields: Default::default(),
            url: Url::parse(url).map_err(|error| format!("{url}: {error}"))?,
            secrets: vec![secret.parse()?],
            deadline: Duration::from_secs(15),
        };
        let checked = attempt.guard.check(&attempt.url);
        checked.map_err(|refused| format!("{url}: {refused}; here the flag is --local"))?;
        Ok(Self {
            attempt,
            schedule: Schedule::default(),
            drain: watch::Sender::new(false),
        })
    }

    /// Sends until the feed is closed. Ends when its last message is delivered or dead.
    pub async fn run(self, feed: Feed, topics: Topics, mut after: After) {
        let mut deliveries = JoinSet::new();
        while let Ok(page) = feed.next(&topics, &after, PageLimit::default()).await {
            if let Some(gap) = &page.gap {
                eprintln!("not delivered: {}", gap.to_json());
            }
            for message in page.messages {
                let lane = free_lane(&mut deliveries).await;
                deliveries.spawn(self.clone().deliver(message, lane));
            }
            after = page.then;
        }
        while deliveries.join_next().await.is_some() {}
    }

    /// Returns the connection for the next delivery.
    async fn deliver(self, message: Arc<Message>, mut lane: Option<Lane>) -> Option<Lane> {
        let (id, json) = (message.id.to_string(), message.json.clone());
        let (payload, mut failed) = (Payload { id, json }, 0);
        let now = SystemTime::now;
        while let Err(failure) = self.attempt.run(&mut lane, &payload, now()).await.result {
            failed += 1;
            eprintln!("{}, attempt {failed}: {failure}", payload.id);
            if !self.may_retry(failed, &failure).await {
                eprintln!("{} is not delivered", payload.id);
                break;
            }
        }
        lane
    }

    /// Waits until the next attempt is due, or the program drains. Returns `false` if there are no more attempts: an
    /// attempt that ends during the drain was the last.
    async fn may_retry(&self, failed: usize, failure: &Failure) -> bool {
        let Some(delay) = self.schedule.delay(failed, rand::random()) else {
            return false;
        };
        let delay = match failure.verdict() {
            Verdict::Gone => return false,
            Verdict::Pause(asked) | Verdict::Throttled(Some(asked)) => delay.max(asked),
            _ => delay,
        };
        if *self.drain.borrow() {
            return false;
        }
        let mut draining = self.drain.subscribe();
        let _ = timeout(delay, draining.wait_for(|drains| *drains)).await;
        true
    }
}

/// The connection of a delivery that has ended, once there is room for another one.
async fn free_lane(deliveries: &mut JoinSet<Option<Lane>>) -> Option<Lane> {
    let ended = match deliveries.len() < CONCURRENCY {
        true => deliveries.try_join_next(),
        false => deliveries.join_next().await,
    };
    ended.and_then(Result::ok).flatten()
}

/// With `--local` also http and this machine.
pub fn guard() -> Guard {
    let local = std::env::args().any(|argument| argument == "--local");
    Guard {
        http: local,
        loopback: local,
        ..Guard::default()
    }
}

/// The secret that signs.
pub fn secret() -> Result<String, &'static str> {
    std::env::var("WEBHOOK_SECRET")
        .map_err(|_| "set WEBHOOK_SECRET to the endpoint's secret, whsec_BASE64")
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args().nth(1).ok_or("give the URL to call")?;
    let sender = Sender::to(&url, &secret()?, guard())?;
    let drain = sender.drain.clone();
    let feed = Feed::new(common::Retention::default());
    let sending = tokio::spawn(sender.run(feed.clone(), "news".parse()?, feed.head().into()));
    let hello = common::Draft::new(common::Data::text("hello"));
    feed.publish("news".parse()?, hello).await?;
    tokio::spawn(async move {
        common::shutdown_signal().await;
        drain.send_replace(true)
    });
    feed.close(); // Your program goes on instead, and closes the feed when it drains.
    Ok(sending.await?)
}
