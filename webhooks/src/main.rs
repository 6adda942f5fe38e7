//! Parse, bind, print the address, serve until a signal.

use std::{io, process::ExitCode};

use clap::Parser;
use common::{Drained, exit_code, listen, log_to_stderr, shutdown_signal};
use webhooks::{Config, run};

#[tokio::main]
async fn main() -> ExitCode {
    log_to_stderr();
    exit_code(start(Config::parse()).await)
}

async fn start(mut config: Config) -> io::Result<Drained> {
    config.fit();
    let shutdown = shutdown_signal();
    let feed = config.feed.open().await?;
    let listener = listen(config.listen).await?;
    run(listener, feed, config, shutdown).await
}
