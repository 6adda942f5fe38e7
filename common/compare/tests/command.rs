//! `compare` as a user runs it.

use std::{
    fs,
    path::Path,
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
    let (choice, rest) = table.split_once("\n\n").expect("there are two tables");
    let names: Vec<&str> = choice.lines().skip(2).map(|row| cells(row)[0]).collect();
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
        ]
    );
    assert_eq!(cells(rest.lines().next().unwrap_or_default())[1..], names);
    for table in [choice, rest] {
        let rows: Vec<_> = table.lines().take_while(|row| !row.is_empty()).collect();
        assert!(
            rows.iter()
                .all(|row| cells(row).len() == cells(rows[0]).len())
        );
    }
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
        "--quick",
        "--write x",
        "serve tcp",
        "serve",
    ] {
        let output = compare(wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong}");
        assert!(!output.stderr.is_empty(), "{wrong}");
    }
}

/// The cells of a line of a table.
fn cells(row: &str) -> Vec<&str> {
    let inner = row.trim_start_matches("| ").trim_end_matches(" |");
    inner.split(" | ").collect()
}

#[test]
fn the_readmes_have_every_row_and_every_figure() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let read = |path| fs::read_to_string(repository.join(path)).expect("it exists");
    let readmes = [read("README.md"), read("common/compare/README.md")];
    let tables = markdown(&Report::default());
    for (table, readme) in tables.split("\n\n").zip(readmes) {
        assert!(readme.contains(table.lines().next().expect("it has a head")));
        for line in table.lines() {
            let label = cells(line)[0];
            assert!(readme.contains(&format!("\n| {label} | ")), "{label}");
        }
    }
}

#[test]
fn a_missing_readme_is_reported_before_anything_is_measured() {
    let output = compare("--measure --write nowhere");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).starts_with("error: "));
}
