//! HTTP/1.1 from wrong, hostile and unusual clients: a table of requests in `rows.rs`, and random ones in `fuzz.rs`.

mod fuzz;
mod rows;

use tokio::task::yield_now;

use crate::TestServer;

pub use self::fuzz::is_not_confused;

/// Sent after each case. Its answer shows where the server thinks that this request begins.
const NEXT: &str = "GET /next HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// Each row of `rows.rs` gets one of its allowed answers, and the next request is not confused.
///
/// `servers` is one server, or one with and one without the takeover. They have the default limits and no room for a
/// subscriber, and are stopped at the end. Run it under a paused clock, because some rows wait for a timeout.
///
/// # Panics
/// If an answer is not allowed. The message names all such rows of a server.
pub async fn speaks_http(servers: Vec<TestServer>) {
    for (number, server) in servers.into_iter().enumerate() {
        let mut wrong = Vec::new();
        for row in rows::all() {
            let came = answers(&server, &[&row.bytes]).await;
            if came.contains("smuggled") || !row.answers.contains(&came.as_str()) {
                wrong.push(format!("{}: {came:?}, not {:?}", row.name, row.answers));
            }
        }
        assert!(wrong.is_empty(), "server {number}: {}", wrong.join("\n"));
        server.stop().await;
    }
}

/// Sends `pieces` and a request for `/next`, and returns all answers until the connection ends.
async fn answers(server: &TestServer, pieces: &[&[u8]]) -> String {
    let mut wire = server.wire().await;
    for piece in pieces.iter().chain([&NEXT.as_bytes()]) {
        if wire.try_send(piece).await.is_err() {
            break; // The server has closed the connection.
        }
        yield_now().await;
    }
    shown(&wire.closed().await.1)
}

/// The answers in the short form that `rows.rs` describes.
fn shown(mut bytes: &[u8]) -> String {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let (answer, rest) = first(bytes);
        answers.push(answer);
        bytes = rest;
    }
    answers.join(" ")
}

/// The first answer, and the bytes after it.
fn first(bytes: &[u8]) -> (String, &[u8]) {
    let Some(end) = crate::end_of(b"\r\n\r\n", bytes) else {
        return (format!("half a head: {}", bytes.escape_ascii()), b"");
    };
    let (head, rest) = bytes.split_at(end);
    let head = String::from_utf8_lossy(head).to_lowercase();
    let status = head.strip_prefix("http/1.").and_then(|rest| rest.get(2..5));
    let Some(status) = status else {
        return (format!("no answer: {head}"), b"");
    };
    if status == "101" {
        return (status.to_owned(), b""); // Frames follow.
    }
    let length = length(&head);
    // The answer to a HEAD has a length and no body.
    let has_body = rest.len() >= length && !rest.starts_with(b"HTTP/1.");
    let (body, rest) = rest.split_at(if has_body { length } else { 0 });
    (short(status, &String::from_utf8_lossy(body)), rest)
}

fn length(head: &str) -> usize {
    let mut lines = head.lines();
    let length = lines.find_map(|line| line.strip_prefix("content-length:"));
    length.map_or(0, |length| {
        length.trim().parse().expect("a length is a number")
    })
}

fn short(status: &str, body: &str) -> String {
    let asked = ["next", "smuggled"];
    let is_for =
        |path: &&str| status == "404" && body.contains(&format!("nothing is at /{path}\""));
    asked.into_iter().find(is_for).unwrap_or(status).to_owned()
}
