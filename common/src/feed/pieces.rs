//! The bytes of an answer, not copied: the JSON of a page shares the bytes of its messages.
//!
//! So an answer that its client does not read costs only a list of messages. A socket takes many pieces with
//! one vectored write.

use std::{
    convert::Infallible,
    io::IoSlice,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, SizeHint};

use super::message::Message;

/// A text, or the JSON of a page. Also a body for hyper.
#[derive(Debug, Default)]
pub struct Pieces {
    messages: Vec<Arc<Message>>,
    /// What follows the messages. Without messages it is everything.
    end: Bytes,
    /// The piece that is read next, see [`piece`](Self::piece).
    index: usize,
    /// How much of that piece was read.
    read: usize,
    /// How many bytes are not read yet, over all pieces.
    remaining: usize,
}

impl Pieces {
    /// `{"messages":[…` and `end`.
    pub(super) fn of_page(messages: Vec<Arc<Message>>, end: &str) -> Self {
        let end = match messages.is_empty() {
            true => [START, end].concat(),
            false => end.to_owned(),
        };
        Self::new(messages, end.into())
    }

    fn new(messages: Vec<Arc<Message>>, end: Bytes) -> Self {
        let mut pieces = Self {
            messages,
            end,
            ..Self::default()
        };
        pieces.remaining = pieces.since(0).map(<[u8]>::len).sum();
        pieces
    }

    /// The pieces from `index` on.
    fn since(&self, index: usize) -> impl Iterator<Item = &[u8]> {
        (index..=self.last()).map(|index| self.piece(index))
    }

    /// Messages have odd indexes. Before each is a piece of text: the start, or a comma. The last piece is
    /// the end.
    fn piece(&self, index: usize) -> &[u8] {
        match self.messages.get(index / 2) {
            None => &self.end,
            Some(message) if index % 2 == 1 => &message.json,
            Some(_) if index == 0 => START.as_bytes(),
            Some(_) => b",",
        }
    }

    fn last(&self) -> usize {
        2 * self.messages.len()
    }
}

const START: &str = "{\"messages\":[";

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        &self.piece(self.index)[self.read..]
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let unread = std::iter::once(self.chunk()).chain(self.since(self.index + 1));
        let filled = slices.iter_mut().zip(unread);
        filled
            .map(|(slice, piece)| *slice = IoSlice::new(piece))
            .count()
    }

    fn advance(&mut self, count: usize) {
        assert!(count <= self.remaining, "only what is there can be read");
        self.remaining -= count;
        self.read += count;
        while self.index < self.last() && self.read >= self.piece(self.index).len() {
            self.read -= self.piece(self.index).len();
            self.index += 1;
        }
    }
}

/// How much of an answer hyper takes at once. That is copied, because a frame for each small message would
/// cost more. The rest waits where it lies.
const FRAME: usize = 16 * 1_024;

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let taken = self.remaining().min(FRAME);
        let frame = (taken > 0).then(|| Ok(Frame::data(self.copy_to_bytes(taken))));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        !self.has_remaining()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining() as u64)
    }
}

impl From<String> for Pieces {
    fn from(text: String) -> Self {
        Self::new(Vec::new(), text.into())
    }
}

impl From<&'static str> for Pieces {
    fn from(text: &'static str) -> Self {
        Self::new(Vec::new(), Bytes::from_static(text.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::super::{Cursor, Data, Draft, Epoch};
    use super::*;

    fn message(seq: u64, text: &str) -> Arc<Message> {
        let epoch: Epoch = "e".parse().unwrap();
        let (id, topic) = (Cursor { epoch, seq }, "a".parse().unwrap());
        let draft = Draft::new(Data::text(text));
        Arc::new(Message::encode(id, topic, draft, UNIX_EPOCH))
    }

    /// Reads every byte, through at most `slices` slices and `most` bytes at a time.
    fn read(mut pieces: Pieces, slices: usize, most: usize) -> Vec<u8> {
        let mut read = Vec::new();
        while pieces.has_remaining() {
            let mut filled = vec![IoSlice::new(&[]); slices];
            let count = pieces.chunks_vectored(&mut filled);
            let seen: Vec<u8> = filled[..count]
                .iter()
                .flat_map(|slice| slice.to_vec())
                .collect();
            assert!(seen.starts_with(pieces.chunk()) && !pieces.chunk().is_empty());
            let taken = most.min(seen.len());
            read.extend_from_slice(&seen[..taken]);
            pieces.advance(taken);
            assert!(read.len() + pieces.remaining() >= seen.len());
        }
        assert_eq!(pieces.chunk(), b"");
        read
    }

    proptest! {
        #[test]
        fn the_pieces_are_the_page_however_they_are_read(
            texts in prop::collection::vec("a{0,9}", 0..5), slices in 1..9usize, most in 1..200usize,
        ) {
            let messages = (1..).zip(&texts).map(|(seq, text)| message(seq, text));
            let messages: Vec<_> = messages.collect();
            let json: Vec<&str> = messages.iter().map(|message| str::from_utf8(&message.json).unwrap()).collect();
            let whole = format!("{{\"messages\":[{}],\"next\":1}}", json.join(","));
            let pieces = Pieces::of_page(messages, "],\"next\":1}");
            prop_assert_eq!(pieces.remaining(), whole.len());
            prop_assert_eq!(read(pieces, slices, most), whole.into_bytes());
        }
    }

    #[test]
    fn a_text_is_one_piece_and_a_message_is_not_copied() {
        assert_eq!(read("ok".into(), 4, 9), b"ok");
        assert_eq!(read(String::new().into(), 4, 9), b"");
        let message = message(1, "x");
        let mut pieces = Pieces::of_page(vec![message.clone()], "]}");
        pieces.advance(START.len());
        assert_eq!(pieces.chunk().as_ptr(), message.json.as_ptr());
    }
}
