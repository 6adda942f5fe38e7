//! What this package must not use: the members, an accept loop, and in the feed's folder anything else.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{fs, path::Path};

const MEMBERS: [&str; 5] = [
    "short_polling",
    "long_polling",
    "webhooks",
    "websockets",
    "sse",
];

/// Every source file below a folder: its path and its code, without comments.
fn sources(folder: &str) -> Vec<(String, String)> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let text = fs::read_to_string(&path).unwrap();
                let lines = text.lines().map(|line| line.split("//").next().unwrap());
                let code = lines.collect::<Vec<_>>().join("\n");
                sources.push((path.display().to_string(), code));
            }
        }
    }
    assert!(sources.len() > 10, "or the test looks at nothing");
    sources
}

#[test]
fn common_names_no_member_and_holds_no_accept_loop() {
    for (path, code) in sources("src") {
        for member in MEMBERS {
            assert!(!code.contains(&format!("{member}::")), "{path}: {member}");
        }
        if path.ends_with("server/metrics.rs") {
            continue; // It accepts scrapers, one after the other, and no client.
        }
        // A unit test may accept a connection.
        let shipped = code.split("\nmod tests").next().unwrap();
        for accept in [".accept()", "poll_accept"] {
            assert!(!shipped.contains(accept), "{path}: {accept}");
        }
    }
}

#[test]
fn the_feed_is_built_the_same_with_and_without_stores_and_reaches_for_nothing_above_it() {
    for (path, code) in sources("src/feed") {
        for word in ["crate::", "cfg(feature", "cfg(not"] {
            assert!(!code.contains(word), "{path}: {word}");
        }
    }
}
