//! Parse, bind, print the address, serve until a signal.

use std::{io, process::ExitCode};

use clap::Parser;
use common::{Retention, listen, shutdown_signal};
use webhooks::{Config, run};

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(io::stderr).init();
    match start(Config::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn start(mut config: Config) -> io::Result<()> {
    config.fit();
    let shutdown = shutdown_signal();
    let retention = Retention {
        messages: config.retain,
        ..Retention::default()
    };
    let feed = config.feed.open(retention, config.new_epoch).await?;
    let listener = listen(config.listen).await?;
    run(listener, feed, config, shutdown).await?;
    Ok(())
}
