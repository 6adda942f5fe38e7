//! The cursor is the same on every wire: a client that changes its technique and keeps only its
//! cursor misses nothing and gets nothing twice.

use std::{cell::Cell, time::Duration};

use crate::world::World;
use compare::{Heard, Subscription, Technique, subscribe};
use futures_util::TryStreamExt;
use harness::PATIENCE;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::{sleep, timeout};

/// The techniques, in the order in which the client uses them.
const WAY: [Technique; 5] = [
    Technique::LongPolling,
    Technique::Sse,
    Technique::Websockets,
    Technique::ShortPolling,
    Technique::LongPolling,
];
/// Messages read with each technique before the client changes to the next.
const AT_EACH: usize = 20;
/// The most messages that are published: more than the client reads.
const MESSAGES: usize = 4 * WAY.len() * AT_EACH;

/// Reads [`AT_EACH`] messages with one technique, and returns the cursor to resume from.
async fn read(world: &World, technique: Technique, after: &str, heard: &mut Vec<String>) -> String {
    let server = world.servers[&technique].addr();
    let mut to = Subscription::new(server, "a");
    to.after = after.to_owned();
    to.interval = Duration::from_millis(5);
    let client = subscribe(technique, to).await;
    let mut client = client.expect("the server is there");
    let (enough, mut after) = (heard.len() + AT_EACH, after.to_owned());
    while heard.len() < enough {
        let news = timeout(PATIENCE, client.try_next()).await;
        let news = news.expect("more is published");
        let news = news
            .expect("the connection holds")
            .expect("it does not end");
        for news in news.heard {
            match news {
                Heard::Message(message) => heard.push(message.id),
                Heard::Gap(gap) => panic!("{technique}: {gap:?}"),
            }
        }
        after = news.after;
    }
    after
}

#[tokio::test(flavor = "multi_thread")]
async fn one_cursor_serves_all_techniques_in_turn() {
    let world = World::roomy(MESSAGES).await;
    let (mut heard, mut after) = (Vec::new(), "earliest".to_owned());
    let (arrived, way) = (Cell::new(false), async {
        for technique in WAY {
            after = read(&world, technique, &after, &mut heard).await;
        }
    });
    let mut random = StdRng::seed_from_u64(1);
    let publishing = async {
        let mut published = Vec::new();
        while published.len() < MESSAGES && !arrived.get() {
            let server = Technique::ALL[random.random_range(0..5)];
            published.push(world.publish_by(server, "a").await);
            // Publishing goes on while the client changes, sometimes with a pause.
            sleep(Duration::from_micros(random.random_range(0..2_000))).await;
        }
        published
    };
    let (published, ()) = tokio::join!(publishing, async {
        way.await;
        arrived.set(true);
    });
    assert_eq!(heard, published[..heard.len()]);
}
