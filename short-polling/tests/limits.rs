//! Each knob at its boundary. There is no limit on subscribers, because there are none.

mod setup;

use std::time::Duration;

use clap::Parser;
use common::{Feed, Retention};
use harness::{
    End, TestServer,
    contract::{MAX_MESSAGE, closes_the_longest_idle, keeps_its_reserve},
};
use setup::{small, start, start_with};
use short_polling::Config;
use tokio::time::sleep;

const GET: &str = "GET /topics/news HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn silent_clients_do_not_keep_health_and_publishing_out() {
    for takeover in [true, false] {
        let mut config = Config {
            takeover,
            ..Config::default()
        };
        config.server.max_connections = Some(1);
        let server = start(config).await;
        keeps_its_reserve(&server, None).await;
        server.stop().await;
    }
}

#[tokio::test]
async fn a_newcomer_beyond_the_connections_takes_the_slot_of_the_longest_idle() {
    let mut config = Config::default();
    config.server.max_connections = Some(2);
    let server = start(config).await;
    closes_the_longest_idle(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn a_body_of_the_limit_is_taken_and_one_byte_more_is_not() {
    let server = start(small()).await;
    let post = async |size| server.post("/topics/news", vec![b'x'; size]).await.status;
    assert_eq!(post(MAX_MESSAGE).await, 201);
    assert_eq!(post(MAX_MESSAGE + 1).await, 413);
    server.stop().await;
}

#[tokio::test]
async fn a_page_has_as_many_messages_as_the_limit_says_and_a_hundred_by_default() {
    let server = start(Config::default()).await;
    for _ in 0..501 {
        server.post("/topics/news", "x").await;
    }
    for (query, messages) in [("", 100), ("?limit=1", 1), ("?limit=500", 500)] {
        let page = server.get(&format!("/topics/news{query}")).await.json();
        assert_eq!(page["messages"].as_array().unwrap().len(), messages);
        assert_eq!(page["more"], true);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_page_is_at_most_a_mebibyte_and_at_least_one_message() {
    let mut config = Config::default();
    config.server.max_message = 2 << 20;
    let server = start(config).await;
    for size in [400_000, 600_000, 600_000, 1_200_000, 10] {
        server.post("/topics/news", vec![b'x'; size]).await;
    }
    let (mut path, mut pages) = ("/topics/news".to_owned(), vec![]);
    loop {
        let page = server.get(&path).await.json();
        pages.push(page["messages"].as_array().unwrap().len());
        assert!(pages.len() < 10, "{page}");
        path = format!("/topics/news?after={}", page["next"].as_str().unwrap());
        if page["more"] == false {
            break;
        }
    }
    assert_eq!(pages, [2, 1, 1, 1]);
    server.stop().await;
}

#[tokio::test]
async fn as_many_messages_are_kept_as_the_feed_retains() {
    let feed = Feed::new(Retention {
        messages: 3,
        ..Retention::default()
    });
    let server = start_with(feed, Config::default()).await;
    for n in 0..5 {
        server.post("/topics/news", n.to_string()).await;
    }
    let page = server.get("/topics/news").await.json();
    let data: Vec<_> = page["messages"].as_array().unwrap().iter().collect();
    assert_eq!(data.len(), 3);
    assert_eq!(data[0]["data"], "2");
    server.stop().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_the_read_timeout() {
    let server = start(small()).await;
    let mut wire = server.wire().await;
    wire.send(GET).await;
    assert_eq!(wire.read_response().await.status, 200);
    assert_eq!(wire.closed().await, (End::Eof, Vec::new()));
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_hint_follows_its_knob_and_stays_below_the_idle_timer() {
    for (interval, read_timeout, hints) in [(5, 75, 4..=6), (60, 75, 25..=37), (20, 75, 16..=24)] {
        let mut config = Config {
            poll_interval: Duration::from_secs(interval),
            ..Config::default()
        };
        config.server.read_timeout = Duration::from_secs(read_timeout);
        let server = start(config).await;
        for _ in 0..20 {
            let hint = hint(&server).await;
            assert!(hints.contains(&hint), "{hint} for {interval}");
        }
        server.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_hint_is_shorter_while_the_topic_is_busy_and_others_do_not_count() {
    let server = start(Config::default()).await;
    server.post("/topics/other", "x").await;
    let ordinary = hint(&server).await;
    server.post("/topics/news", "x").await;
    let busy = hint(&server).await;
    assert!(
        (4..=6).contains(&ordinary) && busy <= 2,
        "{ordinary}, {busy}"
    );
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_hint_grows_while_the_topic_is_quiet_whether_it_has_messages_or_not() {
    let server = start(Config::default()).await;
    sleep(Duration::from_secs(20)).await;
    let without = hint(&server).await;
    server.post("/topics/news", "x").await;
    sleep(Duration::from_secs(40)).await;
    let after_40_s = hint(&server).await;
    sleep(Duration::from_secs(3_600)).await;
    let longest = hint(&server).await;
    assert!((8..=12).contains(&without), "{without}");
    assert!((8..=12).contains(&after_40_s), "{after_40_s}");
    assert!((16..=24).contains(&longest), "{longest}");
    server.stop().await;
}

#[test]
fn an_interval_that_an_idle_connection_does_not_outlive_is_refused() {
    let check = |interval, read_timeout| {
        let args = ["short-polling", "--poll-interval", interval];
        let timeout = ["--read-timeout", read_timeout];
        Config::parse_from([&args[..], &timeout].concat()).check()
    };
    assert_eq!(Config::default().check(), Ok(()));
    for (interval, read_timeout, shorter) in [("37.5", "75", "74.9"), ("0.1", "2", "1.9")] {
        assert_eq!(check(interval, read_timeout), Ok(()));
        assert!(check(interval, shorter).is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_obeys_the_longest_hint_finds_the_connection_open_until_the_idle_timer() {
    let server = start(Config::default()).await;
    let mut wire = server.wire().await;
    let longest = Config::default().hint().longest();
    for _ in 0..3 {
        wire.send(GET).await;
        assert_eq!(wire.read_response().await.status, 200);
        sleep(Duration::from_secs(longest)).await;
    }
    sleep(Duration::from_secs(longest)).await;
    sleep(Duration::from_secs(2)).await;
    assert_eq!(wire.closed().await, (End::Eof, Vec::new()));
    server.stop().await;
}

async fn hint(server: &TestServer) -> u64 {
    let reply = server.get("/topics/news").await;
    let hint = reply.header("x-poll-interval").expect("there is a hint");
    hint.parse().expect("a hint is whole seconds")
}

#[test]
fn a_time_of_zero_is_refused_where_it_makes_no_sense() {
    let parse = |knob, value| Config::try_parse_from(["short-polling", knob, value]).is_ok();
    for knob in ["--read-timeout", "--stall", "--poll-interval"] {
        assert!(!parse(knob, "0") && parse(knob, "0.1"), "{knob}");
    }
}
