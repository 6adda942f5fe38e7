//! What verifying costs beside the bare HMAC of the same bytes: `cargo bench -p webhooks --bench verify`.
//!
//! The ratio is verifications per second divided by HMACs per second, so 1 means "no cost". Each run measures
//! the two in turns, and the median of the runs is shown. Telegram's scheme has no MAC of the body, so its ratio
//! compares nothing.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use webhooks::verify::{
    Tolerance, Unverified, github,
    standard::{self, sign},
    stripe, telegram,
};

const RUNS: usize = 11;
/// How long each side is measured in a run.
const SLICE: Duration = Duration::from_millis(60);
const NOW: u64 = 1_700_000_000;
const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const TARGET: f64 = 0.9;

type Fields = Vec<(&'static str, String)>;

fn main() {
    println!(
        "{:<10} {:>9} {:>16} {:>8} {:>18}",
        "", "body", "verify", "ratio", "min – max"
    );
    for size in [1 << 10, 1 << 20] {
        let body = vec![b'x'; size];
        let standard: standard::Secret = KEY.parse().expect("the constant is a secret");
        let fields: Fields = sign(std::slice::from_ref(&standard), "msg_1", NOW, &body).into();
        let verify = |headers: &Fields| {
            let (body, tolerance) = (Unverified::new(&body[..]), Tolerance::default());
            let secrets = std::slice::from_ref(&standard);
            standard::verify(body, pairs(headers), secrets, NOW, tolerance).is_ok()
        };
        report("standard", &body, &fields, verify);

        let secret: [stripe::Secret; 1] = [KEY.parse().expect("the constant is a secret")];
        let hex = hex::encode(tag(&[NOW.to_string().as_bytes(), b".", &body]));
        let fields = vec![(stripe::SIGNATURE, format!("t={NOW},v1={hex}"))];
        report("stripe", &body, &fields, |headers| {
            let (body, tolerance) = (Unverified::new(&body[..]), Tolerance::default());
            stripe::verify(body, pairs(headers), &secret, NOW, tolerance).is_ok()
        });

        let secret: [github::Secret; 1] = [KEY.parse().expect("the constant is a secret")];
        let fields = vec![(
            github::SIGNATURE,
            format!("sha256={}", hex::encode(tag(&[&body]))),
        )];
        report("github", &body, &fields, |headers| {
            github::verify(Unverified::new(&body[..]), pairs(headers), &secret).is_ok()
        });

        let secret: [telegram::Secret; 1] = [KEY.parse().expect("the constant is a token")];
        let fields = vec![(telegram::TOKEN, KEY.to_owned())];
        report("telegram", &body, &fields, |headers| {
            telegram::verify(Unverified::new(&body[..]), pairs(headers), &secret).is_ok()
        });
    }
}

fn pairs(fields: &Fields) -> impl Iterator<Item = (&str, &[u8])> {
    // Other fields of a request, among which the signature's fields are found.
    let others = [
        ("host", "localhost"),
        ("content-type", "application/json"),
        ("user-agent", "x"),
    ];
    let others = others
        .into_iter()
        .map(|(name, value)| (name, value.as_bytes()));
    others.chain(fields.iter().map(|(name, value)| (*name, value.as_bytes())))
}

fn tag(parts: &[&[u8]]) -> Vec<u8> {
    let mac = Hmac::<Sha256>::new_from_slice(KEY.as_bytes()).expect("any length is a key's");
    let mac = parts.iter().fold(mac, |mac, part| mac.chain_update(part));
    mac.finalize().into_bytes().to_vec()
}

fn report(name: &str, body: &[u8], fields: &Fields, verify: impl Fn(&Fields) -> bool) {
    assert!(verify(fields), "what is measured is what is accepted");
    let expected = tag(&[body]);
    let bare = || {
        let mac = Hmac::<Sha256>::new_from_slice(black_box(KEY.as_bytes()));
        let mac = mac
            .expect("any length is a key's")
            .chain_update(black_box(body));
        assert!(mac.verify_slice(&expected).is_ok());
    };
    let mut ratios = [0.0; RUNS];
    let mut rate = 0.0;
    for ratio in &mut ratios {
        rate = per_second(|| assert!(verify(black_box(fields))));
        *ratio = rate / per_second(bare);
    }
    ratios.sort_unstable_by(f64::total_cmp);
    let (median, spread) = (
        ratios[RUNS / 2],
        format!("{:.2} – {:.2}", ratios[0], ratios[RUNS - 1]),
    );
    let met = if median >= TARGET {
        ""
    } else {
        "  under the aim of 0.9"
    };
    println!(
        "{name:<10} {:>9} {rate:>14.0}/s {median:>8.2} {spread:>18}{met}",
        body.len()
    );
}

fn per_second(work: impl Fn()) -> f64 {
    let (started, mut done) = (Instant::now(), 0);
    while started.elapsed() < SLICE {
        for _ in 0..16 {
            work();
        }
        done += 16;
    }
    f64::from(done) / started.elapsed().as_secs_f64()
}
