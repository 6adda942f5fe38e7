//! Every timer of the sender, with a paused clock: days pass in milliseconds.
//!
//! The clock stands still while anything runs, and jumps to the next timer when nothing does. The
//! system's time, which survives a restart, goes with it.
//!
//! These tests are not under `webhooks/tests`, because they need the sender without its server. Over a
//! socket the paused clock would jump past the timeouts of the very requests that manage the endpoints.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io,
    sync::{Arc, LazyLock, OnceLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use common::{Data, Draft, Feed, Retention};
use hickory_resolver::{
    TokioResolver,
    config::{NameServerConfig, ResolverConfig},
};
use hyper::HeaderMap;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    sync::mpsc,
    time::{Instant, advance, sleep, timeout},
};

use super::{
    Config,
    deliver::{Attempt, Payload},
    endpoint::Endpoint,
    endpoints::Endpoints,
    guard::{self, Addresses, Guard},
    places::Stock,
    push::{Outbound, PASS_BY},
    steady::Steady,
    store::{PAUSE, Store},
    tls::Tls,
};
use crate::{schedule::Schedule, verify::standard::Secret};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);
/// What tests may take of the driven time itself.
const MOMENT: Duration = Duration::from_millis(100);

/// The system's time, which goes with tokio's.
fn driven() -> SystemTime {
    static BEGAN: OnceLock<std::time::Instant> = OnceLock::new();
    let now = Instant::now().into_std();
    let began = *BEGAN.get_or_init(|| now - DAY);
    UNIX_EPOCH + 20_000 * DAY + (now - began) + JUMPED.get()
}

thread_local! {
    /// By how much the system's clock has jumped ahead.
    static JUMPED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    /// When a name was looked up. Each test has its own thread.
    static LOOKUPS: RefCell<Vec<Instant>> = const { RefCell::new(Vec::new()) };
    /// Whose position is noted, and where it was when a name was looked up.
    static WATCHED: RefCell<Option<Arc<Endpoint>>> = const { RefCell::new(None) };
    static POSITIONS: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// No name is known, and each attempt fails at once.
fn nobody(_: &str, _: u16) -> Addresses<'_> {
    LOOKUPS.with_borrow_mut(|lookups| lookups.push(Instant::now()));
    Box::pin(async { Err(io::Error::other("no such name")) })
}

fn nobody_noting_position(name: &str, port: u16) -> Addresses<'_> {
    if let Some(endpoint) = WATCHED.with_borrow(Option::clone) {
        let position = endpoint.status().after.seq;
        POSITIONS.with_borrow_mut(|positions| positions.push(position));
    }
    nobody(name, port)
}

fn lookups() -> Vec<Instant> {
    LOOKUPS.take()
}

/// The sender without its server.
struct Sender {
    endpoints: Arc<Endpoints>,
    feed: Feed,
}

impl Sender {
    async fn start() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(adjust: impl FnOnce(&mut Outbound)) -> Self {
        let feed = Feed::new(Retention::default());
        let store = Store::open(&feed).await.unwrap();
        Self::over(feed, store, adjust).await
    }

    async fn over(feed: Feed, store: Store, adjust: impl FnOnce(&mut Outbound)) -> Self {
        let config = Config {
            allow_http: true,
            allow_loopback: true,
            lookup: nobody,
            max_endpoints: 100,
            disk: u64::MAX,
            ..Config::default()
        };
        let mut outbound = Outbound {
            clock: driven,
            steady: Steady::new(driven()),
            stock: Stock::new(8),
            ..Outbound::new(config, feed.handle(), store, None)
        };
        adjust(&mut outbound);
        let endpoints = Arc::new(Endpoints::open(outbound).await.unwrap());
        Self { endpoints, feed }
    }

    async fn register(&self, url: &str) -> Arc<Endpoint> {
        self.register_as(json!({"url": url, "topics": ["a"]})).await
    }

    async fn register_as(&self, registration: Value) -> Arc<Endpoint> {
        let registration = registration.to_string();
        let registered = self.endpoints.register(registration.as_bytes(), None).await;
        lookups();
        let (endpoint, _) = registered.unwrap_or_else(|problem| panic!("{}", problem.detail));
        endpoint
    }

    async fn publish(&self, text: &str) {
        self.publish_as("message", text).await;
    }

    async fn publish_as(&self, kind: &str, text: &str) {
        let draft = Draft {
            kind: kind.parse().unwrap(),
            data: Data::text(text),
        };
        let topic = "a".parse().unwrap();
        self.feed.publish(topic, draft).await.unwrap();
    }

    async fn patch(&self, endpoint: &Endpoint, change: Value) {
        let change = change.to_string();
        let changed = self.endpoints.patch(endpoint, change.as_bytes()).await;
        assert!(changed.is_ok());
    }

