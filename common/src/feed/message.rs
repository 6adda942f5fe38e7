//! What is published: topics, types, keys, data, and the message with its one encoding.

use std::{
    borrow::Cow,
    fmt,
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use serde::de::IgnoredAny;

use super::cursor::Cursor;

/// The longest topic in bytes.
const MAX_TOPIC: usize = 64;
/// The longest message type in bytes.
const MAX_TYPE: usize = 128;
/// The most topics that one request may name.
const MAX_TOPICS: usize = 64;
/// The longest key in bytes.
const MAX_KEY: usize = 255;

/// The deepest nesting of JSON arrays and objects. Some common parsers end at 99, and an envelope adds a
/// few.
const MAX_DEPTH: usize = 64;
/// The longest number in bytes. Python refuses an integer of more than 4,300 digits.
const MAX_NUMBER: usize = 1_000;
/// Characters that end a line for some readers, though not in JSON.
const UNICODE_LINE_ENDS: [(char, &str); 3] = [
    ('\u{85}', r"\u0085"),
    ('\u{2028}', r"\u2028"),
    ('\u{2029}', r"\u2029"),
];

/// A message as it was published. It is encoded once, and all deliveries share the bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// The message's cursor.
    pub id: Cursor,
    /// Where it was published.
    pub topic: Topic,
    /// `type` on the wire.
    pub kind: MessageType,
    /// The object on every wire, one line:
    /// `{"id":"m3k9qf-42","topic":"payments","type":"payment.succeeded","timestamp":"2026-11-23T17:55:51.123Z","data":{"amount":1999}}`.
    pub json: Bytes,
}

impl Message {
    /// The message of a draft, once it has an id.
    pub fn encode(id: Cursor, topic: Topic, draft: Draft, published: SystemTime) -> Self {
        let Draft { kind, data } = draft;
        let timestamp = timestamp(published);
        let mut json = String::with_capacity(
            160 + topic.as_str().len() + kind.as_str().len() + data.as_str().len(),
        );
        fmt::write(
            &mut json,
            format_args!(r#"{{"id":"{id}","topic":"{topic}","type":"{kind}","timestamp":"{timestamp}","data":"#),
        )
        .expect("a String takes any text");
        json.push_str(data.as_str());
        json.push('}');
        Self {
            id,
            topic,
            kind,
            json: json.into(),
        }
    }

    /// What the message counts for in the feed's byte limits: its JSON and the memory around it.
    pub fn cost(&self) -> usize {
        self.json.len() + size_of::<Self>()
    }
}

/// The time on the wire. A clock outside the years 1970 to 9999 counts as the nearest time in them:
/// humantime panics for any other.
pub fn timestamp(time: SystemTime) -> humantime::Rfc3339Timestamp {
    const LAST: Duration = Duration::from_millis(253_402_300_799_999);
    humantime::format_rfc3339_millis(time.clamp(UNIX_EPOCH, UNIX_EPOCH + LAST))
}

/// A message that has no id yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// `type` on the wire. Default `message`.
    pub kind: MessageType,
    /// Any JSON value.
    pub data: Data,
}

impl Draft {
    /// A draft of the default type.
    pub fn new(data: Data) -> Self {
        Self {
            kind: MessageType::default(),
            data,
        }
    }
}

/// The value of `Idempotency-Key`: 1 to 255 visible ASCII bytes. Its scope is the topic.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(Arc<str>);

impl FromStr for IdempotencyKey {
    type Err = BadInput;

    fn from_str(text: &str) -> Result<Self, BadInput> {
        let is_visible = text.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_visible || !(1..=MAX_KEY).contains(&text.len()) {
            let rule = format!("an Idempotency-Key is 1 to {MAX_KEY} visible ASCII bytes");
            return Err(BadInput(rule));
        }
        Ok(Self(text.into()))
    }
}

/// What `publish` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// The message's cursor.
    pub id: Cursor,
    /// The idempotency key was known, with this same message: nothing was appended.
    pub duplicate: bool,
}

impl Published {
    /// A message that was appended.
    pub fn new(id: Cursor) -> Self {
        let duplicate = false;
        Self { id, duplicate }
    }

    /// A message that was there already.
    pub fn duplicate(id: Cursor) -> Self {
        let duplicate = true;
        Self { id, duplicate }
    }
}

/// A topic's name: words of `[A-Za-z0-9_-]` joined by single dots, at most 64 bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(Arc<str>);

