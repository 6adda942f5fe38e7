//! What the receiver does with what it has stored: effects, retries, restarts.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod setup;

#[allow(dead_code, unreachable_pub, reason = "an example is a program")]
#[path = "../examples/receive.rs"]
mod receive;

use std::{
    fs, io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use common::{Feed, Retention};
use harness::{PATIENCE, TestServer};
use rusqlite::Connection;
use setup::{Scratch, listed, receiving, send, send_body, soon, when_all};
use tokio::{net::TcpListener, sync::Notify};
use webhooks::{
    receiver::{
        self,
        inbox::{InTransaction, Inbox, StoredEvent},
        work::{Attempts, Effects},
    },
    schedule::Schedule,
};

/// What an attempt does, by its number from 0.
struct Script<F>(F, AtomicUsize);

impl<F, O> Effects for Script<F>
where
    F: Fn(usize) -> O + Send + Sync + 'static,
    O: Future<Output = Result<InTransaction, String>> + Send,
{
    fn apply(&self, _: &StoredEvent) -> impl Future<Output = Result<InTransaction, String>> + Send {
        (self.0)(self.1.fetch_add(1, Ordering::SeqCst))
    }
}

/// A receiver with these effects, which retries twice at once.
async fn start(
    scratch: &Scratch,
    adjust: impl FnOnce(&mut receiver::Config),
    effects: impl Effects,
) -> TestServer {
    let mut config = receiving(scratch);
    config.attempts = Attempts {
        schedule: Schedule::new([Duration::ZERO; 2]),
        ..Attempts::default()
    };
    adjust(&mut config);
    let feed = Feed::new(Retention::default());
    let run = async move |listener, shutdown| {
        let inbox = config.open_inbox()?;
        receiver::run_with(inbox, listener, feed, effects, config, shutdown).await
    };
    TestServer::start(run).await
}

fn script<F, O>(attempt: F) -> Script<F>
where
    F: Fn(usize) -> O,
{
    Script(attempt, AtomicUsize::new(0))
}

/// Each attempt waits for the gate, and then adds a row.
fn waits_for(gate: Arc<Notify>) -> impl Effects {
    script(move |_| {
        let gate = gate.clone();
        async move {
            gate.notified().await;
            Ok(row())
        }
    })
}

/// Adds a row to `done`, inside the transaction.
fn row() -> InTransaction {
    Box::new(|database| {
        database.execute_batch("CREATE TABLE IF NOT EXISTS done (n); INSERT INTO done VALUES (1)")
    })
}

/// The rows in `done` after the receiver has ended.
fn done(scratch: &Scratch) -> u32 {
    let database = Connection::open(scratch.inbox()).unwrap();
    database
        .query_row("SELECT count(*) FROM done", [], |row| row.get(0))
        .unwrap()
}

fn settled(event: &serde_json::Value) -> bool {
    event["state"] != "waiting"
}

#[tokio::test]
async fn an_attempt_that_fails_is_made_again_and_its_effects_inside_happen_once() {
    let scratch = Scratch::new();
    // It fails outside the transaction, then inside after half of the work, then by a panic inside. Each time
    // nothing of the transaction remains.
    let effects = script(async |attempt| match attempt {
        0 => Err("the mail server is away".to_owned()),
        1 => Ok(Box::new(|database: &Connection| {
            row()(database)?;
            database.execute_batch("INSERT INTO nowhere VALUES (1)")
        }) as InTransaction),
        2 => Ok(Box::new(|database: &Connection| -> rusqlite::Result<()> {
            row()(database).unwrap();
            panic!("a panic inside")
        }) as InTransaction),
        _ => Ok(row()),
    });
    let tries = |config: &mut receiver::Config| {
        config.attempts.schedule = Schedule::new([Duration::ZERO; 3]);
    };
    let server = start(&scratch, tries, effects).await;
    let client = server.client();
    assert_eq!(send(&client, "m").await.status, 200);
    let events = when_all(&client, settled).await;
    assert_eq!(events[0]["state"], "handled");
    // A repeat of a handled event is not handled again.
    assert_eq!(send(&client, "m").await.status, 200);
    server.stop().await;
    assert_eq!(done(&scratch), 1);
}

/// The only event is handled, and its effect has happened once.
async fn is_handled_once(server: TestServer, scratch: &Scratch) {
    let events = when_all(&server.client(), settled).await;
    assert_eq!(events[0]["state"], "handled");
    server.stop().await;
    assert_eq!(done(scratch), 1);
}

#[tokio::test]
async fn a_panic_before_there_is_a_future_is_an_attempt_that_failed() {
    let scratch = Scratch::new();
    let effects = script(|attempt| {
        assert_ne!(attempt, 0, "a panic in the call");
        async { Ok(row()) }
    });
    let server = start(&scratch, |_| {}, effects).await;
    send(&server.client(), "m").await;
    is_handled_once(server, &scratch).await;
}

#[tokio::test]
async fn after_a_query_that_panics_the_inbox_is_still_read() {
    let scratch = Scratch::new();
    let inbox = Inbox::open(&scratch.inbox(), PATIENCE).unwrap();
    let other = inbox.clone();
    let panics = async move {
        let query = |_: &Connection| -> rusqlite::Result<()> { panic!("a query") };
        other.read(query).await
    };
    assert!(tokio::spawn(panics).await.unwrap_err().is_panic());
    let count = "SELECT count(*) FROM events";
    let events = inbox.read(move |database| database.query_row(count, [], |row| row.get(0)));
    assert_eq!(events.await, Ok(0));
}

#[tokio::test]
async fn after_the_last_attempt_an_event_is_dead_and_listed_with_its_error() {
    let scratch = Scratch::new();
    let effects = script(async |attempt| match attempt {
        1 => {
            tokio::task::yield_now().await;
            panic!("a panic outside")
        }
        _ => Err(format!("attempt {attempt} failed")),
    });
    let server = start(&scratch, |_| {}, effects).await;
    let client = server.client();
    send(&client, "m").await;
    when_all(&client, settled).await;
    let dead = server.get("/events?state=dead").await.json();
    let event = &dead["events"][0];
    assert_eq!((&event["id"], &event["attempts"]), (&"m".into(), &3.into()));
    assert_eq!(event["error"], "attempt 2 failed");
    for state in ["waiting", "handled"] {
        let none = server.get(&format!("/events?state={state}")).await.json();
        assert_eq!(none["events"].as_array().unwrap().len(), 0);
    }
    // For its sender it is stored, as before.
    assert_eq!(send(&client, "m").await.status, 200);
    assert_eq!(server.get("/events?state=x").await.status, 400);
    server.stop().await;
}

#[tokio::test]
async fn a_dead_event_is_tried_again_when_that_is_asked_for() {
    let scratch = Scratch::new();
    let effects = script(async |attempt| match attempt {
        0..6 => Err("away".to_owned()),
        _ => Ok(row()),
    });
    let server = start(&scratch, |_| {}, effects).await;
    let client = server.client();
    send(&client, "m").await;
    // The schedule has three attempts, and begins again each time.
    for _ in 0..2 {
        let events = when_all(&client, settled).await;
        assert_eq!(
            (&events[0]["state"], &events[0]["attempts"]),
            (&"dead".into(), &3.into())
        );
        assert_eq!(server.post("/events/1/retry", "").await.status, 202);
    }
    let events = when_all(&client, settled).await;
    assert_eq!(events[0]["state"], "handled");
    for (seq, status) in [(1, 409), (2, 404)] {
        let path = format!("/events/{seq}/retry");
        assert_eq!(server.post(&path, "").await.status, status, "{path}");
    }
    for seq in ["x", "+1", "01"] {
        let path = format!("/events/{seq}/retry");
        assert_eq!(server.post(&path, "").await.status, 404, "{path}");
    }
    assert_eq!(
        server.get("/events/1/retry").await.header("allow"),
        Some("POST")
    );
    server.stop().await;
    assert_eq!(done(&scratch), 1);
}

#[tokio::test]
async fn an_event_that_waits_for_a_later_attempt_is_attempted_at_once_on_request() {
    let scratch = Scratch::new();
    let effects = script(async |attempt| match attempt {
        0 => Err("away".to_owned()),
        _ => Ok(row()),
    });
    let later = |config: &mut receiver::Config| {
        config.attempts.schedule = Schedule::new([Duration::from_secs(3_600)]);
    };
    let server = start(&scratch, later, effects).await;
    let client = server.client();
    send(&client, "m").await;
    when_all(&client, |event| event["attempts"] == 1).await;
    assert_eq!(server.post("/events/1/retry", "").await.status, 202);
    let events = when_all(&client, settled).await;
    assert_eq!(events[0]["state"], "handled");
    let late = server.post("/events/1/retry", "").await;
    assert_eq!(late.status, 409);
    let detail = r#"event 1 is handled or being attempted; a handled one needs {"again":true}"#;
    assert_eq!(late.json()["detail"], detail);
    server.stop().await;
    assert_eq!(done(&scratch), 1);
}

#[tokio::test]
async fn an_event_that_is_being_attempted_is_not_disturbed_by_a_retry() {
    let (scratch, go) = (Scratch::new(), Arc::new(Notify::new()));
    let server = start(&scratch, |_| {}, waits_for(go.clone())).await;
    let client = server.client();
    send(&client, "m").await;
    for body in ["{}", r#"{"again":true}"#] {
        let reply = setup::send_json(&server, "/events/1/retry", body).await;
        assert_eq!(reply.status, 409, "{}", reply.text());
    }
    go.notify_one();
    when_all(&client, settled).await;
    server.stop().await;
    assert_eq!(done(&scratch), 1);
}

#[tokio::test]
async fn a_redelivery_revives_a_dead_event_and_repeats_nothing_else() {
    let scratch = Scratch::new();
    let effects = script(async |attempt| match attempt {
        0..3 => Err("away".to_owned()),
        _ => Ok(row()),
    });
    let server = start(&scratch, |_| {}, effects).await;
    let client = server.client();
    send(&client, "m").await;
    assert_eq!(when_all(&client, settled).await[0]["state"], "dead");
    for _ in 0..2 {
        assert_eq!(send(&client, "m").await.status, 200);
        assert_eq!(when_all(&client, settled).await[0]["state"], "handled");
    }
    server.stop().await;
    assert_eq!(done(&scratch), 1);
}

#[tokio::test]
async fn a_handled_event_is_handled_again_when_that_is_asked_for() {
    let scratch = Scratch::new();
    let keys = Arc::new(std::sync::Mutex::new(Vec::new()));
    let server = start(&scratch, |_| {}, Keys(keys.clone())).await;
    let client = server.client();
    send(&client, "m").await;
    send_body(&client, "m", "{}").await; // suspect
    when_all(&client, settled).await;
    let again = r#"{"again":true}"#;
    let (longest, longer) = (format!("{again:<1024}"), format!("{again:<1025}"));
    for (seq, body, status) in [
        (1, "", 409),
        (1, r#"{"again":false}"#, 409),
        (1, again, 202),
        (2, "{}", 202), // it was dead
        (1, again, 202),
        (3, longest.as_str(), 404),
        (3, longer.as_str(), 413),
        (1, "[true]", 400),
        (1, r#"{"again":1}"#, 400),
        (1, r#"{"agian":true}"#, 400),
    ] {
        let reply = setup::send_json(&server, &format!("/events/{seq}/retry"), body).await;
        assert_eq!(reply.status, status, "{seq} {body}: {}", reply.text());
        when_all(&client, |event| {
            event["state"] == "handled" || event["seq"] != seq
        })
        .await;
    }
    assert_eq!(server.post("/events/1/retry", again).await.status, 415);
    server.stop().await;
    // The other side would treat the same key as a repeat.
    let expected = ["m", "again-1-1", "again-2-0", "again-1-2"];
    assert_eq!(*keys.lock().unwrap(), expected);
}

#[tokio::test]
async fn an_event_that_is_held_waits_for_a_program_with_effects() {
    let scratch = Scratch::new();
    // Twice, because the work begins with what it finds in the inbox, even if it is stopped at once.
    for _ in 0..2 {
        let fails = script(async |_| Err("it is not held".to_owned()));
        let holding = start(&scratch, |config| config.hold = true, fails).await;
        assert_eq!(send(&holding.client(), "m").await.status, 200);
        holding.stop().await;
    }
    let database = Connection::open(scratch.inbox()).unwrap();
    let attempts = database.query_row("SELECT attempts FROM work", [], |row| row.get(0));
    assert_eq!(attempts, Ok(0));
    drop(database);
    let server = start(&scratch, |_| {}, script(async |_| Ok(row()))).await;
    is_handled_once(server, &scratch).await;
}

#[tokio::test]
async fn the_effect_of_the_example_is_a_row_for_each_event() {
    let scratch = Scratch::new();
    let server = start(&scratch, |_| {}, receive::Orders).await;
    for id in ["m", "m", "n"] {
        send(&server.client(), id).await;
    }
    let events = when_all(&server.client(), settled).await;
    assert!(events.iter().all(|event| event["state"] == "handled"));
    server.stop().await;
    let database = Connection::open(scratch.inbox()).unwrap();
    let rows =
        "SELECT group_concat(source || ' ' || event) FROM (SELECT * FROM orders ORDER BY event)";
    let rows: String = database.query_row(rows, [], |row| row.get(0)).unwrap();
    assert_eq!(rows, "standard m,standard n");
}

/// Notes the key of each event.
struct Keys(Arc<std::sync::Mutex<Vec<String>>>);

impl Effects for Keys {
    async fn apply(&self, event: &StoredEvent) -> Result<InTransaction, String> {
        self.0.lock().unwrap().push(event.key());
        Ok(Box::new(|_| Ok(())))
    }
}

#[tokio::test]
async fn what_is_handled_again_is_published_again() {
    let scratch = Scratch::new();
    let feed = Feed::new(Retention::default());
    let (published, config) = (feed.clone(), receiving(&scratch));
    let run = |listener, shutdown| receiver::run(listener, published, config, shutdown);
    let server = TestServer::start(run).await;
    let client = server.client();
    send(&client, "m").await;
    when_all(&client, settled).await;
    let again = setup::send_json(&server, "/events/1/retry", r#"{"again":true}"#).await;
    assert_eq!(again.status, 202);
    when_all(&client, settled).await;
    assert_eq!(feed.counts().messages, 2);
    server.stop().await;
}

#[tokio::test]
async fn the_answer_does_not_wait_for_the_effects() {
    let (scratch, go) = (Scratch::new(), Arc::new(Notify::new()));
    let server = start(&scratch, |_| {}, waits_for(go.clone())).await;
    let client = server.client();
    // More than are handled at the same time.
    for number in 0..100 {
        let reply = send(&client, &format!("m{number}")).await;
        assert_eq!(reply.status, 200);
    }
    let waiting = server.get("/events?state=waiting").await.json();
    assert_eq!(waiting["events"].as_array().unwrap().len(), 100);
    let open = async {
        loop {
            go.notify_waiters();
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = open => {}
        _ = when_all(&client, |event| event["state"] == "handled") => {}
    }
    server.stop().await;
    assert_eq!(done(&scratch), 100);
}

#[tokio::test]
async fn an_effect_that_never_ends_is_an_attempt_that_failed() {
    let scratch = Scratch::new();
    let short = |config: &mut receiver::Config| config.attempts.timeout = setup::SHORT;
    let effects = script(async |attempt| match attempt {
        0 => std::future::pending().await,
        _ => Ok(row()),
    });
    let server = start(&scratch, short, effects).await;
    send(&server.client(), "m").await;
    let events = when_all(&server.client(), settled).await;
    assert_eq!(events[0]["state"], "handled");
    server.stop().await;
}

/// A disk that hangs is one whose thread is busy.
#[tokio::test]
async fn a_store_that_takes_too_long_is_answered_503() {
    let (scratch, (go, gate)) = (Scratch::new(), std::sync::mpsc::channel::<()>());
    let gate = Arc::new(std::sync::Mutex::new(gate));
    let effects = script(move |_| {
        let gate = gate.clone();
        let inside: InTransaction = Box::new(move |_| {
            // Ends when the sender is dropped.
            let _ = gate.lock().unwrap().recv_timeout(PATIENCE);
            Ok(())
        });
        async { Ok(inside) }
    });
    let short = |config: &mut receiver::Config| config.store_timeout = setup::SHORT;
    let server = start(&scratch, short, effects).await;
    let client = server.client();
    assert_eq!(send(&client, "first").await.status, 200);
    let refused = soon(async {
        loop {
            let reply = send(&client, "second").await;
            if reply.status != 200 {
                break reply;
            }
        }
    })
    .await;
    assert_eq!(refused.status, 503);
    assert!(refused.header("retry-after").is_some());
    drop(go);
    soon(async { while send(&client, "second").await.status != 200 {} }).await;
    server.stop().await;
}

#[tokio::test]
async fn what_is_not_handled_at_the_end_is_handled_by_the_next_start() {
    let scratch = Scratch::new();
    let never = script(async |_| std::future::pending().await);
    let soon_cut = |config: &mut receiver::Config| config.server.drain = setup::SHORT;
    let server = start(&scratch, soon_cut, never).await;
    send(&server.client(), "m").await;
    server.stop().await;
    let server = start(&scratch, |_| {}, script(async |_| Ok(row()))).await;
    when_all(&server.client(), |event| event["state"] == "handled").await;
    assert_eq!(listed(&server.client()).await, ["m"]);
    server.stop().await;
    assert_eq!(done(&scratch), 1);
}

#[tokio::test]
async fn a_handled_event_is_deleted_after_30_days_and_a_dead_one_is_kept() {
    let scratch = Scratch::new();
    let effects = script(async |attempt| match attempt {
        0 => Ok(row()),
        _ => Err("away".to_owned()),
    });
    let server = start(&scratch, |_| {}, effects).await;
    for id in ["handled", "dead"] {
        send(&server.client(), id).await;
        when_all(&server.client(), settled).await;
    }
    server.stop().await;
    let inbox = Inbox::open(&scratch.inbox(), PATIENCE).unwrap();
    let day = |number: u64| SystemTime::now() + Duration::from_secs(number * 24 * 3_600);
    assert_eq!(inbox.trim(day(29)).await, Ok(0));
    assert_eq!(inbox.trim(day(31)).await, Ok(1));
    let left =
        inbox.read(|database| database.query_row("SELECT id FROM events", [], |row| row.get(0)));
    assert_eq!(left.await, Ok("dead".to_owned()));
}

/// A clock that was a year ahead wrote that time.
#[tokio::test]
async fn an_event_that_is_due_in_a_year_is_handled_at_the_next_start() {
    let scratch = Scratch::new();
    let never = script(async |_| std::future::pending().await);
    let soon_cut = |config: &mut receiver::Config| config.server.drain = setup::SHORT;
    let server = start(&scratch, soon_cut, never).await;
    send(&server.client(), "m").await;
    server.stop().await;
    let year = 365 * 24 * 3_600 * 1_000_i64;
    let database = Connection::open(scratch.inbox()).unwrap();
    let moved = database.execute("UPDATE work SET due = due + ?1", [year]);
    assert_eq!(moved, Ok(1));
    drop(database);
    let server = start(&scratch, |_| {}, script(async |_| Ok(row()))).await;
    soon(when_all(&server.client(), |event| {
        event["state"] == "handled"
    }))
    .await;
    server.stop().await;
    assert_eq!(done(&scratch), 1);
}

#[tokio::test]
async fn an_inbox_is_one_processs() {
    let scratch = Scratch::new();
    let server = start(&scratch, |_| {}, script(async |_| Ok(row()))).await;
    assert_eq!(server.get("/healthz").await.status, 200);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let feed = Feed::new(Retention::default());
    let second = receiver::run(listener, feed, receiving(&scratch), std::future::pending());
    let error: io::Error = soon(second).await.unwrap_err();
    assert!(error.to_string().ends_with("another process has it open"));
    server.stop().await;
}

/// Why the receiver does not start.
async fn refusal(config: receiver::Config) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let feed = Feed::new(Retention::default());
    let run = receiver::run(listener, feed, config, std::future::pending());
    soon(run).await.unwrap_err().to_string()
}

#[tokio::test]
async fn another_programs_database_is_refused_and_left_alone() {
    let scratch = Scratch::new();
    let foreign = Connection::open(scratch.inbox()).unwrap();
    foreign.execute_batch("CREATE TABLE mine (x)").unwrap();
    drop(foreign);
    let before = fs::read(scratch.inbox()).unwrap();
    let error = refusal(receiving(&scratch)).await;
    assert!(error.ends_with("but not an inbox"), "{error}");
    assert_eq!(fs::read(scratch.inbox()).unwrap(), before);
}

#[tokio::test]
async fn an_inbox_of_another_version_is_left_alone_and_the_error_says_what_to_do() {
    let scratch = Scratch::new();
    let server = start(&scratch, |_| {}, script(async |_| Ok(row()))).await;
    server.stop().await;
    let inbox = Connection::open(scratch.inbox()).unwrap();
    inbox.pragma_update(None, "user_version", 1).unwrap();
    drop(inbox);
    let before = fs::read(scratch.inbox()).unwrap();
    let error = refusal(receiving(&scratch)).await;
    let named = "it has version 1, but this program needs version 2";
    assert!(
        error.contains(named) && error.contains("start this one with a new file"),
        "{error}"
    );
    assert_eq!(fs::read(scratch.inbox()).unwrap(), before);
}

#[cfg(unix)]
#[tokio::test]
async fn an_inbox_is_one_processs_through_links_too() {
    let scratch = Scratch::new();
    let server = start(&scratch, |_| {}, script(async |_| Ok(row()))).await;
    assert_eq!(server.get("/healthz").await.status, 200);
    let other = |name| receiver::Config {
        inbox: scratch.path().join(name),
        ..receiving(&scratch)
    };
    std::os::unix::fs::symlink(scratch.inbox(), other("link").inbox).unwrap();
    let error = refusal(other("link")).await;
    assert!(error.ends_with("another process has it open"), "{error}");
    fs::hard_link(scratch.inbox(), other("name").inbox).unwrap();
    let error = refusal(other("name")).await;
    assert!(
        error.ends_with("it has 2 hard links, and must have one"),
        "{error}"
    );
    server.stop().await;
}

#[cfg(unix)]
#[tokio::test]
async fn only_the_owner_reads_the_inbox() {
    use std::os::unix::fs::PermissionsExt;

    let scratch = Scratch::new();
    let server = start(&scratch, |_| {}, script(async |_| Ok(row()))).await;
    assert_eq!(send(&server.client(), "e-1").await.status, 200);
    let files: Vec<_> = fs::read_dir(scratch.path()).unwrap().collect();
    assert_eq!(files.len(), 4, "database, -wal, -shm and -lock");
    for file in files {
        let mode = file.as_ref().unwrap().metadata().unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600, "{file:?}");
    }
    server.stop().await;
}
