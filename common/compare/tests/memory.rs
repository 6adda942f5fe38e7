//! The most memory that one hostile peer can hold, per technique. The limits are the table in `common/README.md`.
//!
//! Many peers ask for the largest answers, or send what is never complete, and never read. Each server is a
//! process whose resident memory is measured. The receiver of webhooks runs in this process: its peers cost
//! little here, because all send the same bytes.

#![cfg(target_os = "linux")]

use std::{env, fs, io, net::SocketAddr, path::Path, process, time::Duration};

use common::{Feed, Retention};
use compare::{Knobs, Process, Publisher, Technique};
use futures_util::future::join_all;
use harness::{PATIENCE, TestServer};
use serde_json::json;
use tokio::{
    net::{TcpSocket, TcpStream},
    time::{Instant, sleep},
};
use webhooks::receiver;

/// So many that the growth of the server itself does not count.
const PEERS: usize = 100;
/// How long a server's memory stays the same when its peers can do no more.
const QUIET: Duration = Duration::from_millis(300);

/// What one peer sends.
struct Attack {
    /// The table's row.
    row: &'static str,
    /// `None` is the receiver of webhooks.
    server: Option<Technique>,
    /// How many messages there are, and how large each is.
    feed: (usize, usize),
    once: Vec<u8>,
    /// Sent again and again, as long as the server reads it.
    then: Vec<u8>,
}

/// The longest list of messages, and the largest ones.
const LIST: (usize, usize) = (500, 1_000);
const LARGE: (usize, usize) = (4, 65_000);
const NONE: (usize, usize) = (0, 0);

