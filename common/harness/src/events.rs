//! A reader of event streams that returns their blocks unchanged. It follows HTML §9.2.6, and uses no code of the
//! members.

use std::{io, mem, net::SocketAddr};

use bytes::{Buf, BytesMut};
use hyper::header::{HeaderName, HeaderValue};

use super::{
    Streamed, Wait,
    body::{self, Body},
    wire::{End, Wire},
};

/// Reads an event stream, block by block or line by line.
#[derive(Debug)]
pub struct EventReader {
    source: Source,
    head: String,
    lines: Lines,
    /// The lines of the block that is not complete yet.
    block: Vec<String>,
    ending: Option<Ending>,
}

/// The lines between two blank lines, in their order. An empty block (a blank line too many) counts, too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Block {
    /// Name and value of each field, known or not. One space after the colon is not part of the value.
    pub fields: Vec<(String, String)>,
    /// Each comment: what follows the colon, with any space.
    pub comments: Vec<String>,
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// As its framing says: by the last chunk, by its length, or by a close if the framing is that.
    Complete,
    /// By an earlier close.
    Cut,
    /// By a reset.
    Reset,
}

#[derive(Debug)]
enum Source {
    Wire { wire: Wire, framing: Body },
    Streamed(Streamed),
}

/// The text of a stream, split into lines.
#[derive(Debug, Default)]
struct Lines {
    text: BytesMut,
    /// Whether a byte-order mark can no longer come.
    begun: bool,
    /// Whether the last line ended with a CR. A LF that follows belongs to it.
    after_cr: bool,
}

impl EventReader {
    /// Requests the stream at `path` on a bare connection, and reads the head of the answer.
    ///
    /// # Panics
    ///
    /// If there is no answer.
    pub async fn connect(addr: SocketAddr, path: &str) -> Self {
        Self::connect_with(addr, path, &[]).await
    }

    /// The same with more header fields, such as `Last-Event-ID`.
    ///
    /// # Panics
    ///
    /// If there is no answer.
    pub async fn connect_with(addr: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Self {
        let fields = body::fields(headers);
        let accept = "Accept: text/event-stream";
        let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\n{accept}\r\n{fields}\r\n");
        let mut wire = Wire::connect(addr).await;
        wire.send(request).await;
        Self::on_wire(wire).await
    }

    /// Reads the answer to a request that was sent on this connection.
    ///
    /// # Panics
    ///
    /// If there is no answer.
    pub async fn on_wire(mut wire: Wire) -> Self {
        let head = wire.read_head().await;
        let framing = Body::announced_by(&head);
        Self::new(Source::Wire { wire, framing }, head)
    }

    /// Reads the rest of this answer's body.
    pub fn on_stream(streamed: Streamed) -> Self {
        let field = |(name, value): (&HeaderName, &HeaderValue)| {
            format!("{name}: {}\r\n", value.as_bytes().escape_ascii())
        };
        let fields: String = streamed.headers.iter().map(field).collect();
        let head = format!("HTTP/1.1 {}\r\n{fields}\r\n", streamed.status);
        Self::new(Source::Streamed(streamed), head)
    }

    fn new(source: Source, head: String) -> Self {
        Self {
            source,
            head,
            lines: Lines::default(),
            block: Vec::new(),
            ending: None,
        }
    }

    /// The head of the answer. For a [`Streamed`], it is rebuilt from the status and the fields.
    pub fn head(&self) -> &str {
        &self.head
    }

    /// The status of the answer.
    ///
    /// # Panics
    ///
    /// If the head has no status.
    #[track_caller]
    pub fn status(&self) -> u16 {
        body::status(&self.head)
    }

    /// The value of the first header field of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        body::field(&self.head, name)
    }

    /// The next block. `None` at the end of the stream: see [`EventReader::ending`] and
    /// [`EventReader::unfinished`].
    ///
    /// # Panics
    ///
    /// If patience ends.
    pub async fn next(&mut self) -> Option<Block> {
        let wait = Wait::until("the next block of the event stream");
        loop {
            match self.line(&wait).await? {
                line if line.is_empty() => return Some(Block::of(&mem::take(&mut self.block))),
                line => self.block.push(line),
            }
        }
    }

    /// The next line, without its line end. [`EventReader::next`] does not return it again. `None` at the end of
    /// the stream.
    ///
    /// # Panics
    ///
    /// If patience ends.
    pub async fn next_line(&mut self) -> Option<String> {
        self.line(&Wait::until("the next line of the event stream"))
            .await
    }

    /// How the stream ended. `None` if it has not.
    pub fn ending(&self) -> Option<Ending> {
        self.ending
    }

    /// What came after the last blank line. At the end of the stream, a client discards it.
    pub fn unfinished(&self) -> String {
        let lines = self.block.iter().map(|line| format!("{line}\n"));
        lines
            .chain([String::from_utf8_lossy(&self.lines.text).into_owned()])
            .collect()
    }

