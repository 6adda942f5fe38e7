//! The feed's contract, tested on a feed in a file, and what only a file can promise.
#![allow(clippy::unwrap_used, reason = "a test")]

mod contract;

use std::{
    cell::RefCell,
    env, fs, io,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use common::{
    After, Cursor, Data, Draft, Feed, FeedError, FeedSource, IdempotencyKey, Page, PageLimit,
    Reason, Retention, Topics, healthz,
};
use futures_util::FutureExt;
use proptest::prelude::*;
use rusqlite::Connection;

/// The log under test.
type Log = Feed;

/// Runs of the model.
const CASES: u32 = 60;
/// Whether the model drives the clock.
const PAUSED: bool = true;

/// A folder for one test. Dropping it deletes it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("journal-{}-{number}", process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("feed.sqlite")
    }

    fn open(&self, retention: &Retention) -> Feed {
        open(&self.file(), retention, false).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // After an error the folder stays in the temporary folder.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn open(path: &Path, retention: &Retention, new_epoch: bool) -> io::Result<Feed> {
    let source = FeedSource::File(path.into());
    let opened = source.open(retention.clone(), new_epoch).now_or_never();
    opened.expect("a file is opened at once")
}

/// A feed in a new file, which exists until the test's thread ends. It keeps so little in memory that most
/// messages are read from the file.
fn feed(retention: Retention) -> Feed {
    thread_local! {
        static FILES: RefCell<Vec<Scratch>> = RefCell::default();
    }
    let scratch = Scratch::new();
    let feed = scratch.open(&Retention {
        in_memory: 400,
        ..retention
    });
    FILES.with_borrow_mut(|files| files.push(scratch));
    feed
}

async fn publish(feed: &Feed, topic: &str, text: &str) -> Cursor {
    let draft = Draft::new(Data::text(text));
    let published = feed.publish(topic.parse().unwrap(), draft).await;
    published.unwrap().id
}

async fn read(feed: &Feed, topics: &str, after: &After) -> Page {
    let topics: Topics = topics.parse().unwrap();
    feed.read(&topics, after, PageLimit::default())
        .await
        .unwrap()
}

fn texts(page: &Page) -> Vec<String> {
    let messages = page.messages.iter();
    let data = messages.map(|message| {
        let json: serde_json::Value = serde_json::from_slice(&message.json).unwrap();
        json["data"].as_str().unwrap().to_owned()
    });
    data.collect()
}

#[tokio::test]
async fn after_a_restart_the_same_cursor_goes_on_without_a_gap() {
    let scratch = Scratch::new();
    let feed = scratch.open(&Retention::default());
    let first = publish(&feed, "a", "one").await;
    publish(&feed, "a", "two").await;
    let before = read(&feed, "a", &After::Earliest).await;
    drop(feed);
    let feed = scratch.open(&Retention::default());
    assert_eq!(
        read(&feed, "a", &After::Earliest).await,
        before,
        "byte for byte"
    );
    let id = publish(&feed, "a", "three").await;
    assert_eq!((id.epoch, id.seq), (first.epoch, 3));
    let page = read(&feed, "a", &first.into()).await;
    assert_eq!(
        (page.gap.clone(), texts(&page)),
        (None, vec!["two".into(), "three".into()])
    );
}

#[tokio::test]
async fn a_key_is_known_after_a_restart() {
    let scratch = Scratch::new();
    let key: IdempotencyKey = "k".parse().unwrap();
    let draft = Draft::new(Data::text("x"));
    let once = async |feed: &Feed, draft: &Draft| {
        feed.publish_once("a".parse().unwrap(), draft.clone(), key.clone())
            .await
    };
    let first = once(&scratch.open(&Retention::default()), &draft)
        .await
        .unwrap();
    let feed = scratch.open(&Retention::default());
    let again = once(&feed, &draft).await.unwrap();
    assert_eq!((again.id, again.duplicate), (first.id, true));
    let other = once(&feed, &Draft::new(Data::text("y"))).await;
    assert_eq!(other, Err(FeedError::KeyReused(key.clone())));
}

