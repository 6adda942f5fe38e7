//! The page without a browser: what its buttons do, and the events that it draws. `.ci/compare` has the browser.

#![cfg(unix)]

use std::collections::BTreeSet;

use harness::{Client, EventReader, PATIENCE, Process};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

const LANES: [&str; 5] = [
    "short-polling",
    "long-polling",
    "webhooks",
    "websockets",
    "sse",
];

/// The events that these tests read.
const KINDS: &str = "bytes,close,broken,refused,gap";

async fn start() -> (Process, EventReader) {
    let process = Process::start(env!("CARGO_BIN_EXE_compare"), &[]).await;
    let path = format!("/topics/{KINDS}?after=earliest");
    let events = EventReader::connect(process.addr(), &path).await;
    (process, events)
}

async fn press(client: &Client, path: &str) {
    let reply = client.post(path, "").send().await;
    assert_eq!(reply.status, 200, "{path}: {}", reply.text());
}

/// Reads events until each of `lanes` has one that `holds`. Returns the others.
async fn until(
    events: &mut EventReader,
    lanes: &[&str],
    holds: impl Fn(&Value) -> bool,
) -> Vec<Value> {
    let mut missing: BTreeSet<&str> = lanes.iter().copied().collect();
    let mut others = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while !missing.is_empty() {
        let next = timeout_at(deadline, events.next()).await;
        let block = next.unwrap_or_else(|_| panic!("{missing:?} lack it: {others:#?}"));
        let block = block.expect("the stream goes on");
        if block.data().is_none() {
            continue; // a heartbeat
        }
        let event = block.json();
        match event["data"]["lane"].as_str() {
            Some(lane) if holds(&event) => drop(missing.remove(lane)),
            _ => others.push(event),
        }
    }
    others
}

/// A message on its way to the client.
fn carries(number: u64) -> impl Fn(&Value) -> bool {
    let text = format!("\"number\":{number}}}");
    move |event| {
        let (from, carried) = (&event["data"]["from"], event["data"]["text"].as_str());
        from == "server" && carried.is_some_and(|carried| carried.contains(&text))
    }
}

fn is(kind: &str) -> impl Fn(&Value) -> bool {
    move |event| event["topic"] == kind
}

#[tokio::test]
async fn a_message_passes_every_wire_before_and_after_a_restart() {
    let (process, mut events) = start().await;
    let client = process.client();
    press(&client, "/publish").await;
    until(&mut events, &LANES, carries(1)).await;
    press(&client, "/restart").await;
    // Each client is back once it has this gap. To wait for each server first would pass over the gaps of the
    // fastest clients.
    until(&mut events, &LANES, |event| {
        event["data"]["reason"] == "foreign"
    })
    .await;
    press(&client, "/publish").await;
    until(&mut events, &LANES, carries(2)).await;
    process.signal("TERM");
    assert_eq!(process.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_paused_client_resumes_and_its_gap_is_an_event() {
    let (process, mut events) = start().await;
    let client = process.client();
    press(&client, "/publish").await;
    until(&mut events, &["sse"], carries(1)).await;
    press(&client, "/pause?lane=sse").await;
    until(&mut events, &["sse"], is("close")).await;
    press(&client, "/publish?count=60").await;
    press(&client, "/resume?lane=sse").await;
    let others = until(&mut events, &["sse"], is("gap")).await;
    assert!(!others.iter().any(is("gap")), "the others have none");
    let lost = |event: &Value| event["data"]["lane"] == "sse" && carries(11)(event);
    assert!(!others.iter().any(lost), "what the gap names is not sent");
}

#[tokio::test]
async fn a_cut_wire_breaks_and_refuses_until_it_is_mended() {
    let (process, mut events) = start().await;
    let client = process.client();
    press(&client, "/publish").await;
    until(&mut events, &LANES, carries(1)).await;
    press(&client, "/cut").await;
    until(&mut events, &LANES, is("broken")).await;
    press(&client, "/publish").await;
    let cut = until(&mut events, &LANES, is("refused")).await;
    assert!(!cut.iter().any(is("bytes")), "nothing passes a cut wire");
    press(&client, "/mend").await;
    until(&mut events, &LANES, carries(2)).await;
}

#[tokio::test]
async fn a_slow_reader_has_its_message_later() {
    let (process, mut events) = start().await;
    let client = process.client();
    press(&client, "/slow?lane=sse").await;
    press(&client, "/publish").await;
    let slow = |event: &Value| event["data"]["took"].as_f64() > Some(1_000.0);
    let others = until(&mut events, &["sse"], slow).await;
    assert!(!others.iter().any(slow), "only where the button says");
    let websockets = |event: &Value| event["data"]["lane"] == "websockets" && carries(1)(event);
    assert!(others.iter().any(websockets), "the others do not wait");
}

#[tokio::test]
async fn unknown_paths_wrong_values_and_foreign_origins_are_refused() {
    let (process, _) = start().await;
    let client = process.client();
    for (path, status) in [
        ("/nowhere", 404),
        ("/topics/bytes", 404),
        ("/pause?lane=tcp", 400),
        ("/publish?count=many", 400),
    ] {
        assert_eq!(client.post(path, "").send().await.status, status, "{path}");
    }
    let foreign = client.post("/publish", "");
    let foreign = foreign.header("origin", "http://example.com").send().await;
    assert_eq!(foreign.status, 403);
    let page = client.get("/").send().await;
    assert!(page.text().starts_with("<!doctype html>"));
}
