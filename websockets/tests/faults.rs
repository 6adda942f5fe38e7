//! The column `websockets` of the fault table in `harness`.

mod setup;

use std::time::Duration;

use common::Feed;
use harness::{End, Fault, FaultProxy, Faults, Frame, TestServer, WsWire};
use serde_json::json;
use setup::{
    ask, config, data, feed, frame, is_alive, is_live, live, publish, short_stall, start,
    start_with, until_waiters,
};
use websockets::Config;

struct Scene {
    feed: Feed,
    server: TestServer,
    proxy: FaultProxy,
}

impl Scene {
    async fn new(config: Config, faults: impl Into<Faults>) -> Self {
        let feed = feed();
        let server = start_with(feed.clone(), config).await;
        let proxy = FaultProxy::start(server.addr(), faults).await;
        Self {
            feed,
            server,
            proxy,
        }
    }

    /// A session of topic `a` through the proxy, live.
    async fn session(&self, after: &str) -> WsWire {
        let mut session = self.connect(after).await;
        live(&mut session).await;
        session
    }

    async fn connect(&self, after: &str) -> WsWire {
        let path = format!("/topics/a?after={after}");
        WsWire::connect(self.proxy.addr(), &path).await
    }

    /// A good connection that comes after `last` receives these texts, and nothing older.
    async fn resumes(&self, last: &str, texts: &[&str]) {
        self.proxy.set(Fault::Pass);
        let mut session = self.connect(last).await;
        frame(&mut session).await;
        for text in texts {
            assert_eq!(data(&mut session).await, *text);
        }
        is_live(&mut session).await;
        assert!(is_alive(&mut session).await);
    }

    /// The faulty session has ended, and others are served.
    async fn end(self) {
        until_waiters(&self.feed, 0).await;
        let mut other = self.server.websocket("/topics/a").await;
        live(&mut other).await;
        assert_eq!(self.server.get("/healthz").await.status, 200);
        self.server.post("/topics/a", "others go on").await;
        assert_eq!(data(&mut other).await, "others go on");
        drop(other);
        drop(self.proxy);
        assert_eq!(self.server.stop().await.cut, 0);
    }
}

/// Pings early. Half of the time is enough to answer, even on a busy machine.
fn impatient() -> Config {
    Config {
        ping: Duration::from_millis(500),
        ..config()
    }
}

#[tokio::test]
async fn through_a_good_network_a_half_close_ends_the_session() {
    let scene = Scene::new(config(), Fault::Pass).await;
    let mut session = scene.session("earliest").await;
    publish(&scene.feed, "a", "1").await;
    assert_eq!(data(&mut session).await, "1");
    session.wire().half_close().await;
    assert_eq!(session.wire().closed().await, (End::Eof, Vec::new()));
    scene.end().await;
}

#[tokio::test]
async fn byte_at_a_time_the_same_messages_come_and_go() {
    let scene = Scene::new(config(), Fault::ByteAtATime).await;
    let mut session = scene.session("earliest").await;
    let text = "é😀".repeat(100);
    let say = json!({"publish": {"topic": "a", "data": text, "ref": 1}});
    let mut frames = [ask(&mut session, say).await, session.next_json().await];
    frames.sort_by_key(|frame| frame["message"].is_object());
    assert_eq!(frames[0]["ack"]["id"], frames[1]["message"]["id"]);
    assert_eq!(frames[1]["message"]["data"], text);
    session.close(1000, "é").await;
    assert_eq!(session.expect_close().await, (1000, "é".into()));
    drop(session);
    scene.end().await;
}

#[tokio::test]
async fn a_pong_that_is_late_but_in_time_keeps_the_session() {
    let config = Config {
        ping: Duration::from_secs(2),
        ..config()
    };
    let scene = Scene::new(config, Fault::Delay(Duration::from_millis(100))).await;
    let mut session = scene.session("latest").await;
    for _ in 0..3 {
        let ping = session.next_frame().await.unwrap();
        assert_eq!(ping.opcode, 9);
        session.send_frame(Frame::pong(ping.payload)).await;
    }
    drop(session);
    scene.end().await;
}

#[tokio::test]
async fn a_stalled_reader_is_cut_and_resumes_from_its_cursor() {
    let scene = Scene::new(short_stall(), Fault::Pass).await;
    let mut session = scene.session("latest").await;
    let first = publish(&scene.feed, "a", "first").await.id.to_string();
    assert_eq!(data(&mut session).await, "first");
    scene.proxy.set(Faults::down(Fault::Stall));
    let large = "x".repeat(60_000);
    for _ in 0..120 {
        publish(&scene.feed, "a", &large).await;
    }
    until_waiters(&scene.feed, 0).await;
    scene.resumes(&first, &[large.as_str(); 120]).await;
    drop(session);
    scene.end().await;
}

