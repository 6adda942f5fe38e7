//! Every header grammar against arbitrary bytes: the corpus in `corpus/` as an ordinary test, and its mutations
//! for `FUZZ_SECONDS` (default 1; CI sets more). A header that is accepted must also be accepted by the grammar
//! in this file, which is written a second time and naively.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::{
    env, fs,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use sha2::Sha256;
use webhooks::verify::{Tolerance, Unverified, github, standard, stripe, telegram};

const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const BODY: &[u8] = b"{}";
const NOW: u64 = 1_700_000_000;

fn tag(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    let mac = parts.iter().fold(mac, |mac, part| mac.chain_update(part));
    mac.finalize().into_bytes().to_vec()
}

/// The value of a genuine header, from which the mutations begin.
fn genuine(scheme: &str) -> Vec<u8> {
    let time = NOW.to_string();
    match scheme {
        "standard" => {
            let key = STANDARD.decode(&KEY[6..]).unwrap();
            let tag = tag(&key, &[b"msg_1.", time.as_bytes(), b".", BODY]);
            format!("v1,{}", STANDARD.encode(tag)).into()
        }
        "stripe" => {
            let tag = tag(KEY.as_bytes(), &[time.as_bytes(), b".", BODY]);
            format!("t={time},v1={}", hex::encode(tag)).into()
        }
        "github" => format!("sha256={}", hex::encode(tag(KEY.as_bytes(), &[BODY]))).into(),
        _ => KEY.into(),
    }
}

fn believed(scheme: &str, header: &[u8]) -> bool {
    let (body, tolerance) = (Unverified::new(BODY), Tolerance::default());
    match scheme {
        "standard" => {
            let fields: [(&str, &[u8]); 3] = [
                (standard::ID, b"msg_1"),
                (standard::TIMESTAMP, b"1700000000"),
                (standard::SIGNATURE, header),
            ];
            standard::verify(body, fields, &[KEY.parse().unwrap()], NOW, tolerance).is_ok()
        }
        "stripe" => {
            let fields = [(stripe::SIGNATURE, header)];
            stripe::verify(body, fields, &[KEY.parse().unwrap()], NOW, tolerance).is_ok()
        }
        "github" => {
            let fields = [(github::SIGNATURE, header)];
            github::verify(body, fields, &[KEY.parse().unwrap()]).is_ok()
        }
        _ => {
            let fields = [(telegram::TOKEN, header)];
            telegram::verify(body, fields, &[KEY.parse().unwrap()]).is_ok()
        }
    }
}

/// The most that may be accepted: the genuine value among other text.
fn plausible(scheme: &str, header: &[u8]) -> bool {
    let good = genuine(scheme);
    match scheme {
        "standard" => header
            .split(|byte| *byte == b' ')
            .any(|token| token == good),
        "stripe" => {
            let text = String::from_utf8_lossy(&good).into_owned();
            let (time, signature) = text.split_once(',').unwrap();
            let items: Vec<&[u8]> = header.split(|byte| *byte == b',').collect();
            let times = items.iter().filter(|item| item.starts_with(b"t=")).count();
            times == 1 && items.contains(&time.as_bytes()) && items.contains(&signature.as_bytes())
        }
        _ => header == good,
    }
}

fn mutate(header: &mut Vec<u8>, random: &mut SmallRng) {
    let at = random.random_range(0..=header.len());
    match random.random_range(0..6) {
        0 if at < header.len() => header[at] ^= 1 << random.random_range(0..8),
        1 => header.truncate(at),
        2 => header.insert(
            at,
            *b", =\t0aAv1\0\xff".get(random.random_range(0..11)).unwrap(),
        ),
        3 => header.extend_from_within(at..),
        4 if at < header.len() => drop(header.remove(at)),
        _ => header.splice(at..at, *b",v1=").for_each(drop),
    }
    header.truncate(4096);
}

fn fuzz(scheme: &str) {
    let path = format!("{}/tests/corpus/{scheme}", env!("CARGO_MANIFEST_DIR"));
    let corpus = fs::read_to_string(path).unwrap();
    let mut corpus: Vec<Vec<u8>> = corpus.lines().map(|line| line.into()).collect();
    assert!(corpus.len() > 3, "there is a corpus");
    corpus.push(genuine(scheme));
    assert!(believed(scheme, &genuine(scheme)));
    let seconds = env::var("FUZZ_SECONDS").map_or(0.25, |seconds| seconds.parse().unwrap());
    let seed = env::var("FUZZ_SEED").map_or(7, |seed| seed.parse().unwrap());
    let (mut random, started) = (SmallRng::seed_from_u64(seed), Instant::now());
    let (mut tried, mut accepted) = (0, 0);
    for header in &corpus {
        assert!(
            !believed(scheme, header) || plausible(scheme, header),
            "{header:?}"
        );
    }
    while started.elapsed() < Duration::from_secs_f64(seconds) {
        let mut header = corpus[random.random_range(0..corpus.len())].clone();
        for _ in 0..random.random_range(1..4) {
            mutate(&mut header, &mut random);
        }
        let taken = believed(scheme, &header);
        let shown = header.escape_ascii();
        assert!(
            !taken || plausible(scheme, &header),
            "{scheme} believes {shown}"
        );
        (tried, accepted) = (tried + 1, accepted + usize::from(taken));
    }
    println!("{scheme}: {tried} headers, {accepted} believed");
}

#[test]
fn no_header_of_standard_webhooks_is_believed_but_the_genuine() {
    fuzz("standard");
}

#[test]
fn no_header_of_stripe_is_believed_but_the_genuine() {
    fuzz("stripe");
}

#[test]
fn no_header_of_github_is_believed_but_the_genuine() {
    fuzz("github");
}

#[test]
fn no_header_of_telegram_is_believed_but_the_genuine() {
    fuzz("telegram");
}
