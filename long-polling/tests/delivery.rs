//! What a poll promises: every message once, in order, as soon as it is published. The first six tests
//! are the lines of the technique's diagram.

mod setup;

use std::time::Duration;

use common::{Feed, Retention};
use harness::{TestServer, Wire};
use hyper::Method;
use long_polling::Config;
use serde_json::{Value, json};
use setup::{config, publish, start, start_with, until_waiting};
use tokio::time::advance;

#[tokio::test]
async fn is_there_news() {
    let (feed, server) = server().await;
    let _asked = ask(&server, "/topics/news").await;
    until_waiting(&feed, 1).await;
    server.stop().await;
}

#[tokio::test]
async fn the_server_waits_for_data() {
    let (feed, server) = server().await;
    let mut asked = ask(&server, "/topics/news").await;
    until_waiting(&feed, 1).await;
    for _ in 0..100 {
        publish(&feed, "other", "x").await;
        assert_eq!(feed.waiters(), 1);
    }
    let id = publish(&feed, "news", "hello").await;
    assert_eq!(page(&mut asked).await["messages"][0]["id"], json!(id));
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn twenty_seconds_pass() {
    let (feed, server) = server().await;
    let mut asked = ask(&server, "/topics/news").await;
    until_waiting(&feed, 1).await;
    advance(Duration::from_secs(20)).await;
    publish(&feed, "news", "hello").await;
    let page = page(&mut asked).await;
    assert_eq!(page["messages"][0]["data"], "hello");
    server.stop().await;
}

#[tokio::test]
async fn yes_here_is_the_data() {
    let (feed, server) = server().await;
    let mut asked = ask(&server, "/topics/news").await;
    until_waiting(&feed, 1).await;
    let published = server.post("/topics/news", "hello").await.json();
    let page = page(&mut asked).await;
    assert_eq!(page["messages"][0]["data"], "hello");
    assert_eq!(page["messages"][0]["id"], published["id"]);
    assert_eq!(page["next"], published["id"]);
    server.stop().await;
}

/// The client's half is tested by `the_client_sends_a_new_request_at_once`.
#[tokio::test]
async fn a_new_request_at_once_misses_nothing_that_came_before_it() {
    let (feed, server) = server().await;
    let mut asked = ask(&server, "/topics/news").await;
    until_waiting(&feed, 1).await;
    publish(&feed, "news", "first").await;
    publish(&feed, "news", "between").await;
    let first = page(&mut asked).await;
    let next = first["next"].as_str().unwrap();
    send(&mut asked, &format!("/topics/news?after={next}")).await;
    let mut told = first["messages"].as_array().unwrap().clone();
    if told.len() < 2 {
        told.extend(
            page(&mut asked).await["messages"]
                .as_array()
                .unwrap()
                .clone(),
        );
    }
    let data: Vec<_> = told.iter().map(|message| &message["data"]).collect();
    assert_eq!(data, [&json!("first"), &json!("between")]);
    server.stop().await;
}

#[tokio::test]
async fn waiting_for_the_next() {
    let (feed, server) = server().await;
    publish(&feed, "news", "first").await;
    let mut asked = ask(&server, "/topics/news").await;
    for data in ["second", "third"] {
        let next = page(&mut asked).await["next"].to_owned();
        let next = next.as_str().unwrap();
        send(&mut asked, &format!("/topics/news?after={next}")).await;
        until_waiting(&feed, 1).await;
        publish(&feed, "news", data).await;
    }
    assert_eq!(page(&mut asked).await["messages"][0]["data"], "third");
    server.stop().await;
}

#[tokio::test]
async fn the_answer_on_the_wire_is_these_bytes() {
    let (feed, server) = server().await;
    let mut wire = ask(&server, "/topics/news").await;
    until_waiting(&feed, 1).await;
    let id = publish(&feed, "news", "hello").await;
    let answer = wire.read_response().await;
    let message = serde_json::from_str::<Value>(answer.text()).unwrap()["messages"][0].to_owned();
    let (time, date) = (
        message["timestamp"].as_str().unwrap(),
        answer.header("date"),
    );
    let page = format!(
        r#"{{"messages":[{{"id":"{id}","topic":"news","type":"message","timestamp":"{time}","data":"hello"}}],"next":"{id}","more":false,"gap":null}}"#
    );
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncache-control: no-store\r\n\
         x-content-type-options: nosniff\r\nvary: origin\r\ncontent-length: {}\r\ndate: {}\r\n\r\n",
        page.len(),
        date.unwrap()
    );
    assert_eq!((answer.head.as_str(), answer.text()), (&*head, &*page));
    server.stop().await;
}

#[tokio::test]
async fn what_is_there_already_is_answered_at_once() {
    let (feed, server) = server().await;
    publish(&feed, "news", "1").await;
    publish(&feed, "news", "2").await;
    let page = server.get("/topics/news?wait=55&limit=1").await.json();
    assert_eq!(
        (&page["messages"][0]["data"], &page["more"]),
        (&json!("1"), &json!(true))
    );
    server.stop().await;
}

#[tokio::test]
async fn when_the_time_is_up_the_page_is_empty_and_its_cursor_new() {
    let config = Config {
        wait: Duration::from_millis(50),
        ..config()
    };
    let feed = Feed::new(Retention::default());
    let server = start_with(feed.clone(), config).await;
    let mut asked = ask(&server, "/topics/news").await;
    until_waiting(&feed, 1).await;
    let other = publish(&feed, "other", "x").await;
    let empty = json!({"messages": [], "next": other, "more": false, "gap": null});
    assert_eq!(page(&mut asked).await, empty);
    assert_eq!(feed.waiters(), 0);
    server.stop().await;
}

