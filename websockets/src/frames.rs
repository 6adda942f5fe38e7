//! Frames and messages (RFC 6455 §5), without I/O.
//!
//! The peer's bytes go into an [`Inbox`], and messages come out. A payload is unmasked in place and lent
//! to the caller. Only fragments are copied, to join them.
//!
//! tungstenite reads and writes the headers. Its `WebSocketContext` has the rest too, but is not used here. It
//! copies each payload two more times: an echo of 16 B took a fifth more CPU time, and one of 64 KiB twice as much
//! (`cargo bench -p websockets`). It keeps a read buffer for every idle connection. It answers close code
//! 1014, which is registered, with 1002. It has no limit on the number of fragments.

use std::{cell::Cell, io::Cursor, mem, ops::Range, str};

pub use tungstenite::protocol::frame::coding::OpCode;
use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{
        CloseCode::{self, Protocol, Size},
        Control, Data,
    },
};

/// The next fragment of a message.
const CONTINUATION: OpCode = OpCode::Data(Data::Continue);
/// A text message.
pub const TEXT: OpCode = OpCode::Data(Data::Text);
/// A binary message.
pub const BINARY: OpCode = OpCode::Data(Data::Binary);
/// The last frame of each side (§5.5.1).
pub const CLOSE: OpCode = OpCode::Control(Control::Close);
/// Asks for a pong with the same payload (§5.5.2).
pub const PING: OpCode = OpCode::Control(Control::Ping);
/// Answers a ping.
pub const PONG: OpCode = OpCode::Control(Control::Pong);

/// How many bytes one read takes. A message of 64 KiB and its header take one read.
pub const READ: usize = 68 * 1024;

thread_local! {
    /// The buffer of the next read. One is enough for all sockets of a thread, because a socket between two
    /// messages needs none. With a new one for each read, an echo of 64 KiB takes a quarter more CPU
    /// time (`cargo bench -p websockets`).
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// What a peer may send.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most bytes of a message.
    pub message: usize,
    /// The most frames of a message. Each costs the server some work, even an empty one.
    pub fragments: u32,
}

/// A rule that the peer's frames break: the code to close with, and the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation(pub CloseCode, pub &'static str);

/// Text, or a close frame's reason.
pub const NOT_UTF8: Violation = Violation(CloseCode::Invalid, "text that is not UTF-8");

/// Bytes of the peer, and where its messages are in them.
#[derive(Debug)]
pub struct Inbox {
    limits: Limits,
    bytes: Vec<u8>,
    /// Where the next frame begins. What is before it was used. A skipped frame may end behind `bytes`.
    next: usize,
    /// A message whose last frame has not come. Boxed, because few messages come in fragments.
    begun: Option<Box<Begun>>,
}

/// The fragments so far.
#[derive(Debug)]
struct Begun {
    opcode: OpCode,
    /// Their payloads, joined.
    bytes: Vec<u8>,
    frames: u32,
    /// How many of the bytes are known to be UTF-8, if it is a text.
    valid: usize,
}

impl Inbox {
    /// An inbox that already holds these bytes.
    pub fn new(bytes: &[u8], limits: Limits) -> Self {
        Self {
            limits,
            bytes: bytes.to_vec(),
            next: 0,
            begun: None,
        }
    }

    /// Calls `read` with a buffer that has room, so that it can append bytes.
    pub fn fill<T>(&mut self, read: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        if self.bytes.len() == self.bytes.capacity() {
            let mut buffer = SPARE.take();
            buffer.append(&mut self.bytes);
            self.bytes = buffer;
        }
        if self.bytes.len() == self.bytes.capacity() {
            self.bytes.reserve(READ);
        }
        read(&mut self.bytes)
    }

    /// The next message or control frame, if it is complete: what it is, and where its
    /// [`payload`](Self::payload) lies.
    ///
    /// # Errors
    /// The rule that the next frame breaks. No message can be read after it.
    pub fn next_message(&mut self) -> Result<Option<(OpCode, Range<usize>)>, Violation> {
        while let Some((header, place)) = self.header()? {
            self.check(&header, place.len())?;
            let Some(payload) = self.bytes.get_mut(place.clone()) else {
                break; // The rest has yet to come.
            };
            unmask(payload, header.mask.unwrap_or_default());
            self.next = place.end;
            if header.is_final && header.opcode != CONTINUATION {
                return Ok(Some((header.opcode, place)));
            }
            let whole = self.join(&header, place)?;
            if whole.is_some() {
                return Ok(whole);
            }
        }
        Ok(None)
    }

