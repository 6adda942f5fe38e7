//! A session against bytes that no good client sends: the corpus in `tests/corpus/`, then its
//! mutations, cut into pieces of any size. The session must end in bounded time, send only frames of the
//! protocol, and end in the same way wherever the bytes were cut.
//!
//! `FUZZ_SEED` chooses other mutations. A failing input is printed; add it to the corpus as a file.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    env, fs,
    sync::Arc,
    time::{Duration, Instant as Clock},
};

use common::{Feed, Retention};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Map, Value};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex, split},
    sync::watch,
    time::timeout,
};
use websockets::{
    frames::Limits,
    session::{Session, Sessions},
    socket::Socket,
    subscriptions::Subscriptions,
};

const PING: Duration = Duration::from_secs(20);
const AGE: Duration = Duration::from_secs(3_600);
const DRAIN: Duration = Duration::from_secs(10);
/// Small, so that the inputs reach them.
const LIMITS: Limits = Limits {
    message: 1_000,
    fragments: 10,
};
const SAID: [&str; 7] = [
    "message",
    "gap",
    "ack",
    "subscribed",
    "error",
    "pong",
    "heartbeat",
];

/// What a session answers to `input`, which comes in pieces of at most `most` bytes.
async fn answers(input: &[u8], most: usize, random: &mut StdRng) -> Vec<u8> {
    let (io, server) = duplex(4_096);
    let socket = Socket::new(server, b"", LIMITS);
    let subprotocol = Subscriptions::new(Feed::new(Retention::default()));
    let sessions = Arc::new(Sessions::new(1, PING, AGE, DRAIN));
    let slot = sessions.slot();
    let mut session = Session::new(sessions, slot, socket, subprotocol, None);
    let session = tokio::spawn(async move {
        let (_drain, mut draining) = watch::channel(false);
        session.run(&mut draining).await
    });
    let (mut reading, mut writing) = split(io);
    let said = tokio::spawn(async move {
        let mut said = Vec::new();
        reading.read_to_end(&mut said).await.unwrap();
        said
    });
    let mut rest = input;
    while !rest.is_empty() {
        let (piece, more) = rest.split_at(random.random_range(1..=most.min(rest.len())));
        if writing.write_all(piece).await.is_err() {
            break; // It has ended before.
        }
        rest = more;
    }
    let _ = writing.shutdown().await;
    let ended = timeout(Duration::from_secs(60), session).await;
    let _ = ended.expect("a session ends").expect("nothing panics");
    drop(writing);
    said.await.unwrap()
}

/// Checks that all frames are well-formed. Returns the code of the close frame, if there is one.
fn close_code(mut said: &[u8]) -> Option<u16> {
    while let [first, second, rest @ ..] = said {
        let (length, rest) = match second {
            127 => panic!("no answer is so long"),
            126 => (
                usize::from(u16::from_be_bytes([rest[0], rest[1]])),
                &rest[2..],
            ),
            short => (usize::from(*short), rest),
        };
        let (payload, rest) = rest.split_at(length);
        said = rest;
        match first {
            0x81 => {
                let frame: Map<String, Value> = serde_json::from_slice(payload).unwrap();
                let names: Vec<_> = frame.keys().collect();
                assert!(
                    names.len() == 1 && SAID.contains(&names[0].as_str()),
                    "{names:?}"
                );
            }
            0x89 | 0x8a => assert!(payload.len() < 126),
            0x88 => {
                assert!(said.is_empty(), "a close frame is the last");
                return payload.first_chunk().map(|code| u16::from_be_bytes(*code));
            }
            _ => panic!("a frame that begins with {first:#x}"),
        }
    }
    assert!(said.is_empty(), "half a frame");
    None
}

/// The session ends the same way with `input` whole and in pieces, and with a code that may be sent.
async fn holds(input: &[u8], random: &mut StdRng) {
    let whole = close_code(&answers(input, usize::MAX, random).await);
    let most = random.random_range(1..40);
    let pieces = close_code(&answers(input, most, random).await);
    assert_eq!(whole, pieces, "whole, and in pieces");
    // The codes that may be on the wire (RFC 6455 §7.4): ours, or the peer's own sent back.
    let may_be_sent = matches!(whole, None | Some(1000..=1003 | 1007..=1014 | 3000..=4999));
    assert!(may_be_sent, "closed with {whole:?}");
}

fn mutate(input: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut StdRng) {
    let at = random.random_range(0..=input.len());
    let other = &corpus[random.random_range(0..corpus.len())];
    match random.random_range(0..7) {
        0 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
        1 => input.truncate(at),
        2 => input.insert(at, random.random()),
        3 => input.extend_from_within(at..),
        4 if at < input.len() => drop(input.remove(at)),
        5 => input.splice(at..at, other.iter().copied()).for_each(drop),
        _ => input.extend_from_slice(other),
    }
    input.truncate(4_096);
}

async fn fuzz(seconds: u64) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus");
    let files = fs::read_dir(folder).unwrap();
    let mut corpus: Vec<Vec<u8>> = files
        .map(|file| fs::read(file.unwrap().path()).unwrap())
        .collect();
    corpus.sort();
    let seed = env::var("FUZZ_SEED").map_or(7, |seed| seed.parse().unwrap());
    let (mut random, started, mut tried) = (StdRng::seed_from_u64(seed), Clock::now(), 0);
    for input in &corpus {
        holds(input, &mut random).await;
    }
    while started.elapsed().as_secs() < seconds {
        let mut input = corpus[random.random_range(0..corpus.len())].clone();
        for _ in 0..random.random_range(1..5) {
            mutate(&mut input, &corpus, &mut random);
        }
        let shown = input.escape_ascii().to_string();
        let held = tokio::spawn(async move {
            let mut random = StdRng::seed_from_u64(tried);
            holds(&input, &mut random).await;
        });
        assert!(held.await.is_ok(), "{shown}");
        tried += 1;
    }
    println!("{tried} inputs of seed {seed}");
}

#[tokio::test(start_paused = true)]
async fn whatever_comes_a_session_ends_well() {
    fuzz(1).await;
}

#[tokio::test(start_paused = true)]
#[ignore = "takes 20 seconds; CI runs it"]
async fn whatever_comes_for_20_seconds_a_session_ends_well() {
    fuzz(20).await;
}
