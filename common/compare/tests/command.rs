//! `compare` as a user runs it.

use std::{
    fs,
    process::{Command, Output},
};

use compare::{Report, markdown};

fn compare(line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_compare"));
    command.args(line.split_whitespace());
    command.output().expect("it is built")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("it prints text")
}

#[test]
#[ignore = "takes two minutes; CI runs it"]
fn all_rows_are_measured_and_standard_output_has_only_the_table() {
    let output = compare("--measure --quick");
    let (table, progress) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{progress}");
    let rows: Vec<&str> = table.lines().take_while(|line| !line.is_empty()).collect();
    let names: Vec<&str> = rows[0].split('|').map(str::trim).skip(2).collect();
    assert_eq!(
        names,
        [
            "Short polling, 1 s",
            "Short polling, 5 s",
            "Short polling, 30 s",
            "Long polling",
            "Webhooks",
            "WebSockets",
            "SSE",
            ""
        ]
    );
    let columns = |row: &str| row.matches('|').count();
    assert!(rows.iter().all(|row| columns(row) == columns(rows[0])));
    let last = progress.lines().last().unwrap_or_default();
    let counts: Vec<&str> = last
        .split([' ', ':'])
        .filter(|word| word.parse::<u32>().is_ok())
        .collect();
    assert_eq!(counts[0], counts[1], "{last}");
}

#[test]
fn a_wrong_option_is_named_and_nothing_runs() {
    for wrong in [
        "--quack",
        "--json x",
        "--write x",
        "serve tcp",
        "serve",
        "copy",
        "copy sse",
    ] {
        let output = compare(wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong}");
        assert!(!output.stderr.is_empty(), "{wrong}");
    }
}

#[test]
fn a_copy_set_that_does_not_exist_is_answered_with_those_that_do() {
    let output = compare("copy smoke signals nowhere");
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(error.starts_with("error: no copy set \"smoke-signals\"; there are: "));
}

#[test]
fn the_workspaces_readme_has_a_line_for_every_figure() {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
    let readme = fs::read_to_string(readme).expect("it exists");
    let table = markdown(&Report::default());
    for line in table.lines().take_while(|line| !line.is_empty()) {
        let (label, _) = line.split_once(" | ").expect("a line has cells");
        assert!(readme.contains(&format!("\n{label} | ")), "{label}");
    }
}

#[test]
fn a_missing_readme_is_reported_before_anything_is_measured() {
    let output = compare("--measure --write nowhere.md");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).starts_with("error: "));
}
