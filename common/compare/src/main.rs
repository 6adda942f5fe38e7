//! The command: the page, or with `--measure` the table, or one server.

use std::{env, fs, io, net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use compare::{Report, Serve, check, live, markdown, measure, write_into};

/// Runs the five techniques side by side, and serves a page to watch them on.
#[derive(Debug, Clone, Parser)]
#[command(name = "compare", version, args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Where to serve the page; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8000", value_name = "ADDR:PORT")]
    listen: SocketAddr,
    /// Measure, and print the table.
    #[arg(long)]
    measure: bool,
    /// One short run, under a minute, instead of three in less than five.
    #[arg(long)]
    quick: bool,
    /// Write all figures to this file as JSON, with --measure.
    #[arg(long, requires = "measure", value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the table and the charts into this README, between its markers, with --measure.
    #[arg(long, requires = "measure", value_name = "README")]
    write: Option<PathBuf>,
    /// Measure, and fail if a ratio of this README is more than two times off.
    #[arg(long, conflicts_with = "measure", value_name = "README")]
    check: Option<PathBuf>,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Run one of the five, until a signal.
    Serve(Serve),
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> io::Result<ExitCode> {
    if let Some(Command::Serve(serve)) = args.command {
        serve.run().await?;
        return Ok(ExitCode::SUCCESS);
    }
    let program = env::current_exe()?;
    if let Some(path) = &args.check {
        // Read first: a measurement is long.
        let readme = fs::read_to_string(path)?;
        return compared(&readme, &measure::measure(&program, args.quick).await?);
    }
    if args.measure {
        return shown(&args, &measure::measure(&program, args.quick).await?);
    }
    live::run(&program, args.listen).await?;
    Ok(ExitCode::SUCCESS)
}

fn shown(args: &Args, report: &Report) -> io::Result<ExitCode> {
    print!("{}", markdown(report));
    if let Some(path) = &args.json {
        fs::write(path, serde_json::to_string_pretty(report)?)?;
    }
    if let Some(path) = &args.write {
        write_into(path, report)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn compared(readme: &str, report: &Report) -> io::Result<ExitCode> {
    let differences = check::differences(readme, report)?;
    differences.iter().for_each(|line| println!("{line}"));
    match differences.is_empty() {
        true => Ok(ExitCode::SUCCESS),
        false => Ok(ExitCode::FAILURE),
    }
}
