//! Parse, bind, print the address, serve until a signal.

use std::{io, process::ExitCode};

use common::{Drained, Feed, Retention, exit_code, listen, log_to_stderr, shutdown_signal};
use webhooks::receiver::{Config, Publish, run_with};

#[tokio::main]
async fn main() -> ExitCode {
    log_to_stderr();
    exit_code(start(Config::parse_hiding_secrets()).await)
}

async fn start(mut config: Config) -> io::Result<Drained> {
    config.server.fit(0);
    let shutdown = shutdown_signal();
    let feed = Feed::new(Retention::default());
    let publish = Publish(feed.clone());
    // Before the listener: a program that cannot store what it receives does not say that it listens.
    let inbox = config.open_inbox()?;
    let listener = listen(config.listen).await?;
    run_with(inbox, listener, feed, publish, config, shutdown).await
}
