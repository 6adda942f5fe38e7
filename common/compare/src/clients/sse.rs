//! Asks once and reads on.

use std::io;

use bytes::BytesMut;
use http_body_util::BodyExt;
use hyper::{Request, StatusCode, body::Incoming};

use super::{Connection, Message, TOPIC, expect, no_gap};

#[derive(Debug)]
pub(crate) struct Sse {
    body: Incoming,
    /// What is not a whole block yet.
    buffer: BytesMut,
    _connection: Connection,
}

impl Sse {
    pub(super) async fn open(mut connection: Connection) -> io::Result<Self> {
        let request = Request::get(format!("/topics/{TOPIC}?after=earliest"));
        let response = connection.send(request, "").await?;
        expect(StatusCode::OK, response.status(), &"".into())?;
        Ok(Self {
            body: response.into_body(),
            buffer: BytesMut::new(),
            _connection: connection,
        })
    }

    pub(super) async fn next(&mut self) -> io::Result<Vec<Message>> {
        loop {
            let frame = self
                .body
                .frame()
                .await
                .ok_or(io::ErrorKind::UnexpectedEof)?;
            if let Ok(bytes) = frame.map_err(io::Error::other)?.into_data() {
                self.buffer.extend_from_slice(&bytes);
            }
            let messages = self.messages()?;
            if !messages.is_empty() {
                return Ok(messages);
            }
        }
    }

    /// Takes the whole blocks off the buffer. The server writes LF and one `data` line per block;
    /// what else the format allows is not needed here.
    fn messages(&mut self) -> io::Result<Vec<Message>> {
        let mut messages = Vec::new();
        while let Some(end) = self.buffer.windows(2).position(|two| two == b"\n\n") {
            let block = self.buffer.split_to(end + 2);
            let mut lines = block[..].split(|byte| *byte == b'\n');
            let Some(data) = lines.find_map(|line| line.strip_prefix(b"data: ")) else {
                continue;
            };
            if block.starts_with(b"event: gap\n") {
                no_gap(Some(&serde_json::from_slice(data)?))?;
            }
            messages.push(serde_json::from_slice(data)?);
        }
        Ok(messages)
    }
}
