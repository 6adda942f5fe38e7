//! The command as a user runs it.

use std::{
    env, fs,
    path::Path,
    process::{Command, Output},
};

fn copy(words: &str, folder: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_copy"));
    command.args(words.split_whitespace()).arg(folder);
    command.output().expect("it is built")
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("it prints text")
}

#[test]
fn several_sets_give_one_list_of_files_one_of_crates_and_one_lib_rs() {
    let folder = env::temp_dir().join(format!("copy-several-{}", std::process::id()));
    let sets = "common feed sse long-polling short-polling";
    for again in [false, true] {
        let output = copy(sets, &folder);
        assert!(output.status.success(), "again: {again}");
        let printed = text(&output.stdout);
        for once in [
            "  http/problem.rs (",
            "  feed/mod.rs (",
            "\n[dependencies]\n",
            "\ntokio = { version = \"1\", features = [\"macros\", \"sync\", \"time\"] }\n",
            "\npub mod poll;\npub mod stream;\npub mod wait;\n",
            "comments name `short_polling`, `sse`: ",
        ] {
            assert_eq!(printed.matches(once).count(), 1, "{once:?} in {printed}");
        }
        assert!(printed.ends_with("\npub use feed::*;\npub use http::{problem::*, query::*};\n"));
    }
    let poll = fs::read_to_string(folder.join("poll.rs")).expect("it is copied");
    assert!(poll.contains("pub struct Polls") && !poll.contains("mod tests"));
    fs::remove_dir_all(&folder).expect("it is there");
}

#[test]
fn the_stub_is_printed_if_the_feed_is_not_copied() {
    let folder = env::temp_dir().join(format!("copy-one-{}", std::process::id()));
    let output = copy("sse", &folder);
    assert!(text(&output.stdout).ends_with(include_str!("../feed.rs")));
    fs::remove_dir_all(&folder).expect("it is there");
}

#[test]
fn a_set_that_does_not_exist_is_answered_with_those_that_do() {
    let output = copy("sse smoke signals", Path::new("nowhere"));
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(
        error.starts_with("error: no copy set \"smoke\"; there are: common feed, "),
        "{error}"
    );
    assert!(!Path::new("nowhere").exists());
}
