//! What a session promises, over real sockets.

mod setup;

use common::{Feed, Retention};
use harness::{Frame, WsWire, handshake};
use serde_json::json;
use setup::{ask, config, data, feed, is_live, live, publish, start, start_with, subscribe};

#[tokio::test]
async fn the_four_arrows_of_the_diagram() {
    let server = start(config()).await;
    // Client ->> Server: HTTP Handshake (Upgrade: websocket); Server -->> Client: 101
    let mut client = server.websocket("/topics/alerts").await;
    assert!(
        client
            .head()
            .starts_with("HTTP/1.1 101 Switching Protocols\r\n")
    );
    let opened = live(&mut client).await;
    // Client ->> Server: message 1; Server ->> Client: answer 1
    let say = json!({"publish": {"topic": "chat", "data": {"text": "hi"}, "ref": 1}});
    let answer = ask(&mut client, say).await;
    assert_eq!(answer["ack"]["ref"], 1);
    assert_eq!(answer["ack"]["duplicate"], false);
    // Server ->> Client: an urgent notice, unasked
    let published = server.post("/topics/alerts", "fire").await.json();
    let notice = client.next_json().await;
    assert_eq!(notice["message"]["data"], "fire");
    assert_eq!(notice["message"]["id"], published["id"]);
    assert_ne!(notice["message"]["id"], opened["subscribed"]["next"]);
    // Client ->> Server: OK, accepted. It is not answered: the next answer is to the ping after it.
    let accepted = json!({"received": {"id": notice["message"]["id"]}});
    client.send_text(&accepted.to_string()).await;
    assert_eq!(
        ask(&mut client, json!({"ping": {}})).await,
        json!({"pong": {}})
    );
    client.close(1000, "bye").await;
    assert_eq!(client.expect_close().await, (1000, "bye".into()));
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn a_message_is_the_documented_bytes() {
    let feed = feed();
    let server = start_with(feed.clone(), config()).await;
    let mut client = server.websocket("/topics/a?after=earliest").await;
    let start = feed.head();
    let opened = format!(r#"{{"subscribed":{{"next":"{start}"}}}}"#);
    assert_eq!(client.next_text().await, opened);
    let live = format!(r#"{{"heartbeat":{{"next":"{start}"}}}}"#);
    assert_eq!(client.next_text().await, live);
    client
        .send_text(
            r#"{"publish":{"topic":"a","type":"t","data":{"b" : 1.0, "a":2},"ref":"x\u0031"}}"#,
        )
        .await;
    let id = feed.head();
    let mut frames = [client.next_text().await, client.next_text().await];
    frames.sort();
    assert!(feed.head() != start && id.epoch == start.epoch);
    let id = feed.head();
    assert_eq!(
        frames[0],
        format!(r#"{{"ack":{{"ref":"x\u0031","id":"{id}","duplicate":false}}}}"#)
    );
    let begin = format!(r#"{{"message":{{"id":"{id}","topic":"a","type":"t","timestamp":""#);
    assert!(frames[1].starts_with(&begin), "{}", frames[1]);
    assert!(
        frames[1].ends_with(r#"","data":{"b" : 1.0, "a":2}}}"#),
        "{}",
        frames[1]
    );
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_comes_back_after_its_last_id_misses_nothing_and_gets_nothing_twice() {
    let feed = feed();
    let server = start_with(feed.clone(), config()).await;
    let mut last = "earliest".to_owned();
    let mut got = Vec::new();
    for round in 0..5 {
        for n in 0..40 {
            publish(&feed, "a", &format!("{round}.{n}")).await;
        }
        let mut client = server.websocket(&format!("/topics/a?after={last}")).await;
        client.next_json().await;
        let wanted = if round == 4 { 200 - got.len() } else { 37 };
        for _ in 0..wanted {
            let frame = client.next_json().await;
            last = frame["message"]["id"].as_str().unwrap().to_owned();
            got.push(frame["message"]["data"].as_str().unwrap().to_owned());
        }
        client.into_wire().reset();
    }
    let all: Vec<_> = (0..200).map(|n| format!("{}.{}", n / 40, n % 40)).collect();
    assert_eq!(got, all);
    server.stop().await;
}

#[tokio::test]
async fn a_subscription_has_a_cursor_of_its_own() {
    let feed = feed();
    let server = start_with(feed.clone(), config()).await;
    let old = publish(&feed, "old", "old 1").await;
    publish(&feed, "old", "old 2").await;
    let mut client = server.websocket("/topics").await;
    let live = json!({"subscribe": {"topics": ["live"], "ref": "l"}});
    let answer = subscribe(&mut client, live).await;
    assert_eq!(
        answer,
        json!({"subscribed": {"ref": "l", "next": feed.head().to_string()}})
    );
    publish(&feed, "live", "live 1").await;
    assert_eq!(data(&mut client).await, "live 1");
    // One subscription is live when the other begins to catch up.
    let catch_up =
        json!({"subscribe": {"topics": ["old", "old"], "after": old.id.to_string(), "ref": 2}});
    let answer = ask(&mut client, catch_up).await;
    assert_eq!(
        answer,
        json!({"subscribed": {"ref": 2, "next": old.id.to_string()}})
    );
    assert_eq!(data(&mut client).await, "old 2");
    is_live(&mut client).await;
    publish(&feed, "live", "live 2").await;
    assert_eq!(data(&mut client).await, "live 2");
    publish(&feed, "old", "old 3").await;
    assert_eq!(data(&mut client).await, "old 3");
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn a_topic_is_in_one_subscription_only() {
    let feed = feed();
    let server = start_with(feed.clone(), config()).await;
    let mut client = server.websocket("/topics/a,b").await;
    live(&mut client).await;
    let again = json!({"subscribe": {"topics": ["c", "b"], "after": "earliest", "ref": 1}});
    let answer = ask(&mut client, again.clone()).await;
    assert_eq!(
        answer,
        json!({"error": {"ref": 1, "status": 409, "detail": "topic b is already subscribed: unsubscribe first"}})
    );
    publish(&feed, "c", "not subscribed").await;
    publish(&feed, "a", "first").await;
    assert_eq!(data(&mut client).await, "first");
    let left = ask(
        &mut client,
        json!({"unsubscribe": {"topics": ["b", "z"], "ref": 2}}),
    )
    .await;
    assert_eq!(
        left,
        json!({"subscribed": {"ref": 2, "next": feed.head().to_string()}})
    );
    publish(&feed, "b", "nobody listens").await;
    publish(&feed, "a", "second").await;
    assert_eq!(data(&mut client).await, "second");
    let answer = ask(&mut client, again).await;
    assert_eq!(answer["subscribed"]["ref"], 1);
    assert_eq!(data(&mut client).await, "not subscribed");
    assert_eq!(data(&mut client).await, "nobody listens");
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn a_busy_subscription_does_not_starve_another() {
    let feed = feed();
    let server = start_with(feed.clone(), config()).await;
    let mut client = server.websocket("/topics").await;
    for n in 0..900 {
        publish(&feed, "busy", &format!("{n} {}", "x".repeat(1000))).await;
    }
    publish(&feed, "quiet", "quiet").await;
    for topic in ["busy", "quiet"] {
        let from_the_start =
            json!({"subscribe": {"topics": [topic], "after": "earliest", "ref": topic}});
        client.send_text(&from_the_start.to_string()).await;
    }
    let mut before = 0;
    while client.next_json().await["message"]["data"] != "quiet" {
        before += 1;
    }
    assert!(before < 200, "{before} frames came before it");
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn a_heartbeat_comes_when_every_subscription_has_replayed_everything() {
    let feed = feed();
    let server = start_with(feed.clone(), config()).await;
    for n in 0..30 {
        publish(&feed, "busy", &format!("{n} {}", "x".repeat(1000))).await;
    }
    let mut client = server.websocket("/topics").await;
    let commands = ["quiet", "busy"].map(|topic| {
        let from_the_start = json!({"topics": [topic], "after": "earliest", "ref": topic});
        Frame::text(&json!({"subscribe": from_the_start}).to_string()).encode()
    });
    // Both are handled before the session reads the feed.
    client.send_raw(commands.concat()).await;
    let mut frames = Vec::new();
    for _ in 0..33 {
        let frame = client.next_json().await;
        frames.push(frame.as_object().unwrap().keys().next().unwrap().clone());
    }
    assert_eq!(frames[..2], ["subscribed", "subscribed"]);
    assert!(frames[2..32].iter().all(|name| name == "message"));
    assert_eq!(frames[32], "heartbeat");
    // It comes once, and a subscription that joins causes another one.
    publish(&feed, "quiet", "one").await;
    assert_eq!(data(&mut client).await, "one");
    subscribe(
        &mut client,
        json!({"subscribe": {"topics": ["new"], "ref": 1}}),
    )
    .await;
    publish(&feed, "new", "two").await;
    assert_eq!(data(&mut client).await, "two");
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn last_is_the_newest_message_of_each_topic_and_then_what_comes() {
    let feed = feed();
    let server = start_with(feed.clone(), config()).await;
    // More than one page of the newest messages.
    for (n, topic) in ["a", "b", "a", "b", "c"].iter().enumerate() {
        publish(&feed, topic, &format!("{n} {}", "x".repeat(6000))).await;
    }
    let mut client = server.websocket("/topics/a,b,c,never?after=last").await;
    assert_eq!(client.next_text().await, r#"{"subscribed":{"next":null}}"#);
    for n in 2..5 {
        let data = data(&mut client).await;
        assert!(data.as_str().unwrap().starts_with(&format!("{n} ")));
    }
    let live = format!(r#"{{"heartbeat":{{"next":"{}"}}}}"#, feed.head());
    assert_eq!(client.next_text().await, live);
    for text in ["five", "six"] {
        publish(&feed, "a", text).await;
    }
    for text in ["five", "six"] {
        assert_eq!(data(&mut client).await, text);
    }
    // As a command, where a topic has nothing yet.
    let command = json!({"subscribe": {"topics": ["new"], "after": "last", "ref": 1}});
    let subscribed = subscribe(&mut client, command).await;
    assert_eq!(subscribed["subscribed"], json!({"ref": 1, "next": null}));
    publish(&feed, "new", "seven").await;
    assert_eq!(data(&mut client).await, "seven");
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn conflation_skips_what_a_newer_message_of_the_topic_replaces() {
    let feed = Feed::new(Retention {
        messages: 2,
        ..Retention::default()
    });
    let server = start_with(feed.clone(), config()).await;
    let start = feed.head();
    for text in ["one", "two", "three"] {
        publish(&feed, "a", text).await;
    }
    let path = format!("/topics/a?after={start}&newest=1");
    let mut client = server.websocket(&path).await;
    client.next_json().await;
    assert_eq!(data(&mut client).await, "three");
    is_live(&mut client).await;
    for newest in [json!(1), json!(true)] {
        let mut subscription = json!({"topics": ["b"], "ref": 1});
        subscription["newest"] = newest;
        subscribe(&mut client, json!({"subscribe": subscription})).await;
        // All of them are there when the session looks.
        for text in ["one", "two", "three"] {
            publish(&feed, "b", text).await;
        }
        assert_eq!(data(&mut client).await, "three");
        let left = ask(
            &mut client,
            json!({"unsubscribe": {"topics": ["b"], "ref": 2}}),
        )
        .await;
        assert_eq!(left["subscribed"]["ref"], 2);
    }
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn the_same_key_publishes_once() {
    let feed = feed();
    let server = start_with(feed.clone(), config()).await;
    let mut client = server.websocket("/topics").await;
    let publish = json!({"publish": {"topic": "a", "data": 1, "key": "k", "ref": 1}});
    let first = ask(&mut client, publish.clone()).await;
    let second = ask(&mut client, publish).await;
    assert_eq!(first["ack"]["id"], second["ack"]["id"]);
    assert_eq!(second["ack"]["duplicate"], true);
    let other = json!({"publish": {"topic": "a", "data": 2, "key": "k", "ref": 1}});
    assert_eq!(ask(&mut client, other).await["error"]["status"], 422);
    assert_eq!(feed.counts().messages, 1);
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn a_reader_behind_the_feed_is_told_of_the_gap() {
    let retention = Retention {
        messages: 10,
        ..Retention::default()
    };
    let feed = Feed::new(retention);
    let server = start_with(feed.clone(), config()).await;
    let first = publish(&feed, "a", "0").await.id;
    for n in 1..30 {
        publish(&feed, "a", &n.to_string()).await;
    }
    let mut client = server.websocket(&format!("/topics/a?after={first}")).await;
    client.next_json().await;
    let gap = &client.next_json().await["gap"];
    assert_eq!(gap["reason"], "trimmed");
    assert_eq!(gap["topics"], json!(["a"]));
    assert_eq!(gap["requested"], first.to_string());
    for n in 20..30 {
        assert_eq!(data(&mut client).await, n.to_string());
    }
    let position = json!({"heartbeat": {"next": feed.head().to_string()}});
    assert_eq!(client.next_json().await, position);
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn a_cursor_of_another_life_is_a_foreign_gap() {
    let feed = feed();
    let server = start_with(feed.clone(), config()).await;
    publish(&feed, "a", "here").await;
    let mut client = server.websocket("/topics/a?after=another-7").await;
    assert_eq!(client.next_text().await, r#"{"subscribed":{"next":null}}"#);
    let gap = &client.next_json().await["gap"];
    assert_eq!(gap["reason"], "foreign");
    assert_eq!(gap["requested"], "another-7");
    assert_eq!(data(&mut client).await, "here");
    assert_eq!(
        client.next_json().await["heartbeat"]["next"],
        feed.head().to_string()
    );
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn what_comes_with_the_handshake_is_not_lost() {
    let server = start(config()).await;
    let mut wire = server.wire().await;
    let mut bytes = handshake("localhost", "/topics", &[]).into_bytes();
    bytes.extend(Frame::text(r#"{"ping":{}}"#).encode());
    wire.send(bytes).await;
    let mut client = WsWire::on_wire(wire).await;
    assert_eq!(client.next_text().await, r#"{"pong":{}}"#);
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn a_connection_can_ask_before_it_upgrades() {
    let server = start(config()).await;
    let mut wire = server.wire().await;
    for _ in 0..2 {
        wire.send("GET /topics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await;
        assert_eq!(wire.read_response().await.status, 426);
    }
    wire.send(handshake("localhost", "/topics", &[])).await;
    let mut client = WsWire::on_wire(wire).await;
    assert_eq!(
        ask(&mut client, json!({"ping": {}})).await,
        json!({"pong": {}})
    );
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn pings_are_answered_with_their_payload_and_pongs_with_nothing() {
    let server = start(config()).await;
    let mut client = server.websocket("/topics").await;
    client.send_frame(Frame::pong("unasked")).await;
    client.send_frame(Frame::ping("payload")).await;
    let frame = client.next_frame().await.unwrap();
    assert_eq!(
        (frame.opcode, frame.payload.as_slice()),
        (10, &b"payload"[..])
    );
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn fragments_are_one_message_and_control_frames_may_come_between() {
    let server = start(config()).await;
    let mut client = server.websocket("/topics").await;
    let part = |opcode, payload: &str, fin| Frame {
        fin,
        ..Frame::client(opcode, payload)
    };
    client.send_frame(part(1, "{\"pi", false)).await;
    client.send_frame(Frame::ping("between")).await;
    client.send_frame(part(0, "", false)).await;
    client.send_frame(part(0, "ng\":{}}", true)).await;
    assert_eq!(client.next_frame().await.unwrap().opcode, 10);
    assert_eq!(client.next_text().await, r#"{"pong":{}}"#);
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn heartbeats_say_where_the_client_stands() {
    let feed = feed();
    let server = start_with(feed.clone(), config()).await;
    let mut client = server.websocket("/topics/quiet?heartbeat=1").await;
    live(&mut client).await;
    publish(&feed, "other", "not for this client").await;
    let next = json!({"heartbeat": {"next": feed.head().to_string()}});
    assert_eq!(client.next_json().await, next);
    drop(client);
    server.stop().await;
}
