//! A position in the feed, and how a request names the position it wants to read after.

use std::{fmt, str::FromStr};

use super::message::beginning;

/// The longest epoch in bytes.
const MAX_EPOCH: usize = 32;
/// The largest number, which is the largest of SQLite.
const MAX_SEQ: u64 = i64::MAX as u64;

/// One life of one log, `[a-z0-9]{1,32}`. A feed in memory makes a new one at each start, so a cursor
/// from before is recognized and never taken for a position in this log. Stored inline: every message
/// has one, and a pointer to it would cost another allocation.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch {
    bytes: [u8; MAX_EPOCH],
    len: u8,
}

impl Epoch {
    /// A new epoch: 48 random bits as twelve hexadecimal digits.
    pub fn random() -> Self {
        let digits = format!("{:012x}", rand::random::<u64>() >> 16);
        digits.parse().expect("hexadecimal digits are an epoch")
    }

    /// The epoch as it stands in a cursor.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..self.len.into()]).expect("an epoch is ASCII")
    }
}

impl FromStr for Epoch {
    type Err = BadCursor;

    fn from_str(text: &str) -> Result<Self, BadCursor> {
        let is_valid = text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if !is_valid || !(1..=MAX_EPOCH).contains(&text.len()) {
            return Err(BadCursor);
        }
        let (mut bytes, len) = ([0; MAX_EPOCH], text.len() as u8);
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self { bytes, len })
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A position: everything up to and including this message. On the wire it is `EPOCH-SEQ`, which is
/// also the message's id. It has no `:`, because Fetch counts that byte as unsafe in `Last-Event-ID`:
/// a browser would send a CORS preflight before every reconnect to another origin.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// The life of the log in which `seq` counts.
    pub epoch: Epoch,
    /// The message's number over all topics of the feed, from 1; 0 is before the first.
    pub seq: u64,
}

impl FromStr for Cursor {
    type Err = BadCursor;

    fn from_str(text: &str) -> Result<Self, BadCursor> {
        let (epoch, digits) = text.split_once('-').ok_or(BadCursor)?;
        let seq = whole_number(digits).filter(|seq| *seq <= MAX_SEQ);
        Ok(Self {
            epoch: epoch.parse()?,
            seq: seq.ok_or(BadCursor)?,
        })
    }
}

/// Parses the canonical form only: `042` and `+42` are not the number `42`.
pub fn whole_number<T: FromStr>(text: &str) -> Option<T> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let is_canonical = text == "0" || digits && !text.starts_with('0');
    text.parse().ok().filter(|_| is_canonical)
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.epoch.as_str())?;
        f.write_str("-")?;
        self.seq.fmt(f)
    }
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not `EPOCH-SEQ`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a cursor is EPOCH-SEQ, such as m3k9qf-42")]
pub struct BadCursor;

/// Where a reader starts: the value of `after=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum After {
    /// Everything newer than this position.
    Cursor(Cursor),
    /// Everything that is kept. A second page may tell of a `trimmed` gap, if the first one ended
    /// between the marks of two topics.
    Earliest,
    /// Only what comes from now on.
    Latest,
    /// The newest message of each topic first, then what comes: the current state, then its changes.
    Last,
    /// Continues [`After::Last`] after a page that could not hold all of it: each topic's newest message
    /// in (`seq`, `until`], then everything after `until`. It comes only from
    /// [`Page::then`](super::Page::then). A query cannot ask for it.
    Rest {
        /// The life of the log in which both numbers count. Two cursors would be larger, and every waiting
        /// reader keeps an `After`.
        epoch: Epoch,
        /// The number up to which it was given.
        seq: u64,
        /// The head at the time of the first page.
        until: u64,
    },
    /// Not a cursor, though a client took it for one. A query refuses it ([`FromStr`]). A
    /// `Last-Event-ID` cannot, because a 400 would end a browser's EventSource for good. There it
    /// counts as a position in some other log, and gives a `foreign` gap.
    Unreadable(String),
}

