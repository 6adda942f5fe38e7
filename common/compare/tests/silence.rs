//! A server that accepts and then says nothing: the client notices it, and its follower connects again.

use std::time::Duration;

use compare::{Follower, Heard, Subscription, Technique};
use harness::PATIENCE;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc::UnboundedReceiver,
    time::timeout,
};

/// How long a client waits here.
const SHORT: Duration = Duration::from_millis(100);

/// A server that does only what a test makes it do.
struct Server(TcpListener);

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        Self(listener.expect("a port is free"))
    }

    async fn follower(&self, technique: Technique) -> Follower {
        self.listening(technique).await.0
    }

    async fn listening(&self, technique: Technique) -> (Follower, UnboundedReceiver<Heard>) {
        let server = self.0.local_addr().expect("it listens");
        let to = Subscription {
            check: Duration::from_millis(10),
            patience: SHORT,
            ..Subscription::new(server, "a")
        };
        let started = Follower::start(technique, to).await;
        started.expect("it starts")
    }

    /// Accepts a registration, and answers that the endpoint begins at this cursor.
    async fn register(&self, after: &str) -> TcpStream {
        let (mut stream, head) = self.request().await;
        assert!(head.starts_with("POST /endpoints "), "{head}");
        let endpoint = format!(r#"{{"id":"ep_1","after":"{after}","in_flight":0,"waiting":0}}"#);
        let length = endpoint.len();
        let answer = format!("HTTP/1.1 201 Created\r\nContent-Length: {length}\r\n\r\n{endpoint}");
        let answered = stream.write_all(answer.as_bytes()).await;
        answered.expect("it is open");
        stream
    }

    async fn accept(&self) -> TcpStream {
        let accepted = timeout(PATIENCE, self.0.accept()).await;
        let accepted = accepted.expect("a client connects");
        accepted.expect("it listens").0
    }

    /// Accepts a connection and reads the head of its request.
    async fn request(&self) -> (TcpStream, String) {
        let mut stream = self.accept().await;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let byte = timeout(PATIENCE, stream.read_u8()).await;
            head.push(byte.expect("a request comes").expect("it is whole"));
        }
        (stream, String::from_utf8(head).expect("a head is text"))
    }
}

#[tokio::test]
async fn an_answer_that_never_comes_is_noticed() {
    for technique in Technique::ALL {
        let server = Server::start().await;
        let _follower = server.follower(technique).await;
        let _unanswered = server.request().await;
        server.accept().await;
    }
}

#[tokio::test]
async fn a_stream_that_falls_silent_is_noticed() {
    let server = Server::start().await;
    let _follower = server.follower(Technique::Sse).await;
    let (mut stream, _) = server.request().await;
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: hello\n";
    stream.write_all(head.as_bytes()).await.expect("it is open");
    server.accept().await;
}

#[tokio::test]
async fn a_web_socket_that_falls_silent_is_noticed() {
    let server = Server::start().await;
    let _follower = server.follower(Technique::Websockets).await;
    let upgraded = tokio_tungstenite::accept_async(server.accept().await).await;
    let _silent = upgraded.expect("it is an upgrade");
    server.accept().await;
}

#[tokio::test]
async fn a_receiver_whose_sender_falls_silent_registers_again_and_names_the_gap() {
    let server = Server::start().await;
    let (_follower, mut hearing) = server.listening(Technique::Webhooks).await;
    let _registered = server.register("a-1").await;
    let (_unanswered, head) = server.request().await;
    assert!(head.starts_with("GET /endpoints/ep_1 "), "{head}");
    let _registered = server.register("b-2").await;
    let heard = timeout(PATIENCE, hearing.recv()).await;
    match heard.expect("it names the gap") {
        Some(Heard::Gap(gap)) => assert_eq!([gap.requested, gap.resumed], ["a-1", "b-2"]),
        other => panic!("{other:?}"),
    }
}
