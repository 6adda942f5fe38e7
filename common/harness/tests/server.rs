//! The test server of the harness: it starts, it stops, and it lets no server off that does not
//! drain.

use std::{future::pending, io};

use common::Drained;
use harness::{Shutdown, TestServer, Wire};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const DRAINED: Drained = Drained {
    finished: 1,
    cut: 0,
};

/// Answers each connection's request with its first line, until it is shut down.
async fn echo(listener: TcpListener, mut shutdown: Shutdown) -> io::Result<Drained> {
    loop {
        tokio::select! {
            () = &mut shutdown => return Ok(DRAINED),
            accepted = listener.accept() => answer(accepted?.0).await?,
        }
    }
}

async fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut request = [0; 1024];
    let count = stream.read(&mut request).await?;
    let text = String::from_utf8_lossy(&request[..count]);
    let line = text.lines().next().unwrap_or_default();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", line.len());
    stream.write_all((head + line).as_bytes()).await
}

#[tokio::test]
async fn a_server_answers_on_its_own_port_and_drains_when_stopped() {
    let server = TestServer::start(echo).await;
    assert_eq!(server.get("/a?b=c").await.text(), "GET /a?b=c HTTP/1.1");
    assert_eq!(server.url("/a"), format!("http://{}/a", server.addr()));
    assert_eq!(server.stop().await, DRAINED);
}

#[tokio::test]
async fn a_server_starts_again_on_the_same_port() {
    let server = TestServer::start(echo).await;
    let addr = server.addr();
    server.post("/", "body").await;
    server.stop().await;
    let server = TestServer::start_on(addr, echo).await;
    assert_eq!(server.post("/", "body").await.text(), "POST / HTTP/1.1");
    server.stop().await;
}

#[tokio::test]
async fn a_server_that_was_asked_to_shut_down_may_end_before_it_is_stopped() {
    let server = TestServer::start(|listener: TcpListener, shutdown| async move {
        let _accepted = listener.accept().await?;
        shutdown.await;
        Ok(DRAINED)
    })
    .await;
    let mut open = server.wire().await;
    server.shut_down();
    open.closed().await;
    assert_eq!(server.stop().await, DRAINED);
}

#[tokio::test]
async fn a_server_that_is_dropped_is_gone() {
    let server = TestServer::start(echo).await;
    let mut queued = server.wire().await;
    let addr = server.addr();
    drop(server);
    queued.closed().await;
    assert!(Wire::try_connect(addr).await.is_err());
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "waited 20s for the server on 127.0.0.1:")]
async fn stopping_a_server_that_hangs_fails_the_test() {
    TestServer::start(|_, _| pending()).await.stop().await;
}

#[tokio::test]
#[should_panic(expected = "on purpose")]
async fn stopping_a_server_that_panicked_raises_its_panic() {
    let hit = |listener: TcpListener, _| async move {
        drop(listener.accept().await);
        panic!("on purpose")
    };
    let server = TestServer::start(hit).await;
    server.wire().await.closed().await;
    server.stop().await;
}

#[tokio::test]
#[should_panic(expected = "failed: on purpose")]
async fn stopping_a_server_that_failed_tells_its_error() {
    let failing = |_, shutdown: Shutdown| async {
        shutdown.await;
        Err(io::Error::other("on purpose"))
    };
    TestServer::start(failing).await.stop().await;
}

#[tokio::test]
#[should_panic(expected = "ended before it was asked to")]
async fn stopping_a_server_that_ended_by_itself_fails_the_test() {
    let server = TestServer::start(|listener: TcpListener, _| async move {
        drop(listener.accept().await?);
        Ok(DRAINED)
    })
    .await;
    server.wire().await.closed().await;
    tokio::task::yield_now().await;
    server.stop().await;
}
