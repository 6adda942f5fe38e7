//! The receiver: the back end that is called. It verifies before it believes, stores before it
//! answers, and answers 200 to a repeat and to what it does not know.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use clap::Parser;
use common::{
    Data, Draft, Drained, Feed, Problem, PublishLimits, Query, Topic, fit_descriptors, read_body,
    retry_after, seconds,
};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Incoming},
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap},
};
use rusqlite::Connection;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    time::timeout,
};
use tracing::{debug, warn};

use crate::{
    App, Limits, Program,
    cause::likely_cause,
    inbox::{Event, Inbox, Inside},
    listing::{self, Listed},
    quota::Quota,
    route, serve,
    source::{Refused, Secrets, Source},
    verify::{github, standard, stripe, telegram, unix_seconds},
    work::{Attempts, Effects, work},
};

/// A store that takes longer is answered 503: GitHub hangs up after 10 s.
const STORE_TIMEOUT: Duration = Duration::from_secs(8);
/// A body up to this size is read at once; what is larger takes turns, so that strangers cannot fill
/// the memory with bodies that nobody has verified.
const SMALL_BODY: u64 = 64 << 10;
/// How many larger bodies are read at the same time.
const LARGE_BODIES: usize = 4;

/// Receives webhooks: verifies each, stores it, answers 200, and then handles it.
#[derive(Debug, Clone, Parser)]
#[command(name = "receiver", version)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8006", value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// A Standard Webhooks secret that opens POST /webhook; repeatable, for the time of a rotation.
    #[arg(long, value_name = "whsec_BASE64")]
    pub secret: Vec<standard::Secret>,
    /// A Stripe endpoint's secret that opens POST /webhook/stripe; repeatable.
    #[arg(long, value_name = "whsec_TEXT")]
    pub stripe_secret: Vec<stripe::Secret>,
    /// A GitHub webhook's secret that opens POST /webhook/github; repeatable.
    #[arg(long, value_name = "TEXT")]
    pub github_secret: Vec<github::Secret>,
    /// A Telegram bot's secret_token that opens POST /webhook/telegram; repeatable.
    #[arg(long, value_name = "TOKEN")]
    pub telegram_secret: Vec<telegram::Secret>,
    /// The SQLite database of what was received.
    #[arg(long, default_value = "inbox.sqlite", value_name = "PATH")]
    pub inbox: PathBuf,
    /// Seconds that a signed time may be behind ours, and of Standard Webhooks also ahead of it.
    #[arg(long, default_value = "300", value_parser = seconds, value_name = "SECONDS")]
    pub tolerance: Duration,
    /// What both programs have.
    #[command(flatten)]
    pub limits: Limits,
    /// How events are handled. Not on the command line.
    #[arg(skip)]
    pub attempts: Attempts,
    /// How long the inbox may take. Not on the command line.
    #[arg(skip = STORE_TIMEOUT)]
    pub store_timeout: Duration,
}

impl Default for Config {
    /// The command line's defaults.
    fn default() -> Self {
        Self::try_parse_from(["receiver"]).expect("every knob has a default")
    }
}

impl Config {
    /// Lowers the limits to the descriptors that the process may have.
    pub fn fit(&mut self) {
        self.limits.max_connections = fit_descriptors(self.limits.max_connections);
    }
}

