//! Senders, receivers and raw endpoints for a test, and their knobs.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::{
    env, fs,
    future::Future,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use common::{
    Feed, Retention,
    harness::{
        PATIENCE, TestServer, Wire,
        contract::{MAX_MESSAGE, READ_TIMEOUT},
    },
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, time::timeout};
use webhooks::{Config, Limits, receiver, schedule::Schedule};

/// The secret of the official example.
pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// An attempt's time where a test waits for its end.
pub(crate) const SHORT: Duration = Duration::from_millis(300);

/// A sender that may call this machine, and tries again at once, twice.
pub(crate) fn local() -> Config {
    Config {
        allow_http: true,
        allow_loopback: true,
        schedule: Schedule::new([Duration::ZERO; 2]),
        ..Config::default()
    }
}

/// Small bodies and short times, so that their limits are near.
pub(crate) fn small() -> Limits {
    Limits {
        max_message: MAX_MESSAGE,
        read_timeout: Duration::from_secs_f64(READ_TIMEOUT),
        ..Config::default().limits
    }
}

/// A sender of its own feed.
pub(crate) async fn start(config: Config) -> TestServer {
    start_with(Feed::new(Retention::default()), config).await
}

/// A sender of this feed.
pub(crate) async fn start_with(feed: Feed, config: Config) -> TestServer {
    TestServer::start(|listener, shutdown| webhooks::run(listener, feed, config, shutdown)).await
}

/// A folder of the test's own, gone with it.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("webhooks-{}-{number}", process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn inbox(&self) -> PathBuf {
        self.0.join("inbox.sqlite")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A folder that stays in the temporary one harms nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A receiver with [`SECRET`], with its inbox in `scratch`.
pub(crate) fn receiving(scratch: &Scratch) -> receiver::Config {
    receiver::Config {
        secret: vec![SECRET.parse().unwrap()],
        inbox: scratch.inbox(),
        limits: small(),
        ..receiver::Config::default()
    }
}

/// A receiver with [`SECRET`], and the feed to which it publishes.
pub(crate) async fn receiver() -> (TestServer, Feed) {
    let scratch = Scratch::new();
    let config = receiving(&scratch);
    let feed = Feed::new(Retention::default());
    let published = feed.clone();
    let run = async move |listener, shutdown| {
        let _scratch = scratch;
        receiver::run(listener, published, config, shutdown).await
    };
    (TestServer::start(run).await, feed)
}

/// Registers `url` for the topic `a`, with [`SECRET`], and returns the endpoint's path.
pub(crate) async fn register(sender: &TestServer, url: &str) -> String {
    register_as(
        sender,
        json!({"url": url, "topics": ["a"], "secret": SECRET}),
    )
    .await
}

pub(crate) async fn register_as(sender: &TestServer, registration: Value) -> String {
    let reply = send_json(sender, "/endpoints", &registration.to_string()).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    reply.header("location").unwrap().to_owned()
}

pub(crate) async fn send_json(
    server: &TestServer,
    path: &str,
    body: &str,
) -> common::harness::Reply {
    let client = server.client();
    let request = client.post(path, body.to_owned());
    request
        .header("content-type", "application/json")
        .send()
        .await
}

/// Publishes to `a` and returns the message's id.
pub(crate) async fn publish(sender: &TestServer, text: &str) -> String {
    let reply = sender.post("/topics/a", text.to_owned()).await;
    assert_eq!(reply.status, 201);
    reply.json()["id"].as_str().unwrap().to_owned()
}

/// The endpoint at `path`, as soon as it is as it should be.
pub(crate) async fn endpoint(
    sender: &TestServer,
    path: &str,
    is_so: impl Fn(&Value) -> bool,
) -> Value {
    let mut last = Value::Null;
    let asking = async {
        loop {
            last = sender.get(path).await.json();
            if is_so(&last) {
                break;
            }
        }
    };
    let in_time = timeout(PATIENCE, asking).await.is_ok();
    assert!(in_time, "{path} did not come to be as it should: {last}");
    last
}

/// What `future` gives, within patience.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it comes in time")
}

/// An endpoint on which the test answers every byte itself.
pub(crate) struct Sink(TcpListener);

/// One request that came to it.
pub(crate) struct Called {
    pub(crate) wire: Wire,
    /// Request line and fields, up to and including the empty line.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Sink {
    pub(crate) async fn open() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/webhook", self.0.local_addr().unwrap())
    }

    /// The next connection.
    pub(crate) async fn accept(&self) -> Wire {
        let (stream, _) = soon(self.0.accept()).await.unwrap();
        Wire::over(stream).unwrap()
    }

    /// The next connection and the request on it.
    pub(crate) async fn called(&self) -> Called {
        let mut wire = self.accept().await;
        let head = wire.read_head().await;
        let mut called = Called {
            wire,
            head,
            body: Vec::new(),
        };
        let length = called.field("content-length").parse().unwrap();
        called.body = called.wire.read_exact(length).await;
        called
    }

    /// Answers the next request with these bytes, and returns the message's text.
    pub(crate) async fn answers(&self, answer: &str) -> String {
        let mut called = self.called().await;
        called.wire.send(answer).await;
        called.text()
    }
}

impl Called {
    /// A header field's value.
    pub(crate) fn field(&self, name: &str) -> &str {
        let fields = self.head.lines().filter_map(|line| line.split_once(": "));
        let mut values = fields.filter(|(field, _)| field.eq_ignore_ascii_case(name));
        let (_, value) = values
            .next()
            .unwrap_or_else(|| panic!("no {name}: {}", self.head));
        assert!(values.next().is_none(), "{name} is repeated: {}", self.head);
        value
    }

    /// The message's data, which the tests publish as text.
    pub(crate) fn text(&self) -> String {
        let message: Value = serde_json::from_slice(&self.body).unwrap();
        message["data"].as_str().unwrap().to_owned()
    }
}

/// The answers that a sink gives.
pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
pub(crate) const FAILED: &str = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n";