#[tokio::test]
async fn a_session_without_a_pong_is_closed_when_the_way_up_stalls_or_swallows() {
    for fault in [Fault::Stall, Fault::Blackhole] {
        let scene = Scene::new(impatient(), Fault::Pass).await;
        let mut session = scene.session("latest").await;
        scene.proxy.set(Faults::up(fault));
        assert_eq!(session.next_frame().await.unwrap().opcode, 9);
        assert_eq!(session.expect_close().await.0, 1008, "{fault:?}");
        drop(session);
        drop(scene.proxy);
        until_waiters(&scene.feed, 0).await;
        scene.server.stop().await;
    }
}

#[tokio::test]
async fn a_session_whose_way_down_is_swallowed_gets_no_pong_and_is_closed() {
    let scene = Scene::new(impatient(), Fault::Pass).await;
    let session = scene.session("latest").await;
    let last = scene.feed.head().to_string();
    scene.proxy.set(Faults::down(Fault::Blackhole));
    publish(&scene.feed, "a", "swallowed").await;
    until_waiters(&scene.feed, 0).await;
    drop(session);
    scene.resumes(&last, &["swallowed"]).await;
    scene.end().await;
}

#[tokio::test]
async fn after_a_reset_nothing_is_lost_and_nothing_repeated() {
    let scene = Scene::new(config(), Fault::Pass).await;
    let mut session = scene.session("latest").await;
    let last = publish(&scene.feed, "a", "1").await.id.to_string();
    assert_eq!(data(&mut session).await, "1");
    scene.proxy.set(Fault::Reset);
    assert_eq!(session.wire().closed().await.0, End::Reset);
    until_waiters(&scene.feed, 0).await;
    publish(&scene.feed, "a", "2").await;
    scene.resumes(&last, &["2"]).await;
    scene.end().await;
}

#[tokio::test]
async fn a_client_that_is_told_of_the_end_too_early_resumes() {
    let scene = Scene::new(config(), Fault::Pass).await;
    let mut session = scene.session("latest").await;
    let last = publish(&scene.feed, "a", "1").await.id.to_string();
    assert_eq!(data(&mut session).await, "1");
    scene.proxy.set(Faults::down(Fault::HalfClose));
    assert_eq!(session.wire().closed().await, (End::Eof, Vec::new()));
    publish(&scene.feed, "a", "2").await;
    drop(session);
    scene.resumes(&last, &["2"]).await;
    scene.end().await;
}

#[tokio::test]
async fn a_half_close_on_the_way_up_ends_the_session() {
    let scene = Scene::new(config(), Fault::Pass).await;
    let mut session = scene.session("latest").await;
    scene.proxy.set(Faults::up(Fault::HalfClose));
    assert_eq!(session.wire().closed().await, (End::Eof, Vec::new()));
    scene.end().await;
}

#[tokio::test]
async fn a_frame_that_is_cut_on_the_way_down_is_given_again() {
    for bytes in [1, 2, 3, 50] {
        let scene = Scene::new(config(), Fault::Pass).await;
        let mut session = scene.session("latest").await;
        let last = publish(&scene.feed, "a", "1").await.id.to_string();
        assert_eq!(data(&mut session).await, "1");
        scene.proxy.set(Faults::down(Fault::CutAfter(bytes)));
        publish(&scene.feed, "a", "2").await;
        assert_eq!(session.wire().closed().await.1.len() as u64, bytes);
        scene.resumes(&last, &["2"]).await;
        scene.end().await;
    }
}

#[tokio::test]
async fn a_frame_that_is_cut_on_the_way_up_is_no_message() {
    for bytes in [1, 2, 5, 30] {
        let scene = Scene::new(config(), Fault::Pass).await;
        let mut session = scene.session("latest").await;
        scene.proxy.set(Faults::up(Fault::CutAfter(bytes)));
        let say = json!({"publish": {"topic": "a", "data": 1, "ref": 1}});
        session.send_text(&say.to_string()).await;
        session.wire().closed().await;
        until_waiters(&scene.feed, 0).await;
        assert_eq!(scene.feed.counts().messages, 0);
        scene.end().await;
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_peer_that_vanished_is_given_up() {
    let mut config = config();
    config.server.stall = Duration::from_millis(300);
    config.server.read_timeout = Duration::from_secs(60);
    let server = start(config).await;
    harness::contract::notices_a_vanished_peer(&server).await;
    server.stop().await;
}
