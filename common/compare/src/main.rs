//! The command: the page, or with `--measure` the table, or one server.

use std::{env, fs, io, net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use compare::{Serve, live, markdown, measure, write_into};

/// Serves a page on which the five techniques run side by side, or measures them.
#[derive(Debug, Clone, Parser)]
#[command(name = "compare", version, args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Where to serve the page; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8000", value_parser = common::address, value_name = "ADDR:PORT")]
    listen: SocketAddr,
    /// Measure, and print the table.
    #[arg(long)]
    measure: bool,
    /// With --measure: measure once, with fewer waiting clients.
    #[arg(long, requires = "measure")]
    quick: bool,
    /// With --measure: write the tables and the charts into this clone of the repository.
    #[arg(long, requires = "measure", value_name = "DIR")]
    write: Option<PathBuf>,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Run one of the five servers until a signal or the end of standard input.
    Serve(Serve),
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> io::Result<()> {
    let program = env::current_exe()?;
    match args.command {
        Some(Command::Serve(serve)) => serve.run().await,
        None if args.measure => {
            if let Some(repository) = &args.write {
                // Before it measures: a wrong path is reported at once.
                fs::metadata(repository.join("README.md"))?;
            }
            let report = measure::measure(&program, args.quick).await?;
            print!("{}", markdown(&report));
            args.write
                .map_or(Ok(()), |repository| write_into(&repository, &report))
        }
        None => live::run(&program, args.listen).await,
    }
}
