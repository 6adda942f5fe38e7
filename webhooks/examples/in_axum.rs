//! The sender as a background task of an axum app, by the files of the copy set *send*. `POST /orders` publishes. A
//! task sends each order, signed, to one endpoint, until that answers 2xx or the attempts are used up.
//! `WEBHOOK_SECRET=whsec_… cargo run -p webhooks --example in_axum -- 127.0.0.1:8003 https://example.com/webhook`
//!
//! What [`webhooks::run`] has, and this does not: deliveries that outlive the process (`--feed file:PATH`), many
//! endpoints and their management, a list of dead deliveries, a pause for an endpoint that fails. To get them,
//! start it in a task of your app, with its own listener. It takes the same `Feed`.

use std::{env, error::Error, io, time::SystemTime};

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use common::{After, Data, Draft, Feed, Message, PageLimit, Retention, shutdown_signal};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
    time::{Duration, sleep},
};
use webhooks::schedule::Schedule;
use webhooks::sender::deliver::{Attempt, Payload, Verdict};
use webhooks::sender::{guard::Guard, lane::Lane, tls::Tls};

/// The most deliveries at one time, including those that wait for their next attempt. There is no queue: more
/// orders wait in the feed, up to what it retains.
const CONCURRENCY: usize = 8;
const TOPIC: &str = "orders";
const DRAIN: Duration = Duration::from_secs(10);

/// What each delivery needs.
#[derive(Clone)]
struct Caller {
    attempt: Attempt,
    schedule: Schedule,
    /// True once the server drains.
    draining: watch::Receiver<bool>,
}

/// Your part: publish where something happens.
async fn order(State(feed): State<Feed>, body: Bytes) -> Result<String, StatusCode> {
    let data = Data::json(&body).map_err(|_| StatusCode::BAD_REQUEST)?;
    let kind = "order.created".parse().expect("constant type is valid");
    let topic = TOPIC.parse().expect("constant topic is valid");
    let published = feed.publish(topic, Draft { kind, data }).await;
    let published = published.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    Ok(published.id.to_string())
}

/// The background task. It ends when the feed is closed and no attempt is in flight.
async fn send(feed: Feed, mut after: After, caller: Caller) {
    let topics = TOPIC.parse().expect("constant topic is valid");
    let (give_back, mut lanes) = mpsc::channel(CONCURRENCY);
    for _ in 0..CONCURRENCY {
        let _ = give_back.try_send(Lane::default()); // There is room for all of them.
    }
    while let Ok(page) = feed.next(&topics, &after, PageLimit::default()).await {
        if let Some(gap) = &page.gap {
            eprintln!("not delivered: {}", gap.to_json());
        }
        for message in &page.messages {
            let mut lane = lanes.recv().await.unwrap_or_default();
            let (caller, message, give_back) = (caller.clone(), message.clone(), give_back.clone());
            tokio::spawn(async move {
                deliver(caller, &message, &mut lane).await;
                let _ = give_back.send(lane).await; // It fails only after `send` has ended.
            });
        }
        after = page.then;
    }
    for _ in 0..CONCURRENCY {
        lanes.recv().await; // Its delivery has ended.
    }
}

async fn deliver(mut caller: Caller, message: &Message, lane: &mut Lane) {
    let (id, json) = (message.id.to_string(), message.json.clone());
    let payload = Payload { id, json };
    for failed in 1.. {
        let attempt = caller.attempt.run(lane, &payload, SystemTime::now());
        let Err(failure) = attempt.await.result else {
            return;
        };
        let delay = match (
            failure.verdict(),
            caller.schedule.delay(failed, rand::random()),
        ) {
            (Verdict::Pause(asked) | Verdict::Throttled(Some(asked)), Some(delay)) => {
                delay.max(asked)
            }
            (Verdict::Throttled(None) | Verdict::Overloaded | Verdict::Retry, Some(delay)) => delay,
            _ => return eprintln!("{} is dead: {failure}", payload.id),
        };
        tokio::select! {
            () = sleep(delay) => {}
            _ = caller.draining.changed() => return eprintln!("{} is lost: {failure}", payload.id),
        }
    }
}

/// Serves until `shutdown`. Orders that are not delivered then get one more attempt, within `DRAIN`.
pub async fn serve(
    listener: TcpListener,
    feed: Feed,
    (attempt, schedule): (Attempt, Schedule),
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (drain, draining) = watch::channel(false);
    let caller = Caller {
        attempt,
        schedule,
        draining,
    };
    let sending = tokio::spawn(send(feed.clone(), feed.head().into(), caller));
    let app = Router::new().route("/orders", post(order));
    let (begin, begun) = oneshot::channel();
    let shutdown = async {
        shutdown.await;
        let _ = begin.send(()); // It fails only if the server has ended.
    };
    let served = axum::serve(listener, app.with_state(feed.clone()));
    let ended = async {
        served.with_graceful_shutdown(shutdown).await?;
        feed.close(); // Only now, because orders were accepted until here.
        drain.send_replace(true);
        sending.await.map_err(io::Error::other)
    };
    let cut = async {
        let _ = begun.await;
        sleep(DRAIN).await;
    };
    tokio::select! {
        ended = ended => ended,
        () = cut => Ok(()),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [listen, url] = arguments.as_slice() else {
        return Err("where to listen, and which URL to call?".into());
    };
    let attempt = Attempt {
        guard: Guard::default(), // only https, and only public addresses
        tls: Tls::system(),
        fields: Default::default(),
        url: url.parse()?,
        secrets: vec![env::var("WEBHOOK_SECRET")?.parse()?],
        deadline: Duration::from_secs(15),
    };
    attempt.guard.check(&attempt.url)?;
    let listener = TcpListener::bind(listen).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let feed = Feed::new(Retention::default());
    let sender = (attempt, Schedule::default());
    Ok(serve(listener, feed, sender, shutdown_signal()).await?)
}
