//! The READMEs' commands do what the READMEs say.
//!
//! The test runs the lines that begin with `$ ` in blocks fenced as ```` ```console ````, from the
//! workspace's root and in the order of the file. Each README is run by itself:
//!
//! - `$ cargo run -p NAME …` without `--example` starts a server at its default port, which runs until
//!   the README ends. The next command waits for its `listening on …`. Lines that follow in the block
//!   are what it prints. It has its own block, because it would take a terminal.
//! - `$ cargo run -p NAME --example X …` runs in the background. The lines that follow are what it has
//!   printed when the README ends, or the beginning of that.
//! - `$ curl …` is run by `sh` and has to end by itself (a stream by `--max-time`). The lines that
//!   follow are all that it prints on standard output; white space at a line's end does not count. A
//!   command that only reads is repeated for a while until it prints that.
//! - `$ curl … &` runs in the background, and its output is compared when the README ends. It may
//!   reach the server late, so it should ask `after=` something.
//! - The commands in [`LISTED`] are not run here and their output is not compared: CI runs them. Any
//!   other command fails the test.
//!
//! A line `…` stands for the rest of an output. A `\` at a line's end continues the command.
//!
//! What changes from run to run counts as equal, see [`variables`]: epochs, ids and secrets of
//! endpoints, times, random delays. The number in a message's id does not change: a README starts with
//! a fresh server. A later command of the same README may use an epoch, an endpoint or a secret that an
//! output has shown: the test replaces it by that of this run.

#![cfg(unix)]

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        LazyLock,
        mpsc::{Receiver, channel},
    },
    thread,
    time::{Duration, Instant},
};

use regex::Regex;

/// How long to wait for an output.
const PATIENCE: Duration = Duration::from_secs(20);

/// Commands that are only quoted. CI runs each of them.
const LISTED: [&str; 11] = [
    ".ci/run",
    "cargo bench -p common",
    "cargo run --release -p compare",
    "cargo test --workspace",
    "cargo test -p common",
    "cargo test -p compare",
    "cargo test -p long-polling",
    "cargo test -p short-polling",
    "cargo test -p sse",
    "cargo test -p webhooks",
    "cargo test -p websockets",
];

/// A command and what the README says that it prints.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    /// The line in the README, from 1.
    line: usize,
    command: String,
    expected: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Goes on until the README ends.
    Background,
    /// Ends by itself.
    Curl,
    /// Not run.
    Listed,
    /// Goes on until the README ends, and says when it is ready.
    Server,
}

impl Step {
    fn kind(&self) -> Option<Kind> {
        let command = self.command.as_str();
        match command {
            _ if LISTED.contains(&command) => Some(Kind::Listed),
            _ if command.starts_with("curl ") && command.ends_with(" &") => Some(Kind::Background),
            _ if command.starts_with("curl ") => Some(Kind::Curl),
            _ if !command.starts_with("cargo run -p ") => None,
            _ if command.contains(" --example ") => Some(Kind::Background),
            _ => Some(Kind::Server),
        }
    }

    /// Whether the command may be repeated.
    fn only_reads(&self) -> bool {
        let writes = ["-d", "--data", "--json", "-X", "--request", "-T"];
        let mut words = self.command.split_whitespace();
        !words.any(|word| writes.iter().any(|option| word.starts_with(option)))
    }
}

#[test]
fn every_command_is_of_a_kind_that_can_be_run() {
    for (path, steps) in readmes() {
        for step in steps {
            let at = format!("{}:{}: {}", path.display(), step.line, step.command);
            assert!(step.kind().is_some(), "{at}: see tests/readme.rs");
        }
    }
}

#[test]
fn the_readme_of_every_member_starts_its_server() {
    for member in [
        "short-polling",
        "long-polling",
        "webhooks",
        "websockets",
        "sse",
    ] {
        let readme = root().join(member).join("README.md");
        let steps = readmes().remove(&readme).unwrap_or_default();
        let starts = |step: &Step| step.kind() == Some(Kind::Server);
        assert!(steps.iter().any(starts), "{}", readme.display());
    }
}

