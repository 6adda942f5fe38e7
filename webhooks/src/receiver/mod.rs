//! The receiver: the back end that a sender calls. It verifies a request before parsing it, and stores the
//! event before answering. It answers 200 to repeats and unknown types too: any other answer would only
//! make the sender try again.
//!
//! Read in this order: `receive.rs` is the pattern; `source.rs` reads a genuine request; `inbox.rs` is the
//! disk; `work.rs` handles the stored events. The rest is the server around them.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use clap::{
    Arg, CommandFactory, FromArgMatches, Parser,
    error::{ContextKind, ContextValue, ErrorKind},
};
use common::{Drained, Feed, ServerConfig, address, metrics, seconds};
use tokio::{net::TcpListener, sync::watch, time::timeout};
use tracing::warn;

use self::{
    body::Bodies,
    inbox::Inbox,
    receive::Receiver,
    route::App,
    source::{Secrets, Source},
    tally::Tally,
    work::{Attempts, Effects, work},
};
pub use self::{body::BodyLimits, publish::Publish};
use crate::{
    serve::serve,
    verify::{github, standard, stripe, telegram},
};

mod body;
mod cause;
pub mod inbox;
mod listing;
mod publish;
pub mod receive;
mod route;
mod secret_file;
pub mod source;
mod tally;
pub mod work;

/// After this time the answer is 503, because GitHub closes the connection after 10 s.
const STORE_TIMEOUT: Duration = Duration::from_secs(8);

/// Receives webhooks: verifies each, stores it, answers 200, and then handles it.
///
/// The program `receiver` is a demonstration: it publishes each event to a feed in memory, and marks it as handled.
/// Start a program with your own effects, like examples/receive.rs, before you receive real events. Or store them
/// with --hold, until yours opens the inbox.
///
/// A variable holds one secret on each line. `ps` shows a flag to everyone on the machine, but not a variable or
/// the contents of a file.
#[derive(Debug, Clone, Parser)]
#[command(name = "receiver", version, mut_args(adjusted))]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8006", value_parser = address, value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// A Standard Webhooks secret that opens POST /webhook; repeatable, for a rotation.
    #[arg(long, env = "WEBHOOK_SECRET", value_name = "whsec_BASE64")]
    pub secret: Vec<standard::Secret>,
    /// A Stripe endpoint's secret that opens POST /webhook/stripe; repeatable.
    #[arg(long, env = "STRIPE_WEBHOOK_SECRET", value_name = "whsec_TEXT")]
    pub stripe_secret: Vec<stripe::Secret>,
    /// A GitHub webhook's secret that opens POST /webhook/github; repeatable.
    #[arg(long, env = "GITHUB_WEBHOOK_SECRET", value_name = "TEXT")]
    pub github_secret: Vec<github::Secret>,
    /// A Telegram bot's secret_token that opens POST /webhook/telegram; repeatable.
    #[arg(long, env = "TELEGRAM_SECRET_TOKEN", value_name = "TOKEN")]
    pub telegram_secret: Vec<telegram::Secret>,
    /// A file of more secrets, one on each line: VARIABLE=SECRET with one of the four variables, or a Standard
    /// Webhooks secret alone, without quotes; repeatable. White space around a line is ignored, and so is a line that
    /// begins with #.
    #[arg(long, value_parser = secret_file::read, value_name = "PATH")]
    pub secret_file: Vec<Secrets>,
    /// The SQLite database that stores received events.
    #[arg(long, default_value = "inbox.sqlite", value_name = "PATH")]
    pub inbox: PathBuf,
    /// Only store events. They wait until a program without this flag opens the inbox.
    #[arg(long)]
    pub hold: bool,
    /// How old a signed time may be, in seconds.
    #[arg(long, default_value = "300", value_parser = seconds, value_name = "SECONDS")]
    pub tolerance: Duration,
    /// How far a signed time may be ahead of our clock, in seconds [default: 300 with Standard Webhooks, any
    /// with Stripe, as in its own libraries].
    #[arg(long, value_parser = seconds, value_name = "SECONDS")]
    pub future: Option<Duration>,
    /// The knobs that every server has.
    #[command(flatten)]
    pub server: ServerConfig,
    /// How events are attempted. Not on the command line.
    #[arg(skip)]
    pub attempts: Attempts,
    /// The time limit for storing an event. Not on the command line.
    #[arg(skip = STORE_TIMEOUT)]
    pub store_timeout: Duration,
    /// What large bodies may cost. Not on the command line.
    #[arg(skip)]
    pub bodies: BodyLimits,
}

/// The default of `--max-body`: GitHub creates no event above 25 MB.
const MAX_BODY: &str = "26214400";

/// What is different here from the other servers.
fn adjusted(arg: Arg) -> Arg {
    match arg.get_id().as_str() {
        // A fixed number: the other servers compute it from their subscribers.
        "max_connections" => arg
            .default_value("1024")
            .help(ServerConfig::MAX_CONNECTIONS),
        // Nothing is published here: the largest body is that of a webhook.
        "max_message" => arg
            .long("max-body")
            .default_value(MAX_BODY)
            .help("The largest webhook, in bytes; the default is the most that GitHub sends"),
        // Senders fix how long a request may take. Origins matter only to the receiver's own page.
        "read_timeout" | "stall" | "allow_origin" => arg.hide(true),
        // A variable holds secrets, one on each line. `--help` must not show them.
        _ if arg.get_env().is_some() => arg.hide_env_values(true).value_delimiter('\n'),
        _ => arg,
    }
}

