//! The command: the page, or with `--measure` the table, or `copy`, or one server.

use std::{env, fs, io, net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use compare::{Copy, Report, Serve, check, live, markdown, measure, write_into};

/// Serves a page on which the five techniques run side by side, or measures them.
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
    /// Measure once, in about a minute, instead of three times in five minutes.
    #[arg(long)]
    quick: bool,
    /// With --measure: write all figures to this file as JSON.
    #[arg(long, requires = "measure", value_name = "FILE")]
    json: Option<PathBuf>,
    /// With --measure: write the table and the charts into this README, between its markers.
    #[arg(long, requires = "measure", value_name = "README")]
    write: Option<PathBuf>,
    /// Measure, and fail if a ratio in this README is more than two times off.
    #[arg(long, conflicts_with = "measure", value_name = "README")]
    check: Option<PathBuf>,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Run one of the five servers until a signal.
    Serve(Serve),
    /// Copy the files of one technique into another project.
    Copy(Copy),
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
    let program = env::current_exe()?;
    match args {
        Args {
            command: Some(Command::Serve(serve)),
            ..
        } => serve.run().await?,
        Args {
            command: Some(Command::Copy(copy)),
            ..
        } => copy.run()?,
        Args {
            check: Some(path), ..
        } => {
            // Read before it measures: a wrong path is then reported at once.
            let readme = fs::read_to_string(path)?;
            return compared(&readme, &measure::measure(&program, args.quick).await?);
        }
        Args { measure: true, .. } => {
            shown(&args, &measure::measure(&program, args.quick).await?)?;
        }
        _ => live::run(&program, args.listen).await?,
    }
    Ok(ExitCode::SUCCESS)
}

fn shown(args: &Args, report: &Report) -> io::Result<()> {
    print!("{}", markdown(report));
    if let Some(path) = &args.json {
        fs::write(path, serde_json::to_string_pretty(report)?)?;
    }
    if let Some(path) = &args.write {
        write_into(path, report)?;
    }
    Ok(())
}

fn compared(readme: &str, report: &Report) -> io::Result<ExitCode> {
    let differences = check::differences(readme, report)?;
    differences.iter().for_each(|line| println!("{line}"));
    match differences.is_empty() {
        true => Ok(ExitCode::SUCCESS),
        false => Ok(ExitCode::FAILURE),
    }
}
