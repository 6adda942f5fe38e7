//! The relay: publishes the rows of the shop's outbox, and marks them as published.
//!
//! It may end between the two steps, or miss the answer. Then it publishes the row again with the same key,
//! and the sender answers with the id of the message that it already has.

use std::{net::SocketAddr, path::Path, time::Duration};

use hyper::{Request, StatusCode, header::CONTENT_TYPE};
use rusqlite::{Connection, OptionalExtension, params};
use serde::Deserialize;
use tokio::time::sleep;

use crate::{Failure, http, shop};

/// The pause before looking at an empty outbox again, and after an error.
const PAUSE: Duration = Duration::from_millis(50);

/// A row of the outbox.
struct Row {
    id: i64,
    kind: String,
    data: String,
}

/// Publishes until an error that it cannot retry. One row at a time, the oldest first, so the order stays.
pub(crate) async fn run(folder: &Path, sender: SocketAddr) -> Failure {
    let database = match shop::open(folder) {
        Ok(database) => database,
        Err(error) => return error.into(),
    };
    loop {
        match publish_oldest(&database, sender).await {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => eprintln!("the relay tries again: {error}"),
        }
        sleep(PAUSE).await;
    }
}

/// Publishes the oldest row, and returns whether there was one.
async fn publish_oldest(database: &Connection, sender: SocketAddr) -> Result<bool, Failure> {
    let Some(row) = oldest(database)? else {
        return Ok(false);
    };
    let message = publish(&row, sender).await?;
    let mark = "UPDATE outbox SET message = ?2 WHERE id = ?1";
    database.execute(mark, params![row.id, message])?;
    Ok(true)
}

fn oldest(database: &Connection) -> rusqlite::Result<Option<Row>> {
    let oldest = "SELECT id, type, data FROM outbox WHERE message IS NULL ORDER BY id LIMIT 1";
    let row = database.query_row(oldest, [], |row| {
        Ok(Row {
            id: row.get(0)?,
            kind: row.get(1)?,
            data: row.get(2)?,
        })
    });
    row.optional()
}

/// Publishes a row and returns the message's id. Only a 201 means that the sender has it. A key is valid for
/// one topic, so two shops that share a topic would put their names into the key.
async fn publish(row: &Row, sender: SocketAddr) -> Result<String, Failure> {
    #[derive(Deserialize)]
    struct Published {
        id: String,
    }
    let request = Request::post(format!("/topics/payments?type={}", row.kind))
        .header(CONTENT_TYPE, "application/json")
        .header("Idempotency-Key", row.id)
        .body(row.data.clone().into())?;
    let answer = http::send(sender, request).await?;
    if answer.status() != StatusCode::CREATED {
        return Err(format!("row {}: {}", row.id, answer.status()).into());
    }
    let Published { id } = serde_json::from_slice(answer.body())?;
    Ok(id)
}
