//! The relay: publishes what is in the shop's outbox, and marks what is published.
//!
//! It may end between the two, or never hear the answer. Then it publishes the row again, under the same
//! key, and the sender answers with the message that it has already.

use std::{net::SocketAddr, path::Path, time::Duration};

use hyper::{Request, StatusCode, header::CONTENT_TYPE};
use rusqlite::{Connection, OptionalExtension, params};
use serde::Deserialize;
use tokio::time::sleep;

use crate::{Failure, http, shop};

/// How long until the outbox is looked at again, or a sender asked again that did not answer.
const PAUSE: Duration = Duration::from_millis(50);

/// What happened, for others to hear of.
struct Row {
    id: i64,
    kind: String,
    data: String,
}

/// Publishes for ever. One row at a time and the oldest first: so they stay in their order.
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

/// Whether there was a row to publish.
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

/// Returns the message's id: only a 201 means that the sender has it. The key's scope is the topic, so
/// two shops that share one would put their names into it.
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