impl FromStr for Topic {
    type Err = BadInput;

    fn from_str(text: &str) -> Result<Self, BadInput> {
        if text.len() > MAX_TOPIC || !text.split('.').all(is_word) {
            let rule = "a topic is words of [A-Za-z0-9_-] joined by single dots";
            let topic = beginning(text);
            return Err(BadInput(format!(
                "topic {topic:?}: {rule}, at most {MAX_TOPIC} bytes"
            )));
        }
        Ok(Self(text.into()))
    }
}

fn is_word(text: &str) -> bool {
    let mut bytes = text.bytes();
    !text.is_empty() && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

/// What kind of message it is, `[A-Za-z0-9._-]{1,128}`, chosen by the publisher.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct MessageType(Arc<str>);

impl Default for MessageType {
    /// `message`.
    fn default() -> Self {
        static MESSAGE: std::sync::LazyLock<MessageType> =
            std::sync::LazyLock::new(|| MessageType("message".into()));
        MESSAGE.clone()
    }
}

impl FromStr for MessageType {
    type Err = BadInput;

    fn from_str(text: &str) -> Result<Self, BadInput> {
        let is_valid = text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if !is_valid || !(1..=MAX_TYPE).contains(&text.len()) {
            let rule = format!("a type is 1 to {MAX_TYPE} bytes of [A-Za-z0-9._-]");
            return Err(BadInput(format!("type {:?}: {rule}", beginning(text))));
        }
        Ok(Self(text.into()))
    }
}

/// The topics of one request, sorted, each once, from 1 to 64.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Topics(Arc<[Topic]>);

impl Topics {
    /// The topics of these names. Repeats collapse.
    ///
    /// # Errors
    /// If there is no name, more than 64 names, or an invalid one.
    pub fn named<'a>(names: impl Iterator<Item = &'a str>) -> Result<Self, BadInput> {
        let topics = names.map(str::parse).collect::<Result<Vec<Topic>, _>>()?;
        Self::try_from(topics)
    }

    /// The topics in the order of their names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Topic> {
        self.0.iter()
    }

    pub(super) fn as_slice(&self) -> &[Topic] {
        &self.0
    }

    pub(super) fn from_sorted(topics: Vec<Topic>) -> Self {
        Self(topics.into())
    }
}

impl TryFrom<Vec<Topic>> for Topics {
    type Error = BadInput;

    fn try_from(mut topics: Vec<Topic>) -> Result<Self, BadInput> {
        topics.sort_unstable();
        topics.dedup();
        match topics.len() {
            0 => Err(BadInput("no topic is named".into())),
            1..=MAX_TOPICS => Ok(Self::from_sorted(topics)),
            _ => Err(BadInput(format!("more than {MAX_TOPICS} topics"))),
        }
    }
}

impl From<Topic> for Topics {
    fn from(topic: Topic) -> Self {
        Self::from_sorted(vec![topic])
    }
}

impl FromStr for Topics {
    type Err = BadInput;

    /// Takes the names joined by commas, as they stand in a path: `a,b` or `a%2Cb`. Repeats collapse.
    fn from_str(text: &str) -> Result<Self, BadInput> {
        // Most paths have no `%`, and are not copied.
        let decoded = match text.contains('%') {
            true => Cow::Owned(text.replace("%2C", ",").replace("%2c", ",")),
            false => Cow::Borrowed(text),
        };
        Self::named(decoded.split(','))
    }
}

/// Any JSON value on one line. It is kept byte for byte, except for the raw CR and LF that JSON allows
/// between tokens: a line is a message on every wire.
#[derive(Clone, PartialEq, Eq)]
pub struct Data(Arc<str>);

impl Data {
    /// Text becomes a JSON string, which is one line to every reader.
    pub fn text(text: &str) -> Self {
        let mut json = serde_json::to_string(text).expect("a string is JSON");
        if !text.is_ascii() {
            for (end, escape) in UNICODE_LINE_ENDS {
                json = json.replace(end, escape);
            }
        }
        Self(json.into())
    }

    /// Data that was checked before it was stored.
    pub fn stored(json: &str) -> Self {
        Self(json.into())
    }

