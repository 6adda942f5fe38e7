//! Secrets: where they come from, and that no output shows them.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod setup;

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Output, Stdio},
};

use harness::{Client, Process};
use setup::{Program, SECRET, Scratch, send};
use webhooks::receiver;

const RECEIVER: &str = env!("CARGO_BIN_EXE_receiver");
/// Each flag, its variable, and a value that it refuses.
const MISTYPED: [(&str, &str, &str); 4] = [
    ("--secret", "WEBHOOK_SECRET", "whsec_S3CRET!"),
    ("--stripe-secret", "STRIPE_WEBHOOK_SECRET", "whsec S3CRET"),
    ("--github-secret", "GITHUB_WEBHOOK_SECRET", "S3CRET\r"),
    ("--telegram-secret", "TELEGRAM_SECRET_TOKEN", "S3CRET!"),
];

/// Such an inbox cannot be opened, so a receiver that accepts its arguments ends, too.
fn run(command: &mut Command) -> Output {
    command.args(["--inbox", "/"]).output().unwrap()
}

fn says_nothing_secret(output: &Output) {
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let said = String::from_utf8(said).unwrap();
    assert!(!said.contains("S3CRET"), "{said}");
}

#[test]
fn a_mistyped_secret_is_refused_and_not_repeated() {
    let blank = [("--github-secret", "GITHUB_WEBHOOK_SECRET", " ")];
    for (flag, variable, value) in MISTYPED.into_iter().chain(blank) {
        for refused in [
            run(Command::new(RECEIVER).args([flag, value])),
            run(Command::new(RECEIVER).env(variable, value)),
        ] {
            assert_eq!(refused.status.code(), Some(2), "{flag}");
            says_nothing_secret(&refused);
            let said = String::from_utf8(refused.stderr).unwrap();
            assert!(said.contains(flag), "{said}");
        }
    }
}

#[test]
fn the_rest_of_a_secret_without_quotes_is_not_repeated() {
    let refused = run(Command::new(RECEIVER).args(["--github-secret", "my", "S3CRET"]));
    assert_eq!(refused.status.code(), Some(2));
    says_nothing_secret(&refused);
    let mistyped = run(Command::new(RECEIVER).arg("--secrets"));
    let said = String::from_utf8(mistyped.stderr).unwrap();
    assert!(said.contains("'--secrets'"), "{said}");
}

#[test]
fn a_variable_that_ends_in_a_line_break_is_refused_and_the_cause_is_named() {
    for (_, variable, _) in MISTYPED {
        let refused = run(Command::new(RECEIVER).env(variable, format!("{SECRET}\n")));
        assert_eq!(refused.status.code(), Some(2), "{variable}");
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(
            said.contains("(empty: does the variable end in a line break?)"),
            "{said}"
        );
    }
}

#[test]
fn the_help_names_the_variables_and_not_their_values() {
    let mut command = Command::new(RECEIVER);
    command.arg("--help");
    for (_, variable, _) in MISTYPED {
        command.env(variable, "S3CRET");
    }
    let help = run(&mut command);
    says_nothing_secret(&help);
    let help = String::from_utf8(help.stdout).unwrap();
    for (_, variable, _) in MISTYPED {
        assert!(help.contains(variable), "{help}");
    }
}

/// Sends an update as Telegram does, with the secret `S3CRET`, and returns the status.
async fn send_telegram(client: &Client) -> hyper::StatusCode {
    let update = client
        .post("/webhook/telegram", r#"{"update_id":1,"message":{}}"#)
        .header("content-type", "application/json")
        .header("x-telegram-bot-api-secret-token", "S3CRET");
    update.send().await.status
}

/// Killed when it is dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have exited.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn secrets_are_read_from_the_environment_one_a_line() {
    let scratch = Scratch::new();
    let mut command = Command::new(RECEIVER);
    command
        .args(["--listen", "127.0.0.1:0", "--inbox"])
        .arg(scratch.inbox())
        .env(
            "WEBHOOK_SECRET",
            format!("whsec_bm5ubm5ubm5ubm5ubm5ubm5ubm5u\n{SECRET}"),
        )
        .env("STRIPE_WEBHOOK_SECRET", "whsec_S3CRET")
        .env("GITHUB_WEBHOOK_SECRET", "S3CRET")
        .env("TELEGRAM_SECRET_TOKEN", "S3CRET")
        .stdout(Stdio::piped());
    let mut receiver = Killed(command.spawn().unwrap());
    let mut line = String::new();
    let stdout = receiver.0.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    let addr = line
        .trim_end()
        .strip_prefix("listening on http://")
        .unwrap();
    let client = Client::new(addr.parse::<SocketAddr>().unwrap());
    assert_eq!(send(&client, "e-1").await.status, 200);
    assert_eq!(send_telegram(&client).await, 200);
    for path in ["/webhook/stripe", "/webhook/github"] {
        let unsigned = client
            .post(path, "{}")
            .header("content-type", "application/json");
        assert_eq!(unsigned.send().await.status, 401, "{path}");
    }
}

