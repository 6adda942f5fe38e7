//! What a million pending deliveries cost: `cargo bench -p webhooks --bench pending`.
//!
//! The program as it is shipped starts on a file with a million deliveries that are owed, and its memory
//! (resident, as the system counts it) and the time until it answers are read: a thousand endpoints that are
//! disabled and a thousand messages behind, a thousand endpoints of which each has a thousand messages that
//! wait for their next attempt, and one endpoint that is a million messages behind. Beside them, the same
//! program on an empty file. The rows are written into the file by this bench. Linux alone.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    time::{Duration, Instant},
};

use rusqlite::Connection;

/// MiB over the empty server.
const TARGET: f64 = 64.0;

/// A message a second old, of everyday size.
const MESSAGES: &str = r#"
    WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?1)
    INSERT INTO messages (topic, type, published, data)
    SELECT 'a', 'payment.succeeded', unixepoch() * 1000 - 1000, '{"status":"success","amount":' || n || '}' FROM n"#;
const ENDPOINTS: &str = "
    WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?1)
    INSERT INTO endpoints (id, target, secrets, state)
    SELECT format('ep_%016x', n), '{\"url\":\"http://127.0.0.1:9/\",\"topics\":[\"a\"]}',
      '[[\"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\",null]]', ?2 FROM n";
const BODIES: &str = r#"
    INSERT INTO bodies SELECT seq, 'a-' || seq, '{"id":"a-' || seq || '","topic":"a","data":' || data || '}' FROM messages"#;
/// Due in an hour.
const DELIVERIES: &str = "
    INSERT INTO deliveries SELECT endpoint, seq, 3, 0, unixepoch() * 1000 + 3600000, unixepoch() * 1000, 'answered 500'
    FROM endpoints, messages";

fn main() {
    let folder = env::temp_dir().join(format!("pending-bench-{}", process::id()));
    fs::create_dir_all(&folder).expect("there is a folder for temporary files");
    let empty = started(&folder.join("empty.sqlite"));
    println!("{:<52} {:>9} {:>10}", "pending", "start", "over empty");
    println!(
        "{:<52} {:>7.2} s {:>6.1} MiB",
        "nothing (that is all of it)",
        empty.start.as_secs_f64(),
        empty.mib
    );
    type Fill = fn(&Connection) -> rusqlite::Result<()>;
    let cases: [(&str, Fill); 3] = [
        ("1,000 endpoints, disabled, 1,000 messages behind", |file| {
            fill(file, 1_000, 1_000, 0, true)
        }),
        ("1,000 endpoints, 1,000 retries each", |file| {
            fill(file, 1_000, 1_000, 1_000, false)?;
            file.execute(BODIES, [])?;
            file.execute(DELIVERIES, []).map(drop)
        }),
        ("1 endpoint, disabled, 1,000,000 messages behind", |file| {
            fill(file, 1_000_000, 1, 0, true)
        }),
    ];
    for (number, (name, fill)) in cases.into_iter().enumerate() {
        let path = folder.join(format!("{number}.sqlite"));
        started(&path); // makes the tables
        let file = Connection::open(&path).expect("the server has left it");
        file.execute_batch("BEGIN").expect("nobody else is there");
        fill(&file).expect("the rows are SQL");
        file.execute_batch("COMMIT").expect("there is room");
        drop(file);
        let full = started(&path);
        let over = full.mib - empty.mib;
        let missed = if over > TARGET {
            "  over the aim of 64"
        } else {
            ""
        };
        println!(
            "{name:<52} {:>7.2} s {over:>6.1} MiB{missed}",
            full.start.as_secs_f64()
        );
    }
    let _ = fs::remove_dir_all(&folder); // what stays is in the temporary folder
}

fn fill(
    file: &Connection,
    messages: u64,
    endpoints: u64,
    cursor: u64,
    disabled: bool,
) -> rusqlite::Result<()> {
    file.execute("INSERT INTO topics VALUES ('a', 0)", [])?;
    file.execute(MESSAGES, [messages])?;
    let health = match disabled {
        true => {
            r#"{"Disabled":{"since":{"secs_since_epoch":0,"nanos_since_epoch":0},"reason":"by hand","expired":null}}"#
        }
        false => r#""Well""#,
    };
    let state = format!(r#"{{"position":{{"claimed":{cursor},"open":[]}},"health":{health}}}"#);
    file.execute(ENDPOINTS, rusqlite::params![endpoints, state])
        .map(drop)
}

struct Started {
    start: Duration,
    mib: f64,
}

/// Starts the sender on this file, has it show its endpoints, and ends it.
fn started(path: &Path) -> Started {
    let begun = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_webhooks"));
    command.arg(format!("--feed=file:{}", path.display()));
    command.args([
        "--listen",
        "127.0.0.1:0",
        "--retain",
        "1000000",
        "--allow-http",
        "--allow-loopback",
    ]);
    let mut server = Killed(command.stdout(Stdio::piped()).spawn().expect("it starts"));
    let mut line = String::new();
    let stdout = server.0.stdout.take().expect("it is piped");
    BufReader::new(stdout)
        .read_line(&mut line)
        .expect("it says where it listens");
    let addr = line
        .trim()
        .strip_prefix("listening on http://")
        .expect("it says so");
    let addr: SocketAddr = addr.parse().expect("it is an address");
    get(addr, "/endpoints");
    Started {
        start: begun.elapsed(),
        mib: resident(server.0.id()),
    }
}

/// A process that ends with this, however that ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it has ended already
        let _ = self.0.wait();
    }
}

fn get(addr: SocketAddr, path: &str) {
    let mut stream = TcpStream::connect(addr).expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

fn resident(pid: u32) -> f64 {
    let path = PathBuf::from(format!("/proc/{pid}/status"));
    let status = fs::read_to_string(path).expect("it is Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.expect("it runs").trim().trim_end_matches(" kB");
    kib.parse::<f64>().expect("it is a number") / 1_024.0
}
