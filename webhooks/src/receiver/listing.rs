//! `GET /events`: the events in the inbox, each with the state of its handling.

use std::{
    str::FromStr,
    time::{Duration, SystemTime},
};

use rusqlite::{Connection, Row};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

/// The most events on a page.
const PAGE: usize = 100;
/// A page ends after this many bytes of payload, but always has at least one event.
const PAGE_BYTES: usize = 1 << 20;

/// Which events to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filter {
    All,
    Waiting,
    Dead,
    Handled,
}

impl FromStr for Filter {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "waiting" => Ok(Self::Waiting),
            "dead" => Ok(Self::Dead),
            "handled" => Ok(Self::Handled),
            _ => Err("state must be waiting, dead or handled"),
        }
    }
}

impl Filter {
    /// See `SCHEMA` in `inbox.rs`: no `work` row is handled, and one without `due` is dead.
    fn condition(self) -> &'static str {
        match self {
            Self::All => "TRUE",
            Self::Waiting => "work.due IS NOT NULL",
            Self::Dead => "work.seq IS NOT NULL AND work.due IS NULL",
            Self::Handled => "work.seq IS NULL",
        }
    }
}

#[derive(Serialize)]
struct EventPage {
    events: Vec<EventView>,
    /// `after` of the next page.
    next: i64,
    more: bool,
}

#[derive(Serialize)]
struct EventView {
    seq: i64,
    source: String,
    id: String,
    r#type: String,
    received: String,
    suspect: bool,
    state: &'static str,
    attempts: u32,
    error: Option<String>,
    payload: Box<RawValue>,
}

/// `{"events":[…],"next":3,"more":false}`: the events after number `after`, oldest first.
pub(crate) fn page(database: &Connection, after: i64, filter: Filter) -> rusqlite::Result<String> {
    let mut statement = database.prepare_cached(&format!(
        "SELECT events.seq, source, id, type, received, suspect, work.seq, due, attempts, error, payload
         FROM events LEFT JOIN work USING (seq)
         WHERE events.seq > ?1 AND {} ORDER BY events.seq",
        filter.condition()
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
    let page = EventPage { events, next, more };
    Ok(serde_json::to_string(&page).expect("text and numbers are JSON"))
}

fn view(row: &Row<'_>) -> rusqlite::Result<EventView> {
    // Both are NULL without a `work` row; `work.seq` tells that apart from a dead event.
    let (work, due): (Option<i64>, Option<i64>) = (row.get(6)?, row.get(7)?);
    let received = Duration::from_millis(row.get::<_, i64>(4)?.unsigned_abs());
    Ok(EventView {
        seq: row.get(0)?,
        source: row.get(1)?,
        id: row.get(2)?,
        r#type: row.get(3)?,
        received: humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + received).to_string(),
        suspect: row.get(5)?,
        state: match (work, due) {
            (None, _) => "handled",
            (_, Some(_)) => "waiting",
            (_, None) => "dead",
        },
        attempts: row.get::<_, Option<u32>>(8)?.unwrap_or(0),
        error: row.get(9)?,
        payload: json(row.get(10)?),
    })
}

/// A JSON payload unchanged: parsing and printing it could change numbers. Any other payload as a string.
fn json(payload: Vec<u8>) -> Box<RawValue> {
    let text = String::from_utf8_lossy(&payload).into_owned();
    RawValue::from_string(text.clone())
        .unwrap_or_else(|_| to_raw_value(&text).expect("text is JSON"))
}