#[test]
#[ignore = "uses the default ports and curl; CI runs it"]
fn commands_print_what_the_readme_says() {
    for (path, steps) in readmes() {
        let mut session = Session::default();
        steps.iter().for_each(build);
        for step in &steps {
            eprintln!("{}:{}: {}", path.display(), step.line, step.command);
            session.run(step);
        }
        session.end();
    }
}

/// Builds what a command runs: that may take longer than the patience for an output. Each by itself, because
/// the features of dependencies are those of the packages that cargo is asked for.
fn build(step: &Step) {
    if !matches!(step.kind(), Some(Kind::Server | Kind::Background)) {
        return;
    }
    if let Some(run) = step.command.strip_prefix("cargo run ") {
        let (package, _) = run.split_once(" -- ").unwrap_or((run, ""));
        let build = format!("build --quiet {}", package.trim_end_matches([' ', '&']));
        let built = cargo(&build).status().expect("cargo runs");
        assert!(built.success(), "{build}");
    }
}

/// One README's servers, and this run's names for what the README names.
#[derive(Debug, Default)]
struct Session {
    running: Vec<(Program, Step)>,
    /// From the README's epochs, endpoints and secrets to this run's.
    names: BTreeMap<String, String>,
}

impl Session {
    fn run(&mut self, step: &Step) {
        let command = self.in_this_run(&step.command);
        match step.kind().expect("another test checks that") {
            Kind::Listed => {}
            Kind::Curl => self.curl(step, &command),
            Kind::Background => {
                let program = Program::start(command.trim_end_matches('&'));
                self.running.push((program, step.clone()));
            }
            Kind::Server => {
                let mut program = Program::start(&command);
                let line = program.line().expect("a server says where it listens");
                assert!(line.starts_with("listening on http://"), "{line}");
                program.printed.push(line);
                self.running.push((program, step.clone()));
            }
        }
    }

    fn curl(&mut self, step: &Step, command: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let printed = Program::start(command).rest();
            let last = !step.only_reads() || Instant::now() > deadline;
            if last || is_as_said(&step.expected, &printed) {
                return self.compare(step, &printed);
            }
            // The output may need a moment, and there is no event to wait for.
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn end(mut self) {
        for (mut program, step) in std::mem::take(&mut self.running) {
            program.wait_for(step.expected.len());
            let mut printed = program.printed.clone();
            printed.truncate(step.expected.len());
            self.compare(&step, &printed);
        }
    }

    fn compare(&mut self, step: &Step, printed: &[String]) {
        let (said, came) = (step.expected.join("\n"), printed.join("\n"));
        assert!(
            is_as_said(&step.expected, printed),
            "line {}: {}\n--- the README says\n{said}\n--- it prints\n{came}",
            step.line,
            step.command,
        );
        for pattern in names() {
            let all = |text: &str| -> Vec<String> {
                let found = pattern.captures_iter(text);
                found.map(|found| found[1].to_owned()).collect()
            };
            self.names.extend(all(&said).into_iter().zip(all(&came)));
        }
    }

    fn in_this_run(&self, command: &str) -> String {
        let replace =
            |command: String, (said, came): (&String, &String)| command.replace(said, came);
        self.names.iter().fold(command.to_owned(), replace)
    }
}

/// A command that runs, and what it has printed. Dropped, it is killed.
#[derive(Debug)]
struct Program {
    child: Child,
    lines: Receiver<String>,
    printed: Vec<String>,
}

impl Program {
    /// `exec` makes the command the child itself, as does `cargo run` in turn: killing reaches it.
    fn start(command: &str) -> Self {
        let cargo = format!("exec '{}' run --quiet ", env!("CARGO"));
        let limit = format!("exec curl --max-time {} ", PATIENCE.as_secs());
        let command = match command.split_once(' ') {
            Some(("curl", rest)) => limit + rest,
            Some(("cargo", rest)) => cargo + rest.trim_start_matches("run "),
            _ => panic!("another test checks that"),
        };
        let mut child = Command::new("sh");
        child.args(["-c", &command]).current_dir(root());
        child.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = child.spawn().expect("there is a shell");
        let stdout = child.stdout.take().expect("it is piped");
        let (printing, lines) = channel();
        thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            // It fails only when the test is over.
            lines.for_each(|line| drop(printing.send(line)));
        });
        Self {
            child,
            lines,
            printed: Vec::new(),
        }
    }

    /// The next line, or `None` at the end of the output or after the patience.
    fn line(&mut self) -> Option<String> {
        self.lines.recv_timeout(PATIENCE).ok()
    }

    fn wait_for(&mut self, lines: usize) {
        while self.printed.len() < lines {
            let Some(line) = self.line() else { break };
            self.printed.push(line);
        }
    }

    /// All that it prints until it ends.
    fn rest(mut self) -> Vec<String> {
        self.wait_for(usize::MAX);
        std::mem::take(&mut self.printed)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn cargo(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.args(line.split(' ')).current_dir(root());
    command
}

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().expect("the workspace is there")
}

