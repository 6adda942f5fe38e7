//! What waiting polls cost: `cargo bench -p long-polling`. Linux only, since it reads the servers'
//! `/proc`.
//!
//! The server is another process. It runs in turn with the least that any server could do with as many
//! bytes: one loop that writes an answer to each socket and reads the next request from it. Their ratio
//! tells what is left to improve, on any machine.

use std::{
    future::pending,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use common::fit_descriptors;
use harness::{Client, Process};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream as Stream,
    sync::mpsc,
    task::JoinSet,
    time::{interval, sleep},
};

const RUNS: usize = 5;
const MANY: usize = 10_000;
const FEW: usize = 100;
/// Deliveries of one run: many, because `/proc` counts processor time in hundredths of a second.
const DELIVERIES: usize = 50_000;
/// Bytes of a message's text, and of the rest of its page.
const TEXT: usize = 128;
const AROUND: usize = 165;

const GET: &str = "GET /topics/idle?wait=0 HTTP/1.1\r\nHost: localhost\r\n\r\n";
const POST: &str = "POST /topics/idle HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx";

fn main() {
    if std::env::args().any(|argument| argument == "bare") {
        return bare();
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    runtime.block_on(measure());
}

async fn measure() {
    let many = fit_descriptors(MANY);
    println!("{:<62} {:>9} {:>17}", "", "median", "min – max");
    for polls in [FEW, many] {
        let (mut ours, mut least, mut ratios, mut memory) = (vec![], vec![], vec![], vec![]);
        for _ in 0..RUNS {
            let server = our_server(polls).await;
            let before = server.resident();
            let (cost, after) = cost(&server, polls).await;
            let (bare, _) = self::cost(&bare_server().await, polls).await;
            memory.push(each(before, after, polls));
            ours.push(cost);
            least.push(bare);
            ratios.push(cost / bare);
        }
        let name = |what: &str| format!("{polls} polls, {what}");
        report(
            &name("an answer and the next request (µs of the server)"),
            &ours,
        );
        report(
            &name("the same by a bare write(2) and read(2) (µs)"),
            &least,
        );
        report("  ratio, pair by pair", &ratios);
        report(&name("a waiting poll, resident (bytes)"), &memory);
    }
    for (name, request) in [("GET", GET), ("POST", POST)] {
        let name = format!("{many} connections, one that is idle after a {name}, resident (bytes)");
        report(&name, &[idle(request, many).await]);
    }
}

fn report(name: &str, figures: &[f64]) {
    let mut figures = figures.to_vec();
    figures.sort_unstable_by(f64::total_cmp);
    let (least, most) = (figures[0], figures[figures.len() - 1]);
    println!(
        "{name:<62} {:>9.2} {:>17}",
        figures[figures.len() / 2],
        format!("{least:.2} – {most:.2}")
    );
}

fn each(before: u64, after: u64, clients: usize) -> f64 {
    after.saturating_sub(before) as f64 / clients as f64
}

async fn our_server(polls: usize) -> Process {
    let places = (polls + FEW).to_string();
    let program = env!("CARGO_BIN_EXE_long-polling");
    Process::start(program, &["--max-subscribers", &places]).await
}

async fn bare_server() -> Process {
    let this = std::env::current_exe().expect("this program has a path");
    Process::start(this.to_str().expect("the path is UTF-8"), &["bare"]).await
}

/// Opens the polls, publishes at a pace, and waits until each poll has everything and waits again.
/// Returns the processor time of a delivery in µs, and the resident bytes at the end.
async fn cost(server: &Process, polls: usize) -> (f64, u64) {
    let messages = DELIVERIES / polls;
    let (mut clients, (had, mut all)) = (JoinSet::new(), mpsc::channel(polls));
    for _ in 0..polls {
        clients.spawn(poll(server.addr(), messages, had.clone()));
    }
    until_quiet(server).await;
    let client = Client::keep_alive(server.addr()).await;
    let used = server.cpu_time();
    // Slow enough that the server is idle half of the time and no backlog grows.
    let pace = Duration::from_micros(60 * polls as u64).max(Duration::from_millis(5));
    let mut pace = interval(pace);
    for _ in 0..messages {
        pace.tick().await;
        let published = client.post("/topics/a", "x".repeat(TEXT)).send().await;
        assert_eq!(published.status, 201);
    }
    for _ in 0..polls {
        all.recv().await.expect("every poll gets every message");
    }
    until_quiet(server).await;
    let used = server.cpu_time() - used;
    let cost = used.as_secs_f64() * 1e6 / (messages * polls) as f64;
    (cost, server.resident())
}

/// Returns when the server has nothing to do: then all polls wait.
async fn until_quiet(server: &Process) {
    let mut used = Duration::MAX;
    while used != server.cpu_time() {
        used = server.cpu_time();
        sleep(Duration::from_millis(300)).await;
    }
}

/// Polls until it has had this many messages, then once more.
async fn poll(server: SocketAddr, messages: usize, had: mpsc::Sender<()>) {
    let mut stream = Stream::connect(server).await.expect("the server accepts");
    let (mut after, mut count) = ("earliest".to_owned(), 0);
    while count < messages {
        ask(&mut stream, &after).await;
        let page = answer(&mut stream).await;
        count += page.matches(r#"{"id":""#).count();
        let next = page.split(r#""next":""#).nth(1).expect("a page has a next");
        after = next[..next.find('"').expect("it ends")].to_owned();
    }
    ask(&mut stream, &after).await;
    had.send(()).await.expect("someone counts");
    pending::<()>().await;
}

async fn ask(stream: &mut Stream, after: &str) {
    let get = format!("GET /topics/a?after={after}&wait=55 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let sent = stream.write_all(get.as_bytes()).await;
    sent.expect("the server reads");
}

/// One whole answer.
async fn answer(stream: &mut Stream) -> String {
    let (mut answer, mut buffer) = (String::new(), [0; 1_024]);
    loop {
        let read = stream.read(&mut buffer).await.expect("the server answers");
        assert!(read > 0, "it closed after {answer:?}");
        answer += str::from_utf8(&buffer[..read]).expect("it is ASCII");
        if let Some((head, body)) = answer.split_once("\r\n\r\n") {
            let length = head.split("content-length: ").nth(1);
            let length = length.and_then(|rest| rest.lines().next()?.parse().ok());
            if body.len() == length.unwrap_or(0) {
                return answer;
            }
        }
    }
}

/// The memory of one connection that has asked twice and stays open.
async fn idle(request: &str, connections: usize) -> f64 {
    let server = our_server(connections).await;
    let (before, mut kept) = (server.resident(), Vec::new());
    for _ in 0..connections {
        let stream = Stream::connect(server.addr()).await;
        kept.push(stream.expect("the server accepts"));
    }
    for _ in 0..2 {
        for stream in &mut kept {
            let sent = stream.write_all(request.as_bytes()).await;
            sent.expect("the server reads");
            answer(stream).await;
        }
    }
    each(before, server.resident(), connections)
}

/// The least that a server could do: at each POST it answers all polls, and reads the next ones.
fn bare() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let addr = listener.local_addr().expect("it is bound");
    println!("listening on http://{addr}");
    fit_descriptors(MANY);
    let mut polls = Vec::new();
    for connection in listener.incoming() {
        let mut connection = connection.expect("a client connects");
        connection.set_nodelay(true).expect("it is open");
        if request(&mut connection).is_some_and(|head| head.starts_with("GET")) {
            polls.push(connection);
        } else {
            publish(connection, &mut polls);
        }
    }
}

/// Answers the POST that was read, and those that follow on the connection.
fn publish(mut publisher: TcpStream, polls: &mut [TcpStream]) {
    let start = r#"{"messages":[{"id":"e-1","data":""#;
    let end = r#""}],"next":"e-1"}"#;
    let page = format!(
        "{start}{}{end}",
        "x".repeat(TEXT + AROUND - start.len() - end.len())
    );
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncache-control: no-store\r\n\
         x-content-type-options: nosniff\r\nvary: origin\r\ncontent-length: {}\r\n\
         date: Wed, 25 Nov 2026 00:00:00 GMT\r\n\r\n{page}",
        page.len()
    );
    loop {
        for poll in &mut *polls {
            poll.write_all(answer.as_bytes()).expect("the client reads");
        }
        let published = b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n";
        publisher.write_all(published).expect("the client reads");
        let asked = polls.iter_mut().all(|poll| request(poll).is_some());
        if !asked || request(&mut publisher).is_none() {
            return;
        }
    }
}

/// Reads a request: a poll, or a publish of nothing but `x`.
fn request(connection: &mut TcpStream) -> Option<String> {
    let (mut request, mut buffer) = (String::new(), [0; 1_024]);
    loop {
        let read = connection.read(&mut buffer).ok().filter(|read| *read > 0)?;
        request += str::from_utf8(&buffer[..read]).ok()?;
        let end = if request.starts_with("POST") {
            "x"
        } else {
            "\r\n\r\n"
        };
        if request.ends_with(end) {
            return Some(request);
        }
    }
}
