//! The wire form of an event stream (HTML Standard §9.2.5), as pure functions.
//!
//! Nothing that is written here can hold a line end: ids are cursors, data is JSON on one line.
//! So no field can be injected, and each block is whole.

use std::{fmt::Write, time::Duration};

use common::{Cursor, Gap, Message, Page};

/// The first block: says something at once (some clients wait for a first byte), tells when to
/// reconnect, and where the stream starts, so that a client that is cut off before the first
/// message still comes back to the right place.
pub fn opening(retry: Duration, start: Option<Cursor>) -> String {
    let mut block = format!(": hello\n{}", self::retry(retry));
    if let Some(start) = start {
        writeln!(block, "id: {start}").expect("a String takes any text");
    }
    block + "\n"
}

/// The only block of a stream that cannot be served now.
pub fn refusal(reason: &str, retry: Duration) -> String {
    format!(": {reason}\n{}\n", self::retry(retry))
}

/// The last block before the server goes away.
pub fn farewell(retry: Duration) -> String {
    refusal("the server is going away", retry)
}

/// An id without data: moves the client's `Last-Event-ID` and fires no event
/// (HTML §9.2.6, step 1 of dispatching comes before the return for empty data).
pub fn checkpoint(position: Cursor) -> String {
    format!("id: {position}\n\n")
}

/// A page: its gap first, then its messages.
pub fn page(page: &Page) -> Vec<u8> {
    let size = page
        .messages
        .iter()
        .map(|message| message.json.len() + 64)
        .sum();
    let mut blocks = Vec::with_capacity(size);
    if let Some(gap) = &page.gap {
        blocks.extend_from_slice(self::gap(gap).as_bytes());
    }
    for message in &page.messages {
        push_message(&mut blocks, message);
    }
    if page.gap.is_some() {
        // Until here the client's id was the old one: cut off in between, it hears of the gap again.
        blocks.extend_from_slice(checkpoint(page.next).as_bytes());
    }
    blocks
}

/// No `event:` line: it would keep messages from `onmessage`, and a message of type `gap` or
/// `error` would pass for the server's own event.
fn push_message(blocks: &mut Vec<u8>, message: &Message) {
    blocks.extend_from_slice(format!("id: {}\ndata: ", message.id).as_bytes());
    blocks.extend_from_slice(&message.json);
    blocks.extend_from_slice(b"\n\n");
}

/// Named events are only the server's. This one has no id, since messages of other topics from
/// before `resumed` may follow it.
fn gap(gap: &Gap) -> String {
    format!("event: gap\ndata: {}\n\n", gap.to_json())
}

fn retry(retry: Duration) -> String {
    format!("retry: {}\n", retry.as_millis())
}