    /// The payload that [`next_message`](Self::next_message) has just found.
    pub fn payload(&self, place: Range<usize>) -> &[u8] {
        &self.bytes[place]
    }

    /// Skips frames up to the peer's close frame. Returns whether to stop: the close frame has come, or cannot be
    /// found, because a frame before it has a reserved opcode.
    pub fn skip_to_close(&mut self) -> bool {
        self.begun = None;
        while let Ok(header) = self.header() {
            match header {
                None => return false,
                Some((header, _)) if header.opcode == CLOSE => return true,
                Some((_, place)) => self.next = place.end,
            }
        }
        true
    }

    /// Drops the used bytes, after [`next_message`](Self::next_message) found nothing more. Between two
    /// messages no buffer is held.
    pub fn tidy(&mut self) {
        let used = self.next.min(self.bytes.len());
        self.bytes.drain(..used);
        self.next -= used;
        if self.bytes.is_empty() {
            give_back(mem::take(&mut self.bytes));
        }
    }

    /// Shrinks the buffer of an incomplete message to the message's size. Call it when nothing more can be
    /// read now.
    pub fn shrink(&mut self) {
        if self.bytes.len() < self.bytes.capacity() / 2 {
            let rest = self.bytes.to_vec();
            give_back(mem::replace(&mut self.bytes, rest));
        }
    }

    /// The next frame's header (§5.2), if it is complete, and where its payload lies.
    fn header(&self) -> Result<Option<(FrameHeader, Range<usize>)>, Violation> {
        let mut rest = Cursor::new(self.bytes.get(self.next..).unwrap_or_default());
        let parsed =
            FrameHeader::parse(&mut rest).map_err(|_| Violation(Protocol, "a reserved opcode"))?;
        let start = self.next + rest.position() as usize;
        Ok(parsed.map(|(header, length)| {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            (header, start..start.saturating_add(length))
        }))
    }

    fn check(&self, header: &FrameHeader, length: usize) -> Result<(), Violation> {
        let is_extended = header.rsv1 || header.rsv2 || header.rsv3;
        ensure(!is_extended, Protocol, "reserved bits are set")?;
        ensure(header.mask.is_some(), Protocol, "a frame without a mask")?;
        if let OpCode::Control(_) = header.opcode {
            ensure(header.is_final, Protocol, "a fragment of a control frame")?;
            return ensure(length <= 125, Protocol, "a control frame over 125 bytes");
        }
        let begun = self.begun.as_ref();
        let (frames, joined) = begun.map_or((0, 0), |begun| (begun.frames, begun.bytes.len()));
        let is_next = (header.opcode == CONTINUATION) == (frames > 0);
        ensure(is_next, Protocol, "a fragment out of order")?;
        let is_short = length <= self.limits.message - joined;
        ensure(is_short, Size, "a message over the limit")?;
        let is_within = header.is_final || frames + 1 < self.limits.fragments;
        ensure(is_within, Size, "a message has too many fragments")
    }

    /// Adds a fragment to its message. Returns the message if this was the last one.
    fn join(
        &mut self,
        header: &FrameHeader,
        fragment: Range<usize>,
    ) -> Result<Option<(OpCode, Range<usize>)>, Violation> {
        let mut begun = self.begun.take().unwrap_or_else(|| {
            Box::new(Begun {
                opcode: header.opcode,
                bytes: Vec::new(),
                frames: 0,
                valid: 0,
            })
        });
        begun.frames += 1;
        begun.bytes.extend_from_slice(&self.bytes[fragment.clone()]);
        if header.is_final {
            // From here on, the buffer holds the joined message and what came behind it.
            self.next = begun.bytes.len();
            begun.bytes.extend_from_slice(&self.bytes[fragment.end..]);
            give_back(mem::replace(&mut self.bytes, begun.bytes));
            return Ok(Some((begun.opcode, 0..self.next)));
        }
        if begun.opcode == TEXT {
            begun.valid += utf8_prefix(&begun.bytes[begun.valid..])?;
        }
        self.begun = Some(begun);
        Ok(None)
    }
}

