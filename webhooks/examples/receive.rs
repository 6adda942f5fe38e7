//! A durable receiver with your own effects. The server is this crate's, and has the options of the program
//! `receiver`. Only the effects are here: the table that they write, and what they write into it.
//! `WEBHOOK_SECRET=whsec_… cargo run -p webhooks --example receive -- --inbox orders.sqlite`

use std::{io, process::ExitCode};

use common::{Drained, Feed, Retention, exit_code, listen, log_to_stderr, shutdown_signal};
use webhooks::receiver::inbox::{InTransaction, StoredEvent};
use webhooks::receiver::{Config, run_with, work::Effects};

const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS orders (
    source TEXT, event TEXT, payload BLOB, UNIQUE (source, event)) STRICT";

/// Your part: what an event does.
#[derive(Debug)]
pub struct Orders;

impl Effects for Orders {
    async fn apply(&self, event: &StoredEvent) -> Result<InTransaction, String> {
        // Here is the place for a mail or a call. It may happen again, so pass the event's key on.
        let order = (event.source.clone(), event.key(), event.payload.clone());
        // This happens exactly once: it is in the transaction that marks the event as handled.
        Ok(Box::new(move |database| {
            database.execute_batch(SCHEMA)?;
            let insert = "INSERT OR IGNORE INTO orders VALUES (?1, ?2, ?3)";
            database.execute(insert, order).map(drop)
        }))
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    log_to_stderr();
    exit_code(start(Config::parse_hiding_secrets()).await)
}

async fn start(mut config: Config) -> io::Result<Drained> {
    config.server.fit(0);
    let inbox = config.open_inbox()?;
    let listener = listen(config.listen).await?;
    let feed = Feed::new(Retention::default()); // only the built-in effects publish to it
    run_with(inbox, listener, feed, Orders, config, shutdown_signal()).await
}
