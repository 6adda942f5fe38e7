//! The example client against a server that the test plays frame by frame.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "../examples/websockets_client.rs"]
#[allow(dead_code, unreachable_pub, reason = "its main is not called here")]
mod client;

use std::{
    io::{self, ErrorKind, Read},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    thread,
};

use client::{Args, Client, Failure, Stream};
use harness::PATIENCE;
use serde_json::{Value, json};
use tungstenite::{
    Message, accept_hdr,
    handshake::server::{Request, Response},
};

/// Sends these frames to one session of the client, then closes it. Returns how the session ended, the
/// request's target, and everything that the client sent.
fn session(path: &str, frames: &[Value]) -> (Failure, String, Vec<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let args = Args {
        url: format!("ws://{}{path}", listener.local_addr().unwrap())
            .parse()
            .unwrap(),
        after: "e-1".into(),
        say: Some("hello".into()),
        to: Some("a".into()),
    };
    let client = thread::spawn(|| Client::new(args).session());
    let mut target = String::new();
    #[allow(clippy::result_large_err, reason = "tungstenite's")]
    let answer = |request: &Request, mut response: Response| {
        target = request.uri().to_string();
        let subprotocol = request.headers()["sec-websocket-protocol"].clone();
        response
            .headers_mut()
            .insert("sec-websocket-protocol", subprotocol);
        Ok(response)
    };
    let stream = accept(listener);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut server = accept_hdr(stream, answer).unwrap();
    for frame in frames {
        server.send(Message::text(frame.to_string())).unwrap();
    }
    server.close(None).unwrap();
    let mut sent = Vec::new();
    while let Ok(message) = server.read() {
        if let Message::Text(text) = message {
            sent.push(serde_json::from_str(&text).unwrap());
        }
    }
    (client.join().unwrap(), target, sent)
}

/// The client's connection. A client that never connects fails the test.
fn accept(listener: TcpListener) -> TcpStream {
    let (accepted, connection) = mpsc::channel();
    thread::spawn(move || accepted.send(listener.accept().unwrap().0));
    connection.recv_timeout(PATIENCE).unwrap()
}

#[test]
fn what_it_asks_for_is_added_to_the_urls_query() {
    for (path, target) in [
        ("/topics/a", "/topics/a?after=e-1"),
        ("/topics/a?heartbeat=5", "/topics/a?heartbeat=5&after=e-1"),
    ] {
        assert_eq!(session(path, &[]).1, target);
    }
}

#[test]
fn an_unknown_frame_is_ignored() {
    let frames = [
        json!({"news": {"of": "a later server"}}),
        json!({"message": {"id": "e-2", "topic": "a", "data": 1}}),
    ];
    let (ending, _, sent) = session("/topics/a", &frames);
    assert!(matches!(ending, Failure::Passing(..)), "{ending}");
    assert_eq!(sent[0]["publish"]["data"], "hello");
    assert_eq!(sent[1..], [json!({"received": {"id": "e-2"}})]);
}

#[test]
fn an_error_is_final_unless_it_is_the_servers() {
    let ending = |status: u16| {
        let error = json!({"error": {"ref": "say", "status": status, "detail": "no"}});
        session("/topics/a", &[error]).0
    };
    for status in [400, 422, 429] {
        assert!(
            matches!(ending(status), Failure::Final(reason) if reason == format!("{status}: no"))
        );
    }
    let Failure::Passing(reason, at_least) = ending(503) else {
        panic!("a full server may have room later");
    };
    assert_eq!((reason.as_str(), at_least.as_secs()), ("503: no", 5));
}

/// Fails once, as after a stop of the process, and then has what came meanwhile.
struct Stopped<'a>(Option<ErrorKind>, &'a [u8]);

impl Read for Stopped<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self.0.take() {
            Some(kind) => Err(kind.into()),
            None => self.1.read(bytes),
        }
    }
}

#[test]
fn a_stop_of_the_process_is_no_timeout() {
    let mut bytes = [0; 9];
    let read = |kind, bytes: &mut [u8]| Stream(Stopped(Some(kind), b"heartbeat")).read(bytes);
    assert_eq!(read(ErrorKind::Interrupted, &mut bytes).unwrap(), 9);
    assert!(read(ErrorKind::WouldBlock, &mut bytes).is_err());
}