    /// Takes one JSON value. `serde_json` checks the grammar. Beyond that, some clients fail on deep
    /// nesting, on lone surrogates, and on numbers that are long or beyond an `f64`. They would fail
    /// again at every resume, so those are refused here.
    pub fn json(body: &[u8]) -> Result<Self, BadInput> {
        let text = utf8(body)?;
        serde_json::from_str::<IgnoredAny>(text)
            .map_err(|error| BadInput(format!("the body is not JSON: {error}")))?;
        let line = text.replace(['\r', '\n'], "");
        check(line.as_bytes())?;
        Ok(Self(line.into()))
    }

    /// Takes a body of a type other than JSON: UTF-8 text.
    pub fn utf8_text(body: &[u8]) -> Result<Self, BadInput> {
        Ok(Self::text(utf8(body)?))
    }
}

fn utf8(body: &[u8]) -> Result<&str, BadInput> {
    str::from_utf8(body).map_err(|error| {
        let valid = error.valid_up_to();
        BadInput(format!("the body is not UTF-8 at byte {valid}"))
    })
}

/// Checks a value whose grammar was checked already.
fn check(json: &[u8]) -> Result<(), BadInput> {
    let (mut at, mut depth) = (0, 0);
    while at < json.len() {
        at += match json[at] {
            b'"' => string(&json[at..])?,
            b'-' | b'0'..=b'9' => number(&json[at..])?,
            byte => {
                match byte {
                    b'[' | b'{' => depth += 1,
                    b']' | b'}' => depth -= 1,
                    _ => {}
                }
                1
            }
        };
        if depth > MAX_DEPTH {
            return Err(BadInput(format!("the body nests deeper than {MAX_DEPTH}")));
        }
    }
    Ok(())
}

/// Returns the length of the string that `json` begins with.
fn string(json: &[u8]) -> Result<usize, BadInput> {
    let mut at = 1;
    // After `\uD800`–`\uDBFF` the other half has to follow.
    let mut is_half = false;
    loop {
        let unit = match &json[at..] {
            [b'\\', b'u', digits @ ..] => hex(digits),
            _ => None,
        };
        if is_half != matches!(unit, Some(0xDC00..=0xDFFF)) {
            let lone = "the body has a lone surrogate escape, which is no character";
            return Err(BadInput(lone.into()));
        }
        is_half = matches!(unit, Some(0xD800..=0xDBFF));
        at += match (unit, json[at]) {
            (Some(_), _) => 6,
            (None, b'\\') => 2,
            (None, b'"') => return Ok(at + 1),
            (None, _) => 1,
        };
    }
}

/// The number in the first four digits.
fn hex(digits: &[u8]) -> Option<u16> {
    u16::from_str_radix(str::from_utf8(digits.get(..4)?).ok()?, 16).ok()
}

/// Returns the length of the number that `json` begins with.
fn number(json: &[u8]) -> Result<usize, BadInput> {
    let digits = json
        .iter()
        .take_while(|byte| byte.is_ascii_digit() || b"+-.eE".contains(byte));
    let length = digits.count();
    if length > MAX_NUMBER {
        let long = format!("the body has a number of more than {MAX_NUMBER} bytes");
        return Err(BadInput(long));
    }
    let literal = str::from_utf8(&json[..length]).ok();
    let value = literal.and_then(|literal| literal.parse::<f64>().ok());
    match value {
        Some(value) if value.is_finite() => Ok(length),
        _ => Err(BadInput(
            "the body has a number that no f64 can hold".into(),
        )),
    }
}

/// Enough of a peer's text to recognize it. The whole text may be long.
pub(super) fn beginning(text: &str) -> String {
    text.chars().take(100).collect()
}

/// A text that cannot be a topic, a type, a key or data, and why: one sentence for its sender.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadInput(String);