impl Default for Config {
    /// The command line's defaults. The environment is not read.
    fn default() -> Self {
        let command = Self::command().mut_args(|arg| arg.env(None::<&'static str>));
        let matches = command.try_get_matches_from(["receiver"]);
        let config = matches.and_then(|matches| Self::from_arg_matches(&matches));
        config.expect("every knob has a default")
    }
}

impl Config {
    /// Parses the command line, or prints what is wrong with it and exits. clap repeats a refused value in the
    /// error, but a mistyped secret is close to the real one.
    pub fn parse_hiding_secrets() -> Self {
        Self::try_parse().unwrap_or_else(|mut error| {
            if let Some((part, shown)) = hidden(&error) {
                error.insert(part, ContextValue::String(shown.to_owned()));
            }
            error.exit()
        })
    }

    /// Opens the inbox, or creates it.
    ///
    /// # Errors
    /// If it cannot be opened, or another process has it.
    pub fn open_inbox(&self) -> io::Result<Inbox> {
        Inbox::open(&self.inbox, self.store_timeout)
    }

    fn secrets(&self) -> Secrets {
        let mut secrets = Secrets {
            standard: self.secret.clone(),
            stripe: self.stripe_secret.clone(),
            github: self.github_secret.clone(),
            telegram: self.telegram_secret.clone(),
            past: Some(self.tolerance),
            future: self.future,
        };
        for file in self.secret_file.clone() {
            secrets.standard.extend(file.standard);
            secrets.stripe.extend(file.stripe);
            secrets.github.extend(file.github);
            secrets.telegram.extend(file.telegram);
        }
        secrets
    }
}

/// The part of the error that may be a secret, and what to show instead.
fn hidden(error: &clap::Error) -> Option<(ContextKind, &'static str)> {
    let arg = error.get(ContextKind::InvalidArg)?.to_string();
    if error.kind() == ErrorKind::UnknownArgument {
        // A word that belongs to no option may be the second word of a secret.
        let shown = "(hidden: is a value with spaces not quoted?)";
        return (!arg.starts_with('-')).then_some((ContextKind::InvalidArg, shown));
    }
    let value = error.get(ContextKind::InvalidValue)?.to_string();
    let path = Path::new(&value);
    let is_path = path.exists() || path.parent().is_some_and(Path::is_dir);
    let shown = match value.as_str() {
        // `--secret-file` may have been given the secret itself.
        _ if !arg.contains("secret") || arg.starts_with("--secret-file") && is_path => return None,
        "" => "(empty: does the variable end in a line break?)",
        _ => "(hidden)",
    };
    Some((ContextKind::InvalidValue, shown))
}

/// Receives on `listener` until `shutdown` resolves, then drains. Handles each event with [`Publish`].
///
/// # Errors
/// If the inbox cannot be opened, and those of [`run_with`].
pub async fn run(
    listener: TcpListener,
    feed: Feed,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> io::Result<Drained> {
    let inbox = config.open_inbox()?;
    let publish = Publish(feed.clone());
    run_with(inbox, listener, feed, publish, config, shutdown).await
}

/// Like [`run`], with your own effects and an open inbox: a program opens it before it says that it listens.
/// Returns when the database is closed, so keep no other handle to the inbox.
///
/// # Errors
/// If the listener has no address, or the inbox fails. Every event that was answered 200 is on disk, and the
/// next start continues with it.
pub async fn run_with(
    inbox: Inbox,
    listener: TcpListener,
    feed: Feed,
    effects: impl Effects,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> io::Result<Drained> {
    let _metrics = metrics(&config.server, &feed, &["received"], Vec::new).await?;
    let (stop, stopped) = watch::channel(false);
    let worker = (!config.hold).then(|| {
        let (effects, attempts) = (Arc::new(effects), config.attempts.clone());
        let working = work(inbox.clone(), effects, attempts, SystemTime::now, stopped);
        tokio::spawn(working)
    });
    // A failed inbox stores nothing more, so its failure ends the server too.
    let mut failure = inbox.failure();
    let served = feed.handle(); // closed by the drain, but the effects still publish to `feed`
    let app = new_app(&listener, served.clone(), &config, inbox)?;
    let route = move |request| route::route(app.clone(), request);
    let ended = async {
        tokio::select! {
            () = shutdown => {}
            Ok(_) = failure.wait_for(Option::is_some) => {}
        }
    };
    let drain = config.server.drain;
    let http = config.server.http1();
    let drained = serve(listener, &served, config.server, http, route, ended).await;
    // The worker stops after the server, so that it can still handle the events of the last requests.
    stop.send_replace(true);
    if let Some(mut worker) = worker
        && timeout(drain, &mut worker).await.is_err()
    {
        warn!("unfinished attempts are left for the next start");
        worker.abort();
    }
    // All handles are dropped with the routes and the worker. Wait for the database to close: only then is
    // the last commit done.
    while failure.changed().await.is_ok() {}
    match &*failure.borrow() {
        None => Ok(drained),
        Some(error) => Err(io::Error::other(format!("the inbox has failed: {error}"))),
    }
}

fn new_app(
    listener: &TcpListener,
    feed: Feed,
    config: &Config,
    inbox: Inbox,
) -> io::Result<Arc<App>> {
    let secrets = Arc::new(config.secrets());
    if secrets.enabled().next().is_none() {
        warn!("no secret is given, so every webhook is refused: see --help");
    }
    let limits = config.server.publish_limits();
    Ok(Arc::new(App {
        tally: Source::ALL.map(|source| Tally::new(source, &secrets)),
        receiver: Receiver { secrets, inbox },
        feed,
        browsers: config.server.browsers(listener, "")?,
        bodies: Bodies::new(config.bodies.clone(), limits),
        limits,
    }))
}
