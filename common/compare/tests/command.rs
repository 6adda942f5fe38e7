//! `compare` as a user runs it, only shorter.

use std::process::{Command, Output};

fn compare(line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_compare"));
    command.args(line.split_whitespace());
    command.output().expect("it is built")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("it prints text")
}

#[test]
fn all_five_are_measured_and_the_table_is_all_that_standard_output_has() {
    let output = compare("--messages 5 --rate 10 --interval 0.05");
    let (table, progress) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{progress}");
    let rows: Vec<&str> = table.lines().take_while(|line| !line.is_empty()).collect();
    let first = |row: &str| row.split('|').nth(1).unwrap_or_default().trim().to_owned();
    let names: Vec<String> = rows[2..].iter().map(|row| first(row)).collect();
    assert_eq!(
        names,
        [
            "Short polling, every 50.0 ms",
            "Long polling",
            "Webhooks",
            "WebSockets",
            "SSE"
        ]
    );
    let columns = |row: &str| row.matches('|').count();
    assert!(rows.iter().all(|row| columns(row) == columns(rows[0])));
    assert!(progress.ends_with("25 of 25 messages delivered\n"));
}

#[test]
fn one_technique_can_be_measured_alone() {
    let output = compare("--messages 2 --rate 20 --only sse");
    let table = text(&output.stdout);
    assert!(output.status.success());
    assert!(table.contains("| SSE | server → client |"), "{table}");
    assert!(!table.contains("Webhooks"), "{table}");
}

#[test]
fn a_wrong_option_is_named_and_nothing_runs() {
    for wrong in ["--messages 0", "--rate 0", "--rate x", "--only tcp"] {
        let output = compare(wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong}");
        let name = wrong.split(' ').next().unwrap();
        assert!(text(&output.stderr).contains(name), "{wrong}");
    }
}