#[tokio::test]
async fn the_same_key_twice_in_one_group_is_one_message() {
    let feed = feed(Retention::default());
    let once = async |text| {
        let draft = Draft::new(Data::text(text));
        feed.publish_once(
            "a".parse().unwrap(),
            draft,
            "k".parse::<IdempotencyKey>().unwrap(),
        )
        .await
    };
    let (first, again, other) = tokio::join!(once("x"), once("x"), once("y"));
    let (first, again) = (first.unwrap(), again.unwrap());
    assert_eq!(
        (again.id, first.duplicate, again.duplicate),
        (first.id, false, true)
    );
    assert!(matches!(other, Err(FeedError::KeyReused(_))));
    assert_eq!(feed.counts().messages, 1);
}

#[tokio::test]
async fn what_is_no_longer_in_memory_is_read_from_the_file() {
    let scratch = Scratch::new();
    let retention = Retention {
        in_memory: 2_000,
        ..Retention::default()
    };
    let feed = scratch.open(&retention);
    for number in 0..100 {
        publish(&feed, ["a", "b"][number % 2], &number.to_string()).await;
    }
    let whole: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    for feed in [feed.clone(), feed.handle()] {
        let page = read(&feed, "a,b", &After::Earliest).await;
        assert_eq!(
            (texts(&page), page.next, page.more),
            (whole.clone(), feed.head(), false)
        );
        let topics = "a,b".parse().unwrap();
        let next = feed
            .next(&topics, &After::Earliest, PageLimit::default())
            .await;
        assert_eq!(next.unwrap(), page);
    }
    // These come from the file.
    let other = Connection::open(scratch.file()).unwrap();
    other
        .execute("UPDATE messages SET data = '\"changed\"' WHERE seq = 1", [])
        .unwrap();
    assert_eq!(
        texts(&read(&feed, "a,b", &After::Earliest).await)[0],
        "changed"
    );
    other
        .execute("UPDATE messages SET type = 'no type' WHERE seq = 1", [])
        .unwrap();
    let bad = feed
        .read(
            &"a".parse().unwrap(),
            &After::Earliest,
            PageLimit::default(),
        )
        .await;
    assert!(matches!(bad, Err(FeedError::Unreadable(_))), "{bad:?}");
    other
        .execute("DELETE FROM messages WHERE seq = 1", [])
        .unwrap();
    let missing = feed
        .read(
            &"a".parse().unwrap(),
            &After::Earliest,
            PageLimit::default(),
        )
        .await;
    let why = "message 1 is missing".to_owned();
    assert_eq!(missing, Err(FeedError::Unreadable(why)));
}