/// The root's README and those of the members, with their commands.
fn readmes() -> BTreeMap<PathBuf, Vec<Step>> {
    let directories = |parent: PathBuf| {
        let entries = fs::read_dir(parent).expect("the workspace is there");
        entries.flatten().map(|entry| entry.path())
    };
    let mut all = vec![root()];
    all.extend(directories(root()));
    all.extend(directories(root().join("common")));
    let paths = all.into_iter().map(|directory| directory.join("README.md"));
    let read = |path: PathBuf| Some((path.clone(), steps(&fs::read_to_string(path).ok()?)));
    paths.filter_map(read).collect()
}

/// The commands of a README.
fn steps(readme: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let (mut inside, mut continued) = (false, false);
    for (line, text) in (1..).zip(readme.lines()) {
        if text.starts_with("```") {
            inside = text == "```console";
            continue;
        }
        match (inside, text.strip_prefix("$ "), steps.last_mut()) {
            (false, _, _) => continue,
            (true, None, Some(step)) if continued => step.command += text.trim_start(),
            (true, None, Some(step)) => step.expected.push(text.to_owned()),
            (true, None, None) => panic!("line {line}: the output of which command?"),
            (true, Some(command), _) => steps.push(Step {
                line,
                command: command.to_owned(),
                expected: Vec::new(),
            }),
        }
        let command = &mut steps.last_mut().expect("there is one now").command;
        continued = command.ends_with('\\');
        command.truncate(command.len() - usize::from(continued));
    }
    for step in &mut steps {
        let written = |line: &String| !line.trim().is_empty();
        let end = step
            .expected
            .iter()
            .rposition(written)
            .map_or(0, |last| last + 1);
        step.expected.truncate(end);
    }
    steps
}

fn is_as_said(said: &[String], printed: &[String]) -> bool {
    let plain = |lines: &[String]| -> Vec<String> {
        let lines = lines.iter().map(|line| constant(line.trim_end()));
        lines.collect()
    };
    let (mut said, mut printed) = (plain(said), plain(printed));
    if said.last().is_some_and(|line| line == "…") {
        said.pop();
        printed.truncate(said.len());
    }
    while printed.last().is_some_and(String::is_empty) {
        printed.pop();
    }
    said == printed
}

/// The line without what changes from run to run.
fn constant(line: &str) -> String {
    let replace = |line: String, (pattern, with): &(Regex, &str)| {
        pattern.replace_all(&line, *with).into_owned()
    };
    variables().iter().fold(line.to_owned(), replace)
}