    async fn deliveries(&self, endpoint: &Endpoint) -> Value {
        let shown = self.endpoints.deliveries(endpoint, None).await;
        serde_json::from_str(&shown.ok().unwrap()).unwrap()
    }

    /// As it is after the last change.
    fn now(&self, endpoint: &Endpoint) -> Arc<Endpoint> {
        self.endpoints.find(&endpoint.id).unwrap()
    }
}

/// A request that came to a [`Sink`], and how to answer it.
struct Called {
    at: Instant,
    /// The connection's number, from 1.
    connection: usize,
    text: String,
    answer: mpsc::Sender<String>,
}

impl Called {
    async fn answer(&self, status: u16, field: &str) {
        let answer = format!("HTTP/1.1 {status} S\r\nContent-Length: 0\r\n{field}\r\n");
        self.answer.send(answer).await.unwrap();
    }

    fn signatures(&self) -> usize {
        self.text.matches("v1,").count()
    }

    fn says(&self, text: &str) -> bool {
        self.text.contains(&format!(r#""data":"{text}""#))
    }
}

/// An endpoint whose answers the test gives.
struct Sink {
    url: String,
    called: mpsc::Receiver<Called>,
}

impl Sink {
    async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let (call, called) = mpsc::channel(100);
        tokio::spawn(async move {
            for connection in 1.. {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, connection, call.clone()));
            }
        });
        Self { url, called }
    }

    async fn called(&mut self) -> Called {
        let called = timeout(7 * DAY, self.called.recv()).await;
        called.expect("it is called within a week").unwrap()
    }

    /// Whether nobody calls for so long.
    async fn is_quiet(&mut self, time: Duration) -> bool {
        timeout(time, self.called.recv()).await.is_err()
    }
}

/// Hands on each request, whose body ends with `}`, and answers as it is told.
async fn serve(mut stream: TcpStream, connection: usize, call: mpsc::Sender<Called>) {
    let mut text = Vec::new();
    while stream.read_buf(&mut text).await.is_ok_and(|read| read > 0) {
        if !text.ends_with(b"}") {
            continue;
        }
        let (answer, mut answered) = mpsc::channel(1);
        let called = Called {
            at: Instant::now(),
            connection,
            text: String::from_utf8(std::mem::take(&mut text)).unwrap(),
            answer,
        };
        call.send(called).await.unwrap();
        match answered.recv().await {
            Some(answer) => stream.write_all(answer.as_bytes()).await.unwrap(),
            None => return,
        }
    }
}

/// That these moments are as far apart as the schedule says: never early, at most a fifth late.
fn assert_schedule(attempts: &[Instant], delays: &[u64]) {
    let apart = attempts.windows(2).map(|pair| pair[1] - pair[0]);
    let apart: Vec<Duration> = apart.collect();
    assert_eq!(apart.len(), delays.len(), "{apart:?}");
    for (apart, delay) in apart.iter().zip(delays) {
        let delay = Duration::from_secs(*delay);
        assert!(*apart >= delay, "{apart:?} is earlier than {delay:?}");
        let latest = delay.mul_f64(1.2) + MOMENT;
        assert!(*apart <= latest, "{apart:?} is later than {latest:?}");
    }
}

/// The steps of the Standard Webhooks text.
const STEPS: [u64; 9] = [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400];

#[tokio::test(start_paused = true)]
async fn a_delivery_goes_through_the_whole_schedule_and_is_dead_and_through_it_again() {
    let sender = Sender::with(|outbound| outbound.config.give_up = Duration::MAX).await;
    let endpoint = sender.register("https://nobody.example/").await;
    sender.publish("hello").await;
    let published = Instant::now();
    sleep(4 * DAY).await;
    let attempts = lookups();
    assert!(attempts[0] - published <= MOMENT, "the first is at once");
    assert_schedule(&attempts, &STEPS);
    let shown = sender.deliveries(&endpoint).await;
    let (listed, dead) = (shown["attempts"].as_array().unwrap(), &shown["dead"]);
    assert_eq!(listed.len(), 10);
    assert_eq!(
        (&dead[0]["attempts"], dead.as_array().unwrap().len()),
        (&json!(10), 1)
    );
    assert_eq!(dead[0]["reason"], "the name does not resolve: no such name");

    let id = dead[0]["id"].as_str().unwrap();
    let again = sender.endpoints.retry(&endpoint, id, b"{}").await;
    assert!(again.is_ok());
    sleep(4 * DAY).await;
    assert_schedule(&lookups(), &STEPS);
}

