//! What sessions cost: `cargo bench -p websockets`. Linux only, since it reads the servers' `/proc`.
//!
//! The server is another process. It runs in turn with the least that any server could do with as many
//! sockets and the same bytes: one loop of `write(2)` for a delivery, a `read(2)` and a `write(2)` for an
//! echo. Their ratio tells what is left to improve, on any machine. `examples/echo.rs` answers the echoes.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use common::fit_descriptors;
use harness::{Client, Process, handshake};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream as Stream,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

#[path = "../examples/echo.rs"]
#[allow(dead_code, unreachable_pub, reason = "its main is not called here")]
mod echo;

const RUNS: usize = 7;
const MANY: usize = 10_000;
const FEW: usize = 100;
/// Deliveries of one run: many, because `/proc` counts processor time in hundredths of a second.
const DELIVERIES: usize = 100_000;
/// Bytes of a text. Its frame is a few hundred bytes long.
const TEXT: usize = 128;
/// Bytes of a frame of the bare server: as many as ours.
const FRAME: usize = 247;
/// Bytes that a session sends and receives before its memory is measured.
const LARGE: usize = 4_096;

/// Messages that the server keeps while its memory is measured. Elsewhere it keeps all, so that a session
/// that is late on a busy machine has no gap.
const FEW_RETAINED: usize = 16;

/// Many small messages, and one large one at a time.
const ECHOES: [Echo; 3] = [
    Echo {
        name: "echo of 16 B, 64 × 16 in flight",
        size: 16,
        clients: 64,
        in_flight: 16,
        rounds: 500,
    },
    Echo {
        name: "echo of 1 KiB, 64 × 16 in flight",
        size: 1_024,
        clients: 64,
        in_flight: 16,
        rounds: 500,
    },
    Echo {
        name: "echo of 64 KiB, one in flight",
        size: 65_535,
        clients: 1,
        in_flight: 1,
        rounds: 20_000,
    },
];

struct Echo {
    name: &'static str,
    size: usize,
    clients: usize,
    in_flight: usize,
    rounds: usize,
}

const PLAYERS: usize = 10;
const TICK: Duration = Duration::from_nanos(1_000_000_000 / 30);
const TICKS: usize = 150;

