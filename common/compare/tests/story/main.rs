//! One story, five wires: whatever is published, trimmed, cut and restarted, the clients of all five
//! techniques receive the same. Each seed makes a schedule. A seed that fails is printed, and
//! `STORY_SEED=N cargo test -p compare --test story` repeats it. `STORY_SEEDS` sets the number of seeds,
//! and `STORY_FEED` where the feed is kept.

mod handover;
mod home;
mod world;

use std::{
    env,
    time::{Duration, Instant},
};

use compare::Technique;
use harness::PATIENCE;
use home::Home;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use tokio::task::{JoinError, JoinSet};
use world::{RETAIN, World};

/// The number of seeds without `STORY_SEEDS`.
const SEEDS: u64 = 100;
/// Stories that are played at the same time. Few, so that 256 descriptors are enough.
const AT_ONE_TIME: usize = 2;
/// Steps of one schedule.
const STEPS: usize = 12;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Publish this many messages, to topics and through servers that the seed picks. While clients are
    /// there, never more than the feed keeps.
    Publish(usize),
    /// Cut all connections.
    Cut,
    /// All clients leave.
    Leave,
    /// All clients come back.
    Return,
    /// All servers are started again over their feed.
    Restart,
    /// All servers are started again over a new feed.
    NewLife,
}

/// The schedule of a seed.
fn schedule(random: &mut impl Rng) -> Vec<Step> {
    let mut steps = Vec::with_capacity(STEPS + 1);
    let mut away = false;
    while steps.len() < STEPS {
        let step = match random.random_range(0..10) {
            0..5 => Step::Publish(random.random_range(1..=if away { 3 * RETAIN } else { RETAIN })),
            5 if !away => Step::Cut,
            6 | 7 => [Step::Leave, Step::Return][usize::from(away)],
            8 => Step::Restart,
            _ if random.random_bool(0.3) => Step::NewLife,
            _ => continue,
        };
        away = away && step != Step::Return || step == Step::Leave;
        steps.push(step);
    }
    if away {
        steps.push(Step::Return);
    }
    steps
}

/// Plays the schedule of a seed.
async fn play(world: &mut World, seed: u64) -> Result<(), String> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut away = false;
    for step in schedule(&mut random) {
        match step {
            Step::Publish(count) => publish(world, &mut random, count).await,
            Step::Cut => world.cut(),
            Step::Leave | Step::Return => {
                away = step == Step::Leave;
                world.pause(away).await;
            }
            Step::Restart | Step::NewLife => world.restart(step == Step::NewLife).await,
        }
        if !away && let Err(wrong) = world.catch_up().await {
            return Err(format!("after {step:?}: {wrong}\n{}", world.state().await));
        }
    }
    world.tell_the_same()
}

/// Publishes, and sometimes cuts all connections in between.
async fn publish(world: &mut World, random: &mut StdRng, count: usize) {
    for _ in 0..count {
        let server = Technique::ALL[random.random_range(0..Technique::ALL.len())];
        let topic = ["a", "b", "c"][random.random_range(0..3)];
        world.publish(server, topic).await;
        if random.random_bool(0.05) {
            world.cut();
        }
    }
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_five_tell_the_same_story() {
    let seeds = match number("STORY_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("STORY_SEEDS").unwrap_or(SEEDS),
    };
    let home = Home::from_env().await;
    let (mut playing, mut gaps) = (JoinSet::new(), 0);
    for seed in seeds {
        if playing.len() == AT_ONE_TIME {
            gaps += gaps_of(playing.join_next().await);
        }
        let home = home.clone();
        playing.spawn(async move {
            let mut world = World::with_listeners(home).await;
            let outcome = play(&mut world, seed).await;
            let gaps = outcome.map(|()| world.gaps());
            Played { seed, gaps }
        });
    }
    while let Some(played) = playing.join_next().await {
        gaps += gaps_of(Some(played));
    }
    // Stories without any loss would prove little.
    assert!(gaps > 0 || number("STORY_SEED").is_some());
}

/// A finished story: the number of messages that clients know to be missing, or what went wrong.
struct Played {
    seed: u64,
    gaps: Result<usize, String>,
}

fn gaps_of(played: Option<Result<Played, JoinError>>) -> usize {
    let played = played.expect("one is playing").expect("it does not panic");
    let seed = played.seed;
    let again = format!("STORY_SEED={seed} cargo test -p compare --test story");
    let gaps = played.gaps;
    gaps.unwrap_or_else(|wrong| panic!("{wrong}\nto repeat it: {again}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_loses_an_acknowledged_message_is_noticed() {
    let mut world = World::with_listeners(Home::Memory).await;
    (world.loses, world.patience) = (Some(4), Duration::from_secs(2));
    for _ in 0..RETAIN {
        world.publish(Technique::Sse, "a").await;
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let wrong = world.catch_up().await.expect_err("one message is lost");
        if wrong.contains("neither came nor is named: [(0, 5)]") {
            return;
        }
        // On a busy machine others may still be on their way.
        assert!(Instant::now() < deadline, "{wrong}");
    }
}

#[test]
fn a_seed_always_makes_the_same_schedule() {
    let made = || schedule(&mut StdRng::seed_from_u64(7));
    assert_eq!(made(), made());
    let kinds = (0..100).flat_map(|seed| schedule(&mut StdRng::seed_from_u64(seed)));
    let kinds: Vec<Step> = kinds.collect();
    for step in [Step::Cut, Step::Leave, Step::Restart, Step::NewLife] {
        assert!(kinds.contains(&step), "{step:?}");
    }
}
