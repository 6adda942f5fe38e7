//! The receiver: the back end that is called. It verifies before it believes, keeps before it
//! answers, and answers 200 to a repeat.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use clap::Parser;
use common::{After, Drained, Feed, Problem, Query, fit_descriptors, seconds};
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header::HeaderMap};
use tokio::net::TcpListener;
use tracing::warn;

use crate::{
    App, Limits, Program,
    inbox::Inbox,
    route, serve,
    verify::{
        Refusal, Tolerance, Unverified,
        standard::{self, Secret},
        unix_seconds,
    },
};

/// Receives webhooks: verifies each, answers 200, and lists what it got.
#[derive(Debug, Clone, Parser)]
#[command(name = "receiver", version)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8006", value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// A Standard Webhooks secret that opens POST /webhook; repeatable, for the time of a rotation.
    #[arg(long, value_name = "whsec_…")]
    pub secret: Vec<Secret>,
    /// Seconds that a signed time may be from ours, past or future.
    #[arg(long, default_value = "300", value_parser = seconds, value_name = "SECONDS")]
    pub tolerance: Duration,
    /// Events kept.
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    pub retain: usize,
    /// What both programs have.
    #[command(flatten)]
    pub limits: Limits,
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

/// Receives on `listener` until `shutdown` resolves, then drains. What was received is published to
/// `feed`, on the topic `webhook`.
///
/// # Errors
/// If the listener has no address.
pub async fn run(
    listener: TcpListener,
    feed: Feed,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> io::Result<Drained> {
    if config.secret.is_empty() {
        warn!("without --secret there is no /webhook");
    }
    let receiver = Receiver {
        secrets: config.secret,
        tolerance: Tolerance {
            past: config.tolerance,
            future: config.tolerance,
        },
        inbox: Inbox::new(feed.handle()),
    };
    let app = App::new(&listener, &feed, config.limits, Program::Receiver(receiver))?;
    Ok(serve::serve(listener, Arc::new(app), shutdown).await)
}

/// What the receiver's routes need.
pub(crate) struct Receiver {
    secrets: Vec<Secret>,
    tolerance: Tolerance,
    inbox: Inbox,
}

impl Receiver {
    /// Whether the path proves its sender by a signature. The rules for browsers are for the others:
    /// a tunnel brings a foreign `Host`.
    pub(crate) fn is_signed(&self, path: &str) -> bool {
        path == "/webhook" && !self.secrets.is_empty()
    }

    pub(crate) async fn answer(
        &self,
        app: &App,
        path: &str,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Problem> {
        let reads = route::reads(&request);
        match path {
            "/webhook" if self.secrets.is_empty() => Err(Problem::not_found(path)),
            "/webhook" if request.method() == Method::POST => self.receive(app, request).await,
            "/webhook" => Err(Problem::method_not_allowed("POST")),
            "/events" if reads => {
                let after = Query::of(request.uri()).get("after")?;
                let page = self.inbox.read(&after.unwrap_or(After::Earliest)).await?;
                Ok(route::json(StatusCode::OK, page.to_json()))
            }
            "/events" => Err(Problem::method_not_allowed("GET, HEAD")),
            _ => Err(Problem::not_found(path)),
        }
    }

    /// One webhook. The limits on its body come before the signature, which reads all of it.
    async fn receive(
        &self,
        app: &App,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Problem> {
        let now = unix_seconds(SystemTime::now());
        let headers = request.headers().clone();
        let body = Unverified::new(route::read_json(app, request).await?);
        let event = standard::verify(body, pairs(&headers), &self.secrets, now, self.tolerance)
            .map_err(not_believed)?;
        self.inbox.store(&event).await?;
        Ok(Response::default())
    }
}

/// The fields in the plain form that the schemes take.
fn pairs(headers: &HeaderMap) -> impl Iterator<Item = (&str, &[u8])> {
    headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
}

/// The reason goes to the log, not to whoever may be guessing.
fn not_believed(refusal: Refusal) -> Problem {
    warn!(%refusal, "not believed");
    match refusal {
        Refusal::Malformed(what) => Problem::bad_request(what),
        _ => Problem::new(StatusCode::UNAUTHORIZED, "not genuine"),
    }
}
