//! The feed's contract, tested on a feed on NATS, and what only a stream can promise. These tests need
//! `nats-server`: `cargo test -p common --features nats --test nats`.
#![cfg(all(feature = "nats", unix))]
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "contract/model.rs"]
mod model;
#[path = "contract/per_topic.rs"]
mod per_topic;
#[path = "contract/verbs.rs"]
mod verbs;

use std::{sync::LazyLock, thread, time::Duration};

use async_nats::jetstream;
use common::{
    After, Cursor, Data, Draft, Feed, FeedError, FeedSource, IdempotencyKey, Page, PageLimit,
    Problem, Reason, Retention, Topic, Topics,
};
use harness::{Fault, FaultProxy, Faults, NatsServers, PATIENCE};
use tokio::{
    runtime::Runtime,
    task::{JoinSet, yield_now},
    time::timeout,
};

/// The log under test.
type Log = Feed;

/// Runs of the model.
const CASES: u32 = 20;
/// No: the feed's clients have timeouts, which would expire under a paused clock.
const PAUSED: bool = false;

/// The runtime of the clients. It outlives the runtime of a test.
static CLIENTS: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
static SERVER: LazyLock<NatsServers> = LazyLock::new(|| {
    let started = thread::spawn(|| CLIENTS.block_on(NatsServers::start(1)));
    started.join().unwrap()
});

/// A feed on a new stream. It keeps so little in memory that most messages are read from the stream.
fn feed(retention: Retention) -> Feed {
    let retention = Retention {
        in_memory: 400,
        ..retention
    };
    let opened = thread::spawn(|| {
        let source: FeedSource = SERVER.feed().parse().unwrap();
        CLIENTS.block_on(source.open(retention, false)).unwrap()
    });
    opened.join().unwrap()
}

/// A second client of the stream. To the stream it is another process.
async fn open(url: &str, retention: Retention) -> Feed {
    let source: FeedSource = url.parse().unwrap();
    source.open(retention, false).await.unwrap()
}

async fn refused(url: &str, retention: Retention, new_epoch: bool) -> String {
    let source: FeedSource = url.parse().unwrap();
    let opened = source.open(retention, new_epoch).await;
    opened.expect_err("it is refused").to_string()
}

fn keeping(messages: usize) -> Retention {
    Retention {
        messages,
        ..Retention::default()
    }
}

fn topic(name: &str) -> Topic {
    name.parse().unwrap()
}

async fn try_publish(feed: &Feed, name: &str, text: &str) -> Result<Cursor, FeedError> {
    let published = feed.publish(topic(name), Draft::new(Data::text(text)));
    published.await.map(|published| published.id)
}

async fn publish(feed: &Feed, name: &str, text: &str) -> Cursor {
    try_publish(feed, name, text).await.unwrap()
}

