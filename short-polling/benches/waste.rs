//! What short polling wastes: `cargo bench -p short-polling`. Linux only, because it reads `/proc`.
//!
//! First, what a *no* costs: bytes both ways and CPU of the server, beside a bare hyper server that
//! always answers the same 304. The servers take turns, and the figures are medians.
//!
//! Then, how many answers are a *no*, and how late a message is: for a client that polls every five
//! seconds, and for one that obeys the hint. This is a simulation with the server's own function and
//! messages at random moments.

use std::{
    convert::Infallible,
    env,
    io::{Read, Write},
    net::TcpStream,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use common::fit_descriptors;
use harness::Process;
use http_body_util::Empty;
use hyper::{Response, StatusCode, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use short_polling::hint::Hint;

const RUNS: usize = 7;
const RUN: Duration = Duration::from_millis(700);
const CONNECTIONS: usize = 64;
/// Connections that are kept and do nothing.
const IDLE: usize = 10_000;

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    if env::args().any(|argument| argument == "bare") {
        return runtime.block_on(bare_hyper());
    }
    println!(
        "{:<44} {:>9} {:>9} {:>12} {:>7}",
        "an empty answer", "sent", "received", "CPU (µs)", "× bare"
    );
    let (bare, ours) = runtime.block_on(async { (bare_server().await, our_server().await) });
    costs(&bare, &ours);
    println!(
        "\na connection between two polls, resident: {} bytes",
        runtime.block_on(idle())
    );
    println!(
        "\n{:<44} {:>9} {:>9} {:>12}",
        "a client, messages at random", "polls/h", "of no use", "late (s)"
    );
    for (name, mean) in [
        ("every 10 s", 10.0),
        ("every minute", 60.0),
        ("every hour", 3_600.0),
    ] {
        share(&format!("{name}, asks every 5 s"), mean, |_, _| 5.0);
        share(&format!("{name}, follows the hint"), mean, hinted);
    }
}

/// One kind of poll, and what it cost each time.
struct Case {
    name: &'static str,
    /// Whether it asks the bare server.
    bare: bool,
    conditional: bool,
    kept: bool,
    costs: Vec<Cost>,
}

struct Cost {
    sent: usize,
    received: usize,
    cpu_us: f64,
}

fn costs(bare: &Server, ours: &Server) {
    let case = |name, bare, conditional, kept| Case {
        name,
        bare,
        conditional,
        kept,
        costs: Vec::new(),
    };
    let mut cases = [
        case("bare hyper: a fixed 304", true, true, true),
        case("304", false, true, true),
        case("200 with an empty page", false, false, true),
        case("304, a new connection for each", false, true, false),
    ];
    for _ in 0..RUNS {
        for case in &mut cases {
            let server = if case.bare { bare } else { ours };
            let cost = server.ask(case.conditional, case.kept);
            case.costs.push(cost);
        }
    }
    let [first, ..] = &cases;
    for case in &cases {
        let ratios = case.costs.iter().zip(&first.costs);
        let ratio = median(
            ratios
                .map(|(cost, bare)| cost.cpu_us / bare.cpu_us)
                .collect(),
        );
        let cpu = median(case.costs.iter().map(|cost| cost.cpu_us).collect());
        let (name, Cost { sent, received, .. }) = (case.name, &case.costs[0]);
        println!("{name:<44} {sent:>9} {received:>9} {cpu:>12.1} {ratio:>7.2}");
    }
}

/// The memory of one connection, of many that have polled twice and stay open.
async fn idle() -> u64 {
    let connections = fit_descriptors(IDLE);
    let server = our_server().await;
    let request = server.request(true);
    let before = server.process.resident();
    let mut kept: Vec<TcpStream> = (0..connections).map(|_| server.connect()).collect();
    for _ in 0..2 {
        for stream in &mut kept {
            server.exchange(stream, &request);
        }
    }
    let grown = server.process.resident().saturating_sub(before);
    grown / connections as u64
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// A separate process, so that its CPU time is not mixed with the client's.
struct Server {
    process: Process,
    /// A poll after the only message.
    path: String,
    etag: String,
}

async fn bare_server() -> Server {
    let this = env::current_exe().expect("this program has a path");
    Server {
        process: Process::start(this.to_str().expect("the path is UTF-8"), &["bare"]).await,
        path: "/topics/news".to_owned(),
        etag: "\"none\"".to_owned(),
    }
}

async fn our_server() -> Server {
    let process = Process::start(env!("CARGO_BIN_EXE_short-polling"), &[]).await;
    let published = process.client().post("/topics/news", "hello").send().await;
    let id = published.json()["id"].as_str().expect("an id").to_owned();
    Server {
        process,
        path: format!("/topics/news?after={id}"),
        etag: format!("W/\"{id}\""),
    }
}

impl Server {
    /// Many clients poll as fast as they are answered.
    fn ask(&self, conditional: bool, kept: bool) -> Cost {
        let request = self.request(conditional);
        let (asked, over) = (AtomicU64::new(0), AtomicBool::new(false));
        let received = self.exchange(&mut self.connect(), &request);
        let before = self.process.cpu_time();
        thread::scope(|scope| {
            for _ in 0..CONNECTIONS {
                scope.spawn(|| {
                    let mut stream = self.connect();
                    while !over.load(Relaxed) {
                        self.exchange(&mut stream, &request);
                        asked.fetch_add(1, Relaxed);
                        if !kept {
                            stream = self.connect();
                        }
                    }
                });
            }
            let started = Instant::now();
            thread::sleep(RUN.saturating_sub(started.elapsed()));
            over.store(true, Relaxed);
        });
        let used = self.process.cpu_time() - before;
        Cost {
            sent: request.len(),
            received,
            cpu_us: used.as_secs_f64() * 1e6 / asked.into_inner() as f64,
        }
    }

    fn request(&self, conditional: bool) -> String {
        let condition = match conditional {
            true => format!("If-None-Match: {}\r\n", self.etag),
            false => String::new(),
        };
        format!(
            "GET {} HTTP/1.1\r\nHost: localhost\r\n{condition}\r\n",
            self.path
        )
    }

    fn exchange(&self, stream: &mut TcpStream, request: &str) -> usize {
        stream.write_all(request.as_bytes()).expect("it reads");
        read_answer(stream).len()
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.process.addr()).expect("it listens");
        stream.set_nodelay(true).expect("it is a TCP socket");
        stream
    }
}

/// One whole answer. Nothing follows it.
fn read_answer(stream: &mut TcpStream) -> String {
    let (mut answer, mut buffer) = (String::new(), [0; 4_096]);
    loop {
        let read = stream.read(&mut buffer).expect("it answers");
        assert!(read > 0, "it closed after {answer:?}");
        answer += str::from_utf8(&buffer[..read]).expect("it is ASCII");
        if let Some((head, body)) = answer.split_once("\r\n\r\n") {
            let length = head.split("content-length: ").nth(1);
            let length = length.and_then(|rest| rest.lines().next()?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return answer;
            }
        }
    }
}

/// The least that hyper can do: a fixed answer.
async fn bare_hyper() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("there is a free port");
    let addr = listener.local_addr().expect("it is bound");
    println!("listening on http://{addr}");
    let answer = |_| async {
        let mut response = Response::new(Empty::<Bytes>::new());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        Ok::<_, Infallible>(response)
    };
    loop {
        let (stream, _) = listener.accept().await.expect("there are descriptors");
        stream.set_nodelay(true).expect("it is a TCP socket");
        let connection =
            http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
        tokio::spawn(connection);
    }
}

/// The interval that the server asks for.
fn hinted(silence: f64, random: f64) -> f64 {
    let hint = Hint {
        interval: Duration::from_secs(5),
        idle: Duration::from_secs(75),
    };
    hint.seconds(Duration::from_secs_f64(silence), random) as f64
}

/// One client polls while 2,000 messages come, independent of each other and `mean` seconds apart on
/// average.
fn share(name: &str, mean: f64, interval: impl Fn(f64, f64) -> f64) {
    let (mut now, mut polls, mut empty, mut late) = (0.0, 0.0, 0.0, 0.0);
    let (mut last, mut next, mut messages) = (0.0, 0.0, 0.0);
    while messages < 2_000.0 {
        now += interval(now - last, rand::random());
        polls += 1.0;
        let before = messages;
        while next <= now {
            messages += 1.0;
            late += now - next;
            last = next;
            next -= mean * f64::ln(1.0 - rand::random::<f64>());
        }
        empty += f64::from(messages == before);
    }
    let (hourly, empty, late) = (
        polls / now * 3_600.0,
        empty / polls * 100.0,
        late / messages,
    );
    println!("{name:<44} {hourly:>9.0} {empty:>8.1}% {late:>12.1}");
}
