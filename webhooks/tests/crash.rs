//! Kill -9, fifty times under load: nothing that was answered with 200 is lost, and no effect inside the
//! transaction happens twice.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod setup;

use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rusqlite::Connection;
use setup::{Killable, Program, Scratch, request, soon, when_all};
use tokio::{sync::Notify, task::JoinSet};

const KILLS: usize = 50;
const SENDERS: usize = 8;
/// One of this many events is sent twice.
const REPEAT: usize = 5;

/// What the senders know.
#[derive(Default)]
struct Progress {
    next: AtomicUsize,
    /// The ids that were answered with 200.
    stored: Mutex<BTreeSet<String>>,
}

/// Sends until the receiver is gone. Notifies when there are `many` answers. A request without an answer may be
/// stored or not.
async fn sender(
    addr: SocketAddr,
    progress: Arc<Progress>,
    (many, enough): (usize, Arc<Notify>),
) -> io::Result<()> {
    let mut receiver = Killable::connect(addr).await?;
    loop {
        let number = progress.next.fetch_add(1, Ordering::Relaxed);
        let id = format!("msg_{}", number / REPEAT * REPEAT + number % (REPEAT - 1));
        let (status, body) = receiver.ask(&request(&id)).await?;
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        let mut stored = progress.stored.lock().unwrap();
        stored.insert(id);
        if stored.len() >= many {
            enough.notify_one();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_with_200_survives_fifty_kills_and_is_done_once() {
    let (scratch, progress) = (Scratch::new(), Arc::new(Progress::default()));
    for kill in 1..=KILLS {
        let receiver = Program::start(&scratch, |_| {});
        let many = progress.stored.lock().unwrap().len() + 10 + kill % 7 * 5;
        // A new one for each kill, because the last answers before a kill may notify after the wait has ended.
        let enough = Arc::new(Notify::new());
        let mut senders = JoinSet::new();
        for _ in 0..SENDERS {
            let enough = (many, enough.clone());
            senders.spawn(sender(receiver.addr, progress.clone(), enough));
        }
        soon(enough.notified()).await;
        assert!(
            progress.stored.lock().unwrap().len() >= many,
            "killed under load"
        );
        // So that the kill is not always at the same point of a commit.
        tokio::time::sleep(Duration::from_micros(137 * kill as u64)).await;
        receiver.kill();
        while let Some(ended) = soon(senders.join_next()).await {
            // A broken connection is expected here.
            let _ = ended.expect("every answer was 200");
        }
    }

    let receiver = Program::start(&scratch, |_| {});
    let events = when_all(&receiver.client(), |event| event["state"] == "handled").await;
    let ids = events.iter().map(|event| event["id"].as_str().unwrap());
    let unique: BTreeSet<String> = ids.map(str::to_owned).collect();
    assert_eq!(unique.len(), events.len(), "an event is there once");
    let stored = progress.stored.lock().unwrap().clone();
    let lost: Vec<_> = stored.difference(&unique).collect();
    assert!(lost.is_empty(), "answered with 200 and lost: {lost:?}");
    assert_eq!(soon(receiver.stop()).await.code, Some(0));

    let database = Connection::open(scratch.inbox()).unwrap();
    let counted: usize = database
        .query_row("SELECT sum(events) FROM counts", [], |row| {
            row.get::<_, u32>(0)
        })
        .unwrap() as usize;
    assert_eq!(counted, events.len(), "each was counted once");
    assert!(events.len() > KILLS * 10, "there was a load");
}