/// Publishes, and tries again until it succeeds.
async fn publish_at_last(feed: &Feed, name: &str, text: &str) -> Cursor {
    let published = async {
        loop {
            match try_publish(feed, name, text).await {
                Ok(id) => return id,
                Err(FeedError::Away(_)) => yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    };
    timeout(PATIENCE, published).await.expect("NATS is back")
}

async fn read(feed: &Feed, names: &str, after: impl Into<After>) -> Page {
    let (names, after) = (names.parse().unwrap(), after.into());
    let read = feed.read(&names, &after, PageLimit::default());
    timeout(PATIENCE, read).await.expect("it answers").unwrap()
}

fn seqs(page: &Page) -> Vec<u64> {
    page.messages.iter().map(|message| message.id.seq).collect()
}

/// What a reader gets that begins at a cursor and reads until it has the message of this id.
async fn heard(feed: &Feed, names: &str, mut after: Cursor, last: Cursor) -> Vec<u64> {
    let names: Topics = names.parse().unwrap();
    let mut heard = Vec::new();
    while heard.last() != Some(&last.seq) {
        let from = after.into();
        let next = feed.next(&names, &from, PageLimit::default());
        let page = timeout(PATIENCE, next)
            .await
            .expect("there is more")
            .unwrap();
        assert_eq!(page.gap, None);
        heard.extend(seqs(&page));
        after = page.next;
    }
    heard
}

/// Access to the stream as other programs have it.
async fn other_program(server: &NatsServers, user: &str) -> jetstream::Context {
    let (user, password) = user.split_once(':').unwrap();
    let options = async_nats::ConnectOptions::with_user_and_password(user.into(), password.into());
    let client = options.connect(server.addrs()[0].to_string()).await;
    jetstream::new(client.unwrap())
}

#[tokio::test]
async fn every_process_has_the_same_messages_under_the_same_cursors() {
    let url = SERVER.feed();
    let (one, two) = (open(&url, keeping(9)).await, open(&url, keeping(9)).await);
    assert_eq!(one.head(), two.head());
    let first = publish(&one, "a", "x").await;
    let second = publish(&two, "a.b", "y").await;
    assert_eq!((first.seq, second.seq), (1, 2));
    let late = open(&url, keeping(9)).await;
    let page = read(&two, "a,a.b", After::Earliest).await;
    assert_eq!(seqs(&page), [1, 2]);
    for feed in [&one, &late] {
        assert_eq!(read(feed, "a,a.b", second).await.gap, None);
        assert_eq!(read(feed, "a,a.b", After::Earliest).await, page);
    }
}

#[tokio::test]
async fn a_cursor_from_a_process_that_is_further_on_is_waited_for_and_not_ahead() {
    let user = SERVER.user();
    let proxy = FaultProxy::start(SERVER.addrs()[0], Fault::Pass).await;
    let near = open(&SERVER.url(&user, &SERVER.addrs()), keeping(9)).await;
    let far = open(&SERVER.url(&user, &[proxy.addr()]), keeping(9)).await;
    proxy.set(Faults::down(Fault::Delay(Duration::from_millis(500))));
    let first = publish(&near, "a", "x").await;
    assert_eq!(far.head().seq, 0, "or the test shows nothing");
    let page = read(&far, "a", first).await;
    assert_eq!((page.gap, page.next), (None, first));
    let second = publish(&near, "a", "y").await;
    assert_eq!(heard(&far, "a", first, second).await, [2]);
}

#[tokio::test]
async fn while_nats_is_away_publishing_is_refused_reading_goes_on_and_then_nothing_is_lost() {
    let mut server = NatsServers::start(1).await;
    let url = server.feed();
    let (one, two) = (open(&url, keeping(99)).await, open(&url, keeping(99)).await);
    let first = publish(&one, "a", "x").await;
    let names: Topics = "a".parse().unwrap();
    let waiting = tokio::spawn({
        let two = two.clone();
        async move { two.next(&names, &first.into(), PageLimit::default()).await }
    });
    server.kill(0).await;
    let away = timeout(PATIENCE, try_publish(&one, "a", "y"))
        .await
        .unwrap();
    let problem = Problem::from(away.expect_err("it is away"));
    let retry = problem
        .headers
        .iter()
        .any(|(name, _)| name == "retry-after");
    assert!(problem.status == 503 && retry, "{problem}");
    assert_eq!(seqs(&read(&one, "a", After::Earliest).await), [1]);
    assert_eq!(one.health(), Ok(()));
    assert!(!waiting.is_finished(), "a waiting reader goes on waiting");
    server.run(0).await;
    server.healthy(0).await;
    let mut last = first;
    for text in ["1", "2", "3"] {
        last = publish_at_last(&one, "a", text).await;
    }
    let page = timeout(PATIENCE, waiting).await.expect("it is woken");
    let page = page.unwrap().unwrap();
    assert_eq!((page.gap, page.messages[0].id.seq > 1), (None, true));
    assert_eq!(
        heard(&two, "a", first, last).await,
        heard(&one, "a", first, last).await
    );
}

#[tokio::test]
async fn a_process_that_was_cut_off_hears_of_everything_once() {
    let user = SERVER.user();
    let proxy = FaultProxy::start(SERVER.addrs()[0], Fault::Pass).await;
    let near = open(&SERVER.url(&user, &SERVER.addrs()), keeping(99)).await;
    let far = open(&SERVER.url(&user, &[proxy.addr()]), keeping(99)).await;
    let first = publish(&near, "a", "x").await;
    for fault in [Fault::Blackhole, Fault::Stall, Fault::Reset] {
        proxy.set(fault);
        let before = publish(&near, "a", "while it is cut off").await;
        let refused = timeout(PATIENCE, try_publish(&far, "a", "y"))
            .await
            .unwrap();
        assert!(
            matches!(refused, Err(FeedError::Away(_))),
            "{fault:?}: {refused:?}"
        );
        proxy.set(Fault::Pass);
        proxy.drop_all();
        let after = publish_at_last(&far, "a", "z").await;
        let both = [&near, &far];
        let [all, same] = both.map(|feed| heard(feed, "a", first, after));
        let all = all.await;
        assert!(all.contains(&before.seq));
        assert_eq!(all, same.await, "{fault:?}");
    }
}

#[tokio::test]
async fn what_was_on_its_way_when_a_connection_broke_comes_without_anything_after_it() {
    let user = SERVER.user();
    let proxy = FaultProxy::start(SERVER.addrs()[0], Fault::Pass).await;
    let near = open(&SERVER.url(&user, &SERVER.addrs()), keeping(99)).await;
    let far = open(&SERVER.url(&user, &[proxy.addr()]), keeping(99)).await;
    let first = publish(&far, "a", "x").await;
    proxy.set(Faults::down(Fault::Blackhole));
    let last = publish(&near, "a", "swallowed").await;
    proxy.set(Fault::Pass);
    proxy.drop_all();
    assert_eq!(heard(&far, "a", first, last).await, [last.seq]);
}

#[tokio::test]
async fn an_acknowledgement_that_is_lost_is_no_201_and_the_same_key_finds_out() {
    let user = SERVER.user();
    let proxy = FaultProxy::start(SERVER.addrs()[0], Fault::Pass).await;
    let near = open(&SERVER.url(&user, &SERVER.addrs()), keeping(9)).await;
    let far = open(&SERVER.url(&user, &[proxy.addr()]), keeping(9)).await;
    let key: IdempotencyKey = "k".parse().unwrap();
    let once = || far.publish_once(topic("a"), Draft::new(Data::text("x")), key.clone());
    proxy.set(Faults::down(Fault::Blackhole));
    let lost = once().await;
    assert!(matches!(lost, Err(FeedError::Away(_))), "{lost:?}");
    assert_eq!(
        seqs(&read(&near, "a", After::Earliest).await),
        [1],
        "or the test shows nothing"
    );
    proxy.set(Fault::Pass);
    let again = async {
        loop {
            match once().await {
                Err(FeedError::Away(_)) => yield_now().await,
                published => return published.unwrap(),
            }
        }
    };
    let again = timeout(PATIENCE, again).await.expect("NATS is back");
    assert_eq!((again.id.seq, again.duplicate), (1, true));
}

#[tokio::test]
async fn a_key_is_one_for_all_processes() {
    let url = SERVER.feed();
    let (one, two) = (open(&url, keeping(9)).await, open(&url, keeping(9)).await);
    let key: IdempotencyKey = "k".parse().unwrap();
    let once = async |feed: &Feed, text| {
        let draft = Draft::new(Data::text(text));
        feed.publish_once(topic("a"), draft, key.clone()).await
    };
    let (first, second) = tokio::join!(once(&one, "x"), once(&two, "x"));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert!(first.id == second.id && first.duplicate != second.duplicate);
    assert_eq!(
        once(&two, "y").await,
        Err(FeedError::KeyReused(key.clone()))
    );
    let page = read(&two, "a", After::Earliest).await;
    assert_eq!(seqs(&page), [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_many_use_at_once_is_one_message_in_a_cluster_too() {
    let servers = NatsServers::start(3).await;
    let url = servers.feed();
    let feeds = [open(&url, keeping(99)).await, open(&url, keeping(99)).await];
    for round in 1..=10 {
        let key: IdempotencyKey = format!("k{round}").parse().unwrap();
        let mut asking = JoinSet::new();
        for number in 0..16 {
            let (feed, key) = (feeds[number % 2].clone(), key.clone());
            asking.spawn(async move {
                loop {
                    let draft = Draft::new(Data::text("x"));
                    match feed.publish_once(topic("a"), draft, key.clone()).await {
                        Err(FeedError::Away(_)) => yield_now().await,
                        published => return published.unwrap(),
                    }
                }
            });
        }
        let answers = timeout(PATIENCE, asking.join_all())
            .await
            .expect("all are answered");
        let new = answers.iter().filter(|published| !published.duplicate);
        assert_eq!(new.count(), 1, "{answers:?}");
        assert!(
            answers.iter().all(|published| published.id.seq == round),
            "{answers:?}"
        );
    }
}

#[tokio::test]
async fn what_the_stream_let_go_of_while_nobody_read_is_named_and_other_topics_are_whole() {
    let user = SERVER.user();
    let proxy = FaultProxy::start(SERVER.addrs()[0], Fault::Pass).await;
    let near = open(&SERVER.url(&user, &SERVER.addrs()), keeping(4)).await;
    let far = open(&SERVER.url(&user, &[proxy.addr()]), keeping(4)).await;
    publish(&near, "quiet", "x").await;
    let start = publish(&near, "busy", "0").await;
    heard(&far, "busy", Cursor { seq: 0, ..start }, start).await;
    proxy.set(Fault::Stall);
    for number in 1..=9 {
        publish(&near, "busy", &number.to_string()).await;
    }
    let last = publish(&near, "quiet", "y").await;
    proxy.set(Fault::Pass);
    proxy.drop_all();
    assert_eq!(heard(&far, "quiet", start, last).await, [last.seq]);
    let page = read(&far, "quiet,busy", start).await;
    let gap = page.gap.as_ref().expect("some of the busy topic are lost");
    assert_eq!(
        (gap.reason, gap.topics.to_string()),
        (Reason::Trimmed, "busy".into())
    );
    let rest = read(&far, "quiet,busy", page.next).await;
    let all = [seqs(&page), seqs(&rest)].concat();
    assert_eq!((all, gap.resumed.seq), (vec![8, 9, 10, 11, 12], 7));
}

#[tokio::test]
async fn a_process_that_starts_late_names_what_it_cannot_know_and_nothing_else() {
    let url = SERVER.feed();
    let one = open(&url, keeping(2)).await;
    let start = publish(&one, "quiet", "x").await;
    for text in ["1", "2", "3"] {
        publish(&one, "busy", text).await;
    }
    let last = publish(&one, "rare", "y").await;
    let late = open(&url, keeping(2)).await;
    for feed in [&one, &late] {
        assert_eq!(heard(feed, "quiet,rare", start, last).await, [5]);
        let gap = read(feed, "busy", start).await.gap.expect("2 is lost");
        assert_eq!((gap.reason, gap.resumed.seq), (Reason::Trimmed, 2));
    }
    let whole = Cursor { seq: 2, ..start };
    assert_eq!(seqs(&read(&late, "busy", whole).await), [3, 4]);
}

#[tokio::test]
async fn a_stream_that_is_made_anew_is_another_history() {
    let user = SERVER.user();
    let url = SERVER.url(&user, &SERVER.addrs());
    let one = open(&url, keeping(9)).await;
    let old = publish(&one, "a", "x").await;
    let admin = other_program(&SERVER, &user).await;
    admin.delete_stream("FEED").await.unwrap();
    let gone = timeout(PATIENCE, try_publish(&one, "a", "y"))
        .await
        .unwrap();
    assert!(matches!(gone, Err(FeedError::Away(_))), "{gone:?}");
    let two = open(&url, keeping(9)).await;
    let new = publish(&two, "a", "z").await;
    assert!(new.seq == old.seq && new.epoch != old.epoch);
    let at_last = publish_at_last(&one, "a", "after").await;
    assert_eq!(at_last.epoch, new.epoch);
    let page = read(&one, "a", old).await;
    assert_eq!(
        page.gap.as_ref().map(|gap| gap.reason),
        Some(Reason::Foreign)
    );
    assert_eq!(page.messages[0].id, new);
}

#[tokio::test]
async fn a_stream_that_has_lost_what_it_acknowledged_is_not_trusted_until_it_has_a_new_epoch() {
    let mut server = NatsServers::start(1).await;
    let url = server.feed();
    let feed = open(&url, keeping(9)).await;
    let first = publish(&feed, "a", "x").await;
    server.kill(0).await;
    server.save(0);
    server.run(0).await;
    let second = publish_at_last(&feed, "a", "lost").await;
    server.kill(0).await;
    server.restore(0);
    server.run(0).await;
    let stopped = async {
        while feed.health() != Err(FeedError::Stopped) {
            yield_now().await;
        }
    };
    timeout(PATIENCE, stopped).await.expect("it is found out");
    assert_eq!(try_publish(&feed, "a", "y").await, Err(FeedError::Stopped));
    assert_eq!(read(&feed, "a", After::Earliest).await.messages.len(), 2);
    let (names, beyond) = ("a".parse().unwrap(), Cursor { seq: 9, ..second }.into());
    let asked = feed.read(&names, &beyond, PageLimit::default());
    let answer = timeout(PATIENCE, asked).await.expect("nobody waits for it");
    assert_eq!(answer, Err(FeedError::Stopped));
    let source: FeedSource = url.parse().unwrap();
    let renewed = source.open(keeping(9), true).await.unwrap();
    assert_ne!(renewed.head().epoch, first.epoch);
    let page = read(&renewed, "a", second).await;
    assert_eq!(page.gap.map(|gap| gap.reason), Some(Reason::Foreign));
    assert_eq!(page.messages.len(), 1);
}

#[tokio::test]
async fn a_stream_that_does_not_fit_is_refused_by_the_field_and_a_new_epoch_makes_it_fit() {
    let user = SERVER.user();
    let url = SERVER.url(&user, &SERVER.addrs());
    let old = open(&url, keeping(9)).await.head().epoch;
    let other = refused(&url, keeping(10), false).await;
    assert!(
        other.contains("max_msgs_per_subject 9, but needs 10"),
        "{other}"
    );
    let url_of_3 = url.replace("replicas=1", "replicas=3");
    let other = refused(&url_of_3, keeping(9), false).await;
    assert!(other.contains("num_replicas 1, but needs 3"), "{other}");
    let source: FeedSource = url.parse().unwrap();
    let renewed = source.open(keeping(10), true).await.unwrap().head();
    assert_ne!(renewed.epoch, old);
    assert_eq!(open(&url, keeping(10)).await.head(), renewed);

    let admin = other_program(&SERVER, &user).await;
    admin.delete_stream("FEED").await.unwrap();
    let foreign = jetstream::stream::Config {
        name: "FEED".into(),
        subjects: vec!["orders.>".into()],
        ..Default::default()
    };
    admin.create_stream(foreign).await.unwrap();
    let other = refused(&url, keeping(9), false).await;
    assert!(other.contains("stream FEED has subjects"), "{other}");
}

#[tokio::test]
async fn at_the_start_whatever_is_wrong_is_said() {
    let addr = SERVER.addrs()[0];
    let wrong = refused(&format!("nats://u0:wrong@{addr}"), keeping(9), false).await;
    assert!(wrong.contains("authorization"), "{wrong}");
    assert!(
        wrong.contains(&addr.to_string()) && !wrong.contains("wrong@"),
        "{wrong}"
    );
    let silent = refused("nats://127.0.0.1:1", keeping(9), false).await;
    assert!(silent.contains("127.0.0.1:1"), "{silent}");
    let no_jetstream = refused(&format!("nats://none:p@{addr}"), keeping(9), false).await;
    assert!(
        no_jetstream.contains("JetStream not enabled for account"),
        "{no_jetstream}"
    );
}

#[tokio::test]
async fn processes_that_start_at_once_make_one_stream_and_why_none_can_be_made_is_said() {
    let url = SERVER.feed();
    let mut starting = JoinSet::new();
    for _ in 0..8 {
        let url = url.clone();
        starting.spawn(async move { open(&url, keeping(9)).await.head() });
    }
    let heads = starting.join_all().await;
    assert!(heads.iter().all(|head| *head == heads[0]), "{heads:?}");
    let too_many = SERVER.feed().replace("replicas=1", "replicas=3");
    let refused = refused(&too_many, keeping(9), false).await;
    assert!(refused.contains("replicas > 1"), "{refused}");
}

#[tokio::test]
async fn what_others_put_into_the_stream_that_is_no_message_is_passed_over() {
    let user = SERVER.user();
    let feed = open(&SERVER.url(&user, &SERVER.addrs()), keeping(9)).await;
    let start = publish(&feed, "a", "x").await;
    let other = other_program(&SERVER, &user).await;
    for (subject, payload) in [("FEED.a", "hello"), ("FEED.a.*", "{}"), ("FEED.é", "")] {
        // What NATS itself refuses changes nothing.
        if let Ok(sent) = other.publish(subject, payload.into()).await {
            let _ = sent.await;
        }
    }
    let record = r#"{"type":"t","timestamp":"2026-11-23T17:55:51.123Z","data":[1]}"#;
    let sent = other.publish("FEED.a", record.into()).await.unwrap().await;
    let last = Cursor {
        seq: sent.unwrap().sequence,
        ..start
    };
    assert!(last.seq > 2);
    assert_eq!(heard(&feed, "a", start, last).await, [last.seq]);
    let late = open(&SERVER.url(&user, &SERVER.addrs()), keeping(9)).await;
    assert_eq!(late.head(), last);
}

#[tokio::test]
async fn an_older_message_that_the_stream_has_no_more_is_a_gap_and_not_a_wait() {
    let user = SERVER.user();
    let little = Retention {
        in_memory: 200,
        ..keeping(9)
    };
    let feed = open(&SERVER.url(&user, &SERVER.addrs()), little).await;
    for text in ["1", "2", "3", "4"] {
        publish(&feed, "a", text).await;
    }
    assert_eq!(seqs(&read(&feed, "a", After::Earliest).await), [1, 2, 3, 4]);
    let admin = other_program(&SERVER, &user).await;
    let mut stream = admin.get_stream("FEED").await.unwrap();
    let config = stream.info().await.unwrap().config.clone();
    let less = jetstream::stream::Config {
        max_messages_per_subject: 2,
        ..config
    };
    admin.update_stream(less).await.unwrap();
    let start = Cursor {
        seq: 0,
        ..feed.head()
    };
    let page = read(&feed, "a", start).await;
    assert_eq!(page.gap.as_ref().map(|gap| gap.resumed.seq), Some(2));
    assert_eq!(seqs(&page), [3, 4]);
}
