//! `GET /events`: the events in the inbox, each with the state of its handling.

use std::{
    str::FromStr,
    time::{Duration, SystemTime},
};

use rusqlite::{Connection, Row};
use serde::Serialize;
use serde_json::value::RawValue;

use super::publish::payload_json;

/// The most events on a page.
const PAGE: usize = 100;
/// A page ends after this many bytes of payload, but always has at least one event.
const PAGE_BYTES: usize = 1 << 20;

/// Which events to list, as a condition in SQL. See `SCHEMA` in `inbox.rs`: a handled event has no `work` row, and
/// the row of a dead one has no `due` time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Filter(&'static str);

impl FromStr for Filter {
    type Err = &'static str;

    fn from_str(state: &str) -> Result<Self, Self::Err> {
        match state {
            "waiting" => Ok(Self("due IS NOT NULL")),
            "dead" => Ok(Self("work.seq IS NOT NULL AND due IS NULL")),
            "handled" => Ok(Self("work.seq IS NULL")),
            _ => Err("state must be waiting, dead or handled"),
        }
    }
}

#[derive(Serialize)]
struct EventView {
    seq: i64,
    source: String,
    id: String,
    r#type: String,
    received: String,
    suspect: bool,
    state: String,
    attempts: u32,
    error: Option<String>,
    payload: Box<RawValue>,
}

/// `{"events":[…],"next":3,"more":false}`: the events after number `after`, oldest first. `next` is the `after` of
/// the next page.
pub(crate) fn page(
    database: &Connection,
    after: i64,
    filter: Option<Filter>,
) -> rusqlite::Result<String> {
    let condition = filter.map_or("TRUE", |filter| filter.0);
    let mut statement = database.prepare_cached(&format!(
        "SELECT events.seq, source, id, type, received, suspect,
            CASE WHEN work.seq IS NULL THEN 'handled' WHEN due IS NULL THEN 'dead' ELSE 'waiting' END,
            coalesce(attempts, 0), error, payload
         FROM events LEFT JOIN work USING (seq)
         WHERE events.seq > ?1 AND {condition} ORDER BY events.seq"
    ))?;
    let mut rows = statement.query([after])?;
    let (mut events, mut bytes, mut more) = (Vec::<EventView>::new(), 0, false);
    while let Some(row) = rows.next()? {
        // Checked only when there is another row, so `more` is never wrong.
        more = events.len() == PAGE || bytes > PAGE_BYTES;
        if more {
            break;
        }
        let event = view(row)?;
        bytes += event.payload.get().len();
        events.push(event);
    }
    let next = events.last().map_or(after, |event| event.seq);
    let events = serde_json::to_string(&events).expect("text and numbers are JSON");
    Ok(format!(
        r#"{{"events":{events},"next":{next},"more":{more}}}"#
    ))
}

fn view(row: &Row<'_>) -> rusqlite::Result<EventView> {
    let payload = payload_json(&row.get::<_, Vec<u8>>(9)?);
    let received = Duration::from_millis(row.get::<_, i64>(4)?.unsigned_abs());
    Ok(EventView {
        seq: row.get(0)?,
        source: row.get(1)?,
        id: row.get(2)?,
        r#type: row.get(3)?,
        received: humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + received).to_string(),
        suspect: row.get(5)?,
        state: row.get(6)?,
        attempts: row.get(7)?,
        error: row.get(8)?,
        payload: RawValue::from_string(payload.as_str().to_owned()).expect("the payload is JSON"),
    })
}
