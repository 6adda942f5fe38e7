//! What short polling wastes: `cargo bench -p short-polling`.
//!
//! First what asking costs when the answer is *no*: bytes both ways, and processor time of the
//! server (Linux only), beside a bare hyper server that answers a fixed 304 and knows nothing. The
//! servers take turns, and the figures are medians. Then how many answers are a *no*, and how late
//! a message is, for a client that asks every five seconds and for one that follows the hint: a
//! calculation with the server's own function, for messages that come at random.

use std::{
    convert::Infallible,
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{Response, StatusCode, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use short_polling::hint;

const RUNS: usize = 7;
const RUN: Duration = Duration::from_millis(700);
const CONNECTIONS: usize = 64;
/// A tick of `/proc/PID/stat`, which is 1/100 s on every Linux.
const TICK_US: f64 = 10_000.0;

fn main() {
    if env::args().any(|arg| arg == "--bare") {
        return bare_hyper();
    }
    println!(
        "{:<44} {:>9} {:>9} {:>12} {:>7}",
        "an empty answer", "sent", "received", "CPU (µs)", "× bare"
    );
    costs();
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

/// One way of asking, and what it cost each time.
struct Case {
    name: &'static str,
    /// Of the bare server.
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

fn costs() {
    let (bare, ours) = (Server::start(true), Server::start(false));
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
            let server = if case.bare { &bare } else { &ours };
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

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// A process of its own, so that its processor time is not the client's.
struct Server {
    child: Child,
    addr: SocketAddr,
    /// After the one message that there is.
    path: String,
    etag: String,
}

impl Server {
    fn start(bare: bool) -> Self {
        let mut command = match bare {
            true => Command::new(env::current_exe().expect("this program is a file")),
            false => Command::new(env!("CARGO_BIN_EXE_short-polling")),
        };
        let knobs = match bare {
            true => ["--bare", ""],
            false => ["--listen", "127.0.0.1:0"],
        };
        let command = command.args(knobs).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::null()).spawn().expect("it starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("it says where it listens");
        let addr = line.trim_end().rsplit('/').next().expect("there is a part");
        let addr = addr.parse().expect("the first line ends in an address");
        let mut server = Self {
            child,
            addr,
            path: "/topics/news".to_owned(),
            etag: "\"none\"".to_owned(),
        };
        if !bare {
            server.publish();
        }
        server
    }

    fn publish(&mut self) {
        let mut stream = self.connect();
        let post =
            "POST /topics/news HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello";
        stream.write_all(post.as_bytes()).expect("it reads");
        let answer = read_answer(&mut stream);
        let id = answer.split('"').nth(3).expect("an answer names the id");
        self.path = format!("/topics/news?after={id}");
        self.etag = format!("W/\"{id}\"");
    }

    /// Many clients ask as fast as they are answered.
    fn ask(&self, conditional: bool, kept: bool) -> Cost {
        let condition = match conditional {
            true => format!("If-None-Match: {}\r\n", self.etag),
            false => String::new(),
        };
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: localhost\r\n{condition}\r\n",
            self.path
        );
        let (asked, over) = (AtomicU64::new(0), AtomicBool::new(false));
        let received = self.exchange(&mut self.connect(), &request);
        let before = self.ticks();
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
        Cost {
            sent: request.len(),
            received,
            cpu_us: (self.ticks() - before) * TICK_US / asked.into_inner() as f64,
        }
    }

    fn exchange(&self, stream: &mut TcpStream, request: &str) -> usize {
        stream.write_all(request.as_bytes()).expect("it reads");
        read_answer(stream).len()
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).expect("it listens");
        stream.set_nodelay(true).expect("it is a TCP socket");
        stream
    }

    /// The processor time that the server has had; without Linux's /proc not a number.
    fn ticks(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let ticks = |stat: String| -> Option<f64> {
            let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
            Some(fields[11].parse::<f64>().ok()? + fields[12].parse::<f64>().ok()?)
        };
        stat.ok().and_then(ticks).unwrap_or(f64::NAN)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// One whole answer, of which nothing follows.
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

/// The floor: hyper, and nothing behind it.
#[tokio::main]
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

/// The interval that a server which is not loaded asks for.
fn hinted(silence: f64, random: f64) -> f64 {
    let (base, idle) = (Duration::from_secs(5), Duration::from_secs(75));
    hint::poll_interval(base, idle, Duration::from_secs_f64(silence), 0.0, random) as f64
}

/// One client polls while 2,000 messages come, on average `mean` seconds apart and independent of
/// each other.
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
