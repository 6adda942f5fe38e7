//! What a poll promises: every message once and in order, and a 304 instead of an answer that the client
//! already has. The first five tests are the lines of the technique's diagram.

mod setup;

use common::{Data, Draft, Feed, Retention};
use harness::TestServer;
use hyper::Method;
use serde_json::{Value, json};
use setup::{start, start_with};
use short_polling::Config;

#[tokio::test]
async fn is_there_news() {
    let server = start(Config::default()).await;
    let asked = server.get("/topics/news").await;
    assert_eq!(asked.status, 200);
    assert!(asked.header("etag").is_some() && asked.header("x-poll-interval").is_some());
    server.stop().await;
}

#[tokio::test]
async fn no() {
    let server = start(Config::default()).await;
    let first = server.get("/topics/news").await;
    let empty = json!({"messages": [], "next": first.json()["next"], "more": false, "gap": null});
    assert_eq!(first.json(), empty);
    let etag = first.header("etag").unwrap();
    let again = poll(&server, &after("news", &first.json()), etag).await;
    assert_eq!(again, (304, Value::Null));
    server.stop().await;
}

/// The client's half is tested by `the_client_waits_five_seconds`.
#[tokio::test(start_paused = true)]
async fn the_client_is_asked_to_wait_about_five_seconds() {
    let server = start(Config::default()).await;
    for _ in 0..20 {
        let hint = server.get("/topics/news").await;
        let hint: u64 = hint.header("x-poll-interval").unwrap().parse().unwrap();
        assert!((4..=6).contains(&hint), "{hint}");
    }
    server.stop().await;
}

#[tokio::test]
async fn and_now() {
    let server = start(Config::default()).await;
    let first = server.get("/topics/news").await;
    let etag = first.header("etag").unwrap();
    let path = after("news", &first.json());
    assert_eq!(poll(&server, &path, etag).await.0, 304);
    publish(&server, "news", "hello").await;
    assert_eq!(poll(&server, &path, etag).await.0, 200);
    server.stop().await;
}

#[tokio::test]
async fn yes_here_is_a_message() {
    let server = start(Config::default()).await;
    let first = server.get("/topics/news").await;
    let published = server.post("/topics/news", "hello").await.json();
    let etag = first.header("etag").unwrap();
    let (status, page) = poll(&server, &after("news", &first.json()), etag).await;
    assert_eq!(status, 200);
    assert_eq!(page["messages"][0]["data"], "hello");
    assert_eq!(page["messages"][0]["id"], published["id"]);
    assert_eq!(page["next"], published["id"]);
    server.stop().await;
}

#[tokio::test]
async fn the_answers_on_the_wire_are_these_bytes() {
    let server = start(Config::default()).await;
    let id = publish(&server, "news", "hello").await;
    let message = server.get("/topics/news").await.json()["messages"][0].to_owned();
    let time = message["timestamp"].as_str().unwrap();
    let page = format!(
        r#"{{"messages":[{{"id":"{id}","topic":"news","type":"message","timestamp":"{time}","data":"hello"}}],"next":"{id}","more":false,"gap":null}}"#
    );
    let mut wire = server.wire().await;
    wire.send("GET /topics/news HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    let answer = wire.read_response().await;
    let etag = answer.header("etag").unwrap();
    assert!(etag.starts_with(&format!("W/\"{id}.")), "{etag}");
    let expected = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncache-control: no-cache\r\n\
         etag: {etag}\r\nx-poll-interval: N\r\nx-content-type-options: nosniff\r\n\
         vary: origin\r\ncontent-length: {}\r\ndate: D\r\n\r\n",
        page.len()
    );
    assert_eq!(masked(&answer.head), expected);
    assert_eq!(answer.text(), page);
    let head = format!(
        "GET /topics/news?after={id} HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: {etag}\r\n\r\n"
    );
    wire.send(head).await;
    let answer = wire.read_response().await;
    let expected = format!(
        "HTTP/1.1 304 Not Modified\r\ncache-control: no-cache\r\netag: W/\"{id}\"\r\n\
         x-poll-interval: N\r\nx-content-type-options: nosniff\r\nvary: origin\r\ndate: D\r\n\r\n"
    );
    assert_eq!(masked(&answer.head), expected);
    server.stop().await;
}

