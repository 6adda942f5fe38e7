//! The scene of `examples/payment`: whatever is cut, each payment takes effect exactly once.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod setup;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rusqlite::Connection;
use setup::{Scratch, soon};
use tokio::task::yield_now;

/// Plays the scene to its end, and returns what it printed.
fn play(args: &[&str]) -> String {
    let played = Command::new(program()).args(args).output().unwrap();
    let printed = String::from_utf8(played.stdout).unwrap();
    let errors = String::from_utf8_lossy(&played.stderr);
    assert_eq!(played.status.code(), Some(0), "{printed}{errors}");
    printed
}

/// Cargo builds the examples for `cargo test`, but not for `cargo test --test NAME`. It says where the programs
/// are, but not the examples.
fn program() -> PathBuf {
    let programs = Path::new(env!("CARGO_BIN_EXE_webhooks")).parent().unwrap();
    let program = programs.join("examples").join("payment");
    let program = program.with_extension(std::env::consts::EXE_EXTENSION);
    assert!(
        program.exists(),
        "run `cargo build -p webhooks --example payment` before"
    );
    program
}

/// How many lines end with this text.
fn count(printed: &str, end: &str) -> usize {
    printed.lines().filter(|line| line.ends_with(end)).count()
}

fn each_takes_effect_once(printed: &str, payments: usize) {
    for payment in 1..=payments {
        let effect = format!("  payment {payment}: in effect");
        assert_eq!(count(printed, &effect), 1, "payment {payment}\n{printed}");
    }
}

/// The two numbers before ` published` and ` delivered` of the last line.
fn repeats(printed: &str) -> (usize, usize) {
    let summary = printed.lines().last().unwrap();
    let number = |before: &str| {
        let (text, _) = summary.split_once(before).unwrap();
        let digits = text.rsplit([' ', '(']).next().unwrap();
        digits.parse().unwrap()
    };
    (number(" published"), number(" delivered"))
}

#[test]
fn each_payment_takes_effect_exactly_once() {
    let printed = play(&["--payments", "2"]);
    each_takes_effect_once(&printed, 2);
    let summary = "2 payments, 2 effects, 0 repeats dropped (0 published, 0 delivered), 0 kills\n";
    assert!(printed.ends_with(summary), "{printed}");
}

#[test]
fn each_payment_takes_effect_exactly_once_though_answers_are_lost_and_every_program_is_killed() {
    let printed = play(&["--chaos", "--payments", "8"]);
    each_takes_effect_once(&printed, 8);
    for way in ["relay > sender  ", "sender > back end"] {
        let on_the_way = |what: &str| {
            let happened = |line: &&str| line.contains(way) && line.contains(what);
            assert!(
                printed.lines().any(|line| happened(&line)),
                "{way}: {what}\n{printed}"
            );
        };
        on_the_way("lost on the way back");
        on_the_way("500 on the way");
        on_the_way("nothing, for as long as it waits");
        on_the_way(" dies");
    }
    for name in ["shop", "relay", "sender", "back end"] {
        let killed = |line: &&str| line.contains(&format!("  {name}  ")) && line.contains("KILLED");
        assert!(
            printed.lines().any(|line| killed(&line)),
            "{name}\n{printed}"
        );
    }
    let (published, delivered) = repeats(&printed);
    assert!(published > 0 && delivered > 0, "{printed}");
    assert!(printed.contains(r#""duplicate":true}"#), "{printed}");
}

#[test]
fn the_readme_shows_what_the_scene_prints() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let (_, shown) = readme.split_once("--example payment -- --chaos\n").unwrap();
    let (shown, _) = shown.split_once("```").unwrap();
    let printed = play(&["--chaos"]);
    let printed: BTreeSet<String> = printed.lines().map(shape).collect();
    for line in shown.lines().filter(|line| *line != "…") {
        assert!(
            printed.contains(&shape(line)),
            "it prints no such line: {line}"
        );
    }
}

/// A row that the sender will never take must not block the rows behind it.
#[tokio::test]
async fn the_relay_sets_a_row_aside_that_is_refused_for_good_and_publishes_the_others() {
    let (sender, scratch) = (setup::start(setup::local()).await, Scratch::new());
    let client = sender.client();
    let used = client.post("/topics/payments", "another");
    let used = used.header("Idempotency-Key", "4").send().await;
    assert_eq!(used.status, 201);
    play(&["shop", scratch.path().to_str().unwrap(), "1"]);
    let shop = Connection::open(scratch.path().join("shop.sqlite")).unwrap();
    let large = format!("\"{}\"", "x".repeat(70_000));
    for (kind, data) in [
        ("a/b", "1"),
        ("a", &large),
        ("a", "4"),
        ("a", "not JSON"),
        ("a", "6"),
    ] {
        let insert = "INSERT INTO outbox (type, data) VALUES (?1, ?2)";
        shop.execute(insert, [kind, data]).unwrap();
    }
    let mut relay = Command::new(program());
    relay
        .arg("relay")
        .arg(scratch.path())
        .arg(sender.addr().to_string());
    relay.stdin(Stdio::piped()).stderr(Stdio::piped());
    let relay = relay.spawn().unwrap();
    let ended = |id: i64| -> (bool, String) {
        let row = "SELECT message IS NOT NULL, ifnull(refused, '') FROM outbox WHERE id = ?1";
        let row = shop.query_row(row, [id], |row| Ok((row.get(0)?, row.get(1)?)));
        row.unwrap()
    };
    soon(async {
        while !ended(6).0 {
            yield_now().await;
        }
    })
    .await;
    let log = relay.wait_with_output().unwrap().stderr; // closes its input, so it ends
    let log = String::from_utf8(log).unwrap();
    for (id, reason) in [
        (2, "type"),
        (3, "the body is over"),
        (4, "Idempotency-Key 4"),
        (5, ""),
    ] {
        let (published, refused) = ended(id);
        assert!(
            !published && !refused.is_empty() && refused.contains(reason),
            "{id}: {refused}"
        );
        assert!(
            log.contains(&format!("row {id} is set aside: {refused}")),
            "{log}"
        );
    }
    assert_eq!(
        (ended(1), ended(6)),
        ((true, String::new()), (true, String::new()))
    );
    sender.stop().await;
}

/// The line without what differs between runs: numbers, and the epoch in a message's id.
fn shape(line: &str) -> String {
    let mut words = Vec::new();
    for word in line.split_whitespace() {
        let word = match word.split_once(r#"{"id":""#) {
            Some((_, id)) => id.split_once('-').map_or(word, |(_, rest)| rest),
            None => word,
        };
        let digits = |character: char| character.is_ascii_digit();
        words.push(
            word.split(digits)
                .filter(|part| !part.is_empty())
                .collect::<String>(),
        );
    }
    words.join(" ")
}