#[tokio::test]
async fn secrets_are_read_from_a_file_which_the_command_line_only_names() {
    let scratch = Scratch::new();
    let path = scratch.path().join("secrets");
    let text = format!(
        "# during a rotation\nwhsec_bm5ubm5ubm5ubm5ubm5ubm5ubm5u==\n{SECRET}\r\n\nGITHUB_WEBHOOK_SECRET=S3=CRET\nTELEGRAM_SECRET_TOKEN=S3CRET"
    );
    fs::write(&path, text.replace("bm5u==", "bm5u")).unwrap();
    let program = Program::start_with(&scratch, |receiver| {
        receiver.arg("--secret-file").arg(&path);
    });
    let client = program.client();
    assert_eq!(send(&client, "e-1").await.status, 200);
    assert_eq!(send_telegram(&client).await, 200);
    assert_eq!(client.get("/webhook/github").send().await.status, 405);
    assert_eq!(client.get("/webhook/stripe").send().await.status, 404);
}

#[tokio::test]
async fn a_byte_order_mark_and_white_space_around_a_line_are_no_part_of_a_secret() {
    let scratch = Scratch::new();
    let path = scratch.path().join("secrets");
    let text = format!("\u{feff}WEBHOOK_SECRET={SECRET}\r\n\tTELEGRAM_SECRET_TOKEN=S3CRET \n");
    fs::write(&path, text).unwrap();
    let program = Program::start_with(&scratch, |receiver| {
        receiver.arg("--secret-file").arg(&path);
    });
    let client = program.client();
    assert_eq!(send(&client, "e-1").await.status, 200);
    assert_eq!(send_telegram(&client).await, 200);
}

#[test]
fn a_file_that_holds_no_secrets_is_refused_and_not_repeated() {
    let scratch = Scratch::new();
    let path = scratch.path().join("secrets");
    let file = path.to_str().unwrap();
    let neither =
        "line 1: it is neither VARIABLE=SECRET with one of the four variables, nor whsec_BASE64";
    let quotes = "line 1: quotes would be part of the secret: write it without them";
    let missing = path.with_file_name("missing");
    for (text, value, reason) in [
        (
            "\nSTRIPE_WEBHOOK_SECRET=whsec S3CRET\n",
            file,
            "line 2: Stripe's secret must not contain white space",
        ),
        (
            "GITHUB_WEBHOOK_SECRET= \n",
            file,
            "line 1: GitHub's secret is empty",
        ),
        ("WEBHOOK_SECRET=", file, "line 1: a secret is whsec_BASE64"),
        ("GITHUB_WEBHOOK_SECRET=\"S3CRET\"", file, quotes),
        ("GITHUB_WEBHOOK_SECRET='S3CRET'", file, quotes),
        ("\"whsec_S3CRET\"", file, quotes),
        ("'whsec_S3CRET='", file, quotes),
        ("SECRET=S3CRET", file, neither),
        ("export WEBHOOK_SECRET=whsec_S3CRET", file, neither),
        // The secret itself instead of a file's name.
        ("", "whsec_S3CRET", "cannot read the file: "),
        ("", "S3CRET/S3CRET", "invalid value '(hidden)' for"),
        ("", missing.to_str().unwrap(), "cannot read the file: "),
    ] {
        fs::write(&path, text).unwrap();
        let refused = run(Command::new(RECEIVER).args(["--secret-file", value]));
        assert_eq!(refused.status.code(), Some(2));
        says_nothing_secret(&refused);
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(
            said.contains("--secret-file") && said.contains(reason),
            "{said}"
        );
        let is_path = !value.contains("S3CRET");
        assert_eq!(said.contains(value), is_path, "{said}");
    }
}

#[test]
fn debug_shows_no_secret() {
    let config = receiver::Config {
        secret: vec![SECRET.parse().unwrap()],
        stripe_secret: vec!["whsec_S3CRET".parse().unwrap()],
        github_secret: vec!["S3CRET".parse().unwrap()],
        telegram_secret: vec!["S3CRET".parse().unwrap()],
        ..receiver::Config::default()
    };
    let shown = format!("{config:?}");
    assert!(!shown.contains("S3CRET"), "{shown}");
    assert!(!shown.contains(&SECRET[6..]), "{shown}");
}

#[tokio::test]
async fn the_log_has_an_endpoints_host_and_not_its_token() {
    let scratch = Scratch::new();
    let path = scratch.path().join("log");
    let args: [&str; 0] = [];
    let (program, log) = (env!("CARGO_BIN_EXE_webhooks"), File::create(&path).unwrap());
    let anywhere = "127.0.0.1:0".parse().unwrap();
    let server = Process::start_logging(anywhere, program, &args, log).await;
    let body = r#"{"url":"https://1.1.1.1/S3CRET?token=S3CRET","topics":["a"]}"#;
    let client = server.client();
    let registered = client.post("/endpoints", body);
    let registered = registered.header("content-type", "application/json");
    let registered = registered.send().await;
    assert_eq!(registered.status, 201);
    let endpoint = registered.header("location").unwrap();
    let disabled = client.request(hyper::Method::PATCH, endpoint);
    let disabled = disabled.header("content-type", "application/json");
    let disabled = disabled.body(r#"{"enabled":false}"#).send().await;
    assert_eq!(disabled.status, 200);
    let logged = async |line: &str| {
        while !fs::read_to_string(&path).unwrap().contains(line) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    setup::soon(logged("registered")).await;
    setup::soon(logged("set by hand")).await;
    let log = fs::read_to_string(&path).unwrap();
    assert!(log.contains("https://1.1.1.1"), "{log}");
    assert!(!log.contains("S3CRET"), "{log}");
}