macro_rules! texts {
    ($($name:ty),*) => {$(
        impl $name {
            /// The text as it is on the wire.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    )*};
}
texts!(Data, IdempotencyKey, MessageType, Topic);

impl fmt::Debug for Topics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl fmt::Display for Topics {
    /// The names joined by commas.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, topic) in self.iter().enumerate() {
            write!(f, "{}{topic}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_is_the_documented_bytes() {
        let id = "m3k9qf-42".parse().unwrap();
        let draft = Draft {
            kind: "payment.succeeded".parse().unwrap(),
            data: Data::json(b"{\"amount\":\r\n1999}\n").unwrap(),
        };
        let published = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_456_551_123);
        let message = Message::encode(id, "payments".parse().unwrap(), draft, published);
        assert_eq!(
            message.json,
            r#"{"id":"m3k9qf-42","topic":"payments","type":"payment.succeeded","timestamp":"2026-11-23T17:55:51.123Z","data":{"amount":1999}}"#
        );
    }

    /// It is encoded under the lock of the log, where a panic would end the feed.
    #[test]
    fn no_clock_ends_the_feed() {
        let year = Duration::from_secs(366 * 24 * 3_600);
        for (time, timestamp) in [
            (SystemTime::UNIX_EPOCH - year, "1970-01-01T00:00:00.000Z"),
            (
                SystemTime::UNIX_EPOCH + 8_040 * year,
                "9999-12-31T23:59:59.999Z",
            ),
        ] {
            let (id, topic) = ("e-1".parse().unwrap(), "a".parse().unwrap());
            let message = Message::encode(id, topic, Draft::new(Data::text("1")), time);
            let json = str::from_utf8(&message.json).unwrap();
            assert!(json.contains(timestamp), "{json}");
        }
    }

    #[test]
    fn topics_are_words_joined_by_single_dots() {
        let longest = "a".repeat(64);
        for good in ["a", "A-z_0", "a.b.c", "-", longest.as_str()] {
            assert_eq!(good.parse::<Topic>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "a b",
            "a/b",
            "a,b",
            "a%20b",
            "é",
            &"a".repeat(65),
        ] {
            assert!(bad.parse::<Topic>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn types_have_their_own_alphabet() {
        assert_eq!(MessageType::default().as_str(), "message");
        for good in ["gap", "..", "a.b-c_D9", &"t".repeat(128)] {
            assert!(good.parse::<MessageType>().is_ok());
        }
        for bad in ["", "a b", "a\nb", "a\"", &"t".repeat(129)] {
            assert!(bad.parse::<MessageType>().is_err(), "{bad:?}");
        }
    }

    fn because<T>(why: &str) -> Result<T, BadInput> {
        Err(BadInput(why.to_owned()))
    }

    #[test]
    fn keys_are_visible_and_short() {
        assert!("!~".parse::<IdempotencyKey>().is_ok());
        assert!("k".repeat(255).parse::<IdempotencyKey>().is_ok());
        for bad in ["", "a b", "a\u{7f}", "é", &"k".repeat(256)] {
            let error = bad.parse::<IdempotencyKey>().unwrap_err();
            let rule = "an Idempotency-Key is 1 to 255 visible ASCII bytes";
            assert_eq!(error.to_string(), rule);
        }
    }

    #[test]
    fn topics_of_a_request_are_sorted_and_collapse() {
        assert_eq!("b,a%2Cb%2ca".parse::<Topics>().unwrap().to_string(), "a,b");
        let many = |n: usize| {
            (0..n)
                .map(|i| format!("t{i}"))
                .collect::<Vec<_>>()
                .join(",")
        };
        assert_eq!(many(64).parse::<Topics>().unwrap().iter().len(), 64);
        assert_eq!(many(65).parse::<Topics>(), because("more than 64 topics"));
        for bad in ["", ",", "a,", "a,,b", "a%20", "a%2", "a%252C"] {
            assert!(bad.parse::<Topics>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn json_is_kept_byte_for_byte_but_for_line_ends() {
        for kept in [
            "1",
            "-0.10e+5",
            "1e308",
            "1e-999",
            " {\"b\" : 1,\t\"a\":2, \"a\":3} ",
            r#""\u00e9\ud83d\ude00\\u\"\n""#,
            "\"é\u{7f}\"",
            "null",
        ] {
            assert_eq!(Data::json(kept.as_bytes()).unwrap().as_str(), kept);
        }
        assert_eq!(
            Data::json(b"\r\n[1,\r2,\n\"\\n\"]\n").unwrap().as_str(),
            r#"[1,2,"\n"]"#
        );
    }

    #[test]
    fn what_some_client_would_choke_on_is_refused() {
        for lone in [
            r#""\ud800""#,
            r#""\udc00""#,
            r#""\ud800x""#,
            r#""\ud800\n\udc00""#,
            r#""\ud800\ud800\udc00""#,
            r#"["\uDBFF","\uDC00"]"#,
        ] {
            let why = "the body has a lone surrogate escape, which is no character";
            assert_eq!(Data::json(lone.as_bytes()), because(why), "{lone}");
        }
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(Data::json(nested(64).as_bytes()).is_ok());
        for deeper in [nested(65), format!("{{\"a\":{}}}", nested(64)), nested(999)] {
            let judged = Data::json(deeper.as_bytes());
            assert_eq!(judged, because("the body nests deeper than 64"), "{deeper}");
        }
        assert!(Data::json(format!("\"{}\"", "[".repeat(500)).as_bytes()).is_ok());
        assert_eq!(
            Data::json(b"\"\xff\""),
            because("the body is not UTF-8 at byte 1")
        );
        for bad in [
            "",
            " ",
            "{",
            "1 2",
            "nul",
            "\u{feff}1",
            "\"\n\"",
            "'a'",
            "[1,]",
            "01",
            "NaN",
        ] {
            let error = Data::json(bad.as_bytes()).unwrap_err().to_string();
            assert!(
                error.starts_with("the body is not JSON: "),
                "{bad:?}: {error}"
            );
        }
    }

    #[test]
    fn a_number_is_finite_and_short() {
        let whole = |digits: usize| "9".repeat(digits);
        let fraction = |length: usize| format!("0.{}", "1".repeat(length - 2));
        for good in [
            "1.7976931348623157e308".to_owned(),
            whole(308),
            format!("-{}", fraction(999)),
            fraction(1_000),
            format!("[{0},{0}]", fraction(1_000)),
            format!("{{\"{}\":\"1e999\"}}", whole(2_000)),
        ] {
            assert!(Data::json(good.as_bytes()).is_ok(), "{good}");
        }
        for infinite in [
            "1e999".to_owned(),
            "[0,-1E+999 ]".to_owned(),
            r#"{"a":1.8e308}"#.to_owned(),
            whole(309),
        ] {
            let judged = Data::json(infinite.as_bytes());
            let why = "the body has a number that no f64 can hold";
            assert_eq!(judged, because(why), "{infinite}");
        }
        for long in [
            fraction(1_001),
            format!("[-{}]", fraction(1_000)),
            whole(4_301),
        ] {
            let judged = Data::json(long.as_bytes());
            let why = "the body has a number of more than 1000 bytes";
            assert_eq!(judged, because(why), "{long}");
        }
    }

    #[test]
    fn text_becomes_a_json_string() {
        assert_eq!(
            Data::utf8_text(b"a\"\r\n\0b").unwrap().as_str(),
            r#""a\"\r\n\u0000b""#
        );
        assert_eq!(Data::utf8_text(b"").unwrap().as_str(), r#""""#);
        assert_eq!(
            Data::text("é\u{85}a\u{2028}\u{2029}\u{2027}").as_str(),
            "\"é\\u0085a\\u2028\\u2029\u{2027}\""
        );
        assert_eq!(
            Data::utf8_text(b"ab\xc3"),
            because("the body is not UTF-8 at byte 2")
        );
    }

    proptest! {
        #[test]
        fn any_text_is_one_line_that_reads_back(text: String) {
            let data = Data::text(&text);
            prop_assert!(!data.as_str().contains(['\r', '\n']));
            prop_assert_eq!(serde_json::from_str::<String>(data.as_str()).unwrap(), text);
        }

        /// `serde_json::Value` refuses lone surrogates itself, so it is a second judge.
        #[test]
        fn the_scan_agrees_with_a_full_parser(text in r#"[\[\]{}"\\udD8cC00-9a-f,: \r\n]{0,24}"#) {
            let judged = Data::json(text.as_bytes());
            match serde_json::from_str::<serde_json::Value>(&text) {
                Ok(value) => prop_assert_eq!(serde_json::from_str::<serde_json::Value>(judged.unwrap().as_str()).unwrap(), value),
                Err(_) => prop_assert!(judged.is_err()),
            }
        }

        #[test]
        fn surrogate_escapes_agree_with_a_full_parser(units in prop::collection::vec(prop_oneof![0xD7FEu32..0xE002, Just(0x61)], 0..6)) {
            let text: String = units.iter().map(|unit| format!("\\u{unit:04x}")).collect();
            let json = format!("\"{text}\"");
            prop_assert_eq!(Data::json(json.as_bytes()).is_ok(), serde_json::from_str::<serde_json::Value>(&json).is_ok());
        }

        #[test]
        fn arbitrary_bytes_never_panic(body: Vec<u8>) {
            let _ = Data::json(&body);
            let _ = Data::utf8_text(&body);
        }
    }
}