#[tokio::test]
async fn an_old_copy_takes_a_new_epoch_and_its_messages_new_ids() {
    let scratch = Scratch::new();
    let old = publish(&scratch.open(&Retention::default()), "a", "x").await;
    let feed = open(&scratch.file(), &Retention::default(), true).unwrap();
    let page = read(&feed, "a", &old.into()).await;
    let id = page.messages[0].id;
    assert_eq!(page.gap.unwrap().reason, Reason::Foreign);
    assert!(id.epoch != old.epoch && id.seq == old.seq);
    assert!(
        page.messages[0]
            .json
            .starts_with(format!(r#"{{"id":"{id}""#).as_bytes())
    );
    drop(feed);
    assert_eq!(
        scratch.open(&Retention::default()).head(),
        id,
        "once and for all"
    );
}

#[tokio::test]
async fn a_panic_on_the_thread_that_writes_is_seen_by_health() {
    let scratch = Scratch::new();
    let feed = scratch.open(&Retention::default());
    publish(&feed, "a", "1").await;
    assert_eq!(healthz::<String>(&feed).unwrap().status(), 200);
    let commits = common::store::commits(&feed).unwrap();
    let panics = commits.run(0, |_| -> rusqlite::Result<()> { panic!("on purpose") });
    panics.await.unwrap_err();
    let mut failure = commits.failure();
    let ended = failure.wait_for(Option::is_some);
    tokio::time::timeout(std::time::Duration::from_secs(10), ended)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(healthz::<String>(&feed).unwrap_err().status, 503);
}

#[tokio::test]
async fn a_file_is_for_one_process() {
    let scratch = Scratch::new();
    let feed = scratch.open(&Retention::default());
    let second = open(&scratch.file(), &Retention::default(), false)
        .unwrap_err()
        .to_string();
    assert!(second.ends_with("another process has it open"), "{second}");
    drop(feed);
    scratch.open(&Retention::default());
}

/// The write-ahead log belongs to one name of the file, so a second name would miss what is in it.
#[cfg(unix)]
#[tokio::test]
async fn a_file_of_two_names_is_refused_by_both() {
    let scratch = Scratch::new();
    let feed = scratch.open(&Retention::default());
    let other = scratch.0.join("other.sqlite");
    fs::hard_link(scratch.file(), &other).unwrap();
    let refused = |path: &Path| {
        let error = open(path, &Retention::default(), false).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("it has 2 hard links, and must have one"),
            "{error}"
        );
    };
    refused(&other);
    drop(feed);
    refused(&scratch.file());
    fs::remove_file(other).unwrap();
    scratch.open(&Retention::default());
}

#[cfg(unix)]
#[tokio::test]
async fn a_file_is_for_one_process_through_a_link_too() {
    use std::os::unix::fs::symlink;

    let scratch = Scratch::new();
    let link = scratch.0.join("link.sqlite");
    symlink(scratch.file(), &link).unwrap();
    let feed = open(&link, &Retention::default(), false).unwrap();
    let second = open(&scratch.file(), &Retention::default(), false).unwrap_err();
    assert!(second.to_string().ends_with("another process has it open"));
    publish(&feed, "a", "1").await;
    drop(feed);
    let feed = scratch.open(&Retention::default());
    assert_eq!(texts(&read(&feed, "a", &After::Earliest).await), ["1"]);
    let second = open(&link, &Retention::default(), false).unwrap_err();
    assert!(second.to_string().ends_with("another process has it open"));
}

#[cfg(unix)]
#[tokio::test]
async fn the_lock_does_not_empty_what_a_link_in_its_place_leads_to() {
    let scratch = Scratch::new();
    let precious = scratch.0.join("precious");
    fs::write(&precious, "of value").unwrap();
    let lock = scratch.0.join("feed.sqlite-lock");
    std::os::unix::fs::symlink(&precious, lock).unwrap();
    let error = open(&scratch.file(), &Retention::default(), false).unwrap_err();
    assert!(error.to_string().contains("-lock is a link"), "{error}");
    assert_eq!(fs::read(&precious).unwrap(), b"of value");
}

/// To open a pipe for writing would wait for its reader, so the server would never start.
#[cfg(unix)]
#[tokio::test]
async fn a_folder_or_a_pipe_is_neither_a_feed_nor_its_lock() {
    let pipe = |path: &Path| {
        let made = process::Command::new("mkfifo").arg(path).status();
        assert!(made.unwrap().success());
    };
    let folder = |path: &Path| fs::create_dir(path).unwrap();
    for (made, name) in [
        (&pipe as &dyn Fn(&Path), "feed.sqlite"),
        (&pipe, "feed.sqlite-lock"),
        (&folder, "feed.sqlite"),
        (&folder, "feed.sqlite-lock"),
    ] {
        let scratch = Scratch::new();
        made(&scratch.0.join(name));
        let error = open(&scratch.file(), &Retention::default(), false).unwrap_err();
        assert!(error.to_string().ends_with("not a regular file"), "{error}");
    }
}

/// The file may hold secrets: the secrets of webhook endpoints are in the feed's file.
#[cfg(unix)]
#[tokio::test]
async fn only_the_owner_reads_the_files() {
    use std::os::unix::fs::PermissionsExt;

    let scratch = Scratch::new();
    let feed = scratch.open(&Retention::default());
    publish(&feed, "a", "1").await;
    let mut files = Vec::new();
    for entry in fs::read_dir(&scratch.0).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", entry.file_name());
        files.push(entry.file_name().into_string().unwrap());
    }
    files.sort_unstable();
    let beside = ["", "-lock", "-shm", "-wal"].map(|end| format!("feed.sqlite{end}"));
    assert_eq!(files, beside);
}

