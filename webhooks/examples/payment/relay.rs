//! The relay: publishes the rows of the shop's outbox, and marks them as published.
//!
//! It may end between the two steps, or miss the answer. Then it publishes the row again with the same key,
//! and the sender answers with the id of the message that it already has.
//!
//! There is one relay. With two, both would publish each row, which the key makes harmless, but slow. On Postgres each
//! relay can take its own row with `SELECT … FOR UPDATE SKIP LOCKED`, and mark it in the same transaction. Then the
//! order of the rows is lost.

use std::{net::SocketAddr, path::Path, time::Duration};

use hyper::{Request, StatusCode, header::CONTENT_TYPE};
use rusqlite::{Connection, OptionalExtension, params};
use serde::Deserialize;
use tokio::time::sleep;
use url::form_urlencoded::byte_serialize;

use crate::{
    http::{self, Failure},
    shop,
};

/// The pause before looking at an empty outbox again, and after an error. It doubles with each further error.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest pause after an error.
const LONGEST: Duration = Duration::from_secs(5);

/// A row of the outbox.
struct Row {
    id: i64,
    kind: String,
    data: String,
}

/// How a row ended.
enum Ended {
    /// The id of its message.
    Published(String),
    /// Why the sender will never take it.
    Refused(String),
}

/// Publishes for ever, one row at a time, the oldest first, so the order stays. A row that the sender refuses for
/// good is set aside, and every other failure is tried again. Returns only if the database cannot be opened.
pub(crate) async fn run(folder: &Path, sender: SocketAddr) -> Failure {
    let database = match shop::open(folder) {
        Ok(database) => database,
        Err(error) => return error.into(),
    };
    let mut pause = PAUSE;
    loop {
        pause = match publish_oldest(&database, sender).await {
            Ok(true) => Duration::ZERO,
            Ok(false) => PAUSE,
            Err(error) => {
                eprintln!("the relay tries again: {error}");
                (pause * 2).clamp(PAUSE, LONGEST)
            }
        };
        sleep(pause).await;
    }
}

/// Publishes the oldest row, and returns whether there was one.
async fn publish_oldest(database: &Connection, sender: SocketAddr) -> Result<bool, Failure> {
    let Some(row) = oldest(database)? else {
        return Ok(false);
    };
    match publish(&row, sender).await? {
        Ended::Published(message) => {
            let mark = "UPDATE outbox SET message = ?2 WHERE id = ?1";
            database.execute(mark, params![row.id, message])?;
        }
        Ended::Refused(reason) => {
            eprintln!("row {} is set aside: {reason}", row.id);
            let mark = "UPDATE outbox SET refused = ?2 WHERE id = ?1";
            database.execute(mark, params![row.id, reason])?;
        }
    }
    Ok(true)
}

fn oldest(database: &Connection) -> rusqlite::Result<Option<Row>> {
    let oldest = "SELECT id, type, data FROM outbox
        WHERE message IS NULL AND refused IS NULL ORDER BY id LIMIT 1";
    let row = database.query_row(oldest, [], |row| {
        Ok(Row {
            id: row.get(0)?,
            kind: row.get(1)?,
            data: row.get(2)?,
        })
    });
    row.optional()
}

/// Publishes a row. Only a 201 means that the sender has it. A key is valid for one topic, so two shops that share
/// a topic would put their names into the key.
async fn publish(row: &Row, sender: SocketAddr) -> Result<Ended, Failure> {
    #[derive(Deserialize)]
    struct Published {
        id: String,
    }
    let kind: String = byte_serialize(row.kind.as_bytes()).collect();
    let request = Request::post(format!("/topics/payments?type={kind}"))
        .header(CONTENT_TYPE, "application/json")
        .header("Idempotency-Key", row.id)
        .body(row.data.clone().into())?;
    let answer = http::send(sender, request).await?;
    let said = || {
        let detail = String::from_utf8_lossy(answer.body());
        format!("{} {detail}", answer.status())
    };
    match answer.status() {
        StatusCode::CREATED => {
            let Published { id } = serde_json::from_slice(answer.body())?;
            Ok(Ended::Published(id))
        }
        // These are about this row: its type or data, its size, and a key that another message has.
        StatusCode::BAD_REQUEST
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNPROCESSABLE_ENTITY => Ok(Ended::Refused(said())),
        _ => Err(format!("row {}: {}", row.id, said()).into()),
    }
}