fn main() {
    let is_asked = |role| std::env::args().any(|argument| argument == role);
    if is_asked("bare") {
        return bare();
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    if is_asked("echo") {
        let served = runtime.block_on(echo::run("127.0.0.1:0"));
        return served.expect("a port is free");
    }
    runtime.block_on(async {
        println!("{:<62} {:>9} {:>17}", "", "median", "min – max");
        memory(fit_descriptors(MANY)).await;
        fan_out().await;
        for echo in &ECHOES {
            echoing(echo).await;
        }
        game().await;
    });
}

fn report(name: &str, figures: &[f64]) {
    let (least, most) = figures
        .iter()
        .fold((f64::MAX, 0_f64), |(least, most), figure| {
            (least.min(*figure), most.max(*figure))
        });
    let range = format!("{least:.2} – {most:.2}");
    println!("{name:<62} {:>9.2} {range:>17}", median(figures));
}

fn median(figures: &[f64]) -> f64 {
    let mut figures = figures.to_vec();
    figures.sort_unstable_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Our server. It keeps `retain` messages of a topic.
async fn ours(sessions: usize, retain: usize) -> Process {
    let (slots, retain) = ((sessions + FEW).to_string(), retain.to_string());
    let knobs = ["--max-subscribers", &slots, "--retain", &retain];
    let no_pings = ["--ping", "600"]; // The clients here do not answer them.
    let knobs = [&knobs[..], &no_pings].concat();
    Process::start(env!("CARGO_BIN_EXE_websockets"), &knobs).await
}

/// This program in another role: `bare` or `echo`.
async fn this_as(role: &str) -> Process {
    let this = std::env::current_exe().expect("this program has a path");
    Process::start(this.to_str().expect("the path is UTF-8"), &[role]).await
}

/// Resident bytes of an idle session that has sent and received a large message, after three wake-ups.
async fn memory(sessions: usize) {
    let server = ours(sessions, FEW_RETAINED).await;
    let client = Client::keep_alive(server.addr()).await;
    for topic in ["/topics/a", "/topics/b"].repeat(FEW_RETAINED) {
        publish(&client, topic, LARGE).await; // Fills the feed, whose memory is not the sessions'.
    }
    let before = server.resident();
    let mut open = Vec::new();
    for _ in 0..sessions {
        open.push(Session::open(server.addr(), "/topics/a").await);
    }
    let text = "x".repeat(LARGE);
    let say = frame(&format!(
        r#"{{"publish":{{"topic":"b","data":"{text}","ref":1}}}}"#
    ));
    for session in &mut open {
        session.send(&say).await;
        session.until(1).await;
    }
    for _ in 0..3 {
        publish(&client, "/topics/a", LARGE).await;
        for session in &mut open {
            session.until(1).await;
        }
    }
    sleep(Duration::from_secs(1)).await;
    let used = server.resident().saturating_sub(before) as f64 / sessions as f64;
    report(
        &format!("{sessions} sessions, resident bytes of one"),
        &[used],
    );
}

async fn fan_out() {
    let mut growths = Vec::new();
    for sessions in [FEW, fit_descriptors(MANY)] {
        let (mut ours, mut least, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..RUNS {
            let cost = delivery(&self::ours(sessions, DELIVERIES).await, sessions).await;
            let bare = delivery(&this_as("bare").await, sessions).await;
            ours.push(cost);
            least.push(bare);
            ratios.push(cost / bare);
        }
        growths.push((median(&ours), median(&least)));
        report(
            &format!("{sessions} sessions, a delivery (µs of the server)"),
            &ours,
        );
        report(
            &format!("{sessions} sessions, a bare write(2) (µs)"),
            &least,
        );
        report("  ratio, pair by pair", &ratios);
    }
    let growth = |of: fn(&(f64, f64)) -> f64| of(&growths[1]) / of(&growths[0]);
    report(
        "growth of a delivery, beside that of a bare write",
        &[growth(|costs| costs.0) / growth(|costs| costs.1)],
    );
}

/// Opens the sessions, publishes at a pace, and waits until all have received everything. Returns the
/// processor time of a delivery in µs.
async fn delivery(server: &Process, sessions: usize) -> f64 {
    let messages = DELIVERIES / sessions;
    let mut readers = JoinSet::new();
    for _ in 0..sessions {
        let mut session = Session::open(server.addr(), "/topics/a").await;
        readers.spawn(async move { session.until(messages).await });
    }
    let client = Client::keep_alive(server.addr()).await;
    let used = server.cpu_time();
    // Slow enough that the server is idle half of the time and no backlog grows.
    let pace = Duration::from_micros(20 * sessions as u64).max(Duration::from_millis(5));
    let mut pace = interval(pace);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for _ in 0..messages {
        pace.tick().await;
        publish(&client, "/topics/a", TEXT).await;
    }
    while let Some(read) = readers.join_next().await {
        read.expect("every session gets every message");
    }
    let used = server.cpu_time() - used;
    used.as_secs_f64() * 1e6 / (messages * sessions) as f64
}

async fn publish(client: &Client, topic: &str, size: usize) {
    let answer = client.post(topic, "x".repeat(size)).send().await;
    assert_eq!(answer.status, 201);
}

/// Rates and processor times.
async fn echoing(echo: &Echo) {
    let (mut rates, mut costs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let (rate, cost) = echoes(&this_as("echo").await, echo).await;
        let (_, bare) = echoes(&this_as("bare").await, echo).await;
        rates.push(rate / 1e6);
        costs.push(cost);
        ratios.push(cost / bare);
    }
    report(&format!("{} (million a second)", echo.name), &rates);
    report("  one (µs of the server)", &costs);
    report("  ratio to a bare read and write, pair by pair", &ratios);
}

async fn echoes(server: &Process, echo: &Echo) -> (f64, f64) {
    let (in_flight, rounds) = (echo.in_flight, echo.rounds);
    let batch = frame(&"x".repeat(echo.size)).repeat(in_flight);
    let path = format!("/echo?size={}&in_flight={in_flight}", echo.size);
    let mut clients = Vec::new();
    for _ in 0..echo.clients {
        clients.push(Session::open(server.addr(), &path).await);
    }
    let (used, begun) = (server.cpu_time(), Instant::now());
    let mut running = JoinSet::new();
    for mut client in clients {
        let batch = batch.clone();
        running.spawn(async move {
            for _ in 0..rounds {
                client.send(&batch).await;
                client.until(in_flight).await;
            }
        });
    }
    while let Some(done) = running.join_next().await {
        done.expect("every message comes back");
    }
    let count = (echo.clients * in_flight * rounds) as f64;
    let used = (server.cpu_time() - used).as_secs_f64();
    (count / begun.elapsed().as_secs_f64(), used * 1e6 / count)
}

/// A game: at each tick every player publishes its position and receives everyone's, its own included.
async fn game() {
    let server = ours(PLAYERS, DELIVERIES).await;
    let used = server.cpu_time();
    let mut players = JoinSet::new();
    for _ in 0..PLAYERS {
        let session = Session::open(server.addr(), "/topics/game").await;
        players.spawn(play(session));
    }
    let mut heard = Vec::new();
    while let Some(player) = players.join_next().await {
        heard.extend(player.expect("a player plays to the end"));
    }
    heard.sort_unstable_by(f64::total_cmp);
    let share = (server.cpu_time() - used).as_secs_f64() / (TICK * TICKS as u32).as_secs_f64();
    let what = format!("{PLAYERS} players at 30 Hz");
    report(&format!("{what}, said until heard (ms)"), &heard);
    let p99 = heard[heard.len() * 99 / 100];
    report("  99 of 100 within (ms)", &[p99]);
    report("  % of a processor", &[share * 100.0]);
}

/// The times from a player's publish until it has the ack and its own message, in ms.
async fn play(mut session: Session) -> Vec<f64> {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut times = Vec::new();
    for tick in 0..TICKS {
        ticks.tick().await;
        let moved = format!(r#"{{"publish":{{"topic":"game","data":[12,34],"ref":{tick}}}}}"#);
        let said = Instant::now();
        session.send(&frame(&moved)).await;
        let ack = format!(r#"{{"ack":{{"ref":{tick},"#);
        let ack = session.until_one_begins_with(&ack).await;
        let id = ack
            .split('"')
            .nth(7)
            .expect("the ack names an id")
            .to_owned();
        if session.last.as_deref() != Some(&id) {
            session
                .until_one_begins_with(&format!(r#"{{"message":{{"id":"{id}""#))
                .await;
        }
        times.push(said.elapsed().as_secs_f64() * 1e3);
    }
    times
}

/// A client's text frame; its mask is zero.
fn frame(text: &str) -> Vec<u8> {
    let length = text.len();
    let mut frame = vec![0x81];
    match u8::try_from(length) {
        Ok(short @ ..126) => frame.push(0x80 | short),
        _ => {
            let length = u16::try_from(length).expect("no message here is longer");
            frame.push(0x80 | 126);
            frame.extend(length.to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(text.as_bytes());
    frame
}

/// The client's side of a session.
struct Session {
    stream: Stream,
    /// The bytes of a frame that is not complete yet.
    begun: Vec<u8>,
    /// The id of the last message.
    last: Option<String>,
}

impl Session {
    /// A session that is subscribed, if `path` asks for topics.
    async fn open(server: SocketAddr, path: &str) -> Self {
        let mut stream = Stream::connect(server).await.expect("the server accepts");
        stream.set_nodelay(true).expect("it is open");
        let request = handshake("localhost", path, &[]);
        stream
            .write_all(request.as_bytes())
            .await
            .expect("the server reads");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("the server answers"));
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "));
        let mut session = Self {
            stream,
            begun: Vec::new(),
            last: None,
        };
        if path.starts_with("/topics/") {
            session.until(1).await; // It is subscribed.
        }
        session
    }

    async fn send(&mut self, frames: &[u8]) {
        self.stream
            .write_all(frames)
            .await
            .expect("the server reads");
    }

    /// Reads this many frames.
    async fn until(&mut self, mut frames: usize) {
        while frames > 0 {
            match self.take() {
                Some(_) => frames -= 1,
                None => self.read().await,
            }
        }
    }

    async fn until_one_begins_with(&mut self, prefix: &str) -> String {
        loop {
            match self.take() {
                Some(text) if text.starts_with(prefix) => return text,
                Some(text) => {
                    if let Some(id) = text.strip_prefix(r#"{"message":{"id":""#) {
                        self.last = id.split('"').next().map(str::to_owned);
                    }
                }
                None => self.read().await,
            }
        }
    }

    async fn read(&mut self) {
        let length = self.stream.read_buf(&mut self.begun).await;
        assert!(length.expect("the session goes on") > 0, "it goes on");
    }

    /// The text of the next complete frame.
    fn take(&mut self) -> Option<String> {
        let (header, length) = match *self.begun.get(1)? {
            126 => {
                let length = self.begun.get(2..4)?.try_into().expect("two bytes");
                (4, u16::from_be_bytes(length).into())
            }
            short => (2, usize::from(short)),
        };
        let payload = self.begun.get(header..header + length)?.to_vec();
        self.begun.drain(..header + length);
        Some(String::from_utf8(payload).expect("a text is UTF-8"))
    }
}

/// The least that a server could do. It accepts sessions and writes a frame to all of them at each POST. An
/// echo is answered with as many bytes as its frames would have.
fn bare() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    println!(
        "listening on http://{}",
        listener.local_addr().expect("it is bound")
    );
    fit_descriptors(MANY);
    let mut sessions = Vec::new();
    for connection in listener.incoming() {
        let mut connection = connection.expect("a client connects");
        connection.set_nodelay(true).expect("it is open");
        let head = head(&mut connection).unwrap_or_default();
        if head.starts_with("POST") {
            publish_bare(connection, &mut sessions);
            continue;
        }
        let switching = b"HTTP/1.1 101 Switching Protocols\r\n\r\n";
        connection.write_all(switching).expect("the client reads");
        if head.contains("/echo?") {
            let [size, in_flight] = ["size=", "in_flight="].map(|name| number(&head, name));
            thread::spawn(move || echo_bare(connection, size, in_flight));
        } else {
            connection.write_all(&[0x81, 0]).expect("the client reads");
            sessions.push(connection);
        }
    }
}

/// Answers the POST whose head was read, and the next ones on the connection.
fn publish_bare(mut publisher: TcpStream, sessions: &mut [TcpStream]) {
    let mut frame = vec![b'x'; FRAME];
    frame[..4].copy_from_slice(&[0x81, 126, 0, (FRAME - 4) as u8]);
    while publisher.read_exact(&mut [0; TEXT]).is_ok() {
        for session in &mut *sessions {
            session.write_all(&frame).expect("the client reads");
        }
        let answer = b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n";
        publisher.write_all(answer).expect("the client reads");
        if head(&mut publisher).is_none() {
            return;
        }
    }
}

/// The number behind `name` in a request's head.
fn number(head: &str, name: &str) -> usize {
    let (_, rest) = head.split_once(name).expect("the request has it");
    let digits = rest.split(|next: char| !next.is_ascii_digit()).next();
    digits
        .and_then(|digits| digits.parse().ok())
        .expect("a number")
}

fn echo_bare(mut client: TcpStream, size: usize, in_flight: usize) {
    let asked = frame(&"x".repeat(size)).len();
    let mut answer = frame(&"x".repeat(size));
    answer.drain(asked - size - 4..asked - size); // A server's has no mask.
    answer[1] &= 0x7f;
    let answer = answer.repeat(in_flight);
    let mut batch = vec![0; asked * in_flight];
    while client.read_exact(&mut batch).is_ok() {
        client.write_all(&answer).expect("the client reads");
    }
}

/// Reads a head, and no byte behind it.
fn head(connection: &mut TcpStream) -> Option<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        connection.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}
