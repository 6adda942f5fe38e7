//! `GET /metrics` in OpenMetrics, on a listener that clients do not reach.
//!
//! Counters are events of `tracing` (`counters.rs`). Gauges are read at each scrape.

use std::{
    future::ready,
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use hyper::{
    Request, Response, StatusCode, header::CONTENT_TYPE, http, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use tokio::{net::TcpListener, task::JoinSet, time::timeout};

use super::{ServerConfig, accept_failed, counters, log};
use crate::feed::Feed;

/// How long one scrape may take.
const SCRAPE: Duration = Duration::from_secs(10);
/// The most scrapes at a time. The next one waits.
const SCRAPES: usize = 8;
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A gauge: its name, what it is, and its value now.
pub type Gauge = (&'static str, &'static str, u64);

/// With `--metrics`: prints the address, and answers scrapes until the result is dropped. `own` names the
/// counters of this server, and `gauges` are read at each scrape.
///
/// # Errors
/// If the address cannot be bound.
pub async fn metrics(
    config: &ServerConfig,
    feed: &Feed,
    own: &'static [&'static str],
    gauges: impl Fn() -> Vec<Gauge> + Send + Sync + 'static,
) -> io::Result<JoinSet<()>> {
    let mut serving = JoinSet::new();
    if let Some(address) = config.metrics {
        let bound = TcpListener::bind(address).await;
        let listener = bound.map_err(|error| {
            let text = format!("cannot serve metrics on {address}: {error}");
            io::Error::new(error.kind(), text)
        })?;
        let address = listener.local_addr()?;
        let _ = writeln!(io::stdout(), "metrics on http://{address}/metrics");
        counters::enable();
        let feed = feed.clone();
        let text = Arc::new(move || text(&feed, own, gauges()));
        serving.spawn(answer_scrapes(listener, text));
    }
    Ok(serving)
}

async fn answer_scrapes(
    listener: TcpListener,
    text: Arc<impl Fn() -> String + Send + Sync + 'static>,
) {
    let mut scrapes = JoinSet::new();
    loop {
        if scrapes.len() == SCRAPES {
            scrapes.join_next().await;
        }
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                accept_failed(error).await;
                continue;
            }
        };
        while scrapes.try_join_next().is_some() {} // these have ended
        let text = text.clone();
        scrapes.spawn(async move {
            let service = service_fn(|request| ready(answer(&request, &*text)));
            let mut http = http1::Builder::new();
            http.keep_alive(false);
            // A scraper that did not get its answer scrapes again.
            let _ = timeout(SCRAPE, http.serve_connection(TokioIo::new(stream), service)).await;
        });
    }
}

fn answer<B>(request: &Request<B>, text: impl Fn() -> String) -> http::Result<Response<String>> {
    if request.uri().path() != "/metrics" {
        let not_found = Response::builder().status(StatusCode::NOT_FOUND);
        return not_found.body(String::new());
    }
    let found = Response::builder().header(CONTENT_TYPE, OPEN_METRICS);
    found.body(text())
}

/// What a scrape gets. A new registry each time, because the gauges hold for this moment only.
fn text(feed: &Feed, own: &[&str], gauges: Vec<Gauge>) -> String {
    let mut registry = Registry::with_prefix("feed");
    counters::register(own, &mut registry);
    let dropped = ConstCounter::new(log::dropped());
    registry.register("log_dropped", "Lines of the log that were dropped", dropped);
    let counts = feed.counts();
    let all = [
        ("head", "Number of the last message", feed.head().seq),
        ("messages", "Messages that are kept", counts.messages as u64),
        ("bytes", "Their size", counts.bytes as u64),
        ("topics", "Topics that are kept", counts.topics as u64),
        (
            "waiters",
            "Readers that have everything and wait",
            feed.waiters() as u64,
        ),
        (
            "healthy",
            "1 if the feed takes messages",
            feed.health().is_ok().into(),
        ),
    ];
    for (name, help, value) in all.into_iter().chain(gauges) {
        registry.register(name, help, ConstGauge::new(value));
    }
    let mut text = String::new();
    encode(&mut text, &registry).expect("a String takes any text");
    text
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;

    #[tokio::test]
    async fn silent_connections_delay_no_scrape_until_there_are_too_many() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(answer_scrapes(listener, Arc::new(|| "metrics".to_owned())));
        let mut silent = Vec::new();
        let scrape = async || {
            let mut scrape = TcpStream::connect(address).await.unwrap();
            let request = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
            scrape.write_all(request).await.unwrap();
            let mut answer = String::new();
            scrape.read_to_string(&mut answer).await.unwrap();
            answer
        };
        while silent.len() < SCRAPES - 1 {
            silent.push(TcpStream::connect(address).await.unwrap());
            let answer = timeout(SCRAPE / 2, scrape()).await.unwrap();
            assert!(answer.ends_with("metrics"), "{answer}");
        }
        silent.push(TcpStream::connect(address).await.unwrap());
        let waits = scrape();
        tokio::pin!(waits);
        timeout(Duration::from_millis(50), waits.as_mut())
            .await
            .unwrap_err();
        silent.pop();
        let answer = timeout(SCRAPE / 2, waits).await.unwrap();
        assert!(answer.ends_with("metrics"), "{answer}");
        serving.abort();
    }
}
