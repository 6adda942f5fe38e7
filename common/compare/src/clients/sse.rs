//! Asks once and reads on.

use std::{io, time::Duration};

use futures_util::{StreamExt, stream::try_unfold};
use http_body_util::BodyExt;
use hyper::{Request, StatusCode, body::Incoming};
use sse::parse::{Event, Parser};
use tokio::time::timeout;

use super::{Client, Connection, Heard, News, Subscription, expect};

struct Sse {
    body: Incoming,
    /// Also keeps the last `id`, from which a client resumes.
    parser: Parser,
    patience: Duration,
    /// Open as long as the body is read.
    _connection: Connection,
}

pub(super) async fn open(to: Subscription) -> io::Result<Client> {
    let mut connection = to.connect().await?;
    let response = connection.send(Request::get(to.path("")), "").await?;
    expect(StatusCode::OK, response.status(), &"".into())?;
    let sse = Sse {
        body: response.into_body(),
        parser: Parser::resuming(&to.after),
        patience: to.patience,
        _connection: connection,
    };
    Ok(try_unfold(sse, Sse::next).boxed())
}

impl Sse {
    /// `None` if the response has ended.
    async fn next(mut self) -> io::Result<Option<(News, Self)>> {
        let Some(frame) = timeout(self.patience, self.body.frame()).await? else {
            return Ok(None);
        };
        let bytes = frame.map_err(io::Error::other)?.into_data();
        let events = self.parser.feed(&bytes.unwrap_or_default());
        let heard: io::Result<Vec<Heard>> = events.iter().filter_map(heard).collect();
        let news = News {
            heard: heard?,
            // An `id` without data moves it too.
            after: self.parser.last_event_id().to_owned(),
        };
        Ok(Some((news, self)))
    }
}

fn heard(event: &Event) -> Option<io::Result<Heard>> {
    let heard = match event.event.as_str() {
        "gap" => serde_json::from_str(&event.data).map(Heard::Gap),
        "message" => serde_json::from_str(&event.data).map(Heard::Message),
        _ => return None,
    };
    Some(heard.map_err(io::Error::from))
}
