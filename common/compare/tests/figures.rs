//! The figures, compared with the harness' proxy, which counts and delays independently.

use std::{pin::pin, sync::Arc, time::Duration};

use compare::{
    Knobs, Publisher, Subscription, Technique, Traffic,
    measure::{Measured, Plan, lane},
    run,
};
use harness::{Fault, FaultProxy, Faults, PATIENCE, TestServer};
use serde_json::json;
use tokio::{
    sync::Mutex,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

/// What the proxy adds.
const DELAY: Duration = Duration::from_millis(50);
/// Between two polls.
const INTERVAL: Duration = Duration::from_millis(100);
/// Messages of one run. An odd number has one in the middle.
const MESSAGES: usize = 21;
/// A wrong measurement is wrong in every run, and a busy machine is not busy in every run.
const ATTEMPTS: usize = 5;
/// The machine is busy if a timer of the run was late by more than this. The median is late by much less.
const BUSY: Duration = Duration::from_millis(50);
/// One at a time: they would make the machine busy for each other, and a process may have only 256 descriptors.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Far enough apart that a long poll is back at the server before the next message.
fn plan() -> Plan {
    let gap = DELAY * 3;
    Plan {
        messages: MESSAGES,
        gap,
        start: Instant::now() + gap,
        clients: 1,
    }
}

async fn server(technique: Technique) -> TestServer {
    let knobs = Knobs::default();
    let feed = knobs.feed();
    TestServer::start(move |listener, shutdown| run(technique, listener, feed, knobs, shutdown))
        .await
}

fn to(server: &TestServer) -> Subscription {
    Subscription {
        interval: INTERVAL,
        ..Subscription::new(server.addr(), "compare")
    }
}

/// One run, with the proxy between the client and its server.
struct Run {
    technique: Technique,
    measured: Measured,
    /// Connections that the proxy accepted.
    connections: u64,
    /// Bytes of all connections, as the client and as the proxy counted them.
    bytes: [u64; 2],
}

async fn through(technique: Technique, faults: Faults, plan: Plan) -> Run {
    let server = server(technique).await;
    let mut proxy = None;
    let to = to(&server).through(technique, async |addr| {
        let started = FaultProxy::start(addr, faults).await;
        Ok(proxy.insert(started).addr())
    });
    let to = to.await.expect("a port is free");
    let proxy = proxy.expect("it was started");
    let traffic = Arc::clone(&to.traffic);
    let measured = lane(technique, server.addr(), to, None, &plan).await;
    let measured = measured.expect("all messages come");
    let bytes = settled(&proxy, &traffic).await;
    server.stop().await;
    Run {
        technique,
        measured,
        connections: proxy.connections(),
        bytes,
    }
}

/// The bytes, once both have counted the last ones.
async fn settled(proxy: &FaultProxy, traffic: &Traffic) -> [u64; 2] {
    let bytes = || {
        [
            traffic.counts().bytes,
            proxy.bytes_up() + proxy.bytes_down(),
        ]
    };
    let deadline = Instant::now() + PATIENCE;
    while bytes()[0] != bytes()[1] && Instant::now() < deadline {
        sleep(Duration::from_millis(5)).await;
    }
    bytes()
}

/// In the direction of the messages: a webhook's goes up to the receiver.
fn delayed(technique: Technique) -> Faults {
    match technique {
        Technique::Webhooks => Faults::up(Fault::Delay(DELAY)),
        _ => Faults::down(Fault::Delay(DELAY)),
    }
}

/// All five at the same time, because they mostly wait.
async fn all(faults: fn(Technique) -> Faults, plan: fn() -> Plan) -> Vec<Run> {
    let mut runs = JoinSet::new();
    for technique in Technique::ALL {
        runs.spawn(through(technique, faults(technique), plan()));
    }
    let mut done = runs.join_all().await;
    done.sort_unstable_by_key(|run| run.technique);
    done
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_those_that_go_over_the_wire() {
    for run in all(|_| Faults::default(), plan).await {
        let [counted, bytes] = run.bytes;
        assert_eq!(counted, bytes, "{}", run.technique);
        assert!(run.measured.steady.bytes < bytes, "{}", run.technique);
    }
}

/// A stream asks once, before the counting. A long poll asks once for each message, and so does the sender of
/// webhooks. Short polling asks at every interval. Each keeps its connection.
#[tokio::test(flavor = "multi_thread")]
async fn requests_and_connections_are_those_of_a_client_that_stays() {
    in_some_attempt(async || {
        for run in all(|_| Faults::default(), plan).await {
            let (technique, steady) = (run.technique, run.measured.steady);
            let requests = match technique {
                Technique::Sse | Technique::Websockets => 0..=0,
                Technique::LongPolling | Technique::Webhooks => 21..=21,
                Technique::ShortPolling => 29..=34,
            };
            // However busy the machine is, an answer with news has at least one of the messages.
            let with_news = steady.requests.checked_sub(steady.empty);
            let possible = with_news.is_some_and(|answers| answers <= 21.min(*requests.end()));
            assert!(possible, "{technique}: {steady:?}");
            let empty = steady.requests - 21.min(steady.requests);
            if run.connections != 1
                || !requests.contains(&steady.requests)
                || !(empty..empty + 6).contains(&steady.empty)
            {
                let connections = run.connections;
                return Err(format!(
                    "{technique}: {connections} connections, {steady:?}"
                ));
            }
        }
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_network_moves_the_median_by_its_delay() {
    in_some_attempt(async || {
        let (direct, delayed) = tokio::join!(all(|_| Faults::default(), plan), all(delayed, plan));
        for (direct, delayed) in direct.iter().zip(&delayed) {
            let (technique, direct, delayed) =
                (direct.technique, &direct.measured, &delayed.measured);
            // However busy the machine is, no message is faster than the proxy.
            assert!(delayed.latencies[0] >= DELAY, "{technique}: {delayed:?}");
            if technique == Technique::ShortPolling {
                adds_the_delay_to_what_a_poll_waits_for(delayed)?;
                continue;
            }
            let (before, after) = (direct.percentile(50), delayed.percentile(50));
            let moved = after.saturating_sub(before).as_millis();
            if !(40..=80).contains(&moved) {
                return Err(format!("{technique}: from {before:?} to {after:?}"));
            }
        }
        Ok(())
    })
    .await;
}

/// The latency of a poll depends on where in the interval the message falls. That moves the median by
/// more than the delay does. So the test only requires the delay plus a part of an interval.
fn adds_the_delay_to_what_a_poll_waits_for(delayed: &Measured) -> Result<(), String> {
    let (last, median) = (delayed.latencies[MESSAGES - 1], delayed.percentile(50));
    let waited = DELAY + INTERVAL / 4..DELAY + INTERVAL;
    match last >= DELAY + INTERVAL / 2 && waited.contains(&median) {
        true => Ok(()),
        false => Err(format!("median {median:?}, last {last:?}")),
    }
}

/// Every poll has its own distance from the message, so one message is enough for all distances.
#[tokio::test(flavor = "multi_thread")]
async fn spread_polls_wait_for_half_of_the_interval_in_the_middle() {
    in_some_attempt(async || {
        let server = server(Technique::ShortPolling).await;
        let plan = Plan {
            messages: 3,
            clients: 20,
            ..plan()
        };
        let to = Subscription {
            interval: Duration::from_secs(1),
            ..to(&server)
        };
        let measured = lane(Technique::ShortPolling, server.addr(), to, None, &plan).await;
        let measured = measured.expect("all messages come");
        let (median, last) = (measured.percentile(50).as_millis(), measured.percentile(99));
        match (400..=620).contains(&median) && last >= INTERVAL * 8 {
            true => Ok(()),
            false => Err(format!("{measured:?}")),
        }
    })
    .await;
}

/// Runs until the figures are as they should be. A failure counts only if timers were punctual: on a
/// busy machine messages and polls are late, too.
async fn in_some_attempt(attempt: impl AsyncFn() -> Result<(), String>) {
    let _alone = ALONE.lock().await;
    let mut failures = Vec::new();
    for _ in 0..ATTEMPTS {
        match watched(attempt()).await {
            (Ok(()), _) => return,
            (Err(failure), late) if late > BUSY => eprintln!("too busy to judge: {failure}"),
            (Err(failure), _) => failures.push(failure),
        }
    }
    assert!(failures.is_empty(), "in every attempt: {failures:#?}");
}

/// The result of a run, and by how much a timer was late in the meantime.
async fn watched<T>(run: impl Future<Output = T>) -> (T, Duration) {
    let (mut run, mut late) = (pin!(run), Duration::ZERO);
    loop {
        let due = Instant::now() + Duration::from_millis(5);
        tokio::select! {
            result = &mut run => return (result, late),
            () = sleep_until(due) => late = late.max(due.elapsed()),
        }
    }
}

/// Short polling gets both in one page, a stream one by one.
#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_comes_twice_fails_the_run() {
    for technique in [Technique::ShortPolling, Technique::Sse] {
        let server = server(technique).await;
        let mut publisher = Publisher::new(server.addr());
        publisher
            .publish("compare", &json!({ "seq": 0 }))
            .await
            .unwrap();
        let plan = Plan {
            messages: 2,
            ..plan()
        };
        let failed = lane(technique, server.addr(), to(&server), None, &plan).await;
        let error = failed
            .expect_err("message 0 was published twice")
            .to_string();
        let came = "3 messages were sent, and these came: [0, 0, 1";
        assert!(
            error.starts_with(&format!("{technique}: {came}")),
            "{error}"
        );
    }
}
