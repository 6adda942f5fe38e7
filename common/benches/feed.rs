//! What the feed costs: `cargo bench -p common`.
//!
//! Three figures: publishes per second on one core without waiters; the time from a publish until
//! the last of 10,000 waiters on two cores has its page; and what one waiter holds.

use std::{
    hint::black_box,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use common::{After, Data, Draft, Feed, PageLimit, Retention, Topic, Topics};
use memory_stats::memory_stats;
use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
};

const RUNS: usize = 7;
const PUBLISHES: u32 = 300_000;
const WAITERS: usize = 10_000;
/// What the message's whole JSON measures.
const MESSAGE_BYTES: usize = 128;

fn main() {
    println!("{:<52} {:>12} {:>25}", "", "median", "min – max");
    // First, while the allocator has nothing to reuse.
    let bytes = waiter_bytes();
    report(
        "publish, 128 bytes, no waiters, one core (million/s)",
        publish_rate,
    );
    report(
        "publish until 10,000 waiters have it, two cores (ms)",
        wake_all,
    );
    println!(
        "{:<52} {bytes:>12.0}",
        "one waiting reader and its task, resident (bytes)"
    );
}

fn report(name: &str, measure: impl Fn() -> f64) {
    let mut figures: Vec<f64> = (0..RUNS).map(|_| measure()).collect();
    figures.sort_unstable_by(f64::total_cmp);
    let spread = format!("{:.2} – {:.2}", figures[0], figures[RUNS - 1]);
    println!("{name:<52} {:>12.2} {spread:>25}", figures[RUNS / 2]);
}

/// A draft whose message is `MESSAGE_BYTES` long.
fn draft(feed: &Feed, runtime: &Runtime) -> Draft {
    let draft = |size: usize| Draft::new(Data::text(&"x".repeat(size)));
    let measured = runtime.block_on(async {
        feed.publish(topic(), draft(0))
            .await
            .expect("one topic fits");
        feed.read(&topics(), &After::Earliest, PageLimit::default())
            .await
            .expect("memory is always there")
    });
    draft(MESSAGE_BYTES.saturating_sub(measured.messages[0].json.len()))
}

fn publish_rate() -> f64 {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime starts");
    let feed = Feed::new(Retention::default());
    let (draft, topic) = (draft(&feed, &runtime), topic());
    runtime.block_on(async {
        let started = Instant::now();
        for _ in 0..PUBLISHES {
            let _ = black_box(feed.publish(topic.clone(), draft.clone()).await);
        }
        f64::from(PUBLISHES) / started.elapsed().as_secs_f64() / 1e6
    })
}

fn wake_all() -> f64 {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .expect("a runtime starts");
    let feed = Feed::new(Retention::default());
    let draft = draft(&feed, &runtime);
    runtime.block_on(async {
        let (last_has_it, last) = oneshot::channel();
        let left = Arc::new((AtomicUsize::new(WAITERS), Mutex::new(Some(last_has_it))));
        for _ in 0..WAITERS {
            tokio::spawn(wait(feed.clone(), left.clone()));
        }
        all_wait(&feed, WAITERS).await;
        let started = Instant::now();
        // In a task, as in a server, whose connections are tasks.
        tokio::spawn(async move { feed.publish(topic(), draft).await.map(drop) });
        (last.await.expect("the last one tells") - started).as_secs_f64() * 1e3
    })
}

/// Waits for one page; the last who has it tells when.
async fn wait(feed: Feed, left: Arc<(AtomicUsize, Mutex<Option<oneshot::Sender<Instant>>>)>) {
    let page = feed
        .next(&topics(), &After::Latest, PageLimit::default())
        .await;
    assert_eq!(page.map(|page| page.messages.len()), Ok(1));
    if left.0.fetch_sub(1, Ordering::SeqCst) == 1 {
        let tell = left.1.lock().expect("nothing panics under it").take();
        let _ = tell.expect("there is one last").send(Instant::now());
    }
}

fn waiter_bytes() -> f64 {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime starts");
    let feed = Feed::new(Retention::default());
    let (topics, limit) = (topics(), PageLimit::default());
    runtime.block_on(async {
        let before = resident();
        for _ in 0..WAITERS {
            let (feed, topics) = (feed.clone(), topics.clone());
            tokio::spawn(async move { feed.next(&topics, &After::Latest, limit).await.map(drop) });
        }
        all_wait(&feed, WAITERS).await;
        (resident() - before) / WAITERS as f64
    })
}

/// The process's resident memory in bytes.
fn resident() -> f64 {
    memory_stats().map_or(f64::NAN, |memory| memory.physical_mem as f64)
}

async fn all_wait(feed: &Feed, wanted: usize) {
    while feed.waiters() < wanted {
        tokio::task::yield_now().await;
    }
}

fn topic() -> Topic {
    "bench".parse().expect("a topic")
}

fn topics() -> Topics {
    topic().into()
}
