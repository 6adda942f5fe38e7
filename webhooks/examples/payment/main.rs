//! A payment and its webhook, from the shop's transaction to the back end's: the *transactional outbox*.
//!
//! ```text
//! shop.rs      writes a payment and a row of the outbox in one transaction
//! relay.rs     publishes each row with the row's id as the key, then marks the row
//! sender.rs    stores the message before it answers 201; signs and POSTs it until it gets a 2xx
//! back_end.rs  verifies and stores the event before it answers 200; writes the effect and marks the event
//!              as handled in one transaction
//! ```
//!
//! Each is a process with its own database, and no transaction spans two of them. A step that is cut is
//! repeated. The receiver of a repeat recognizes it by its key: the sender by `Idempotency-Key`, the back end
//! by `webhook-id`. At least once, with every repeat dropped, is exactly once.
//!
//! A repeat is recognized for a limited time. The sender remembers a key for 24 hours, and at most 100,000 keys.
//! The back end remembers an event for 30 days. A unique payment in your own table has no such limit: see
//! `back_end.rs`.
//!
//! ```sh
//! cargo run -p webhooks --example payment
//! cargo run -p webhooks --example payment -- --chaos
//! ```
//!
//! Copy `shop.rs`, `relay.rs` with `http.rs`, and `back_end.rs`. The sender may be the program: `cargo run -p
//! webhooks -- --feed file:PATH`. Register the back end before the first payment, as `register` in `stage.rs` does:
//! an endpoint gets what is published after its registration. `POST /endpoints/{id}/replay` delivers older messages.
//!
//! The other files are the scene: `stage.rs` starts the programs, watches and counts, `link.rs` breaks the
//! connection between two of them, and `program.rs` is a process that may be killed.

mod back_end;
mod http;
mod link;
mod program;
mod relay;
mod sender;
mod shop;
mod stage;

use std::{io, net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use http::Failure;
use tokio::task::spawn_blocking;
use webhooks::verify::standard::Secret;

/// Plays a payment and its webhook, and checks that each payment took effect exactly once.
#[derive(Debug, Parser)]
struct Args {
    /// Loses answers, fails, stalls, and kills every program at its worst moment.
    #[arg(long)]
    chaos: bool,
    /// How many payments are made.
    #[arg(
        long,
        default_value = "3",
        default_value_if("chaos", "true", "12"),
        value_parser = clap::value_parser!(i64).range(1..),
        value_name = "N"
    )]
    payments: i64,
    #[command(subcommand)]
    role: Option<Role>,
}

/// One program of the scene. The scene starts this program once for each role. The databases are in `folder`.
#[derive(Debug, Subcommand)]
#[command(hide = true)]
enum Role {
    Shop { folder: PathBuf, payments: i64 },
    Relay { folder: PathBuf, sender: SocketAddr },
    Sender { folder: PathBuf },
    BackEnd { folder: PathBuf, secret: Secret },
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let ended = match args.role {
        None => stage::play(args.payments, args.chaos).await,
        Some(role) => play(role).await,
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn play(role: Role) -> Result<(), Failure> {
    match role {
        Role::Shop { folder, payments } => Ok(shop::run(&folder, payments)?),
        Role::Relay { folder, sender } => tokio::select! {
            () = dismissed() => Ok(()),
            failed = relay::run(&folder, sender) => Err(failed),
        },
        Role::Sender { folder } => Ok(sender::run(&folder, dismissed()).await?),
        Role::BackEnd { folder, secret } => Ok(back_end::run(&folder, secret, dismissed()).await?),
    }
}

/// Resolves when the scene closes our standard input, or has ended.
async fn dismissed() {
    let read = || io::copy(&mut io::stdin(), &mut io::sink());
    // An error means the same.
    let _ = spawn_blocking(read).await;
}
