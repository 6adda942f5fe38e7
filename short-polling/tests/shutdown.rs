//! The drain: no new connection is accepted, a request in flight is finished, and a connection that does
//! not end is cut.

mod setup;

use std::time::Duration;

use harness::{End, PATIENCE, TestServer, Wire};
use setup::start;
use short_polling::Config;
use tokio::time::timeout;

const HALF: &str = "POST /topics/news HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nha";

#[tokio::test]
async fn a_server_without_connections_ends_at_once() {
    let server = start(Config::default()).await;
    let drained = server.stop().await;
    assert_eq!((drained.finished, drained.cut), (0, 0));
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_newcomer_is_refused() {
    let server = start(Config::default()).await;
    let mut idle = server.wire().await;
    idle.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    assert_eq!(idle.read_response().await.text(), "ok\n");
    server.shut_down();
    assert_eq!(idle.closed().await, (End::Eof, Vec::new()));
    assert!(Wire::try_connect(server.addr()).await.is_err());
    let drained = server.stop().await;
    assert_eq!((drained.finished, drained.cut), (1, 0));
}

#[tokio::test]
async fn a_publish_in_flight_is_finished() {
    let server = start(Config::default()).await;
    let mut wire = in_flight(&server).await;
    server.shut_down();
    wait_until_refused(&server).await;
    wire.send("lf").await;
    let answer = wire.read_response().await;
    assert_eq!(
        (answer.status, answer.header("connection")),
        (201, Some("close"))
    );
    assert_eq!(wire.closed().await, (End::Eof, Vec::new()));
    let drained = server.stop().await;
    assert_eq!((drained.finished, drained.cut), (1, 0));
}

#[tokio::test]
async fn what_does_not_end_within_the_drain_is_cut() {
    let mut config = Config::default();
    config.server.drain = Duration::from_millis(50);
    let server = start(config).await;
    let mut wire = in_flight(&server).await;
    let drained = server.stop().await;
    assert_eq!((drained.finished, drained.cut), (0, 1));
    wire.closed().await;
}

/// A connection with half of a second request. The answer to the first shows that the server has read
/// it.
async fn in_flight(server: &TestServer) -> Wire {
    let mut wire = server.wire().await;
    wire.send(format!(
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n{HALF}"
    ))
    .await;
    assert_eq!(wire.read_response().await.status, 200);
    wire
}

async fn wait_until_refused(server: &TestServer) {
    let refused = async {
        while Wire::try_connect(server.addr()).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    let came = timeout(PATIENCE, refused).await;
    came.expect("the listener is closed");
}