/// Keeps a buffer for the next read of this thread. One of another size is freed.
fn give_back(mut buffer: Vec<u8>) {
    if buffer.capacity() == READ {
        buffer.clear();
        SPARE.set(buffer);
    }
}

fn ensure(holds: bool, code: CloseCode, reason: &'static str) -> Result<(), Violation> {
    if holds {
        Ok(())
    } else {
        Err(Violation(code, reason))
    }
}

/// How many of the bytes are UTF-8. The last character may be cut in two.
fn utf8_prefix(bytes: &[u8]) -> Result<usize, Violation> {
    match str::from_utf8(bytes) {
        Ok(_) => Ok(bytes.len()),
        Err(error) if error.error_len().is_none() => Ok(error.valid_up_to()),
        Err(_) => Err(NOT_UTF8),
    }
}

/// Removes the mask (§5.3), four bytes at a time, which the compiler turns into vector instructions.
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let (chunks, rest) = payload.as_chunks_mut();
    for chunk in chunks {
        *chunk = (u32::from_ne_bytes(*chunk) ^ u32::from_ne_bytes(mask)).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

/// Appends a frame.
pub fn push_frame(opcode: OpCode, payload: &[u8], out: &mut Vec<u8>) {
    begin_frame(opcode, payload.len(), out);
    for chunk in payload.chunks(COPY) {
        out.extend_from_slice(chunk);
    }
}

/// Appends the header of a frame, and makes room for its payload of this many bytes. A server's frame is
/// never masked (§5.1).
pub fn begin_frame(opcode: OpCode, length: usize, out: &mut Vec<u8>) {
    make_room(length + 10, out);
    let header = FrameHeader {
        opcode,
        ..FrameHeader::default()
    };
    let written = header.format(length as u64, out);
    written.expect("a Vec takes any bytes");
}

/// Makes room in `out` for this many bytes more.
pub fn make_room(bytes: usize, out: &mut Vec<u8>) {
    if out.capacity() - out.len() < bytes {
        out.reserve_exact(bytes.max(out.len().min(GROWTH)));
    }
}

/// How many bytes to copy at a time. For more, glibc before 2.39 uses an instruction that is up to 20 times
/// slower on AMD's Zen 3 and 4 (sourceware bug 30994). There an echo of 64 KiB takes two fifths longer.
const COPY: usize = 2 * 1024;
/// By how much the output buffer grows at a time. A `Vec` doubles, and would hold twice what is queued.
const GROWTH: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use harness::Frame;
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        message: 70_000,
        fragments: 3,
    };

    type Found = (Vec<(OpCode, Vec<u8>)>, Option<Violation>);

    /// What an inbox finds in these pieces, one after the other.
    fn found<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Found {
        let (mut inbox, mut messages) = (Inbox::new(b"", LIMITS), Vec::new());
        for piece in pieces {
            receive(&mut inbox, piece);
            loop {
                match inbox.next_message() {
                    Ok(Some((opcode, place))) => {
                        messages.push((opcode, inbox.payload(place).to_vec()));
                    }
                    Ok(None) => break,
                    Err(violation) => return (messages, Some(violation)),
                }
            }
            inbox.tidy();
        }
        (messages, None)
    }

    fn receive(inbox: &mut Inbox, bytes: &[u8]) {
        inbox.fill(|buffer| buffer.extend_from_slice(bytes));
    }

    fn frame(opcode: u8, fin: bool, payload: impl Into<Vec<u8>>) -> Vec<u8> {
        let mut frame = Frame::client(opcode, payload);
        frame.fin = fin;
        frame.encode()
    }

    #[test]
    fn messages_of_any_length_come_out_as_they_were_sent() {
        for length in [0, 1, 15, 16, 17, 125, 126, 65_535, 65_536, 70_000] {
            let payload: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            let (two, whole) = (frame(2, true, &payload[..]).repeat(2), (BINARY, payload));
            assert_eq!(found([&two[..]]), (vec![whole.clone(), whole], None));
        }
        let over = frame(2, true, [0; 70_001]);
        let violation = Violation(Size, "a message over the limit");
        // It is refused by its header.
        assert_eq!(found([&over[..14]]), (vec![], Some(violation)));
    }

    #[test]
    fn fragments_are_joined_and_control_frames_between_them_come_first() {
        let pieces = [
            frame(1, false, "a"),
            frame(9, true, "b"),
            frame(0, false, ""),
            frame(0, true, "c"),
            frame(2, true, "d"),
        ];
        let messages = vec![
            (PING, b"b".to_vec()),
            (TEXT, b"ac".to_vec()),
            (BINARY, b"d".to_vec()),
        ];
        assert_eq!(found([&pieces.concat()[..]]), (messages.clone(), None));
        assert_eq!(found(pieces.concat().chunks(1)), (messages, None));
    }

    #[test]
    fn a_message_has_as_many_frames_and_bytes_as_it_may() {
        let begun = [frame(2, false, [0; 40_000]), frame(0, false, "")].concat();
        let most = [begun.clone(), frame(0, true, [0; 30_000])].concat();
        assert_eq!(found([&most[..]]).0[0].1.len(), 70_000);
        for (last, reason) in [
            (frame(0, true, [0; 30_001]), "a message over the limit"),
            (frame(0, false, ""), "a message has too many fragments"),
        ] {
            let more = [begun.clone(), last].concat();
            let violation = Violation(Size, reason);
            assert_eq!(found([&more[..]]), (vec![], Some(violation)));
        }
    }

    #[test]
    fn text_that_cannot_become_utf_8_is_refused_before_its_end() {
        let (half, other) = ("é".as_bytes()[..1].to_vec(), frame(0, false, [0xa9]));
        assert_eq!(
            found([&[frame(1, false, half.clone()), other].concat()[..]]).1,
            None
        );
        let wrong = [frame(1, false, half), frame(0, false, "x")].concat();
        assert_eq!(found([&wrong[..]]).1, Some(NOT_UTF8));
        assert_eq!(found([&frame(2, false, [0xff])[..]]).1, None);
    }

    #[test]
    fn between_messages_no_buffer_is_held_and_half_a_message_holds_its_size() {
        let mut inbox = Inbox::new(b"", LIMITS);
        let message = frame(2, true, [0; 10_000]);
        receive(&mut inbox, &[&message[..], &message[..5_000]].concat());
        assert_eq!(inbox.next_message().unwrap().unwrap().1, 8..10_008);
        assert_eq!(inbox.next_message(), Ok(None));
        inbox.tidy();
        inbox.shrink();
        assert!((5_000..=10_000).contains(&inbox.bytes.capacity()));
        receive(&mut inbox, &message[5_000..]);
        assert_eq!(inbox.next_message().unwrap().unwrap().1, 8..10_008);
        inbox.tidy();
        assert_eq!(inbox.bytes.capacity(), 0);
    }

    #[test]
    fn a_close_frame_is_found_behind_whatever_the_peer_was_sending() {
        let mut inbox = Inbox::new(b"", LIMITS);
        let rest = [
            frame(2, true, [8; 80_000]),
            frame(1, false, "half"),
            frame(8, true, ""),
        ]
        .concat();
        receive(&mut inbox, &rest[..100]);
        assert!(inbox.next_message().is_err());
        let mut come = 100;
        while !inbox.skip_to_close() {
            inbox.tidy();
            receive(&mut inbox, &rest[come..=come]);
            come += 1;
        }
        assert_eq!(come, rest.len());
    }

    /// Otherwise the bytes behind it would pile up in the buffer.
    #[test]
    fn after_a_reserved_opcode_no_close_frame_is_awaited() {
        let mut inbox = Inbox::new(b"", LIMITS);
        receive(
            &mut inbox,
            &[frame(2, true, "a"), frame(3, true, "b")].concat(),
        );
        assert!(inbox.skip_to_close());
    }

    proptest! {
        #[test]
        fn any_bytes_mean_the_same_in_one_piece_and_in_many(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0_u8..4, Just(0x81), Just(0x80)], 0..200),
            cuts in prop::collection::vec(1_usize..20, 0..40),
        ) {
            let (mut pieces, mut rest) = (Vec::new(), &bytes[..]);
            for cut in cuts {
                let (piece, behind) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = behind;
            }
            pieces.push(rest);
            prop_assert_eq!(found(pieces), found([&bytes[..]]));
        }
    }

    #[test]
    fn the_bytes_to_write_hold_little_more_than_they_are() {
        let mut out = Vec::new();
        while out.len() < READ {
            push_frame(TEXT, b"an answer", &mut out);
            assert!(out.capacity() <= (out.len() * 2).min(out.len() + GROWTH));
        }
    }
}
