//! What the pages of all programs share: they look the same, and say in the same words whether they are connected.

use std::{fs, path::Path};

const PAGES: [&str; 6] = [
    "short-polling/src/page.html",
    "long-polling/src/page.html",
    "sse/src/page.html",
    "websockets/src/page.html",
    "webhooks/src/sender/page.html",
    "webhooks/src/receiver/page.html",
];

fn pages() -> impl Iterator<Item = (&'static str, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    PAGES.into_iter().map(move |page| {
        let text =
            fs::read_to_string(root.join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        (page, text)
    })
}

/// The lines of the style that are in every page.
fn shared_style(page: &str) -> Vec<&str> {
    let lines = page.lines();
    let shared = lines.skip_while(|line| !line.contains("These lines are the same in every page."));
    shared
        .take_while(|line| !line.trim_start().starts_with("pre {"))
        .collect()
}

#[test]
fn every_page_has_the_shared_style() {
    let mut pages = pages();
    let (_, first) = pages.next().expect("there are pages");
    let expected = shared_style(&first);
    assert!(expected.len() > 10, "{expected:#?}");
    for (name, page) in pages {
        assert_eq!(shared_style(&page), expected, "{name}");
    }
}

#[test]
fn every_page_has_the_same_words_for_its_state() {
    for (name, page) in pages() {
        for words in [
            r#"<output id="state">connecting</output>"#,
            "'live'",
            "lost, back ",
            r#"<pre id="wire">"#,
        ] {
            assert!(page.contains(words), "{name} has no {words:?}");
        }
    }
}
