//! What a signal ends, what may finish, and how a loss is reported.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod setup;

use std::{io, net::SocketAddr, process::Command, time::Duration};

use common::{Drained, Feed, Retention};
use harness::{Client, End, TestServer, Wire};
use serde_json::json;
use setup::{
    FAILED, OK, Program, Scratch, Sink, endpoint, local, patch, publish, receiver, register,
    register_as, soon,
};
use tokio::sync::oneshot;
use webhooks::{Config, Lost, run, schedule::Schedule};

/// A server that may end with an error. The harness's server would fail the test.
async fn stop(
    server: TestServer,
    told: oneshot::Receiver<io::Result<Drained>>,
) -> io::Result<Drained> {
    server.shut_down();
    let drained = soon(told).await.unwrap();
    server.stop().await;
    drained
}

async fn start(config: Config) -> (TestServer, oneshot::Receiver<io::Result<Drained>>) {
    let (tell, told) = oneshot::channel();
    let feed = Feed::new(Retention::default());
    let server = TestServer::start(|listener, shutdown| async {
        let _ = tell.send(run(listener, feed, config, shutdown).await);
        Ok(Drained {
            finished: 0,
            cut: 0,
        })
    });
    (server.await, told)
}

/// Waits until the listener is gone.
async fn refuses(addr: SocketAddr) {
    soon(async { while Wire::try_connect(addr).await.is_ok() {} }).await;
}

fn lost(drained: io::Result<Drained>) -> usize {
    let error = drained.unwrap_err().into_inner().unwrap();
    error.downcast::<Lost>().unwrap().0
}

#[tokio::test]
async fn an_idle_sender_ends_at_once_and_nothing_is_lost() {
    let (sender, told) = start(local()).await;
    register(&sender, &Sink::open().await.url()).await;
    let idle = Client::keep_alive(sender.addr()).await;
    idle.get("/healthz").send().await;
    let drained = stop(sender, told).await.unwrap();
    assert_eq!(
        drained,
        Drained {
            finished: 1,
            cut: 0
        }
    );
}

#[tokio::test]
async fn an_attempt_in_flight_is_finished() {
    let (sender, told) = start(local()).await;
    let sink = Sink::open().await;
    register(&sender, &sink.url()).await;
    publish(&sender, "hello").await;
    let mut called = sink.called().await;
    sender.shut_down();
    // The listener is gone, but the attempt goes on.
    refuses(sender.addr()).await;
    called.wire.send(OK).await;
    assert!(stop(sender, told).await.is_ok());
}

#[tokio::test]
async fn an_attempt_over_the_drains_limit_is_cut_and_counted_as_lost() {
    let mut config = local();
    config.server.drain = Duration::from_millis(50);
    let (sender, told) = start(config).await;
    let sink = Sink::open().await;
    register(&sender, &sink.url()).await;
    publish(&sender, "hello").await;
    let mut called = sink.called().await;
    assert_eq!(lost(stop(sender, told).await), 1);
    called.wire.closed().await;
}

#[tokio::test]
async fn what_waits_in_memory_is_lost_and_counted() {
    let config = Config {
        schedule: Schedule::new([Duration::from_secs(3_600)]),
        ..local()
    };
    let (sender, told) = start(config).await;
    let sink = Sink::open().await;
    let registration = json!({"url": sink.url(), "topics": ["a"], "concurrency": 1});
    let path = register_as(&sender, registration).await;
    publish(&sender, "one").await;
    sink.answers(FAILED).await;
    endpoint(&sender, &path, |endpoint| endpoint["waiting"] == 1).await;
    // One message is claimed and hangs. The other stays in the feed, because the endpoint has one slot.
    publish(&sender, "two").await;
    let mut called = sink.called().await;
    publish(&sender, "three").await;
    sender.shut_down();
    called.wire.send(OK).await;
    assert_eq!(lost(stop(sender, told).await), 2, "one and three");
}

#[tokio::test]
async fn what_a_disabled_endpoint_has_not_got_is_lost_and_counted() {
    let (sender, told) = start(local()).await;
    let sink = Sink::open().await;
    let path = register(&sender, &sink.url()).await;
    publish(&sender, "in flight").await;
    let _hangs = sink.called().await;
    patch(&sender, &path, json!({"enabled": false})).await;
    publish(&sender, "in the feed").await;
    assert_eq!(lost(stop(sender, told).await), 2);
}

#[tokio::test]
async fn what_was_removed_is_owed_to_nobody() {
    let (sender, told) = start(local()).await;
    let sink = Sink::open().await;
    let path = register(&sender, &sink.url()).await;
    publish(&sender, "hello").await;
    let mut called = sink.called().await;
    let deleted = sender
        .client()
        .request(hyper::Method::DELETE, &path)
        .send()
        .await;
    assert_eq!((deleted.status.as_u16(), deleted.text()), (204, ""));
    assert_eq!(called.wire.closed().await.0, End::Eof);
    assert_eq!(sender.get(&path).await.status, 404);
    assert!(stop(sender, told).await.is_ok());
}

#[tokio::test]
async fn a_receiver_finishes_the_request_in_flight() {
    let (server, _) = receiver().await;
    let mut wire = server.wire().await;
    wire.send("POST /webhook HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n").await;
    wire.send("Expect: 100-continue\r\n\r\n").await;
    wire.expect("HTTP/1.1 100 Continue\r\n\r\n").await;
    server.shut_down();
    refuses(server.addr()).await;
    wire.send("{}").await;
    assert_eq!(wire.read_response().await.status, 401);
    assert_eq!(
        server.stop().await,
        Drained {
            finished: 1,
            cut: 0
        }
    );
}

/// How `main` reports a loss.
#[cfg(unix)]
#[tokio::test]
async fn a_signal_ends_it_with_0_and_a_loss_with_1() {
    let sender = || {
        let mut sender = Command::new(env!("CARGO_BIN_EXE_webhooks"));
        sender.args(["--allow-http", "--allow-loopback"]);
        Program::launch(sender)
    };
    let scratch = Scratch::new();
    let receiver = Program::start(&scratch, |_| {});
    assert_eq!(soon(receiver.stop()).await.code, Some(0));
    assert_eq!(soon(sender().stop_by("-INT")).await.code, Some(0));

    let sender = sender();
    let client = sender.client();
    let registration = json!({"url": Sink::open().await.url(), "topics": ["a"]});
    let request = client.post("/endpoints", registration.to_string());
    let request = request.header("content-type", "application/json");
    assert_eq!(request.send().await.status, 201);
    assert_eq!(client.post("/topics/a", "hello").send().await.status, 201);
    assert_eq!(soon(sender.stop()).await.code, Some(1));
}