#[tokio::test]
async fn a_newer_cursor_with_the_last_etag_is_not_modified() {
    let server = start(Config::default()).await;
    publish(&server, "news", "1").await;
    for _ in 0..3 {
        publish(&server, "other", "x").await;
    }
    let first = server.get("/topics/news").await;
    let etag = first.header("etag").unwrap();
    let path = after("news", &first.json());
    assert_eq!(poll(&server, &path, etag).await.0, 304);
    publish(&server, "other", "x").await;
    assert_eq!(poll(&server, &path, etag).await.0, 304);
    let plain = server.get(&path).await;
    assert_eq!(plain.status, 200);
    assert_eq!(
        poll(&server, &path, plain.header("etag").unwrap()).await.0,
        304
    );
    publish(&server, "news", "2").await;
    let (status, page) = poll(&server, &path, etag).await;
    assert_eq!((status, &page["messages"][0]["data"]), (200, &json!("2")));
    server.stop().await;
}

#[tokio::test]
async fn an_etag_of_other_topics_or_of_a_later_position_hides_nothing() {
    let server = start(Config::default()).await;
    let start = publish(&server, "b", "1").await;
    publish(&server, "b", "2").await;
    publish(&server, "a", "3").await;
    let etag = async |path: &str| server.get(path).await.header("etag").unwrap().to_owned();
    let (of_a, of_now) = (
        etag("/topics/a").await,
        etag("/topics/a,b?after=latest").await,
    );
    for etag in [of_a, of_now] {
        let (status, page) = poll(&server, &format!("/topics/a,b?after={start}"), &etag).await;
        assert_eq!(status, 200, "{etag}");
        assert_eq!(page["messages"].as_array().unwrap().len(), 2);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_not_modified_repeats_the_fields_of_the_page() {
    let mut config = Config::default();
    config.server.allow_origin = vec!["https://a.example".parse().unwrap()];
    let server = start(config).await;
    publish(&server, "news", "1").await;
    let client = server.client();
    let get = || {
        client
            .get("/topics/news")
            .header("origin", "https://a.example")
    };
    let page = get().send().await;
    let etag = page.header("etag").unwrap();
    let unmodified = get().header("if-none-match", etag).send().await;
    assert_eq!(unmodified.status, 304);
    for field in [
        "cache-control",
        "etag",
        "vary",
        "x-content-type-options",
        "access-control-allow-origin",
        "access-control-expose-headers",
    ] {
        assert!(page.header(field).is_some(), "{field}");
        assert_eq!(unmodified.header(field), page.header(field), "{field}");
    }
    assert_eq!(
        page.header("access-control-expose-headers"),
        Some("ETag, Retry-After, X-Poll-Interval")
    );
    for field in ["date", "x-poll-interval"] {
        assert!(unmodified.header(field).is_some(), "{field}");
    }
    assert_eq!(
        (unmodified.header("content-type"), &unmodified.body[..]),
        (None, &b""[..])
    );
    server.stop().await;
}

#[tokio::test]
async fn head_has_the_fields_of_get_and_no_body() {
    let server = start(Config::default()).await;
    publish(&server, "news", "1").await;
    let page = server.get("/topics/news").await;
    let client = server.client();
    let head = client.request(Method::HEAD, "/topics/news").send().await;
    for field in ["content-type", "content-length", "cache-control", "etag"] {
        assert!(page.header(field).is_some(), "{field}");
        assert_eq!(head.header(field), page.header(field), "{field}");
    }
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
    let known = client
        .request(Method::HEAD, "/topics/news")
        .header("if-none-match", page.header("etag").unwrap());
    assert_eq!(known.send().await.status, 304);
    server.stop().await;
}

#[tokio::test]
async fn pages_that_follow_next_give_every_message_once_and_in_order() {
    let server = start(Config::default()).await;
    for n in 0..7 {
        publish(&server, ["a", "b", "other"][n % 3], &n.to_string()).await;
    }
    let (mut path, mut given, mut pages) = ("/topics/b,a?limit=2".to_owned(), vec![], 0);
    loop {
        let page = server.get(&path).await.json();
        given.extend(page["messages"].as_array().unwrap().clone());
        pages += 1;
        assert!(pages < 10, "{page}");
        if page["more"] == false {
            break;
        }
        path = format!("{}&limit=2", after("a,b", &page));
    }
    let data: Vec<_> = given
        .iter()
        .map(|message| message["data"].as_str().unwrap())
        .collect();
    assert_eq!((data, pages), (vec!["0", "1", "3", "4", "6"], 3));
    server.stop().await;
}

#[tokio::test]
async fn a_poll_without_a_cursor_starts_at_the_earliest_and_latest_skips_what_was() {
    let server = start(Config::default()).await;
    publish(&server, "news", "old").await;
    let earliest = server.get("/topics/news").await.json();
    assert_eq!(
        earliest,
        server.get("/topics/news?after=earliest").await.json()
    );
    assert_eq!(earliest["messages"][0]["data"], "old");
    let latest = server.get("/topics/news?after=latest").await.json();
    assert_eq!(
        (&latest["messages"], &latest["next"]),
        (&json!([]), &earliest["next"])
    );
    server.stop().await;
}

#[tokio::test]
async fn last_is_the_newest_message_of_each_topic_and_then_what_comes() {
    let server = start(Config::default()).await;
    let nothing = server.get("/topics/a,b?after=last").await.json();
    assert_eq!(nothing["messages"], json!([]));
    for (n, topic) in ["a", "b", "a", "other", "b", "b"].iter().enumerate() {
        publish(&server, topic, &n.to_string()).await;
    }
    // `next` could not say how the rest of the state goes on. So it is whole, whatever the limit.
    let state = server.get("/topics/a,b,never?after=last&limit=1").await;
    let page = state.json();
    assert_eq!(data(&page), ["2", "5"]);
    assert_eq!((&page["more"], &page["gap"]), (&json!(false), &Value::Null));
    let etag = state.header("etag").unwrap();
    let path = after("a,b,never", &page);
    assert_eq!(poll(&server, &path, etag).await.0, 304);
    let same = poll(&server, "/topics/a,b,never?after=last", etag).await;
    assert_eq!(same.0, 304);
    publish(&server, "a", "6").await;
    publish(&server, "a", "7").await;
    let (status, changes) = poll(&server, &path, etag).await;
    assert_eq!((status, data(&changes)), (200, vec!["6", "7"]));
    server.stop().await;
}

#[tokio::test]
async fn conflation_skips_what_a_newer_message_of_the_topic_replaces() {
    let feed = Feed::new(Retention {
        messages: 2,
        ..Retention::default()
    });
    let server = start_with(feed, Config::default()).await;
    let start = server.get("/topics/a").await.json();
    for (n, topic) in ["a", "a", "a", "b", "b"].iter().enumerate() {
        publish(&server, topic, &n.to_string()).await;
    }
    let page = server
        .get(&format!("{}&newest=1", after("a,b", &start)))
        .await;
    let page = page.json();
    assert_eq!((data(&page), &page["gap"]), (vec!["2", "4"], &Value::Null));
    let path = format!("{}&newest=1&limit=1", after("a,b", &start));
    let first = server.get(&path).await.json();
    assert_eq!((data(&first), &first["more"]), (vec!["2"], &json!(true)));
    let path = format!("{}&newest=1&limit=1", after("a,b", &first));
    let second = server.get(&path).await.json();
    assert_eq!((data(&second), &second["more"]), (vec!["4"], &json!(false)));
    server.stop().await;
}

#[tokio::test]
async fn a_cursor_behind_what_is_kept_is_told_of_the_gap() {
    let feed = Feed::new(Retention {
        messages: 2,
        ..Retention::default()
    });
    let server = start_with(feed, Config::default()).await;
    let first = publish(&server, "news", "0").await;
    let ids = [
        publish(&server, "news", "1").await,
        publish(&server, "news", "2").await,
    ];
    let path = format!("/topics/news?after={first}");
    let whole = server.get(&path).await;
    assert_eq!(whole.json()["gap"], Value::Null);
    publish(&server, "news", "3").await;
    let cut = server.get(&path).await;
    let gap =
        json!({"reason": "trimmed", "topics": ["news"], "requested": first, "resumed": ids[0]});
    assert_eq!(cut.json()["gap"], gap);
    assert_eq!(cut.json()["messages"].as_array().unwrap().len(), 2);
    assert_ne!(cut.header("etag"), whole.header("etag"));
    server.stop().await;
}

#[tokio::test]
async fn a_cursor_of_an_earlier_life_is_told_so_in_spite_of_its_etag() {
    let server = start(Config::default()).await;
    let first = server.get("/topics/news").await;
    let addr = server.addr();
    server.stop().await;
    let server = TestServer::start_on(addr, |listener, shutdown| {
        let feed = Feed::new(Retention::default());
        short_polling::run(listener, feed, Config::default(), shutdown)
    })
    .await;
    let etag = first.header("etag").unwrap();
    let (status, page) = poll(&server, &after("news", &first.json()), etag).await;
    assert_eq!((status, &page["gap"]["reason"]), (200, &json!("foreign")));
    server.stop().await;
}

#[tokio::test]
async fn a_client_may_change_servers_that_share_a_feed_in_mid_flow() {
    let feed = Feed::new(Retention::default());
    let one = start_with(feed.clone(), Config::default()).await;
    let two = start_with(feed.clone(), Config::default()).await;
    publish(&one, "news", "1").await;
    let first = one.get("/topics/news").await;
    let path = after("news", &first.json());
    assert_eq!(
        poll(&two, &path, first.header("etag").unwrap()).await.0,
        304
    );
    one.stop().await;
    let draft = Draft::new(Data::text("2"));
    feed.publish("news".parse().unwrap(), draft).await.unwrap();
    assert_eq!(two.get(&path).await.json()["messages"][0]["data"], "2");
    two.stop().await;
}

async fn publish(server: &TestServer, topic: &str, data: &str) -> String {
    let reply = server
        .post(&format!("/topics/{topic}"), data.to_owned())
        .await;
    reply.json()["id"]
        .as_str()
        .expect("an id is text")
        .to_owned()
}

fn data(page: &Value) -> Vec<&str> {
    let messages = page["messages"].as_array().expect("a page has messages");
    let data = messages.iter().map(|message| message["data"].as_str());
    data.map(|text| text.expect("the tests publish text"))
        .collect()
}

/// The status, and the page if there is one.
async fn poll(server: &TestServer, path: &str, etag: &str) -> (u16, Value) {
    let client = server.client();
    let reply = client.get(path).header("if-none-match", etag).send().await;
    let page = if reply.status == 200 {
        reply.json()
    } else {
        Value::Null
    };
    (reply.status.as_u16(), page)
}

fn after(topics: &str, page: &Value) -> String {
    let next = page["next"].as_str().expect("a cursor is text");
    format!("/topics/{topics}?after={next}")
}

/// A head without what differs from answer to answer.
fn masked(head: &str) -> String {
    let mask = |line: &str| match line.split_once(": ") {
        Some(("date", _)) => "date: D".to_owned(),
        Some(("x-poll-interval", _)) => "x-poll-interval: N".to_owned(),
        _ => line.to_owned(),
    };
    head.split("\r\n")
        .map(mask)
        .collect::<Vec<_>>()
        .join("\r\n")
}
