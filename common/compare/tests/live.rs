//! The page without a browser: what its buttons do, and what it shows. `.ci/compare` has the browser.

#![cfg(unix)]

use std::time::Instant;

use harness::{Client, EventReader, PATIENCE, Process};
use serde_json::Value;

const LANES: [&str; 5] = [
    "short-polling",
    "long-polling",
    "webhooks",
    "websockets",
    "sse",
];

async fn start() -> Process {
    Process::start(env!("CARGO_BIN_EXE_compare"), &[]).await
}

async fn order(client: &Client, path: &str) {
    let reply = client.post(path, "").send().await;
    assert_eq!(reply.status, 200, "{path}: {}", reply.text());
}

/// Reads snapshots until all `lanes` are as they should be.
async fn until(page: &mut EventReader, lanes: &[&str], holds: impl Fn(&Value) -> bool) {
    let started = Instant::now();
    loop {
        let snapshot = page.next().await.expect("it goes on").json();
        let shown = snapshot["lanes"].as_array().expect("there are lanes");
        let of = |name: &&str| shown.iter().find(|lane| lane["technique"] == *name);
        if lanes.iter().all(|name| of(name).is_some_and(&holds)) {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{snapshot:#}");
    }
}

#[tokio::test]
async fn a_message_arrives_in_every_lane_and_a_restart_is_survived() {
    let process = start().await;
    let client = process.client();
    let mut page = EventReader::connect(process.addr(), "/lanes").await;
    // Before there is any news; a receiver begins at the feed's head.
    until(&mut page, &LANES, |lane| lane["state"] == "open").await;
    order(&client, "/publish").await;
    let came = |lane: &Value| lane["received"] == 1 && lane["latency"].is_string();
    until(&mut page, &LANES, came).await;
    for lane in LANES {
        order(&client, &format!("/restart?lane={lane}")).await;
    }
    until(&mut page, &LANES, |lane| lane["last_gap"].is_string()).await;
    order(&client, "/publish").await;
    until(&mut page, &LANES, |lane| lane["received"] == 2).await;
    process.signal("TERM");
    assert_eq!(process.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_paused_lane_resumes_and_shows_its_gap() {
    let process = start().await;
    let client = process.client();
    let mut page = EventReader::connect(process.addr(), "/lanes").await;
    until(&mut page, &LANES, |lane| lane["state"] == "open").await;
    order(&client, "/publish").await;
    until(&mut page, &["sse"], |lane| lane["received"] == 1).await;
    order(&client, "/pause?lane=sse").await;
    until(&mut page, &["sse"], |lane| lane["state"] == "paused").await;
    order(&client, "/publish?count=60").await;
    order(&client, "/resume?lane=sse").await;
    until(&mut page, &["sse"], |lane| {
        lane["gaps"] == 1 && lane["received"] == 51
    })
    .await;
    until(&mut page, &["websockets"], |lane| {
        lane["gaps"] == 0 && lane["received"] == 61
    })
    .await;
}

#[tokio::test]
async fn what_is_not_there_or_foreign_is_refused() {
    let process = start().await;
    let client = process.client();
    for (path, status) in [
        ("/nowhere", 404),
        ("/pause?lane=tcp", 400),
        ("/pause", 400),
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
