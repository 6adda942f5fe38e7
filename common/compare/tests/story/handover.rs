//! The cursor is the same on every wire: a client that changes technique in mid-flow, with nothing
//! but its cursor in hand, misses nothing and gets nothing twice.

use std::{cell::Cell, time::Duration};

use crate::world::World;
use compare::{Client, Heard, Subscription, Technique};
use harness::PATIENCE;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::{sleep, timeout};

/// The way: from poll to stream to socket and back.
const WAY: [Technique; 5] = [
    Technique::LongPolling,
    Technique::Sse,
    Technique::Websockets,
    Technique::ShortPolling,
    Technique::LongPolling,
];
/// Heard at each station before the client moves on.
const AT_EACH: usize = 20;
/// Published in all: so many that they do not end before the way does.
const MESSAGES: usize = 4 * WAY.len() * AT_EACH;

/// Takes what comes through one technique, and gives the cursor to go on from.
async fn stay(world: &World, technique: Technique, after: &str, heard: &mut Vec<String>) -> String {
    let server = world.servers[&technique].addr();
    let mut to = Subscription::new(server, "a");
    to.after = after.to_owned();
    to.interval = Duration::from_millis(5);
    let client = Client::subscribe(technique, to).await;
    let mut client = client.expect("the server is there");
    let enough = heard.len() + AT_EACH;
    while heard.len() < enough {
        let news = timeout(PATIENCE, client.next()).await;
        let news = news.expect("more is published");
        for news in news.expect("the connection holds") {
            match news {
                Heard::Message(message) => heard.push(message.id),
                Heard::Gap(gap) => panic!("{technique}: {gap:?}"),
            }
        }
    }
    client.after().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_cursor_serves_all_techniques_in_turn() {
    let world = World::roomy(MESSAGES).await;
    let (mut heard, mut after) = (Vec::new(), "earliest".to_owned());
    let (arrived, way) = (Cell::new(false), async {
        for technique in WAY {
            after = stay(&world, technique, &after, &mut heard).await;
        }
    });
    let mut random = StdRng::seed_from_u64(1);
    let publishing = async {
        let mut published = Vec::new();
        while published.len() < MESSAGES && !arrived.get() {
            let server = Technique::ALL[random.random_range(0..5)];
            published.push(world.publish_by(server, "a").await);
            // So that it goes on while the client moves; whether it waits is left to chance.
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