/// Receives on `listener` until `shutdown` resolves, then drains. Every event is counted inside the
/// inbox and published to `feed`, on the topic `webhook` or `webhook.SOURCE`.
///
/// # Errors
/// As [`run_with`].
pub async fn run(
    listener: TcpListener,
    feed: Feed,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> io::Result<Drained> {
    let publish = Publish { feed: feed.clone() };
    run_with(listener, feed, publish, config, shutdown).await
}

/// The same with other effects.
///
/// # Errors
/// If the listener has no address, if the inbox cannot be opened, or when it has failed. What was
/// answered with 200 before is on the disk, and the next start goes on from there.
pub async fn run_with(
    listener: TcpListener,
    feed: Feed,
    effects: impl Effects,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> io::Result<Drained> {
    let inbox = Inbox::open(&config.inbox, config.store_timeout)?;
    let (stop, stopped) = watch::channel(false);
    let effects = Arc::new(effects);
    let mut worker = tokio::spawn(work(
        inbox.clone(),
        effects,
        config.attempts.clone(),
        SystemTime::now,
        stopped,
    ));
    let drain = config.limits.drain;
    let receiver = Receiver::new(&config, inbox.clone());
    let app = App::new(
        &listener,
        &feed,
        config.limits,
        Program::Receiver(Arc::new(receiver)),
    )?;
    let mut ending = inbox.ending();
    drop(inbox);
    let shutdown = async {
        tokio::select! {
            () = shutdown => {}
            () = ending.failed() => {}
        }
    };
    let drained = serve::serve(listener, Arc::new(app), shutdown).await;
    stop.send_replace(true);
    if timeout(drain, &mut worker).await.is_err() {
        warn!("events that are being handled are left for the next start");
        worker.abort();
    }
    match ending.closed().await {
        None => Ok(drained),
        Some(error) => Err(io::Error::other(format!("the inbox has failed: {error}"))),
    }
}

/// What the receiver's routes need.
pub(crate) struct Receiver {
    secrets: Secrets,
    inbox: Inbox,
    large_bodies: Semaphore,
    /// By source.
    refusals: [Arc<Quota>; Source::ALL.len()],
}

impl Receiver {
    fn new(config: &Config, inbox: Inbox) -> Self {
        let secrets = Secrets {
            standard: config.secret.clone(),
            stripe: config.stripe_secret.clone(),
            github: config.github_secret.clone(),
            telegram: config.telegram_secret.clone(),
            past: config.tolerance,
        };
        if !Source::ALL.iter().any(|source| secrets.open(*source)) {
            warn!("without a secret nothing is received: see --help");
        }
        Self {
            secrets,
            inbox,
            large_bodies: Semaphore::new(LARGE_BODIES),
            refusals: Default::default(),
        }
    }

    /// Whether the path proves its sender by a signature. The rules for browsers are for the others:
    /// a tunnel brings a foreign `Host`.
    pub(crate) fn is_signed(&self, path: &str) -> bool {
        self.source(path).is_some()
    }

    /// Who sends to this path, if there is a secret for it.
    fn source(&self, path: &str) -> Option<Source> {
        let open = |source: &Source| source.path() == path && self.secrets.open(*source);
        Source::ALL.into_iter().find(open)
    }

    pub(crate) async fn answer(
        &self,
        app: &App,
        path: &str,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Problem> {
        match (self.source(path), path) {
            (Some(source), _) if request.method() == Method::POST => {
                self.receive(app, source, request).await
            }
            (Some(_), _) => Err(Problem::method_not_allowed("POST")),
            (None, "/events") if route::reads(&request) => self.list(&request).await,
            (None, "/events") => Err(Problem::method_not_allowed("GET, HEAD")),
            (None, _) => match retried(path) {
                Some(seq) => self.retry(seq, &request).await,
                None => Err(Problem::not_found(path)),
            },
        }
    }

    /// One webhook. The limits on its body come before the signature, which reads all of it; the time
    /// is the one of its arrival.
    async fn receive(
        &self,
        app: &App,
        source: Source,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Problem> {
        let now = SystemTime::now();
        check_type(source, &request)?;
        let headers = request.headers().clone();
        let body = self.read(app, source, request).await?;
        let judged = self
            .secrets
            .judge(source, &headers, body.clone(), unix_seconds(now));
        let tell = |refused: &Refused| self.tell(source, &headers, &body, now, refused);
        let arrival = judged.inspect_err(tell)?;
        let (id, secret) = (arrival.id.clone(), arrival.secret);
        match self.inbox.store(arrival, now).await {
            Ok(new) => debug!(source = source.name(), id, secret, new, "stored"),
            Err(error) => {
                // GitHub sends nothing again by itself: the id is for asking it to.
                warn!(source = source.name(), id, %error, "not stored");
                return Err(Problem::unavailable(error, retry_after()));
            }
        }
        Ok(Response::default())
    }

    /// The reason goes to the log, as far as that is not filled, and not to whoever may be guessing.
    fn tell(
        &self,
        source: Source,
        headers: &HeaderMap,
        body: &Bytes,
        now: SystemTime,
        refused: &Refused,
    ) {
        let name = source.name();
        if !self.refusals[source as usize].take(name) {
            return;
        }
        match refused {
            Refused::NotBelieved(refusal) => {
                let now = unix_seconds(now);
                let cause = likely_cause(&self.secrets, source, headers, body, now, *refusal);
                warn!(source = name, cause, "not believed");
            }
            Refused::Unreadable(what) => warn!(source = name, what, "genuine and unreadable"),
        }
    }

    async fn read(
        &self,
        app: &App,
        source: Source,
        request: Request<Incoming>,
    ) -> Result<Bytes, Problem> {
        let limits = PublishLimits {
            max_message: source.max_body(app.config.max_message),
            body_timeout: app.config.read_timeout,
        };
        let small = |size| size <= SMALL_BODY.max(app.config.max_message as u64);
        let _turn = if request.body().size_hint().upper().is_some_and(small) {
            None
        } else {
            let turn = timeout(app.config.read_timeout, self.large_bodies.acquire()).await;
            let busy = |_| Problem::unavailable("too many large bodies", retry_after());
            Some(turn.map_err(busy)?)
        };
        read_body(request, limits).await
    }

    /// Begins the schedule of a dead event anew.
    async fn retry(
        &self,
        seq: i64,
        request: &Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Problem> {
        if request.method() != Method::POST {
            return Err(Problem::method_not_allowed("POST"));
        }
        let revived = self.inbox.revive(seq, SystemTime::now()).await;
        if !revived.map_err(|error| Problem::unavailable(error, retry_after()))? {
            let detail = format!("event {seq} is not dead");
            return Err(Problem::new(StatusCode::CONFLICT, detail));
        }
        let mut response = Response::default();
        *response.status_mut() = StatusCode::ACCEPTED;
        Ok(response)
    }

    async fn list(&self, request: &Request<Incoming>) -> Result<Response<Full<Bytes>>, Problem> {
        let query = Query::of(request.uri());
        let after = query.get("after")?.unwrap_or(0);
        let listed = query.get("state")?.unwrap_or(Listed::All);
        let read = self
            .inbox
            .read(move |database| listing::page(database, after, listed));
        let unreadable = |error| Problem::unavailable(error, retry_after());
        let page = read.await.map_err(unreadable)?;
        Ok(route::json(StatusCode::OK, page))
    }
}

/// `/events/{seq}/retry`.
fn retried(path: &str) -> Option<i64> {
    let seq = path.strip_prefix("/events/")?.strip_suffix("/retry")?;
    seq.parse().ok()
}

/// To insist on a type also keeps out what a browser's form may send without a preflight. An encoded
/// body would be stored as bytes that no reader expects.
fn check_type<B>(source: Source, request: &Request<B>) -> Result<(), Problem> {
    let unsupported = |detail| Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail);
    let value = request.headers().get(CONTENT_TYPE);
    let value = value.and_then(|value| value.to_str().ok());
    if !value.is_some_and(|value| source.takes(value)) {
        return Err(unsupported("Content-Type is not application/json"));
    }
    if request.headers().contains_key(CONTENT_ENCODING) {
        return Err(unsupported("a body with a Content-Encoding"));
    }
    Ok(())
}

/// The effects of the receiver as it is: put yours in their place.
struct Publish {
    feed: Feed,
}

impl Effects for Publish {
    /// Outside: a message, published under the event's id, so that a repeat publishes nothing.
    async fn apply(&self, event: &Event) -> Result<Inside, String> {
        let key = event.id.parse().map_err(|error| format!("{error}"))?;
        let published = self.feed.publish_once(topic(event), draft(event), key);
        published.await.map_err(|error| error.to_string())?;
        let (source, kind) = (event.source.clone(), event.kind.clone());
        Ok(Box::new(move |database| count(database, &source, &kind)))
    }
}

/// Inside: a count, which would show if it were done twice.
fn count(database: &Connection, source: &str, kind: &str) -> rusqlite::Result<()> {
    let count = |database: &Connection| {
        let mut count = database.prepare_cached(
            "INSERT INTO counts VALUES (?1, ?2, 1) ON CONFLICT DO UPDATE SET events = events + 1",
        )?;
        count.execute([source, kind]).map(drop)
    };
    count(database).or_else(|_| {
        database.execute_batch(
            "CREATE TABLE IF NOT EXISTS counts
             (source TEXT, type TEXT, events INTEGER, PRIMARY KEY (source, type)) STRICT",
        )?;
        count(database)
    })
}

fn topic(event: &Event) -> Topic {
    let topic = match event.source.as_str() {
        "standard" => "webhook".to_owned(),
        source => format!("webhook.{source}"),
    };
    topic.parse().expect("a source's name is a topic's word")
}

/// `{"id":"…","payload":…}`. A payload that is not JSON becomes a string.
fn draft(event: &Event) -> Draft {
    let payload = Data::json(&event.payload)
        .unwrap_or_else(|_| Data::text(&String::from_utf8_lossy(&event.payload)));
    let id = Data::text(&event.id);
    let data = format!(r#"{{"id":{},"payload":{}}}"#, id.as_str(), payload.as_str());
    Draft {
        kind: event.kind.parse().unwrap_or_default(),
        // Deeper by one than the payload, which may have been at the limit already.
        data: Data::json(data.as_bytes()).unwrap_or(payload),
    }
}
