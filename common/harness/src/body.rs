//! The length of an HTTP/1.1 body (RFC 9112 §6.3), and chunked transfer coding (§7.1). Malformed input fails the
//! test.

use bytes::BytesMut;

/// The part of a body that has not arrived yet.
#[derive(Debug)]
pub(super) enum Body {
    Length(usize),
    Chunked(Chunk),
    UntilClose,
}

/// What comes next in the chunked coding.
#[derive(Debug, Clone, Copy)]
pub(super) enum Chunk {
    Size,
    Payload(usize),
    Trailer,
    Done,
}

impl Body {
    /// The body that this head announces. Not for answers to `HEAD` or `CONNECT`.
    pub(super) fn announced_by(head: &str) -> Self {
        let coding = field(head, "transfer-encoding");
        match (status(head), coding, field(head, "content-length")) {
            (100..=199 | 204 | 304, _, _) => Self::Length(0),
            (_, Some(coding), _) if coding.eq_ignore_ascii_case("chunked") => {
                Self::Chunked(Chunk::Size)
            }
            (_, Some(coding), _) => {
                panic!("unknown transfer coding {coding:?}: {head:?}")
            }
            (_, None, Some(length)) => Self::Length(decimal(length)),
            (_, None, None) => Self::UntilClose,
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunk::Done))
    }

    pub(super) fn ends_by_closing(&self) -> bool {
        matches!(self, Self::UntilClose)
    }

    /// Moves the bytes of the body from `wire` to `body`. Later bytes stay in `wire`.
    pub(super) fn decode(&mut self, wire: &mut BytesMut, body: &mut BytesMut) {
        match self {
            Self::Length(left) => *left -= shift(*left, wire, body),
            Self::UntilClose => body.unsplit(wire.split()),
            Self::Chunked(chunk) => while chunk.advance(wire, body) {},
        }
    }
}

impl Chunk {
    /// Decodes one step. `false` if `wire` does not have enough bytes for it.
    fn advance(&mut self, wire: &mut BytesMut, body: &mut BytesMut) -> bool {
        match *self {
            Self::Done => return false,
            Self::Payload(left) if left > 0 => {
                let moved = shift(left, wire, body);
                *self = Self::Payload(left - moved);
                return moved > 0;
            }
            Self::Size | Self::Payload(_) | Self::Trailer => {}
        }
        let Some(line) = take_line(wire) else {
            return false;
        };
        *self = self.after(&line);
        true
    }

    fn after(self, line: &str) -> Self {
        match self {
            Self::Size => match chunk_size(line) {
                0 => Self::Trailer,
                size => Self::Payload(size),
            },
            Self::Payload(_) if line.is_empty() => Self::Size,
            Self::Trailer if line.is_empty() => Self::Done,
            _ => panic!("expected an empty line in chunked coding, not {line:?}"),
        }
    }
}

/// The value of the first header field of this name.
pub(super) fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let fields = head
        .split("\r\n")
        .skip(1)
        .filter_map(|line| line.split_once(':'));
    fields
        .into_iter()
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

/// These header fields as lines of a head.
pub(super) fn fields(headers: &[(&str, &str)]) -> String {
    headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect()
}

/// The status in `HTTP/1.1 200 OK`.
pub(super) fn status(head: &str) -> u16 {
    let status = head
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.get(2..5))
        .and_then(|digits| digits.parse().ok());
    status.unwrap_or_else(|| panic!("not the head of an answer: {head:?}"))
}

/// Moves up to `most` bytes, and returns how many.
fn shift(most: usize, wire: &mut BytesMut, body: &mut BytesMut) -> usize {
    let moved = most.min(wire.len());
    body.unsplit(wire.split_to(moved));
    moved
}

/// Takes the first line, without its CRLF, if it is complete.
fn take_line(wire: &mut BytesMut) -> Option<String> {
    let line = wire.split_to(super::end_of(b"\r\n", wire)?);
    Some(String::from_utf8_lossy(&line[..line.len() - 2]).into_owned())
}

/// Hexadecimal digits, and perhaps extensions, which are ignored.
fn chunk_size(line: &str) -> usize {
    let digits = line.split(';').next().unwrap_or_default().trim_end();
    assert!(
        digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "not the size of a chunk: {line:?}"
    );
    usize::from_str_radix(digits, 16)
        .unwrap_or_else(|error| panic!("not the size of a chunk: {line:?}: {error}"))
}

fn decimal(length: &str) -> usize {
    assert!(
        length.bytes().all(|byte| byte.is_ascii_digit()),
        "not a length: {length:?}"
    );
    length
        .parse()
        .unwrap_or_else(|error| panic!("not a length: {length:?}: {error}"))
}