#[tokio::test]
async fn a_file_that_is_no_feed_is_refused_and_left_alone() {
    let scratch = Scratch::new();
    let refused = |why: &str| {
        let before = fs::read(scratch.file()).unwrap();
        let error = open(&scratch.file(), &Retention::default(), true)
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("feed file ") && error.contains(why),
            "{error}"
        );
        assert_eq!(fs::read(scratch.file()).unwrap(), before, "{why}");
        fs::remove_file(scratch.file()).unwrap();
    };
    fs::write(
        scratch.file(),
        "no database, but a text of some length".repeat(100),
    )
    .unwrap();
    refused("file is not a database");
    let foreign = Connection::open(scratch.file()).unwrap();
    foreign.execute_batch("CREATE TABLE mine (x)").unwrap();
    drop(foreign);
    refused("not a feed's");
    drop(scratch.open(&Retention::default()));
    let newer = Connection::open(scratch.file()).unwrap();
    newer.pragma_update(None, "user_version", 2).unwrap();
    drop(newer);
    refused("it has version 2, but this program needs version 1");
}

#[tokio::test]
async fn a_damaged_file_is_refused() {
    let scratch = Scratch::new();
    let feed = scratch.open(&Retention::default());
    for _ in 0..200 {
        publish(&feed, "a", &"x".repeat(1_000)).await;
    }
    drop(feed);
    let mut bytes = fs::read(scratch.file()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 8_192].fill(0xff);
    fs::write(scratch.file(), bytes).unwrap();
    let error = open(&scratch.file(), &Retention::default(), false)
        .unwrap_err()
        .to_string();
    assert!(error.contains("malformed"), "{error}");
}

#[tokio::test]
async fn less_retention_at_the_next_start_is_a_gap_and_not_a_surprise() {
    let scratch = Scratch::new();
    let feed = scratch.open(&Retention::default());
    let first = publish(&feed, "a", "0").await;
    for number in 1..9 {
        publish(&feed, "a", &number.to_string()).await;
    }
    drop(feed);
    let less = Retention {
        messages: 2,
        ..Retention::default()
    };
    let feed = scratch.open(&less);
    let page = read(&feed, "a", &first.into()).await;
    assert_eq!(
        page.messages.len(),
        8,
        "nothing is dropped before a publish"
    );
    publish(&feed, "a", "9").await;
    drop(feed);
    for retention in [less, Retention::default()] {
        let feed = scratch.open(&retention);
        let page = read(&feed, "a", &first.into()).await;
        assert_eq!(texts(&page), ["8", "9"]);
        assert_eq!(page.gap.unwrap().resumed.seq, 8);
    }
}

#[tokio::test]
async fn what_is_pinned_is_kept_over_a_restart_and_until_it_is_not() {
    let scratch = Scratch::new();
    let two = Retention {
        messages: 2,
        ..Retention::default()
    };
    let feed = scratch.open(&two);
    let pins = |seq| [("a".parse().unwrap(), seq)].into();
    feed.pin(pins(1));
    for number in 1..=5 {
        publish(&feed, "a", &number.to_string()).await;
        publish(&feed, "b", &number.to_string()).await;
    }
    drop(feed);
    let feed = scratch.open(&two);
    feed.pin(pins(1));
    publish(&feed, "a", "6").await;
    let kept = |topics| read_all(&feed, topics);
    assert_eq!(
        kept("a").await,
        ["2", "3", "4", "5", "6"],
        "after the first"
    );
    assert_eq!(kept("b").await, ["4", "5"], "b is not pinned");
    feed.pin(pins(7));
    publish(&feed, "a", "7").await;
    assert_eq!(
        kept("a").await,
        ["5", "6", "7"],
        "number 7 is the fourth of a"
    );
    feed.pin([].into());
    publish(&feed, "a", "8").await;
    assert_eq!(kept("a").await, ["7", "8"]);
}

#[tokio::test]
async fn a_feed_that_is_full_of_what_is_pinned_takes_no_more_until_it_is_not() {
    let small = Retention {
        total_bytes: 2_000,
        ..Retention::default()
    };
    for feed in [feed(small.clone()), Scratch::new().open(&small)] {
        feed.pin([("a".parse().unwrap(), 0)].into());
        let mut refused = None;
        for _ in 0..100 {
            let draft = Draft::new(Data::text("something"));
            refused = feed.publish("a".parse().unwrap(), draft).await.err();
            if refused.is_some() {
                break;
            }
        }
        assert_eq!(refused, Some(FeedError::Full(2_000)));
        let before = feed.counts();
        assert!(before.bytes > 2_000 && before.bytes < 2_400, "{before:?}");
        feed.pin([("a".parse().unwrap(), 1)].into());
        publish(&feed, "a", "there is room").await;
        assert_eq!(feed.counts().messages, before.messages);
    }
}

