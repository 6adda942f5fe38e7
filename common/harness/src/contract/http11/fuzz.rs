//! Mutated requests.

use std::{
    env, fs,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::answers;
use crate::TestServer;

/// Every status that a README, `common/src/http` or hyper documents.
const DOCUMENTED: [&str; 21] = [
    "100", "101", "200", "201", "204", "304", "400", "403", "404", "405", "408", "409", "412",
    "413", "414", "415", "421", "422", "426", "431", "503",
];

/// What mutations insert: pieces of heads and framing.
const WORDS: [&[u8]; 24] = [
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b"0\r\n\r\n",
    b"5\r\n",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"\0",
    b"\xff",
    b"GET ",
    b"POST ",
    b"HEAD ",
    b"HTTP/1.0",
    b"HTTP/1.1",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Expect: 100-continue\r\n",
    b"Host: localhost\r\n",
];

fn mutate(input: &mut Vec<u8>, random: &mut StdRng) {
    let at = random.random_range(0..=input.len());
    match random.random_range(0..5) {
        0 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
        1 if at < input.len() => drop(input.remove(at)),
        2 => {
            let end = random.random_range(at..=input.len().min(at + 20));
            let copy = input[at..end].to_vec();
            input.splice(at..at, copy).for_each(drop);
        }
        3 => {
            let end = random.random_range(at..=input.len().min(at + 20));
            input.drain(at..end);
        }
        _ => {
            let word = WORDS[random.random_range(0..WORDS.len())];
            input.splice(at..at, word.iter().copied()).for_each(drop);
        }
    }
    input.truncate(4_096);
}

fn pieces<'i>(mut input: &'i [u8], random: &mut StdRng) -> Vec<&'i [u8]> {
    let mut pieces = Vec::new();
    while !input.is_empty() {
        let (piece, rest) = input.split_at(random.random_range(1..=input.len().min(40)));
        pieces.push(piece);
        input = rest;
    }
    pieces
}

/// Sends the corpus in `harness/corpus`, and then mutations of it for `FUZZ_SECONDS`. Each input is sent whole to the
/// first server, and in pieces to every server. The answers must be the same, with documented statuses. Some inputs
/// carry a request for `/smuggled` in their bodies, which must not be answered.
///
/// `servers` are as for [`speaks_http`](super::speaks_http). `FUZZ_SEED` chooses other mutations. A failing input is
/// printed. Add it to the corpus as a file.
///
/// # Panics
/// If an answer is wrong.
pub async fn is_not_confused(servers: Vec<TestServer>) {
    let seconds = number("FUZZ_SECONDS").unwrap_or(1);
    let seed = number("FUZZ_SEED").unwrap_or(7);
    let (mut random, started) = (StdRng::seed_from_u64(seed), Instant::now());
    let (corpus, mut inputs) = (corpus(), 0);
    for input in &corpus {
        check(&servers, input, &mut random).await;
    }
    while started.elapsed() < Duration::from_secs(seconds) {
        let mut input = corpus[random.random_range(0..corpus.len())].clone();
        for _ in 0..random.random_range(1..5) {
            mutate(&mut input, &mut random);
        }
        check(&servers, &input, &mut random).await;
        inputs += 1;
    }
    println!("{inputs} inputs");
    for server in servers {
        server.stop().await;
    }
}

fn number(variable: &str) -> Option<u64> {
    let value = env::var(variable).ok()?;
    Some(value.parse().expect("it is a whole number"))
}

async fn check(servers: &[TestServer], input: &[u8], random: &mut StdRng) {
    let whole = answers(&servers[0], &[input]).await;
    let shown = input.escape_ascii();
    for answer in whole.split_whitespace() {
        let allowed = match answer {
            "next" => true,
            "smuggled" => !is_hidden(input),
            status => DOCUMENTED.contains(&status),
        };
        assert!(allowed, "{whole}: {shown}");
    }
    for (number, server) in servers.iter().enumerate() {
        let cut = answers(server, &pieces(input, random)).await;
        assert!(
            agree(&whole, &cut, input),
            "server {number}: {cut}, not {whole}: {shown}"
        );
    }
}

/// Whether the request for `/smuggled` is inside a body. A second, strict parser: the head is well-formed, and one
/// field says how long the body is.
fn is_hidden(input: &[u8]) -> bool {
    let Some(end) = crate::end_of(b"\r\n\r\n", input) else {
        return false;
    };
    let (head, body) = input.split_at(end);
    let mut lines = head[..end - 4].split(|byte| *byte == b'\n');
    if lines.next() != Some(b"POST /topics/a HTTP/1.1\r") {
        return false;
    }
    let mut framing = Vec::new();
    for line in lines {
        let line = line
            .strip_suffix(b"\r")
            .unwrap_or(line)
            .to_ascii_lowercase();
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            return false;
        };
        if !line[..colon]
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
        {
            return false;
        }
        if ["content-length", "transfer-encoding"]
            .map(str::as_bytes)
            .contains(&&line[..colon])
        {
            framing.push(String::from_utf8_lossy(&line).into_owned());
        }
    }
    let length = format!("content-length: {}", body.len());
    let chunk = format!("{:x}\r\nGET /smuggled ", body.len().saturating_sub(11));
    match &framing[..] {
        [one] if *one == length => true,
        [one] if one == "transfer-encoding: chunked" => {
            body.starts_with(chunk.as_bytes()) && body.ends_with(b"\r\n0\r\n\r\n")
        }
        _ => false,
    }
}

/// Whether the answers are the same. After a refusal, or to OPTIONS, a server may close early if the rest of the body,
/// which it does not read, has not arrived yet.
fn agree(one: &str, other: &str, input: &[u8]) -> bool {
    let (short, long) = if one.len() < other.len() {
        (one, other)
    } else {
        (other, one)
    };
    let refused = short
        .split(' ')
        .next_back()
        .is_some_and(|last| last.starts_with('4'));
    let unread = refused || input.windows(8).any(|word| word == b"OPTIONS ");
    short == long || unread && long.starts_with(&format!("{short} "))
}

fn corpus() -> Vec<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus");
    let files = fs::read_dir(folder).expect("there is a corpus");
    let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    paths.sort();
    assert!(paths.len() > 10, "the corpus has files");
    paths
        .into_iter()
        .map(|path| fs::read(path).expect("a file"))
        .collect()
}
