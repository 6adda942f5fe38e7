//! Kill -9, fifty times while messages are published: what was answered with 201 is in the feed, once and under
//! the id that the answer gave.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod setup;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{After, FeedSource, PageLimit, Retention};
use serde_json::Value;
use setup::{Killable, Program, Scratch, soon};
use tokio::{sync::Notify, task::JoinSet};

const KILLS: usize = 50;
const PUBLISHERS: usize = 8;

/// What the publishers know.
#[derive(Default)]
struct Progress {
    next: AtomicUsize,
    /// For each published number, the id in the answer.
    ids: Mutex<BTreeMap<usize, u64>>,
}

/// Publishes one number after the other until the server is gone, beginning with the one whose answer was lost
/// last time. Returns the number whose answer is lost now. Notifies when there are `many` answers.
async fn publisher(
    addr: SocketAddr,
    progress: Arc<Progress>,
    mut unsure: Option<usize>,
    (many, enough): (usize, Arc<Notify>),
) -> Option<usize> {
    let Ok(mut sender) = Killable::connect(addr).await else {
        return unsure; // the others were so quick that the server is gone
    };
    loop {
        let next = || progress.next.fetch_add(1, Ordering::Relaxed);
        let number = unsure.take().unwrap_or_else(next);
        let text = number.to_string();
        let length = text.len();
        let request = format!(
            "POST /topics/a HTTP/1.1\r\nHost: localhost\r\nIdempotency-Key: {text}\r\nContent-Length: {length}\r\n\r\n{text}"
        );
        let Ok((status, body)) = sender.ask(&request).await else {
            return Some(number); // it broke off
        };
        assert_eq!(status, 201, "{}", String::from_utf8_lossy(&body));
        let answer: Value = serde_json::from_slice(&body).unwrap();
        let mut ids = progress.ids.lock().unwrap();
        ids.insert(number, seq(&answer["id"]));
        if ids.len() >= many {
            enough.notify_one();
        }
    }
}

fn seq(id: &Value) -> u64 {
    let (_, seq) = id.as_str().unwrap().split_once('-').unwrap();
    seq.parse().unwrap()
}

/// Everything in the feed: the number of each id.
async fn published(scratch: &Scratch) -> BTreeMap<u64, usize> {
    let retention = Retention {
        messages: usize::MAX,
        ..Retention::default()
    };
    let feed = FeedSource::File(scratch.feed())
        .open(retention, false)
        .await
        .unwrap();
    let (topics, mut after) = ("a".parse().unwrap(), After::Earliest);
    let mut published = BTreeMap::new();
    loop {
        let page = feed
            .read(&topics, &after, PageLimit::default())
            .await
            .unwrap();
        assert_eq!(page.gap, None);
        for message in &page.messages {
            let json: Value = serde_json::from_slice(&message.json).unwrap();
            published.insert(
                message.id.seq,
                json["data"].as_str().unwrap().parse().unwrap(),
            );
        }
        if !page.more {
            return published;
        }
        after = page.next.into();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_with_201_survives_fifty_kills_and_is_there_once() {
    let (scratch, progress) = (Scratch::new(), Arc::new(Progress::default()));
    let mut unsure = vec![None; PUBLISHERS];
    let mut highest = 0;
    for kill in 1..=KILLS {
        let sender = Program::sender(&scratch, |_| {});
        let before = progress.ids.lock().unwrap().clone();
        let many = before.len() + 10 + kill % 7 * 5;
        // A new one for each kill, because the last answers before a kill may notify after the wait has ended.
        let enough = Arc::new(Notify::new());
        let repeats: BTreeSet<usize> = unsure.iter().copied().flatten().collect();
        let mut publishers = JoinSet::new();
        for unsure in unsure.drain(..) {
            publishers.spawn(publisher(
                sender.addr,
                progress.clone(),
                unsure,
                (many, enough.clone()),
            ));
        }
        soon(enough.notified()).await;
        assert!(
            progress.ids.lock().unwrap().len() >= many,
            "killed under load"
        );
        // So that the kill is not always at the same point of a commit.
        tokio::time::sleep(Duration::from_micros(137 * kill as u64)).await;
        sender.kill();
        while let Some(ended) = soon(publishers.join_next()).await {
            unsure.push(ended.expect("what was answered was 201"));
        }
        let ids = progress.ids.lock().unwrap().clone();
        let is_new = |number: &usize| !before.contains_key(number) && !repeats.contains(number);
        let new = ids.iter().filter(|(number, _)| is_new(number));
        assert!(new.clone().all(|(_, id)| *id > highest), "ids go on and on");
        highest = ids.values().copied().max().unwrap_or(0);
    }

    let published = published(&scratch).await;
    let ids = progress.ids.lock().unwrap().clone();
    for (number, id) in &ids {
        assert_eq!(
            published.get(id),
            Some(number),
            "answered with 201 and lost"
        );
    }
    let unique: BTreeSet<&usize> = published.values().collect();
    assert_eq!(unique.len(), published.len(), "none is there twice");
    assert!(ids.len() > KILLS * 10, "there was a load");
}
