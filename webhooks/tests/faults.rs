//! A bad network between the sender and the receiver: the column for webhooks in the harness's table.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod setup;

use std::time::Duration;

use common::{After, Feed, PageLimit, Retention};
use harness::{Fault, FaultProxy, Faults, TestServer};
use serde_json::Value;
use setup::{SHORT, Sink, endpoint, local, publish, receiver, register, soon, start_with};
use webhooks::{Config, schedule::Schedule};

/// Sender, proxy, receiver.
struct Line {
    sender: TestServer,
    proxy: FaultProxy,
    receiver: TestServer,
    received: Feed,
    path: String,
}

impl Line {
    /// For a fault that shows by a timeout.
    async fn with(faults: impl Into<Faults>) -> Self {
        Self::within(SHORT, faults).await
    }

    /// For any other fault: with the default time limit, so that no attempt times out on a busy machine.
    async fn patient(faults: impl Into<Faults>) -> Self {
        Self::within(Config::default().attempt_timeout, faults).await
    }

    /// With this time limit for an attempt. Retries soon and often, as long as the fault lasts.
    async fn within(time: Duration, faults: impl Into<Faults>) -> Self {
        let config = Config {
            attempt_timeout: time,
            schedule: Schedule::new([Duration::from_millis(20); 200]),
            ..local()
        };
        let sender = start_with(Feed::new(Retention::default()), config).await;
        let (receiver, received) = receiver().await;
        let proxy = FaultProxy::start(receiver.addr(), faults).await;
        let path = register(&sender, &format!("http://{}/webhook", proxy.addr())).await;
        Self {
            sender,
            proxy,
            receiver,
            received,
            path,
        }
    }

    /// Publishes, sees the attempt fail in one of these ways, mends the network, and sees the message
    /// arrive exactly once.
    async fn fails_and_recovers(self, classes: &[&str]) {
        publish(&self.sender, "hello").await;
        endpoint(&self.sender, &self.path, |endpoint| {
            endpoint["last_error"].is_string()
        })
        .await;
        let class = self.attempts().await[0]["error"].clone();
        assert!(classes.contains(&class.as_str().unwrap()), "{class}");
        // The rest of the server still works.
        assert_eq!(self.sender.get("/healthz").await.status, 200);
        self.proxy.set(Fault::Pass);
        self.arrives_once().await;
    }

    /// The one message is delivered, and the receiver has it once.
    async fn arrives_once(self) {
        endpoint(&self.sender, &self.path, |endpoint| {
            endpoint["delivered"] == 1
        })
        .await;
        let topics = "webhook".parse().unwrap();
        let page = self
            .received
            .next(&topics, &After::Earliest, PageLimit::default());
        let page = soon(page).await.unwrap();
        assert_eq!(page.messages.len(), 1, "repeats are dropped by their id");
        self.sender.stop().await;
        self.receiver.stop().await;
    }

    async fn attempts(&self) -> Vec<Value> {
        let deliveries = self
            .sender
            .get(&format!("{}/deliveries", self.path))
            .await
            .json();
        deliveries["attempts"].as_array().unwrap().clone()
    }
}

#[tokio::test]
async fn a_delivery_that_was_acknowledged_is_not_sent_again() {
    let line = Line::patient(Fault::Pass).await;
    publish(&line.sender, "hello").await;
    endpoint(&line.sender, &line.path, |endpoint| {
        endpoint["delivered"] == 1
    })
    .await;
    assert_eq!(line.proxy.connections(), 1);
    line.arrives_once().await;
}

#[tokio::test]
async fn a_signature_holds_whatever_pieces_the_body_comes_in() {
    let line = Line::patient(Fault::ByteAtATime).await;
    publish(&line.sender, "hello").await;
    line.arrives_once().await;
}

#[tokio::test]
async fn a_delay_within_the_attempts_time_is_no_failure() {
    let line = Line::with(Fault::Delay(SHORT / 10)).await;
    publish(&line.sender, "hello").await;
    line.arrives_once().await;
}

#[tokio::test]
async fn an_answer_that_comes_too_late_is_no_answer() {
    let line = Line::with(Faults::down(Fault::Delay(SHORT * 2))).await;
    line.fails_and_recovers(&["timeout"]).await;
}

#[tokio::test]
async fn a_network_that_stalls_costs_an_attempt() {
    Line::with(Fault::Stall)
        .await
        .fails_and_recovers(&["timeout"])
        .await;
}

#[tokio::test]
async fn while_one_endpoints_network_stalls_another_is_served() {
    let line = Line::with(Fault::Stall).await;
    let good = Sink::open().await;
    register(&line.sender, &good.url()).await;
    publish(&line.sender, "hello").await;
    assert_eq!(good.answers(setup::OK).await, "hello");
    line.proxy.set(Fault::Pass);
    line.arrives_once().await;
}

#[tokio::test]
async fn a_reset_is_a_failure_whether_or_not_it_arrived() {
    let line = Line::patient(Fault::Reset).await;
    line.fails_and_recovers(&["connect", "broken"]).await;
}

#[tokio::test]
async fn an_end_before_the_answer_is_a_failure() {
    let line = Line::patient(Faults::down(Fault::HalfClose)).await;
    line.fails_and_recovers(&["broken"]).await;
}

#[tokio::test]
async fn a_request_that_ends_early_is_no_delivery() {
    let line = Line::with(Faults::up(Fault::HalfClose)).await;
    line.fails_and_recovers(&["broken", "timeout"]).await;
}

#[tokio::test]
async fn an_answer_that_was_cut_is_a_failure_and_the_repeat_is_dropped() {
    for count in [1, 20, 60] {
        let line = Line::patient(Faults::down(Fault::CutAfter(count))).await;
        line.fails_and_recovers(&["broken"]).await;
    }
}

#[tokio::test]
async fn a_body_that_was_cut_is_no_delivery() {
    for count in [1, 100, 300] {
        let line = Line::patient(Faults::up(Fault::CutAfter(count))).await;
        line.fails_and_recovers(&["broken"]).await;
    }
}

#[tokio::test]
async fn an_answer_that_vanishes_costs_an_attempt() {
    let line = Line::with(Faults::down(Fault::Blackhole)).await;
    line.fails_and_recovers(&["timeout"]).await;
}

#[tokio::test]
async fn a_request_that_vanishes_costs_an_attempt() {
    let line = Line::with(Faults::up(Fault::Blackhole)).await;
    line.fails_and_recovers(&["timeout"]).await;
}
