//! Asks once and reads on.

use std::{io, str, time::Duration};

use bytes::BytesMut;
use http_body_util::BodyExt;
use hyper::{Request, StatusCode, body::Incoming};

use super::{Connection, Heard, Subscription, expect};

#[derive(Debug)]
pub struct Sse {
    body: Incoming,
    /// What is not a whole block yet.
    buffer: BytesMut,
    /// The last `id`, by which a browser resumes.
    after: String,
    /// When the server asks us to come again.
    retry: Option<Duration>,
    _connection: Connection,
}

impl Sse {
    pub(super) async fn open(to: Subscription) -> io::Result<Self> {
        let mut connection = Connection::open(to.server, to.traffic.clone()).await?;
        let response = connection.send(Request::get(to.path("")), "").await?;
        expect(StatusCode::OK, response.status(), &"".into())?;
        Ok(Self {
            body: response.into_body(),
            buffer: BytesMut::new(),
            after: to.after,
            retry: None,
            _connection: connection,
        })
    }

    pub(super) fn after(&self) -> &str {
        &self.after
    }

    pub(super) fn retry(&self) -> Option<Duration> {
        self.retry
    }

    pub(super) async fn next(&mut self) -> io::Result<Vec<Heard>> {
        loop {
            let frame = self
                .body
                .frame()
                .await
                .ok_or(io::ErrorKind::UnexpectedEof)?;
            if let Ok(bytes) = frame.map_err(io::Error::other)?.into_data() {
                self.buffer.extend_from_slice(&bytes);
            }
            let heard = self.blocks()?;
            if !heard.is_empty() {
                return Ok(heard);
            }
        }
    }

    /// Takes the whole blocks off the buffer. The server writes LF and one `data` line per block;
    /// what else the format allows is not needed here.
    fn blocks(&mut self) -> io::Result<Vec<Heard>> {
        let mut heard = Vec::new();
        while let Some(end) = self.buffer.windows(2).position(|two| two == b"\n\n") {
            let block = self.buffer.split_to(end + 2);
            let block = str::from_utf8(&block).map_err(io::Error::other)?;
            heard.extend(self.block(block)?);
        }
        Ok(heard)
    }

    fn block(&mut self, block: &str) -> io::Result<Option<Heard>> {
        let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
        if let Some(id) = field("id: ") {
            id.clone_into(&mut self.after);
        }
        if let Some(millis) = field("retry: ").and_then(|retry| retry.parse().ok()) {
            self.retry = Some(Duration::from_millis(millis));
        }
        let Some(data) = field("data: ") else {
            return Ok(None);
        };
        Ok(Some(match field("event: ") {
            Some("gap") => Heard::Gap(serde_json::from_str(data)?),
            Some(_) => return Ok(None),
            None => Heard::Message(serde_json::from_str(data)?),
        }))
    }
}
