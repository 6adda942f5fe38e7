//! An event stream with metrics in OpenMetrics. They have their own listener, which clients of the stream do not reach.
//! `cargo run -p sse --example metrics -- 127.0.0.1:8005 127.0.0.1:9005`; then `curl 127.0.0.1:9005/metrics`
//!
//! No series is per topic, because any client may create 10,000 topics. What to alert on: `common/deploy/alerts.md`.

use std::{
    env,
    error::Error,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use common::{Feed, Problem, PublishLimits, Retention, publish, shutdown_signal};
use http_body_util::{BodyExt, Either};
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use sse::stream::{StreamLimits, Streams, body};
use tokio::net::TcpListener;

const STREAMS: StreamLimits = StreamLimits {
    streams: 10_000,
    heartbeat: Duration::from_secs(15),
    retry: Duration::from_secs(2),
    age: Duration::from_secs(3_600),
    drain: Duration::from_secs(10),
};
const PUBLISHING: PublishLimits = PublishLimits {
    max_message: 65_536,
    body_timeout: Duration::from_secs(30),
};
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Outcome {
    /// 2xx.
    Served,
    /// At the subscriber limit.
    Refused,
    /// 4xx.
    Wrong,
    /// 5xx: the feed takes nothing.
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    outcome: Outcome,
}

/// What is counted. The other values are read from the feed at each scrape.
#[derive(Debug, Default)]
struct Metrics {
    requests: Family<Labels, Counter>,
    published: Counter,
    sent: Counter,
    subscribers: Gauge,
}

/// What the routes share.
#[derive(Debug)]
pub struct App {
    feed: Feed,
    streams: Arc<Streams>,
    metrics: Metrics,
}

impl App {
    /// Streams of `feed`, at most `most` of them.
    pub fn new(feed: Feed, most: usize) -> Arc<Self> {
        let limits = StreamLimits {
            streams: most,
            ..STREAMS
        };
        Arc::new(Self {
            streams: Arc::new(Streams::new(feed.clone(), limits)),
            metrics: Metrics::default(),
            feed,
        })
    }

    fn count(&self, outcome: Outcome) {
        self.metrics
            .requests
            .get_or_create(&Labels { outcome })
            .inc();
    }
}

/// The routes of the technique, with counters.
pub fn router(app: Arc<App>) -> Router {
    let topics = get(subscribe).post(publish_one);
    let router = Router::new().route("/topics/{*topics}", topics);
    router.with_state(app)
}

async fn subscribe(State(app): State<Arc<App>>, request: Request) -> Response {
    let answer = match app.streams.subscribe(topics(&request), &request) {
        Ok(answer) => answer,
        Err(problem) => return failed(&app, problem),
    };
    // A refused client gets a 200, so only the body tells.
    let is_open = matches!(answer.body(), Either::Right(_));
    let is_refused = !is_open && request.method() == axum::http::Method::GET;
    app.count(if is_refused {
        Outcome::Refused
    } else {
        Outcome::Served
    });
    let open = is_open.then(|| Open::new(app.metrics.subscribers.clone()));
    let sent = app.metrics.sent.clone();
    answer.map(|answer| {
        Body::new(body(answer).map_frame(move |frame| {
            let _held = &open; // until the body is dropped, however the stream ends
            sent.inc_by(frame.data_ref().map_or(0, |bytes| bytes.len() as u64));
            frame
        }))
    })
}

async fn publish_one(State(app): State<Arc<App>>, request: Request) -> Response {
    let topic = topics(&request).to_owned();
    match publish(&app.feed, PUBLISHING, &topic, request).await {
        Ok(answer) => {
            app.count(Outcome::Served);
            app.metrics.published.inc();
            answer
        }
        Err(problem) => failed(&app, problem),
    }
}

fn failed(app: &App, problem: Problem) -> Response {
    app.count(match problem.status.is_server_error() {
        true => Outcome::Failed,
        false => Outcome::Wrong,
    });
    problem.into_response()
}

fn topics(request: &Request) -> &str {
    request
        .uri()
        .path()
        .strip_prefix("/topics/")
        .unwrap_or_default()
}

/// One open stream in the gauge.
struct Open(Gauge);

impl Open {
    fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// `GET /metrics`, for its own listener.
pub fn metrics(app: Arc<App>) -> Router {
    let router = Router::new().route("/metrics", get(scrape));
    router.with_state(app)
}

async fn scrape(State(app): State<Arc<App>>) -> Response {
    let mut text = String::new();
    if encode(&mut text, &registry(&app)).is_err() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response()
}

/// A new one for each scrape, because the feed's values hold for that moment only.
fn registry(app: &App) -> Registry {
    let mut registry = Registry::with_prefix("feed");
    let counted = &app.metrics;
    registry.register(
        "requests",
        "Requests, by how they ended",
        counted.requests.clone(),
    );
    registry.register(
        "published",
        "Messages that were published",
        counted.published.clone(),
    );
    registry.register("sent_bytes", "Bytes of event streams", counted.sent.clone());
    registry.register("subscribers", "Open streams", counted.subscribers.clone());
    let (counts, head) = (app.feed.counts(), app.feed.head());
    for (name, help, value) in [
        ("head", "Number of the last message", head.seq),
        ("messages", "Messages that are kept", counts.messages as u64),
        ("bytes", "What they take, in bytes", counts.bytes as u64),
        ("topics", "Topics that are kept", counts.topics as u64),
        (
            "waiting",
            "Readers that have everything",
            app.feed.waiters() as u64,
        ),
        (
            "healthy",
            "1 if the feed takes messages",
            app.feed.health().is_ok().into(),
        ),
    ] {
        let gauge = Gauge::<u64, AtomicU64>::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    }
    registry
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [listen, scraped] = arguments.as_slice() else {
        return Err("where to listen, and where for /metrics?".into());
    };
    let app = App::new(Feed::new(Retention::default()), STREAMS.streams);
    let (public, private) = (
        TcpListener::bind(listen).await?,
        TcpListener::bind(scraped).await?,
    );
    println!("listening on http://{}", public.local_addr()?);
    let (feed, private_routes) = (app.feed.clone(), metrics(app.clone()));
    // It runs until the process ends, so that metrics can be read during a drain.
    tokio::spawn(async move { axum::serve(private, private_routes).await });
    let shutdown = async move {
        shutdown_signal().await;
        feed.close();
    };
    Ok(axum::serve(public, router(app))
        .with_graceful_shutdown(shutdown)
        .await?)
}
