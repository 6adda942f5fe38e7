//! Kill -9, fifty times under load: nothing that was answered with 200 is lost, and no effect inside the
//! transaction happens twice.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod setup;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use harness::Wire;
use rusqlite::Connection;
use setup::{Program, Scratch, request, soon, when_all};
use tokio::{sync::Notify, task::JoinSet};

const KILLS: usize = 50;
const SENDERS: usize = 8;
/// Every so many events are sent twice.
const REPEAT: usize = 5;

/// What the senders know.
#[derive(Default)]
struct Told {
    next: AtomicUsize,
    stored: Mutex<BTreeSet<String>>,
    enough: Notify,
}

/// Sends until the receiver is gone. Only what was answered counts.
async fn sender(addr: std::net::SocketAddr, told: Arc<Told>, enough: usize) {
    let mut wire = Wire::connect(addr).await;
    loop {
        let number = told.next.fetch_add(1, Ordering::Relaxed);
        let id = format!("msg_{}", number / REPEAT * REPEAT + number % (REPEAT - 1));
        if wire.try_send(request(&id)).await.is_err() {
            return;
        }
        let Ok(answer) =
            tokio::spawn(async move { (wire.read_until("\r\n\r\n").await, wire) }).await
        else {
            return; // it broke off: who knows whether it is stored
        };
        assert!(answer.0.starts_with(b"HTTP/1.1 200 "));
        wire = answer.1;
        let mut stored = told.stored.lock().unwrap();
        stored.insert(id);
        if stored.len() >= enough {
            told.enough.notify_one();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_with_200_survives_fifty_kills_and_is_done_once() {
    // A sender's connection breaks off by a panic in its task, which is no failure here.
    std::panic::set_hook(Box::new(|_| {}));
    let (scratch, told) = (Scratch::new(), Arc::new(Told::default()));
    for kill in 1..=KILLS {
        let receiver = Program::start(&scratch, |_| {});
        let enough = told.stored.lock().unwrap().len() + 10 + kill % 7 * 5;
        let mut senders = JoinSet::new();
        for _ in 0..SENDERS {
            senders.spawn(sender(receiver.addr, told.clone(), enough));
        }
        soon(told.enough.notified()).await;
        // Not always at the same point of a commit.
        tokio::time::sleep(Duration::from_micros(137 * kill as u64)).await;
        receiver.kill();
        while soon(senders.join_next()).await.is_some() {}
    }
    let _ = std::panic::take_hook();

    let receiver = Program::start(&scratch, |_| {});
    let events = when_all(&receiver.client(), |event| event["state"] == "handled").await;
    let ids = events.iter().map(|event| event["id"].as_str().unwrap());
    let unique: BTreeSet<String> = ids.map(str::to_owned).collect();
    assert_eq!(unique.len(), events.len(), "an event is there once");
    let stored = told.stored.lock().unwrap().clone();
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