#[tokio::test]
async fn a_wait_of_zero_is_a_short_poll() {
    let (feed, server) = server().await;
    let page = server.get("/topics/news?wait=0").await.json();
    assert_eq!((&page["messages"], feed.waiters()), (&json!([]), 0));
    server.stop().await;
}

#[tokio::test]
async fn head_is_answered_at_once() {
    let (_feed, server) = server().await;
    let client = server.client();
    let head = client.request(Method::HEAD, "/topics/news").send().await;
    assert_eq!(
        (head.status.as_u16(), head.header("cache-control")),
        (200, Some("no-store"))
    );
    server.stop().await;
}

#[tokio::test]
async fn a_wait_from_latest_on_gets_only_what_comes() {
    let (feed, server) = server().await;
    publish(&feed, "news", "old").await;
    let mut asked = ask(&server, "/topics/news?after=latest").await;
    until_waiting(&feed, 1).await;
    publish(&feed, "news", "new").await;
    let page = page(&mut asked).await;
    assert_eq!(page["messages"].as_array().unwrap().len(), 1);
    assert_eq!(page["messages"][0]["data"], "new");
    server.stop().await;
}

#[tokio::test]
async fn last_is_the_newest_message_of_each_topic_and_then_what_comes() {
    let (feed, server) = server().await;
    let mut asked = ask(&server, "/topics/a,b?after=last").await;
    until_waiting(&feed, 1).await;
    for (n, topic) in ["a", "a", "b"].iter().enumerate() {
        publish(&feed, topic, &n.to_string()).await;
    }
    // Nothing was there, so all of it came.
    assert_eq!(data(&page(&mut asked).await), ["0", "1", "2"]);
    let state = server.get("/topics/a,b?after=last&limit=1").await.json();
    assert_eq!(
        (data(&state), &state["gap"]),
        (vec!["1", "2"], &Value::Null)
    );
    let next = state["next"].as_str().unwrap();
    let mut asked = ask(&server, &format!("/topics/a,b?after={next}")).await;
    until_waiting(&feed, 1).await;
    publish(&feed, "a", "3").await;
    publish(&feed, "a", "4").await;
    assert_eq!(data(&page(&mut asked).await), ["3", "4"]);
    server.stop().await;
}

#[tokio::test]
async fn conflation_skips_what_a_newer_message_of_the_topic_replaces() {
    let (feed, server) = server().await;
    let start = feed.head();
    let path = format!("/topics/a,b?after={start}&newest=1");
    let mut asked = ask(&server, &path).await;
    until_waiting(&feed, 1).await;
    for (n, topic) in ["a", "b", "a", "a"].iter().enumerate() {
        publish(&feed, topic, &n.to_string()).await;
    }
    assert_eq!(data(&page(&mut asked).await), ["1", "3"]);
    assert_eq!(data(&server.get(&path).await.json()), ["1", "3"]);
    server.stop().await;
}

#[tokio::test]
async fn any_number_of_polls_wait_for_any_sets_of_topics() {
    let (feed, server) = server().await;
    let mut waiting = vec![];
    for topics in ["a", "a,b", "b%2Ca", "a", "b"] {
        waiting.push(ask(&server, &format!("/topics/{topics}")).await);
    }
    until_waiting(&feed, 5).await;
    let id = publish(&feed, "a", "x").await;
    for asked in &mut waiting[..4] {
        assert_eq!(page(asked).await["next"], json!(id));
    }
    assert_eq!(feed.waiters(), 1);
    server.stop().await;
}

#[tokio::test]
async fn a_gap_ends_a_wait_before_it_begins() {
    let feed = Feed::new(Retention {
        messages: 1,
        ..Retention::default()
    });
    let server = start_with(feed.clone(), config()).await;
    let first = publish(&feed, "news", "0").await;
    let second = publish(&feed, "news", "1").await;
    publish(&feed, "news", "2").await;
    let page = server
        .get(&format!("/topics/news?after={first}"))
        .await
        .json();
    let gap =
        json!({"reason": "trimmed", "topics": ["news"], "requested": first, "resumed": second});
    assert_eq!(
        (&page["gap"], &page["messages"][0]["data"]),
        (&gap, &json!("2"))
    );
    let foreign = server.get("/topics/news?after=other-1").await.json();
    assert_eq!(foreign["gap"]["reason"], "foreign");
    server.stop().await;
}

#[tokio::test]
async fn an_allowed_origin_may_read_when_to_come_again() {
    let mut config = config();
    config.server.allow_origin = vec!["https://a.example".parse().unwrap()];
    let server = start(config).await;
    let client = server.client();
    let request = client
        .get("/topics/news?wait=0")
        .header("origin", "https://a.example");
    let reply = request.send().await;
    assert_eq!(
        reply.header("access-control-allow-origin"),
        Some("https://a.example")
    );
    assert_eq!(
        reply.header("access-control-expose-headers"),
        Some("Retry-After")
    );
    server.stop().await;
}

async fn server() -> (Feed, TestServer) {
    let feed = Feed::new(Retention::default());
    let server = start_with(feed.clone(), config()).await;
    (feed, server)
}

/// Sends a poll and does not wait for its answer.
async fn ask(server: &TestServer, path: &str) -> Wire {
    let mut wire = server.wire().await;
    send(&mut wire, path).await;
    wire
}

async fn send(wire: &mut Wire, path: &str) {
    wire.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
        .await;
}

fn data(page: &Value) -> Vec<&str> {
    let messages = page["messages"].as_array().expect("a page has messages");
    let data = messages.iter().map(|message| message["data"].as_str());
    data.map(|text| text.expect("the tests publish text"))
        .collect()
}

async fn page(wire: &mut Wire) -> Value {
    let answer = wire.read_response().await;
    assert_eq!(answer.status, 200);
    serde_json::from_str(answer.text()).expect("a page is JSON")
}