fn attacks() -> Vec<Attack> {
    use Technique::{LongPolling, ShortPolling, Sse, Websockets};
    let list = get("/topics/a?limit=500", "");
    let wait = get("/topics/none?wait=55", "");
    let stream = get("/topics/a?after=earliest", "");
    let upgrade = "Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==\r\n";
    let session = get("/topics/a?after=earliest", upgrade);
    let long = "!".repeat(60);
    let wrong = format!(r#"{{"subscribe":{{"topics":["{long}"],"ref":1}}}}"#);
    // With a mask of zeros.
    let wrong = [
        &[0x81, 0x80 | wrong.len() as u8, 0, 0, 0, 0],
        wrong.as_bytes(),
    ]
    .concat();
    let half = [&b"\x81\xfe\xff\xff\0\0\0\0"[..], &[b' '; 65_534]].concat();
    let half = [&session[..], &half].concat();
    let attack = |row, server, feed, once: &[u8], then: &[u8]| Attack {
        row,
        server,
        feed,
        once: once.to_vec(),
        // With one system call for many.
        then: then.repeat(200),
    };
    vec![
        attack("webhook receiver", None, NONE, &post("/webhook"), b""),
        attack("short poll", Some(ShortPolling), LIST, b"", &list),
        attack("long poll", Some(LongPolling), LIST, b"", &list),
        attack("long poll", Some(LongPolling), LIST, &wait, &wait),
        attack("event stream", Some(Sse), LARGE, &stream, &stream),
        attack("websocket", Some(Websockets), LARGE, &session, &wrong),
        attack("websocket", Some(Websockets), LARGE, &half, b""),
        attack("publish", Some(ShortPolling), LIST, &post("/topics/a"), b""),
    ]
}

fn get(target: &str, fields: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n").into_bytes()
}

/// A request whose last byte is missing.
fn post(path: &str) -> Vec<u8> {
    let fields = "webhook-id: a\r\nwebhook-timestamp: 1\r\nwebhook-signature: v1,a\r\n";
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{fields}Content-Length: 65536\r\n\r\n");
    [head.into_bytes(), vec![b'x'; 65_535]].concat()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "opens 1,600 sockets and measures memory; CI runs it"]
async fn a_peer_holds_no_more_than_the_readme_says() {
    let mut over = Vec::new();
    // The receiver first, and alone, because it is in this process.
    let (here, processes): (Vec<_>, Vec<_>) = attacks()
        .into_iter()
        .partition(|attack| attack.server.is_none());
    let mut held = Vec::new();
    for attack in here {
        held.push((attack.row, received(&attack).await));
    }
    held.extend(join_all(processes.iter().map(Attack::on_a_process)).await);
    for (row, held) in held {
        let most = bound(row);
        println!("{row}: {held} bytes each, of {most}");
        over.extend((held > most).then(|| format!("{row}: {held} bytes")));
    }
    assert!(over.is_empty(), "{over:#?}");
}

/// The same for the receiver, in this process.
async fn received(attack: &Attack) -> u64 {
    let inbox = env::temp_dir().join(format!("memory-{}.sqlite", process::id()));
    let config = receiver::Config {
        secret: vec![
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
                .parse()
                .expect("a secret"),
        ],
        inbox: inbox.clone(),
        ..receiver::Config::default()
    };
    let feed = Feed::new(Retention::default());
    let run = |listener, shutdown| receiver::run(listener, feed, config, shutdown);
    let server = TestServer::start(run).await;
    let resident = || {
        let status = fs::read_to_string("/proc/self/statm").expect("there is a /proc");
        let pages = status.split(' ').nth(1).expect("the second field");
        4_096 * pages.parse::<u64>().expect("a number of pages")
    };
    let held = attack.held(server.addr(), resident).await;
    drop(server);
    for suffix in ["", "-wal", "-shm", "-lock"] {
        // What stays is in the temporary folder.
        let _ = fs::remove_file(format!("{}{suffix}", inbox.display()));
    }
    held
}

impl Attack {
    async fn on_a_process(&self) -> (&'static str, u64) {
        let program = Path::new(env!("CARGO_BIN_EXE_compare"));
        let technique = self.server.expect("it is one of the five");
        let server = Process::start(program, technique, Knobs::default()).await;
        let server = server.expect("it starts");
        let mut publisher = Publisher::new(server.addr());
        let (messages, size) = self.feed;
        for _ in 0..messages {
            let published = publisher.publish("a", &json!("x".repeat(size))).await;
            published.expect("it takes a message");
        }
        let resident = || server.resident().expect("there is a /proc");
        (self.row, self.held(server.addr(), resident).await)
    }

    /// What each of the peers costs the server.
    async fn held(&self, addr: SocketAddr, resident: impl Fn() -> u64) -> u64 {
        let before = resident();
        let mut peers = Vec::new();
        for _ in 0..PEERS {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.set_recv_buffer_size(4_096).expect("it is open");
            let stream = socket.connect(addr).await.expect("it listens");
            peers.push(Peer { stream, sent: 0 });
        }
        let begun = Instant::now();
        let (mut most, mut changed) = (before, begun);
        while changed.elapsed() < QUIET {
            assert!(begun.elapsed() < PATIENCE, "it goes on");
            let sent = peers.iter_mut().map(|peer| peer.send(self)).sum::<usize>();
            if sent > 0 || resident() > most {
                (most, changed) = (most.max(resident()), Instant::now());
            }
            sleep(Duration::from_millis(10)).await;
        }
        (most - before) / PEERS as u64
    }
}

struct Peer {
    stream: TcpStream,
    sent: usize,
}

impl Peer {
    /// Sends what the server takes now, and reads nothing.
    fn send(&mut self, attack: &Attack) -> usize {
        let before = self.sent;
        while self.sent < attack.once.len() || !attack.then.is_empty() {
            let rest = match attack.once.get(self.sent..) {
                Some(rest) if !rest.is_empty() => rest,
                _ => &attack.then[(self.sent - attack.once.len()) % attack.then.len()..],
            };
            match self.stream.try_write(rest) {
                Ok(sent) => self.sent += sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("the server has ended it: {error}"),
            }
        }
        self.sent - before
    }
}

/// The row's figure in the README, in bytes.
fn bound(row: &str) -> u64 {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = fs::read_to_string(readme).expect("there is a README");
    let line = readme
        .lines()
        .find(|line| line.starts_with(&format!("| {row} |")));
    let line = line.unwrap_or_else(|| panic!("the README has a row for {row}"));
    let kib = line.split('|').nth(2).map(str::trim);
    1_024
        * kib
            .and_then(|kib| kib.parse::<u64>().ok())
            .expect("a number of KiB")
}