    /// The connection, for example to reset or half-close it. Bytes that were read beyond the last block are
    /// lost.
    ///
    /// # Panics
    ///
    /// If the stream is read from a [`Streamed`].
    #[track_caller]
    pub fn into_wire(self) -> Wire {
        match self.source {
            Source::Wire { wire, .. } => wire,
            Source::Streamed(_) => panic!("this stream is read from a Streamed"),
        }
    }

    async fn line(&mut self, wait: &Wait) -> Option<String> {
        loop {
            if let Some(line) = self.lines.next() {
                return Some(line);
            }
            if self.ending.is_none() {
                self.ending = self.source.read(wait, &mut self.lines.text).await;
            } else {
                return None;
            }
        }
    }
}

impl Source {
    /// Reads more. At the end, returns how the stream ended.
    async fn read(&mut self, wait: &Wait, text: &mut BytesMut) -> Option<Ending> {
        match self {
            Self::Wire { wire, framing } => read_wire(wire, framing, wait, text).await,
            Self::Streamed(streamed) => read_streamed(streamed, text).await,
        }
    }
}

async fn read_wire(
    wire: &mut Wire,
    framing: &mut Body,
    wait: &Wait,
    text: &mut BytesMut,
) -> Option<Ending> {
    let had = text.len();
    framing.decode(&mut wire.buffer, text);
    if framing.is_complete() {
        return Some(Ending::Complete);
    }
    if text.len() > had || wire.fill(wait).await {
        return None;
    }
    Some(match wire.ended() {
        Some(End::Reset) => Ending::Reset,
        _ if framing.ends_by_closing() => Ending::Complete,
        _ => Ending::Cut,
    })
}

async fn read_streamed(streamed: &mut Streamed, text: &mut BytesMut) -> Option<Ending> {
    match streamed.try_next_frame().await {
        Ok(Some(frame)) => text.extend_from_slice(&frame),
        Ok(None) => return Some(Ending::Complete),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Some(Ending::Reset),
        Err(_) => return Some(Ending::Cut),
    }
    None
}

impl Lines {
    /// The next line without its end (CRLF, LF or CR), if it is complete.
    fn next(&mut self) -> Option<String> {
        self.begin()?;
        if self.after_cr && !self.text.is_empty() {
            self.after_cr = false;
            self.skip(b"\n");
        }
        let end = self
            .text
            .iter()
            .position(|byte| matches!(byte, b'\r' | b'\n'))?;
        let line = self.text.split_to(end);
        self.after_cr = self.text.get_u8() == b'\r';
        Some(String::from_utf8_lossy(&line).into_owned())
    }

    /// Removes a byte-order mark from the front, as "UTF-8 decode" does. `None` while it may still come.
    fn begin(&mut self) -> Option<()> {
        const MARK: &[u8] = "\u{feff}".as_bytes();
        if !self.begun && self.text.len() < MARK.len() && MARK.starts_with(&self.text) {
            return None;
        }
        if !mem::replace(&mut self.begun, true) {
            self.skip(MARK);
        }
        Some(())
    }

    fn skip(&mut self, prefix: &[u8]) {
        if self.text.starts_with(prefix) {
            self.text.advance(prefix.len());
        }
    }
}

impl Block {
    fn of(lines: &[String]) -> Self {
        let mut block = Self::default();
        for line in lines {
            match line.split_once(':') {
                Some(("", comment)) => block.comments.push(comment.to_owned()),
                Some((name, value)) => block.add(name, value.strip_prefix(' ').unwrap_or(value)),
                None => block.add(line, ""),
            }
        }
        block
    }

    fn add(&mut self, name: &str, value: &str) {
        self.fields.push((name.to_owned(), value.to_owned()));
    }

    /// The event ID that this block sets. An ID with a NUL is ignored.
    pub fn id(&self) -> Option<&str> {
        self.values("id").rfind(|id| !id.contains('\0'))
    }

    /// The event type. A client uses `message` if it is absent or empty.
    pub fn event(&self) -> Option<&str> {
        self.values("event").next_back()
    }

    /// The lines of data, joined by LF. With `None`, a client dispatches no event.
    pub fn data(&self) -> Option<String> {
        let lines: Vec<&str> = self.values("data").collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    /// The data as JSON.
    ///
    /// # Panics
    ///
    /// If it is not JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        let data = self.data().unwrap_or_default();
        serde_json::from_str(&data).unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }

    /// The reconnection time in milliseconds. A value with other characters than digits is ignored.
    pub fn retry(&self) -> Option<u64> {
        let digits =
            |value: &&str| !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        self.values("retry")
            .rfind(digits)
            .and_then(|value| value.parse().ok())
    }

    fn values(&self, name: &str) -> impl DoubleEndedIterator<Item = &str> {
        self.fields
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}
