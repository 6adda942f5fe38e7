//! The figures, checked against the harness' proxy, which counts and delays by itself.

use std::{sync::Arc, time::Duration};

use compare::{
    Publisher, Receiver, Server, Technique,
    measure::{Measured, Plan, Way, lane},
};
use harness::{Fault, FaultProxy, Faults, PATIENCE};
use serde_json::json;
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
        clients: 1,
        interval: INTERVAL,
        keep_alive: true,
        delivered: Arc::default(),
    }
}

/// One run with the proxy between the two sides of the delivery, and the bytes that it counted.
async fn through(technique: Technique, faults: Faults, plan: Plan) -> (Technique, Measured, u64) {
    let server = Server::start(technique).await;
    let server = server.expect("a port is to be had");
    let mut way = Way::from(server.addr());
    let proxy;
    if technique == Technique::Webhooks {
        let traffic = Arc::default();
        let receiver = Receiver::listen(Arc::clone(&traffic)).await;
        let receiver = receiver.expect("a port is to be had");
        proxy = FaultProxy::start(receiver.addr(), faults).await;
        way.receiver = Some(Arc::new(receiver.called_at(proxy.addr())));
        way.traffic = Some(traffic);
    } else {
        proxy = FaultProxy::start(server.addr(), faults).await;
        way.subscribe = proxy.addr();
    }
    let measured = lane(technique, way, None, &plan).await;
    let measured = measured.expect("all messages come");
    let bytes = settled(&proxy, measured.whole.bytes).await;
    // Only now: a stream says goodbye, which nobody is there to count.
    server.stop().await.expect("it drains");
    (technique, measured, bytes)
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
async fn all(
    faults: fn(Technique) -> Faults,
    plan: fn() -> Plan,
) -> Vec<(Technique, Measured, u64)> {
    let mut runs = JoinSet::new();
    for technique in Technique::ALL {
        runs.spawn(through(technique, faults(technique), plan()));
    }
    let mut measured = runs.join_all().await;
    measured.sort_unstable_by_key(|(technique, _, _)| *technique);
    measured
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_those_that_go_over_the_wire() {
    for (technique, measured, bytes) in all(|_| Faults::default(), plan).await {
        assert_eq!(measured.whole.bytes, bytes, "{technique}");
        assert!(measured.steady.bytes < bytes, "{technique}");
    }
}

/// A stream asks once, before the counting; a long poll and a webhook once for each message, a poll
/// at every interval. Connections are kept.
#[tokio::test(flavor = "multi_thread")]
async fn requests_and_connections_are_those_of_a_client_that_stays() {
    for (technique, measured, _) in all(|_| Faults::default(), plan).await {
        let steady = measured.steady;
        let requests = match technique {
            Technique::Sse | Technique::Websockets => 0..=0,
            Technique::LongPolling | Technique::Webhooks => 21..=21,
            Technique::ShortPolling => 29..=34,
        };
        assert!(
            requests.contains(&steady.requests),
            "{technique}: {steady:?}"
        );
        assert_eq!(steady.connections, 0, "{technique}");
        let empty = steady.requests - 21.min(steady.requests);
        assert!(
            (empty..empty + 6).contains(&steady.empty),
            "{technique}: {steady:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_keep_alive_each_request_has_a_connection_of_its_own() {
    let plan = || Plan {
        keep_alive: false,
        ..plan()
    };
    for technique in [
        Technique::ShortPolling,
        Technique::LongPolling,
        Technique::Webhooks,
    ] {
        let server = Server::start(technique).await.expect("a port is to be had");
        let measured = lane(technique, server.addr(), None, &plan()).await;
        let steady = measured.expect("all messages come").steady;
        assert_eq!(steady.connections, steady.requests, "{technique}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_network_moves_the_median_by_its_delay() {
    let (direct, delayed) = tokio::join!(all(|_| Faults::default(), plan), all(delayed, plan));
    for ((technique, direct, _), (_, delayed, _)) in direct.iter().zip(&delayed) {
        if *technique == Technique::ShortPolling {
            adds_the_delay_to_what_a_poll_waits_for(delayed);
            continue;
        }
        let (before, after) = (direct.percentile(50), delayed.percentile(50));
        let moved = after.saturating_sub(before).as_millis();
        let range = format!("from {before:?} to {after:?}");
        assert!((40..=80).contains(&moved), "{technique}: {range}");
    }
}

/// Every poll has its own distance from the message, so one message is enough for all distances.
#[tokio::test(flavor = "multi_thread")]
async fn spread_polls_wait_for_half_of_the_interval_in_the_middle() {
    let server = Server::start(Technique::ShortPolling).await.unwrap();
    let plan = Plan {
        messages: 3,
        clients: 20,
        interval: Duration::from_secs(1),
        ..plan()
    };
    let measured = lane(Technique::ShortPolling, server.addr(), None, &plan).await;
    let measured = measured.expect("all messages come");
    let median = measured.percentile(50).as_millis();
    assert!((400..=620).contains(&median), "{median}");
    assert!(measured.percentile(99) >= INTERVAL * 8, "{measured:?}");
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
        let mut publisher = Publisher::new(server.addr());
        publisher
            .publish("compare", &json!({ "seq": 0 }))
            .await
            .unwrap();
        let plan = Plan {
            messages: 2,
            ..plan()
        };
        let failed = lane(technique, server.addr(), None, &plan).await;
        let error = failed
            .expect_err("message 0 was published twice")
            .to_string();
        assert_eq!(error, format!("{technique}: message 0 came twice"));
    }
}
