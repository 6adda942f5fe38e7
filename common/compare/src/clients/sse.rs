//! Asks once and reads on.

use std::io;

use http_body_util::BodyExt;
use hyper::{Request, StatusCode, body::Incoming};
use sse::parse::{Event, Parser};

use super::{Connection, Heard, Subscription, expect};

#[derive(Debug)]
pub struct Sse {
    body: Incoming,
    /// Also keeps the last `id`, from which a client resumes.
    parser: Parser,
    /// Open as long as the body is read.
    _connection: Connection,
}

impl Sse {
    pub(super) async fn open(to: Subscription) -> io::Result<Self> {
        let mut connection = to.connect().await?;
        let response = connection.send(Request::get(to.path("")), "").await?;
        expect(StatusCode::OK, response.status(), &"".into())?;
        Ok(Self {
            body: response.into_body(),
            parser: Parser::resuming(&to.after),
            _connection: connection,
        })
    }

    pub(super) fn after(&self) -> &str {
        self.parser.last_event_id()
    }

    pub(super) async fn next(&mut self) -> io::Result<Vec<Heard>> {
        loop {
            let Some(frame) = self.body.frame().await else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            let bytes = frame.map_err(io::Error::other)?.into_data();
            let events = self.parser.feed(&bytes.unwrap_or_default());
            let heard: Vec<Heard> = events
                .iter()
                .filter_map(|event| heard(event).transpose())
                .collect::<io::Result<_>>()?;
            if !heard.is_empty() {
                return Ok(heard);
            }
        }
    }
}

fn heard(event: &Event) -> io::Result<Option<Heard>> {
    Ok(match event.event.as_str() {
        "gap" => Some(Heard::Gap(serde_json::from_str(&event.data)?)),
        "message" => Some(Heard::Message(serde_json::from_str(&event.data)?)),
        _ => None,
    })
}
