//! Where frames begin and end in the bytes of a peer (RFC 6455 §5.2). Nothing else of a frame is read.
//!
//! tungstenite parses the frames, but does not tell two things that a server needs. One is whether it is in
//! the middle of a message: if not, its buffers can be dropped. The other is how many fragments a message
//! has: they need a limit, because each costs time and memory.

/// A position in a stream of frames.
#[derive(Debug)]
pub struct Boundary {
    /// The bytes of the current frame's header that have come, without the mask.
    header: [u8; 10],
    /// How many bytes of `header` are filled.
    filled: u8,
    /// Bytes of mask and payload that are still to come.
    left: u64,
    /// The frames so far of a message that is not complete.
    fragments: u32,
    max_fragments: u32,
}

impl Boundary {
    /// The start of a stream. A message may have at most this many frames.
    pub fn new(max_fragments: u32) -> Self {
        Self {
            header: [0; 10],
            filled: 0,
            left: 0,
            fragments: 0,
            max_fragments,
        }
    }

    /// Whether every message that has begun is complete.
    pub fn at_rest(&self) -> bool {
        self.filled == 0 && self.left == 0 && self.fragments == 0
    }

    /// Walks over `bytes` and returns how many it passed: all of them, or those before a frame that
    /// exceeds the limit.
    pub fn advance(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        while let Some(first) = rest.first() {
            let is_frame_start = self.left == 0 && self.filled == 0;
            if is_frame_start && self.exceeds_limit(*first) {
                break;
            }
            let step = if self.left > 0 {
                let step = rest.len().min(self.left.try_into().unwrap_or(usize::MAX));
                self.left -= step as u64;
                step
            } else {
                self.take_header(*first);
                1
            };
            rest = &rest[step..];
        }
        bytes.len() - rest.len()
    }

    /// Whether the frame that begins with this byte announces one frame more than the limit.
    fn exceeds_limit(&self, first: u8) -> bool {
        is_data(first) && !is_final(first) && self.fragments + 1 >= self.max_fragments
    }

    fn take_header(&mut self, byte: u8) {
        self.header[usize::from(self.filled)] = byte;
        self.filled += 1;
        let [first, second, extended @ ..] = self.header;
        // Lengths up to 125 are in the second byte; 126 and 127 say that two or eight more follow.
        let length = match (self.filled, second & 0x7f) {
            (4, 126) => u64::from(u16::from_be_bytes([extended[0], extended[1]])),
            (10, 127) => u64::from_be_bytes(extended),
            (2, length @ ..126) => length.into(),
            _ => return, // The header is not complete.
        };
        // A frame without a mask is an error that tungstenite reports.
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        self.left = length.saturating_add(mask);
        self.filled = 0;
        if is_data(first) {
            self.fragments = if is_final(first) {
                0
            } else {
                self.fragments + 1
            };
        }
    }
}

fn is_final(first: u8) -> bool {
    first & 0x80 != 0
}

/// Control frames may come between the fragments of a message and do not count as fragments (§5.4).
fn is_data(first: u8) -> bool {
    first & 0x08 == 0
}

#[cfg(test)]
mod tests {
    use harness::Frame;
    use proptest::prelude::*;

    use super::*;

    fn frame(opcode: u8, fin: bool, length: usize) -> Vec<u8> {
        let mut frame = Frame::client(opcode, vec![7; length]);
        frame.fin = fin;
        frame.encode()
    }

    #[test]
    fn it_is_at_rest_between_messages_and_nowhere_else() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            let mut boundary = Boundary::new(3);
            let message = [
                frame(1, false, length),
                frame(9, true, 3),
                frame(0, true, length),
            ];
            let message = message.concat();
            for (position, byte) in message.iter().enumerate() {
                assert_eq!(boundary.at_rest(), position == 0, "{length}: {position}");
                assert_eq!(boundary.advance(&[*byte]), 1);
            }
            assert!(boundary.at_rest());
        }
    }

    #[test]
    fn a_message_has_as_many_frames_as_it_may_and_the_one_after_is_named() {
        let mut boundary = Boundary::new(3);
        let before = [frame(2, false, 5), frame(0, false, 5)].concat();
        let most = [before.clone(), frame(0, true, 5)].concat();
        assert_eq!(boundary.advance(&most), most.len());
        let more = [before.clone(), frame(0, false, 5)].concat();
        assert_eq!(boundary.advance(&more), before.len());
        assert_eq!(boundary.advance(&more[before.len()..]), 0);
        // What is one frame is never too many, nor is a ping.
        assert_eq!(Boundary::new(1).advance(&frame(2, true, 5)), 11);
        assert_eq!(boundary.advance(&frame(9, true, 0)), 6);
    }

    proptest! {
        #[test]
        fn any_bytes_are_the_same_in_one_piece_and_in_many(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0_u8..4], 0..200),
            cuts in prop::collection::vec(1_usize..20, 0..40),
        ) {
            let (mut whole, mut pieces) = (Boundary::new(4), Boundary::new(4));
            let taken = whole.advance(&bytes);
            let (mut rest, mut sum) = (&bytes[..], 0);
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let piece = &rest[..cut.min(rest.len())];
                let step = pieces.advance(piece);
                sum += step;
                if step < piece.len() {
                    break;
                }
                rest = &rest[step..];
            }
            prop_assert_eq!(sum, taken);
            prop_assert_eq!(whole.at_rest(), pieces.at_rest());
        }
    }
}
