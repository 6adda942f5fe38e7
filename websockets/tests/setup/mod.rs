//! A server for a test, its knobs, and what a test asks a session.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::time::Duration;

use common::{Data, Draft, Feed, Published, Retention};
use harness::{
    Frame, PATIENCE, TestServer, Wire, WsWire,
    contract::{ALLOWED_ORIGIN, MAX_MESSAGE, READ_TIMEOUT},
    handshake,
};
use serde_json::{Value, json};
use tokio::time::timeout;
use websockets::{Config, run};

/// The defaults.
pub(crate) fn config() -> Config {
    Config::default()
}

/// A server with a new feed.
pub(crate) async fn start(config: Config) -> TestServer {
    start_with(feed(), config).await
}

/// A server with this feed.
pub(crate) async fn start_with(feed: Feed, config: Config) -> TestServer {
    TestServer::start(|listener, shutdown| run(listener, feed, config, shutdown)).await
}

pub(crate) fn feed() -> Feed {
    Feed::new(Retention::default())
}

/// Small limits and short times, so that a test reaches them.
pub(crate) fn small() -> Config {
    let mut config = config();
    config.server.max_message = MAX_MESSAGE;
    config.server.allow_origin = vec![ALLOWED_ORIGIN.parse().expect("an origin")];
    config.server.read_timeout = Duration::from_secs_f64(READ_TIMEOUT);
    config
}

/// Publishes without a connection.
pub(crate) async fn publish(feed: &Feed, topic: &str, text: &str) -> Published {
    let topic = topic.parse().expect("a topic");
    let draft = Draft::new(Data::text(text));
    feed.publish(topic, draft)
        .await
        .expect("a feed in memory takes it")
}

/// The next text frame. Pings before it are answered.
pub(crate) async fn frame(session: &mut WsWire) -> Value {
    loop {
        let frame = session.next_frame().await.expect("a frame is due");
        match frame.opcode {
            1 => return serde_json::from_slice(&frame.payload).expect("a text is JSON"),
            9 => session.send_frame(Frame::pong(frame.payload)).await,
            _ => panic!("a text was due, not {frame:?}"),
        }
    }
}

/// Sends a command and reads one frame.
pub(crate) async fn ask(session: &mut WsWire, command: Value) -> Value {
    session.send_text(&command.to_string()).await;
    frame(session).await
}

/// The data of the next frame, which is a message.
pub(crate) async fn data(session: &mut WsWire) -> Value {
    let frame = frame(session).await;
    assert!(frame["message"].is_object(), "a message was due: {frame}");
    frame["message"]["data"].clone()
}

/// The `subscribed` frame of a subscription that has nothing to replay. Also reads the heartbeat after it,
/// which says that the session is live.
pub(crate) async fn live(session: &mut WsWire) -> Value {
    let subscribed = frame(session).await;
    assert!(subscribed["subscribed"].is_object(), "{subscribed}");
    is_live(session).await;
    subscribed
}

/// Reads the heartbeat that says that the session is live.
pub(crate) async fn is_live(session: &mut WsWire) {
    let heartbeat = frame(session).await;
    assert!(heartbeat["heartbeat"]["next"].is_string(), "{heartbeat}");
}

/// Subscribes to what has nothing to replay. Returns the `subscribed` frame.
pub(crate) async fn subscribe(session: &mut WsWire, command: Value) -> Value {
    session.send_text(&command.to_string()).await;
    live(session).await
}

/// Whether the session answers.
pub(crate) async fn is_alive(session: &mut WsWire) -> bool {
    ask(session, json!({"ping": {}})).await == json!({"pong": {}})
}

/// Soon gives up a client that takes no byte. A client that reads on a busy machine is not given up.
pub(crate) fn short_stall() -> Config {
    let mut config = config();
    config.server.stall = Duration::from_secs(1);
    config
}

/// Waits until this many readers wait in the feed.
pub(crate) async fn until_waiters(feed: &Feed, count: usize) {
    let waiting = async {
        while feed.waiters() != count {
            tokio::task::yield_now().await;
        }
    };
    let came = timeout(PATIENCE, waiting).await;
    assert!(came.is_ok(), "{} wait, not {count}", feed.waiters());
}

/// Fills the socket of a client that does not read.
pub(crate) async fn fill(feed: &Feed, server: &TestServer, fields: &[(&str, &str)]) -> WsWire {
    let mut wire = Wire::connect_narrow(server.addr(), 4096).await;
    wire.send(handshake("localhost", "/topics/a", fields)).await;
    let session = WsWire::on_wire(wire).await;
    until_waiters(feed, 1).await;
    let text = "x".repeat(60_000);
    for _ in 0..200 {
        publish(feed, "a", &text).await;
    }
    session
}