async fn read_all(feed: &Feed, topics: &str) -> Vec<String> {
    texts(&read(feed, topics, &After::Earliest).await)
}

/// What happens to two feeds at once.
#[derive(Debug, Clone)]
enum Step {
    Publish {
        topic: usize,
        size: usize,
    },
    Read {
        topics: usize,
        way: Way,
        limit: PageLimit,
    },
    Restart,
}

/// Where a read begins.
#[derive(Debug, Clone)]
enum Way {
    All { after: u64 },
    Last,
    Rest { after: u64 },
}

fn way() -> impl Strategy<Value = Way> {
    prop_oneof![
        3 => (0..80u64).prop_map(|after| Way::All { after }),
        1 => Just(Way::Last),
        1 => (0..80u64).prop_map(|after| Way::Rest { after }),
    ]
}

fn limit() -> impl Strategy<Value = PageLimit> {
    (1..9usize, 1..2_000usize, any::<bool>()).prop_map(|(messages, bytes, newest)| PageLimit {
        messages,
        bytes,
        newest,
    })
}

const TOPICS: [&str; 5] = ["a", "b", "c", "a,b", "a,b,c,never"];

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3usize, 0..400usize).prop_map(|(topic, size)| Step::Publish { topic, size }),
        6 => (0..TOPICS.len(), way(), limit())
            .prop_map(|(topics, way, limit)| Step::Read { topics, way, limit }),
        1 => Just(Step::Restart),
    ]
}

/// A page without its epoch and times, so that two feeds can be compared.
fn essence(page: &Page) -> impl PartialEq + std::fmt::Debug {
    let gap = page.gap.as_ref();
    (
        page.messages
            .iter()
            .map(|message| (message.id.seq, message.topic.clone()))
            .collect::<Vec<_>>(),
        texts(page),
        (page.next.seq, page.last.seq, page.more),
        gap.map(|gap| (gap.reason, gap.topics.to_string(), gap.resumed.seq)),
    )
}

async fn pages_are_equal(retention: Retention, steps: Vec<Step>) {
    let scratch = Scratch::new();
    let memory = Feed::new(retention.clone());
    let mut file = scratch.open(&retention);
    for step in steps {
        match step {
            Step::Publish { topic, size } => {
                let text = "x".repeat(size);
                let (one, other) = (
                    publish(&memory, TOPICS[topic], &text),
                    publish(&file, TOPICS[topic], &text),
                );
                assert_eq!(one.await.seq, other.await.seq);
            }
            Step::Read { topics, way, limit } => {
                let topics: Topics = TOPICS[topics].parse().unwrap();
                let page = async |feed: &Feed| {
                    let until = feed.head();
                    let after = match way {
                        Way::All { after: seq } => After::Cursor(Cursor { seq, ..until }),
                        Way::Last => After::Last,
                        Way::Rest { after: seq } => {
                            After::going_on(Cursor { seq, ..until }, until.seq)
                        }
                    };
                    feed.read(&topics, &after, limit).await.unwrap()
                };
                let (one, other) = (page(&memory).await, page(&file).await);
                assert_eq!(essence(&one), essence(&other));
            }
            Step::Restart => {
                drop(file);
                file = scratch.open(&retention);
            }
        }
        assert_eq!(memory.counts(), file.counts());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn a_file_gives_the_same_pages_as_memory_through_any_restart(
        messages in 1..12usize,
        topic_bytes in 300..3_000usize,
        total_bytes in 500..6_000usize,
        in_memory in 0..2_000usize,
        steps in prop::collection::vec(step(), 1..100),
    ) {
        let retention = Retention { messages, topic_bytes, total_bytes, in_memory, ..Retention::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(pages_are_equal(retention, steps));
    }
}