#[tokio::test(start_paused = true)]
async fn who_has_only_failed_for_five_days_is_disabled_and_not_called_any_more() {
    let sender = Sender::start().await;
    let endpoint = sender.register("https://nobody.example/").await;
    sender.publish("first").await;
    sleep(5 * DAY - HOUR).await;
    sender.publish("second").await;
    sleep(MINUTE).await;
    assert!(endpoint.status().disabled.is_none(), "an hour is missing");
    sleep(4 * HOUR).await;
    let disabled = endpoint.status().disabled.clone().unwrap();
    assert!(
        disabled.reason.starts_with("no success for 5days"),
        "{}",
        disabled.reason
    );
    assert_eq!(
        lookups().len(),
        10 + 5,
        "the last is 2 h after the one before"
    );
    sleep(DAY).await;
    assert_eq!(lookups(), []);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_six_days_is_no_time_of_failing() {
    let sender = Sender::start().await;
    let endpoint = sender.register("https://nobody.example/").await;
    sender.publish("first").await;
    sleep(MINUTE).await;
    JUMPED.set(6 * DAY);
    sleep(4 * HOUR).await;
    assert_eq!(lookups().len(), 5);
    assert!(endpoint.status().disabled.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_failure_every_two_days_disables_at_the_fifth() {
    let once = |outbound: &mut Outbound| outbound.config.schedule = Schedule::new([]);
    let sender = Sender::with(once).await;
    let endpoint = sender.register("https://nobody.example/").await;
    for failed in 0..5 {
        assert!(endpoint.status().disabled.is_none(), "after {failed}");
        sender.publish("fails").await;
        sleep(2 * DAY).await;
    }
    assert!(endpoint.status().disabled.is_some());
}

/// It is stopped for six days, or the clock is corrected at its start.
#[tokio::test(start_paused = true)]
async fn the_time_without_a_sender_is_no_time_of_failing() {
    let once = |outbound: &mut Outbound| outbound.config.schedule = Schedule::new([]);
    let feed = Feed::new(Retention::default());
    let store = Store::open(&feed).await.unwrap();
    let mut endpoint = None;
    for jump in [Duration::ZERO, 6 * DAY, 12 * DAY, 6 * DAY] {
        JUMPED.set(jump);
        let sender = Sender::over(feed.clone(), store.clone(), once).await;
        let found = sender.endpoints.list().pop();
        let failing = match found {
            Some(found) => found,
            None => sender.register("https://nobody.example/").await,
        };
        sender.patch(&failing, json!({})).await; // its loop starts again from the store
        let failing = sender.now(&failing);
        for _ in 0..2 {
            sender.publish("fails").await;
            sleep(DAY - HOUR).await;
        }
        assert!(failing.status().disabled.is_none(), "{jump:?}");
        sender.endpoints.stop();
        sender.endpoints.drained().await;
        endpoint = Some(failing);
    }
    assert_eq!(endpoint.unwrap().status().dead, 8);
    // Four days of failing are counted: there is one failure at the start of each, and one a day later.
    let sender = Sender::over(feed, store, once).await;
    sender.publish("fails").await;
    sleep(DAY + 4 * HOUR).await;
    sender.publish("fails").await;
    sleep(SECOND).await;
    assert!(sender.endpoints.list()[0].status().disabled.is_some());
}

/// The clock was a year ahead when the retry was written, and is right at the next start.
#[tokio::test(start_paused = true)]
async fn a_retry_that_a_wrong_clock_wrote_comes_after_the_longest_step() {
    JUMPED.set(365 * DAY);
    let feed = Feed::new(Retention::default());
    let store = Store::open(&feed).await.unwrap();
    let before = Sender::over(feed.clone(), store.clone(), |_| {}).await;
    let endpoint = before.register("https://nobody.example/").await;
    before.publish("hello").await;
    sleep(SECOND).await;
    before.endpoints.stop();
    before.endpoints.drained().await;
    assert_eq!((lookups().len(), endpoint.status().waiting), (1, 1));
    JUMPED.set(Duration::ZERO);
    let _after = Sender::over(feed, store, |_| {}).await;
    sleep(29 * HOUR).await;
    assert!(!lookups().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_success_begins_the_five_days_anew() {
    let (sender, mut sink) = (Sender::start().await, Sink::open().await);
    let endpoint = sender.register(&sink.url).await;
    for _ in 0..3 {
        sender.publish("fails first").await;
        sink.called().await.answer(500, "").await;
        sink.called().await.answer(200, "").await;
        sleep(3 * DAY).await;
    }
    assert!(endpoint.status().disabled.is_none());
    assert_eq!(endpoint.status().delivered, 3);
}

#[tokio::test(start_paused = true)]
async fn another_url_begins_the_five_days_anew_and_the_same_one_does_not() {
    for (url, is_disabled) in [
        ("https://elsewhere.example/", false),
        ("https://nobody.example/", true),
    ] {
        let sender = Sender::start().await;
        let endpoint = sender.register("https://nobody.example/").await;
        sender.publish("first").await;
        sleep(5 * DAY - HOUR).await;
        let change = json!({"url": url}).to_string();
        let changed = sender.endpoints.patch(&endpoint, change.as_bytes()).await;
        assert!(changed.is_ok());
        sender.publish("second").await;
        sleep(4 * HOUR).await;
        let disabled = sender.now(&endpoint).status().disabled.is_some();
        assert_eq!(disabled, is_disabled, "{url}");
    }
}

#[tokio::test(start_paused = true)]
async fn retry_after_puts_off_the_whole_endpoint_in_both_forms_from_a_second_to_a_day() {
    for (asked, pause) in [
        ("120", 120 * SECOND),
        ("86401", DAY),
        ("in two minutes", 119 * SECOND),
        ("in a year", DAY),
        // Neither form counts as absent: one message says nothing about the endpoint.
        ("1e99", Duration::ZERO),
        ("Sat, 31 Feb 2026 25:00:00 GMT", Duration::ZERO),
        ("0", SECOND),
        ("an hour ago", SECOND),
    ] {
        let date = |later| httpdate::fmt_http_date(driven() + later);
        let field = match asked {
            "in two minutes" => date(2 * MINUTE),
            "in a year" => date(365 * DAY),
            "an hour ago" => httpdate::fmt_http_date(driven() - HOUR),
            _ => asked.to_owned(),
        };
        let (sender, mut sink) = (Sender::start().await, Sink::open().await);
        sender.register(&sink.url).await;
        sender.publish("first").await;
        let first = sink.called().await;
        first
            .answer(429, &format!("Retry-After: {field}\r\n"))
            .await;
        sleep(SECOND).await;
        sender.publish("second").await;
        let apart = sink.called().await.at - first.at;
        // A date has whole seconds.
        let expected = pause..pause + 2 * SECOND;
        assert!(expected.contains(&apart), "{asked}: {apart:?}");
    }
}

/// Otherwise a message that is always answered 503 would stop all others.
#[tokio::test(start_paused = true)]
async fn after_a_requested_pause_a_new_message_goes_before_the_throttled_one() {
    let (sender, mut sink) = (Sender::start().await, Sink::open().await);
    sender.register(&sink.url).await;
    sender.publish("throttled").await;
    for text in ["second", "third"] {
        let called = sink.called().await;
        assert!(called.says("throttled"));
        called.answer(503, "Retry-After: 5\r\n").await;
        sleep(SECOND).await;
        sender.publish(text).await;
        let called = sink.called().await;
        assert!(called.says(text), "{}", called.text);
        called.answer(200, "").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_requested_pause_outlasts_a_change_and_a_restart() {
    let feed = Feed::new(Retention::default());
    let store = Store::open(&feed).await.unwrap();
    let before = Sender::over(feed.clone(), store.clone(), |_| {}).await;
    let mut sink = Sink::open().await;
    let endpoint = before.register(&sink.url).await;
    before.publish("first").await;
    let first = sink.called().await;
    first.answer(429, "Retry-After: 3600\r\n").await;
    sleep(SECOND).await;
    before.patch(&endpoint, json!({"timeout": 20})).await;
    before.publish("second").await;
    assert!(sink.is_quiet(MINUTE).await);
    before.endpoints.stop();
    before.endpoints.drained().await;
    let _after = Sender::over(feed, store, |_| {}).await;
    let apart = sink.called().await.at - first.at;
    assert!(apart >= HOUR && apart <= HOUR + MOMENT, "{apart:?}");
}

#[tokio::test(start_paused = true)]
async fn another_url_or_enabling_ends_a_requested_pause() {
    let (sender, mut sink, mut other) = (
        Sender::start().await,
        Sink::open().await,
        Sink::open().await,
    );
    let endpoint = sender.register(&sink.url).await;
    for text in ["first", "second"] {
        sender.publish(text).await;
        let called = sink.called().await;
        called.answer(429, "Retry-After: 3600\r\n").await;
        sleep(SECOND).await;
        sender.patch(&endpoint, json!({"enabled": true})).await;
    }
    sender.patch(&endpoint, json!({"url": other.url})).await;
    sender.publish("third").await;
    assert!(other.called().await.says("third"));
}

#[tokio::test(start_paused = true)]
async fn after_a_change_a_failing_endpoint_still_gets_one_attempt_at_a_time() {
    let (sender, mut sink) = (Sender::start().await, Sink::open().await);
    let endpoint = sender.register(&sink.url).await;
    for text in ["first", "second", "third"] {
        sender.publish(text).await;
        sink.called().await.answer(500, "").await;
    }
    sleep(SECOND).await;
    sender.patch(&endpoint, json!({})).await;
    for text in ["fourth", "fifth"] {
        sender.publish(text).await;
    }
    let _hangs = sink.called().await;
    assert!(sink.is_quiet(SECOND).await);
}

#[tokio::test(start_paused = true)]
async fn an_overload_is_asked_about_after_the_schedules_step_and_at_most_five_minutes() {
    let (sender, mut sink) = (Sender::start().await, Sink::open().await);
    let endpoint = sender.register(&sink.url).await;
    for _ in 0..200 {
        sender.publish("hello").await;
    }
    // Eight are under way before the first answer.
    let mut calls = Vec::new();
    for _ in 0..8 {
        calls.push(sink.called().await);
    }
    for call in &calls {
        call.answer(503, "").await;
    }
    let mut last = Instant::now();
    for _ in 0..100 {
        // One asks, and the others' attempts are not spent meanwhile.
        let call = sink.called().await;
        let apart = call.at - last;
        assert!(
            apart >= 5 * SECOND && apart <= 5 * MINUTE + MOMENT,
            "{apart:?}"
        );
        last = call.at;
        call.answer(503, "").await;
    }
    for _ in 0..200 {
        sink.called().await.answer(200, "").await;
    }
    assert!(
        last.elapsed() < DAY,
        "then it is well, and all that waits comes by its schedule"
    );
    sleep(SECOND).await;
    let status = endpoint.status();
    assert_eq!((status.delivered, status.dead), (200, 0));
}

#[tokio::test(start_paused = true)]
async fn an_overload_at_the_last_attempt_of_different_messages_pauses_too() {
    let once = |outbound: &mut Outbound| outbound.config.schedule = Schedule::new([]);
    let (sender, mut sink) = (Sender::with(once).await, Sink::open().await);
    let endpoint = sender.register(&sink.url).await;
    let mut last = None;
    for text in ["first", "second", "third"] {
        sender.publish(text).await;
        let call = sink.called().await;
        assert!(call.says(text), "one message that fails stops no other");
        call.answer(503, "").await;
        last = Some(call.at);
    }
    sleep(SECOND).await;
    assert_eq!(endpoint.status().dead, 3);
    sender.publish("fourth").await;
    let apart = sink.called().await.at - last.unwrap();
    assert!(
        apart >= 5 * SECOND && apart <= 5 * SECOND + MOMENT,
        "{apart:?}"
    );
}

/// One message that the endpoint cannot take says nothing about the others.
#[tokio::test(start_paused = true)]
async fn poison_delays_no_other_message() {
    for (status, field) in [(429, ""), (500, ""), (502, ""), (503, ""), (504, "")] {
        let (sender, mut sink) = (Sender::start().await, Sink::open().await);
        let endpoint = sender.register(&sink.url).await;
        let began = Instant::now();
        let (mut good, mut calls) = (0, 0);
        for number in 0..60 {
            let text = if number % 10 == 3 { "poison" } else { "good" };
            sender.publish(text).await;
        }
        while good < 54 {
            let call = sink.called().await;
            calls += 1;
            let is_poison = call.says("poison");
            good += usize::from(!is_poison);
            call.answer(if is_poison { status } else { 200 }, field)
                .await;
        }
        assert!(began.elapsed() < SECOND, "{status}: {:?}", began.elapsed());
        assert!(calls <= 60, "{status}");
        sleep(MOMENT).await;
        assert_eq!(endpoint.status().waiting, 6, "{status}");
    }
}

/// It takes one message per second.
#[tokio::test(start_paused = true)]
async fn throttling_fails_no_message_and_costs_no_time() {
    let (sender, mut sink) = (Sender::start().await, Sink::open().await);
    let endpoint = sender.register(&sink.url).await;
    for _ in 0..60 {
        sender.publish("hello").await;
    }
    let began = Instant::now();
    let (mut taken, mut next) = (0, began);
    while taken < 60 {
        let call = sink.called().await;
        if call.at < next {
            call.answer(429, "Retry-After: 1\r\n").await;
            continue;
        }
        next = call.at + SECOND;
        taken += 1;
        call.answer(200, "").await;
    }
    assert!(began.elapsed() < 90 * SECOND, "{:?}", began.elapsed());
    sleep(SECOND).await;
    let status = endpoint.status();
    assert_eq!((status.delivered, status.dead), (60, 0));
}

#[tokio::test(start_paused = true)]
async fn first_attempts_go_before_retries_except_in_one_slot() {
    let patient = |outbound: &mut Outbound| outbound.config.attempt_timeout = HOUR;
    let (sender, mut sink) = (Sender::with(patient).await, Sink::open().await);
    sender.register(&sink.url).await;
    for _ in 0..3 {
        sender.publish("again").await;
        sink.called().await.answer(500, "").await;
        // It is well again, or it would have one place.
        sender.publish("well").await;
        sink.called().await.answer(200, "").await;
    }
    let mut calls = VecDeque::new();
    for _ in 0..20 {
        sender.publish("new").await;
    }
    for _ in 0..8 {
        calls.push_back(sink.called().await);
    }
    sleep(MINUTE).await; // now all three are due
    for expected in ["again", "new", "new"] {
        calls.pop_front().unwrap().answer(200, "").await;
        let call = sink.called().await;
        assert!(call.says(expected), "{expected} is next");
        calls.push_back(call);
    }
    let retry = calls.iter().position(|call| call.says("again")).unwrap();
    calls.remove(retry).unwrap().answer(200, "").await;
    assert!(sink.called().await.says("again"));
}

/// It is due when the loop finds 900 unwanted messages, page after page.
#[tokio::test(start_paused = true)]
async fn a_retry_that_is_due_does_not_wait_for_a_backlog_of_unwanted_messages() {
    let sender = Sender::with(|outbound| outbound.guard.lookup = nobody_noting_position).await;
    let registration =
        json!({"url": "https://nobody.example/", "topics": ["a"], "types": ["wanted"]});
    let endpoint = sender.register_as(registration).await;
    WATCHED.set(Some(endpoint));
    sender.publish_as("wanted", "hello").await;
    sleep(MOMENT).await;
    for _ in 0..900 {
        sender.publish("unwanted").await;
    }
    advance(MINUTE).await; // only now the loop runs
    sleep(MOMENT).await;
    let positions = POSITIONS.take();
    assert_eq!(positions.len(), 2);
    assert!(positions[1] < 900, "{positions:?}");
}

#[tokio::test(start_paused = true)]
async fn a_filter_skips_no_wanted_message() {
    let (sender, mut sink) = (Sender::start().await, Sink::open().await);
    let registration = json!({"url": sink.url, "topics": ["a"], "types": ["wanted"], "concurrency": 2, "ordered": true});
    sender.register_as(registration).await;
    for number in 0..300 {
        let kind = if number % 3 == 0 {
            "unwanted"
        } else {
            "wanted"
        };
        sender.publish_as(kind, &number.to_string()).await;
    }
    for number in (0..300).filter(|number| number % 3 != 0) {
        let called = sink.called().await;
        assert!(called.says(&number.to_string()), "{number}");
        called.answer(200, "").await;
    }
    assert!(sink.is_quiet(MINUTE).await);
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_holds_no_slot_but_its_own() {
    let (sender, mut sink) = (Sender::start().await, Sink::open().await);
    let endpoint = sender.register(&sink.url).await;
    for text in ["0", "1", "2", "3", "4", "5", "6", "7", "8"] {
        sender.publish(text).await;
    }
    let mut slow = None;
    for _ in 0..9 {
        let called = timeout(MOMENT, sink.called()).await.unwrap();
        match called.says("0") {
            true => slow = Some(called),
            false => called.answer(200, "").await,
        }
    }
    sleep(MOMENT).await;
    assert_eq!(endpoint.status().delivered, 8);
    drop(slow);
}

#[tokio::test(start_paused = true)]
async fn beyond_the_stock_each_endpoint_has_one_place() {
    let none = |outbound: &mut Outbound| outbound.stock = Stock::new(2);
    let sender = Sender::with(none).await;
    let (mut slow, mut well) = (Sink::open().await, Sink::open().await);
    sender.register(&slow.url).await;
    sender.register(&well.url).await;
    let mut hang = Vec::new();
    sender.publish("0").await;
    hang.push(slow.called().await);
    well.called().await.answer(200, "").await;
    for text in ["1", "2", "3", "4", "5", "6", "7", "8", "9"] {
        sender.publish(text).await;
        let call = well.called().await;
        assert!(call.says(text), "it comes in time");
        call.answer(200, "").await;
    }
    while let Ok(Some(call)) = timeout(SECOND, slow.called.recv()).await {
        hang.push(call);
    }
    assert_eq!(hang.len(), 3, "two of the stock and its own");
}

#[tokio::test(start_paused = true)]
async fn what_a_disabled_endpoint_has_not_got_is_held_for_thirty_days_and_then_dead() {
    let sender = Sender::start().await;
    let endpoint = sender.register("https://nobody.example/").await;
    let pinned = sender.endpoints.clone();
    tokio::spawn(async move { pinned.keep_pinned().await });
    sender.publish("hello").await;
    sleep(SECOND).await;
    let off = br#"{"enabled":false}"#;
    assert!(sender.endpoints.patch(&endpoint, off).await.is_ok());
    advance(30 * DAY - MINUTE).await;
    sleep(2 * SECOND).await;
    let held = sender.now(&endpoint);
    assert_eq!(held.status().dead, 0);
    assert_eq!(held.status().disabled.as_ref().unwrap().expired, None);
    advance(MINUTE).await;
    sleep(2 * SECOND).await;
    let over = sender.now(&endpoint);
    assert_eq!(over.status().dead, 1);
    assert!(over.status().disabled.as_ref().unwrap().expired.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_a_month_leaves_the_backlog_and_the_secrets() {
    let sender = Sender::start().await;
    let endpoint = sender.register("https://nobody.example/").await;
    assert!(sender.endpoints.rotate(&endpoint, b"{}").await.is_ok());
    let pinned = sender.endpoints.clone();
    tokio::spawn(async move { pinned.keep_pinned().await });
    sender.publish("hello").await;
    sleep(SECOND).await;
    let off = br#"{"enabled":false}"#;
    assert!(sender.endpoints.patch(&endpoint, off).await.is_ok());
    JUMPED.set(31 * DAY);
    sleep(2 * HOUR).await;
    let held = sender.now(&endpoint);
    assert_eq!(held.status().disabled.as_ref().unwrap().expired, None);
    assert_eq!(held.secrets(sender.endpoints.now()).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn at_a_start_under_a_clock_a_month_ahead_nothing_is_given_up_for_an_hour_or_once_it_is_right()
 {
    let feed = Feed::new(Retention::default());
    let store = Store::open(&feed).await.unwrap();
    let before = Sender::over(feed.clone(), store.clone(), |_| {}).await;
    let endpoint = before.register("https://nobody.example/").await;
    let off = br#"{"enabled":false}"#;
    assert!(before.endpoints.patch(&endpoint, off).await.is_ok());
    JUMPED.set(31 * DAY);
    let after = Sender::over(feed, store, |_| {}).await;
    let pinned = after.endpoints.clone();
    tokio::spawn(async move { pinned.keep_pinned().await });
    for (time, jumped, expired) in [
        (HOUR - MINUTE, 31 * DAY, false),
        (2 * MINUTE, Duration::ZERO, false),
        (2 * MINUTE, 31 * DAY, true),
    ] {
        JUMPED.set(jumped);
        sleep(time).await;
        let disabled = after.now(&endpoint).status().disabled.clone();
        assert_eq!(disabled.unwrap().expired.is_some(), expired);
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_rotation_both_secrets_sign_for_a_day() {
    let (sender, mut sink) = (Sender::start().await, Sink::open().await);
    let endpoint = sender.register(&sink.url).await;
    assert!(sender.endpoints.rotate(&endpoint, b"{}").await.is_ok());
    sender.publish("hello").await;
    let call = sink.called().await;
    assert_eq!(call.signatures(), 2);
    call.answer(200, "").await;
    for (time, signatures) in [(DAY - MINUTE, 2), (2 * MINUTE, 1)] {
        advance(time).await;
        sender.publish("hello").await;
        let call = sink.called().await;
        assert_eq!(call.signatures(), signatures);
        call.answer(200, "").await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_kept_for_fifteen_seconds() {
    let (sender, mut sink) = (Sender::start().await, Sink::open().await);
    sender.register(&sink.url).await;
    let mut connections = Vec::new();
    for pause in [0, 14, 16] {
        sleep(pause * SECOND).await;
        sender.publish("hello").await;
        let call = sink.called().await;
        connections.push(call.connection);
        call.answer(200, "").await;
    }
    assert_eq!(connections, [1, 1, 2]);
}

/// A listener whose backlog is full: a connection is neither made nor refused.
#[cfg(target_os = "linux")]
#[tokio::test(start_paused = true)]
async fn a_connection_may_take_a_third_of_the_deadline() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = socket.listen(0).unwrap();
    let address = full.local_addr().unwrap();
    let mut fill = Vec::new();
    while let Ok(Ok(stream)) = timeout(SECOND, TcpStream::connect(address)).await {
        fill.push(stream);
    }
    let attempt = Attempt {
        guard: Guard {
            http: true,
            loopback: true,
            ..Guard::default()
        },
        tls: Tls::system(),
        fields: HeaderMap::new(),
        url: format!("http://{address}/").parse().unwrap(),
        secrets: vec![Secret::from_key([7; 32])],
        deadline: Config::default().attempt_timeout,
    };
    let message = Payload {
        id: "a-1".into(),
        json: "{}".into(),
    };
    let outcome = attempt.run(&mut None, &message, driven()).await;
    let error = outcome.result.unwrap_err();
    assert_eq!(error.to_string(), "no connection within 5 s");
    assert_eq!(outcome.duration, 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_change_waits_a_second_for_what_is_in_flight() {
    let (sender, mut sink) = (Sender::start().await, Sink::open().await);
    let endpoint = sender.register(&sink.url).await;
    sender.publish("hello").await;
    let _hangs = sink.called().await;
    let before = Instant::now();
    assert!(sender.endpoints.patch(&endpoint, b"{}").await.is_ok());
    assert_eq!(before.elapsed(), SECOND);
    assert!(
        sink.called().await.says("hello"),
        "what was cut comes again"
    );
}

#[tokio::test(start_paused = true)]
async fn a_change_waits_no_longer_for_an_endpoint_that_answered_gone() {
    let (sender, mut sink) = (Sender::start().await, Sink::open().await);
    let endpoint = sender.register(&sink.url).await;
    sender.publish("hello").await;
    let _hangs = sink.called().await;
    sender.publish("gone").await;
    sink.called().await.answer(410, "").await;
    sleep(MOMENT).await;
    assert!(endpoint.status().disabled.is_some());
    let before = Instant::now();
    sender.patch(&endpoint, json!({"enabled": true})).await;
    assert_eq!(before.elapsed(), SECOND);
}

#[tokio::test(start_paused = true)]
async fn two_changes_at_the_same_time_both_take_effect() {
    let sender = Sender::start().await;
    let endpoint = sender.register("https://nobody.example/").await;
    tokio::join!(
        sender.patch(&endpoint, json!({"timeout": 5})),
        sender.patch(&endpoint, json!({"concurrency": 2})),
    );
    let now = sender.now(&endpoint).to_json(None);
    let now: Value = serde_json::from_str(&now).unwrap();
    assert_eq!(
        (&now["timeout"], &now["concurrency"]),
        (&json!(5), &json!(2))
    );
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_ten_seconds_for_what_is_in_flight_and_claims_nothing() {
    let (sender, mut sink) = (Sender::start().await, Sink::open().await);
    sender.register(&sink.url).await;
    sender.publish("hello").await;
    let _hangs = sink.called().await;
    let before = Instant::now();
    sender.endpoints.stop();
    sender.publish("later").await;
    let lost = sender.endpoints.drained().await;
    assert_eq!(before.elapsed(), 10 * SECOND);
    assert!(sink.is_quiet(MINUTE).await);
    assert_eq!(lost, 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_let_go_in_other_topics_is_no_gap_to_a_quiet_endpoint() {
    // A new topic takes the old one's place.
    let feed = Feed::new(Retention {
        topics: 1,
        idle: Duration::ZERO,
        ..Retention::default()
    });
    let handle = feed.handle();
    let sender = Sender::with(|outbound| outbound.feed = handle).await;
    let endpoint = sender.register("https://nobody.example/").await;
    let publish = async |topic: &str| {
        let draft = Draft::new(Data::text("hello"));
        feed.publish(topic.parse().unwrap(), draft).await.unwrap();
    };
    publish("b").await;
    sleep(PASS_BY + MOMENT).await;
    assert_eq!(endpoint.status().after, feed.head());
    publish("a").await;
    sleep(MOMENT).await;
    assert_eq!(endpoint.status().after, feed.head());
    assert_eq!(sender.deliveries(&endpoint).await["gaps"], json!([]));
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_left_alone_for_a_second() {
    use rusqlite::ffi;
    use std::sync::atomic::{AtomicUsize, Ordering};
    let path = std::env::temp_dir().join(format!("webhooks-full-{}", std::process::id()));
    let source = common::FeedSource::File(path.clone());
    let feed = source.open(Retention::default(), false).await.unwrap();
    let store = Store::open(&feed).await.unwrap();
    let tries = Arc::new(AtomicUsize::new(0));
    let full = move |_: &rusqlite::Connection| match tries.fetch_add(1, Ordering::Relaxed) {
        0..3 => Err(rusqlite::Error::SqliteFailure(
            ffi::Error::new(ffi::SQLITE_FULL),
            None,
        )),
        _ => Ok(()),
    };
    let before = Instant::now();
    store.note(full).await.unwrap();
    assert_eq!(before.elapsed(), 3 * PAUSE);
    for end in ["", "-wal", "-shm", "-lock"] {
        let _ = std::fs::remove_file(format!("{}{end}", path.display())); // it is in the temporary folder
    }
}

/// The port of a name server that never answers.
static SILENT: OnceLock<u16> = OnceLock::new();

fn ask_silent(name: &str, port: u16) -> Addresses<'_> {
    static RESOLVER: LazyLock<TokioResolver> = LazyLock::new(|| {
        let mut server = NameServerConfig::udp([127, 0, 0, 1].into());
        server.connections[0].port = *SILENT.get().unwrap();
        let config = ResolverConfig::from_name_servers(vec![server]);
        guard::resolver(guard::asking(config))
    });
    guard::resolve(&RESOLVER, name, port)
}

#[tokio::test(start_paused = true)]
async fn twenty_endpoints_whose_name_servers_are_silent_delay_nobody() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    SILENT.set(silent.local_addr().unwrap().port()).unwrap();
    let sender = Sender::with(|outbound| outbound.guard.lookup = ask_silent).await;
    for number in 0..20 {
        sender
            .register(&format!("https://silent-{number}.example/"))
            .await;
    }
    let mut sink = Sink::open().await;
    let endpoint = sender.register(&sink.url).await;
    let began = Instant::now();
    for number in 0..30 {
        let text = number.to_string();
        sender.publish(&text).await;
        let call = sink.called().await;
        assert!(call.says(&text));
        call.answer(200, "").await;
    }
    // A single lookup takes 2 s, and there are 20 of them.
    assert!(began.elapsed() < 2 * SECOND, "{:?}", began.elapsed());
    let _question = silent.recv(&mut [0; 512]).await.unwrap();
    assert!(endpoint.status().last_error.is_none());
}