/// What counts as equal, and what replaces it.
fn variables() -> &'static [(Regex, &'static str)] {
    const PATTERNS: [(&str, &str); 9] = [
        (r"\b[0-9a-v]{12}-(\d+)", "EPOCH-$1"),
        (r"\bep_[0-9a-f]{16}", "ENDPOINT"),
        (r"\bwhsec_[A-Za-z0-9+/=]+", "SECRET"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z", "TIME"),
        (r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", "DATE"),
        (
            r"(?i)\b(retry|retry-after|x-poll-interval|webhook-timestamp): ?\d+",
            "$1: N",
        ),
        (r#"("duration_ms"):\d+"#, "$1:N"),
        (r"\bv1,[A-Za-z0-9+/]{43}=", "SIGNATURE"),
        // A port that the system has chosen.
        (r"127\.0\.0\.1:[3-6]\d{4}\b", "ADDRESS"),
    ];
    static VARIABLES: LazyLock<[(Regex, &str); 9]> =
        LazyLock::new(|| PATTERNS.map(|(pattern, with)| (compiled(pattern), with)));
    VARIABLES.as_slice()
}

/// What later commands may use.
fn names() -> [Regex; 3] {
    [
        r"\b([0-9a-v]{12})-\d+",
        r"\b(ep_[0-9a-f]{16})",
        r"\b(whsec_[A-Za-z0-9+/=]+)",
    ]
    .map(compiled)
}

fn compiled(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the pattern is one")
}

#[test]
fn a_readme_is_read_as_documented() {
    let readme = "\
$ not here
```console
$ cargo run -p sse
```
```sh
$ nor here
```
```console
$ curl -s \\
    one &
$ curl -d hello two
first

second

```
";
    let steps = steps(readme);
    let step = |line, command: &str, expected: &[&str]| Step {
        line,
        command: command.to_owned(),
        expected: expected.iter().map(|line| (*line).to_owned()).collect(),
    };
    assert_eq!(
        steps,
        [
            step(3, "cargo run -p sse", &[]),
            step(9, "curl -s one &", &[]),
            step(11, "curl -d hello two", &["first", "", "second"]),
        ]
    );
    let kinds: Vec<_> = steps.iter().map(Step::kind).collect();
    assert_eq!(
        kinds,
        [Kind::Server, Kind::Background, Kind::Curl].map(Some)
    );
    assert!(!steps[2].only_reads());
    assert_eq!(step(1, "rm -r .", &[]).kind(), None);
}

#[test]
fn what_changes_from_run_to_run_counts_as_equal() {
    for (one, other) in [
        (r#"{"id":"2utstibevf0d-1"}"#, r#"{"id":"0qnjo29vklqq-1"}"#),
        ("ETag: W/\"2utstibevf0d-1\"", "ETag: W/\"0qnjo29vklqq-1\"\r"),
        ("at 2026-11-23T20:25:33.772Z", "at 2027-01-01T00:00:00Z"),
        (
            "date: Mon, 23 Nov 2026 20:25:33 GMT",
            "date: Tue, 24 Nov 2026 20:25:33 GMT",
        ),
        ("retry: 2995", "retry: 2000"),
        ("x-poll-interval: 5", "x-poll-interval: 6"),
        ("x-poll-interval: 5  ", "x-poll-interval: 5"),
        (
            "\"remote\":\"127.0.0.1:40001\"",
            "\"remote\":\"127.0.0.1:51234\"",
        ),
    ] {
        assert!(
            is_as_said(&[one.to_owned()], &[other.to_owned(), String::new()]),
            "{one}"
        );
    }
    for (one, other) in [
        ("2utstibevf0d-1", "2utstibevf0d-2"),
        ("http://127.0.0.1:8005", "http://127.0.0.1:8004"),
        ("\"more\":false", "\"more\":true"),
    ] {
        assert!(!is_as_said(&[one.to_owned()], &[other.to_owned()]), "{one}");
    }
}

#[test]
fn an_ellipsis_stands_for_the_rest() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert!(is_as_said(&lines("a\n…"), &lines("a\nb\nc")));
    assert!(!is_as_said(&lines("a\n…"), &lines("b\nb\nc")));
    assert!(!is_as_said(&lines("a"), &lines("a\nb")));
}
