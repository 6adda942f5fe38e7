//! Parse, measure, print.

use std::process::ExitCode;

use clap::Parser;
use compare::{Config, run, table};

#[tokio::main]
async fn main() -> ExitCode {
    let config = Config::parse();
    match run(&config).await {
        Ok(measured) => {
            print!("{}", table::markdown(&config, &measured));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