impl After {
    /// Accepts any text. Text that is not a cursor becomes [`After::Unreadable`], also `earliest`, `latest`
    /// and `last`. A long text is cut.
    pub fn lenient(text: &str) -> Self {
        text.parse()
            .map_or_else(|_| Self::Unreadable(beginning(text)), Self::Cursor)
    }

    /// [`After::Last`] at the moment when `head` is the last message.
    pub fn last(head: Cursor) -> Self {
        let start = Cursor { seq: 0, ..head };
        Self::going_on(start, head.seq)
    }

    /// Where a reader of [`After::Last`] continues after a page that ends at `next`: with the rest of the state
    /// up to `until`, or after it.
    pub fn going_on(next: Cursor, until: u64) -> Self {
        let Cursor { epoch, seq } = next;
        if seq < until {
            return Self::Rest { epoch, seq, until };
        }
        Self::Cursor(next)
    }
}

impl From<Cursor> for After {
    fn from(cursor: Cursor) -> Self {
        Self::Cursor(cursor)
    }
}

impl FromStr for After {
    type Err = BadCursor;

    fn from_str(text: &str) -> Result<Self, BadCursor> {
        match text {
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            "last" => Ok(Self::Last),
            cursor => cursor.parse().map(Self::Cursor),
        }
    }
}

impl fmt::Display for After {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cursor(cursor) => cursor.fmt(f),
            Self::Earliest => f.write_str("earliest"),
            Self::Latest => f.write_str("latest"),
            Self::Last => f.write_str("last"),
            Self::Rest { epoch, seq, .. } => write!(f, "{}-{seq}", epoch.as_str()),
            Self::Unreadable(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_whole_number_has_no_sign() {
        assert_eq!(whole_number::<i64>("-1"), None);
    }

    #[test]
    fn only_the_canonical_form_is_a_cursor() {
        for good in [
            "a-0",
            "m3k9qf-42",
            "0-9223372036854775807",
            &format!("{}-1", "z".repeat(32)),
        ] {
            assert_eq!(good.parse::<Cursor>().unwrap().to_string(), good);
        }
        let long = format!("{}-1", "z".repeat(33));
        for bad in [
            "",
            "-",
            "-1",
            "a",
            "a-",
            "a-01",
            "a-00",
            "a-+1",
            "a--1",
            "A-1",
            "a:1",
            "a-1 ",
            " a-1",
            "a-1-2",
            "a_b-1",
            "a-9223372036854775808",
            "a-18446744073709551615",
            "a-18446744073709551616",
            "é-1",
            "a-١",
            &long,
        ] {
            assert_eq!(bad.parse::<Cursor>(), Err(BadCursor), "{bad:?}");
        }
    }

    #[test]
    fn after_takes_three_words_and_cursors() {
        assert_eq!("earliest".parse(), Ok(After::Earliest));
        assert_eq!("latest".parse(), Ok(After::Latest));
        assert_eq!("last".parse(), Ok(After::Last));
        assert_eq!("Latest".parse::<After>(), Err(BadCursor));
        assert_eq!(After::lenient("last"), After::Unreadable("last".into()));
        assert_eq!(After::lenient("a\"b"), After::Unreadable("a\"b".into()));
        let long = After::lenient(&"é".repeat(8_000));
        assert_eq!(long, After::Unreadable("é".repeat(100)));
    }

    #[test]
    fn two_random_epochs_differ() {
        assert_ne!(Epoch::random(), Epoch::random());
    }

    proptest! {
        #[test]
        fn a_cursor_survives_the_wire(epoch in "[a-z0-9]{1,32}", seq in 0..=i64::MAX as u64) {
            let cursor = Cursor { epoch: epoch.parse().unwrap(), seq };
            prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }

        #[test]
        fn parsing_never_panics_and_what_parses_is_canonical(text in "\\PC*") {
            if let Ok(cursor) = text.parse::<Cursor>() {
                prop_assert_eq!(cursor.to_string(), text);
            }
        }
    }
}
