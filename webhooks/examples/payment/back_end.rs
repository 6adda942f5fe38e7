//! The back end: this crate's receiver, with an effect that must not happen twice.
//!
//! The receiver verifies, stores and answers. This file adds what a payment means here: an order to ship. The
//! order is a row in the receiver's own database, written in the transaction that marks the event as handled.

use std::{io, path::Path};

use common::{Feed, Retention, listen};
use rusqlite::{Connection, params};
use serde::Deserialize;
use webhooks::{
    receiver::{
        Config,
        inbox::{InTransaction, StoredEvent},
        run_with,
        work::Effects,
    },
    verify::standard::Secret,
};

/// Without a unique key, so that a payment that took effect twice would show. In yours, write `payment INTEGER
/// UNIQUE` and `INSERT OR IGNORE`: that holds even after the sender and the inbox have forgotten a payment.
const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS orders (payment INTEGER, amount INTEGER) STRICT";

pub(crate) async fn run(
    folder: &Path,
    secret: Secret,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let config = Config {
        secret: vec![secret],
        inbox: folder.join("inbox.sqlite"),
        ..Config::default()
    };
    let inbox = config.open_inbox()?;
    let feed = Feed::new(Retention::default());
    let listener = listen(([127, 0, 0, 1], 0).into()).await?;
    run_with(inbox, listener, feed, Orders, config, shutdown).await?;
    Ok(())
}

/// The part of the message that matters here.
#[derive(Deserialize)]
struct Message {
    data: Payment,
}

#[derive(Deserialize)]
struct Payment {
    status: String,
    payment: i64,
    amount: i64,
}

struct Orders;

impl Effects for Orders {
    async fn apply(&self, event: &StoredEvent) -> Result<InTransaction, String> {
        if event.kind != "payment.succeeded" {
            return Ok(Box::new(|_| Ok(()))); // not interesting, so it is handled
        }
        let message = serde_json::from_slice(&event.payload);
        let Message { data } = message.map_err(|error| error.to_string())?;
        Ok(Box::new(move |database| order(database, &data)))
    }
}

/// Runs in the transaction that marks the event as handled: both are stored, or neither.
fn order(database: &Connection, paid: &Payment) -> rusqlite::Result<()> {
    if paid.status != "success" {
        return Ok(());
    }
    database.execute_batch(SCHEMA)?;
    let insert = "INSERT INTO orders VALUES (?1, ?2)";
    database.execute(insert, params![paid.payment, paid.amount])?;
    Ok(())
}
