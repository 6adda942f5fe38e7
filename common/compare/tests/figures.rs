//! The figures, checked against the harness' proxy, which counts and delays by itself.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use common::harness::{Client, Fault, FaultProxy, Faults, PATIENCE};
use compare::{Measured, Plan, Server, Technique, measure};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

/// What the proxy adds.
const DELAY: Duration = Duration::from_millis(50);
/// Between two polls.
const INTERVAL: Duration = Duration::from_millis(100);
/// Of one run. An odd number has a message in the middle.
const MESSAGES: usize = 21;

/// Far enough apart that a long poll is back at the server before the next message.
fn plan() -> Plan {
    let gap = DELAY * 3;
    Plan {
        messages: MESSAGES,
        gap,
        start: Instant::now() + gap,
        interval: INTERVAL,
        delivered: Arc::default(),
    }
}

/// One run with the proxy between the two sides of the delivery, and the bytes that it counted.
async fn through(technique: Technique, faults: Faults) -> (Measured, u64) {
    let server = Server::start(technique).await;
    let server = server.expect("a port is to be had");
    let mut proxy = None;
    let reroute = async |upstream: SocketAddr| {
        let started = proxy.insert(FaultProxy::start(upstream, faults).await);
        started.addr()
    };
    let measured = measure(technique, server.addr(), reroute, &plan()).await;
    let measured = measured.expect("all messages come");
    let bytes = settled(&proxy.expect("every client dials"), measured.bytes).await;
    // Only now: a stream says goodbye, which nobody is there to count.
    server.stop().await.expect("it drains");
    (measured, bytes)
}

/// The proxy may count the last bytes a moment after they were sent.
async fn settled(proxy: &FaultProxy, expected: u64) -> u64 {
    let bytes = || proxy.bytes_up() + proxy.bytes_down();
    let deadline = Instant::now() + PATIENCE;
    while bytes() < expected && Instant::now() < deadline {
        sleep(Duration::from_millis(5)).await;
    }
    bytes()
}

/// On the way that the messages take: that of a webhook leads up to the receiver.
fn delayed(technique: Technique) -> Faults {
    match technique {
        Technique::Webhooks => Faults::up(Fault::Delay(DELAY)),
        _ => Faults::down(Fault::Delay(DELAY)),
    }
}

/// All five at one time: they spend it waiting.
async fn all(faults: fn(Technique) -> Faults) -> Vec<(Measured, u64)> {
    let mut runs = JoinSet::new();
    for technique in Technique::ALL {
        runs.spawn(through(technique, faults(technique)));
    }
    let mut measured = runs.join_all().await;
    measured.sort_unstable_by_key(|(measured, _)| measured.technique);
    measured
}

/// And a stream asks once, a long poll and a webhook once for each message, a poll at every
/// interval.
#[tokio::test(flavor = "multi_thread")]
async fn requests_and_bytes_are_those_that_go_over_the_wire() {
    for (measured, bytes) in all(|_| Faults::default()).await {
        let technique = measured.technique;
        assert_eq!(measured.bytes, bytes, "{technique}");
        let expected = match technique {
            Technique::Sse | Technique::Websockets => 1..=1,
            Technique::LongPolling | Technique::Webhooks => 21..=21,
            Technique::ShortPolling => 26..=34,
        };
        let requests = measured.requests;
        assert!(expected.contains(&requests), "{technique}: {requests}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_network_moves_the_median_by_its_delay() {
    let (direct, delayed) = tokio::join!(all(|_| Faults::default()), all(delayed));
    for ((direct, _), (delayed, _)) in direct.iter().zip(&delayed) {
        let technique = direct.technique;
        if technique == Technique::ShortPolling {
            adds_the_delay_to_what_a_poll_waits_for(delayed);
            continue;
        }
        let (before, after) = (direct.percentile(50), delayed.percentile(50));
        let moved = after.saturating_sub(before).as_millis();
        let range = format!("from {before:?} to {after:?}");
        assert!((45..=60).contains(&moved), "{technique}: {range}");
    }
}

/// The latency of a poll is where in the interval the message falls, which moves the median by more
/// than the delay does. What holds: no answer is sooner than the delay, and on top of it messages
/// have waited for up to an interval.
fn adds_the_delay_to_what_a_poll_waits_for(delayed: &Measured) {
    let (first, last) = (delayed.latencies[0], delayed.latencies[MESSAGES - 1]);
    assert!(first >= DELAY, "{first:?}");
    assert!(last >= DELAY + INTERVAL / 2, "{last:?}");
    let median = delayed.percentile(50);
    let waited = DELAY + INTERVAL / 4..DELAY + INTERVAL;
    assert!(waited.contains(&median), "{median:?}");
}

/// Short polling gets both in one page, a stream one by one.
#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_comes_twice_fails_the_run() {
    for technique in [Technique::ShortPolling, Technique::Sse] {
        let server = Server::start(technique).await.unwrap();
        let client = Client::new(server.addr());
        let early = client.post("/topics/compare", r#"{"seq":0}"#);
        let early = early.header("content-type", "application/json");
        assert_eq!(early.send().await.status, 201);
        let plan = Plan {
            messages: 3,
            ..plan()
        };
        let failed = measure(technique, server.addr(), async |addr| addr, &plan).await;
        let error = failed
            .expect_err("message 0 was published twice")
            .to_string();
        assert_eq!(error, format!("{technique}: message 0 came twice"));
    }
}
