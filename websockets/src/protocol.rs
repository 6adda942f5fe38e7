//! The JSON in the frames, subprotocol `feed.v1.json`, as pure functions.
//!
//! Every frame is a text message that holds an object with one member. Its name says what the frame is:
//!
//! | from the client | |
//! | --- | --- |
//! | `{"publish":{"topic":"chat","data":…,"ref":1}}` | also `"type"`, and `"key"`, the Idempotency-Key; answered by `ack` |
//! | `{"subscribe":{"topics":["chat"],"after":"…","ref":2}}` | `after` is a cursor, `earliest`, `last` or `latest`, the default; also `"newest":1`; answered by `subscribed` |
//! | `{"unsubscribe":{"topics":["chat"],"ref":3}}` | answered by `subscribed` |
//! | `{"received":{"id":"…"}}` | the client has this message; logged, not answered |
//! | `{"ping":{}}` | answered by `pong`: a page cannot send a ping of the WebSocket protocol |
//!
//! | from the server | |
//! | --- | --- |
//! | `{"message":{…}}` | the message, as on every wire |
//! | `{"gap":{…}}` | messages that were lost, as on every wire |
//! | `{"ack":{"ref":1,"id":"…","duplicate":false}}` | published |
//! | `{"subscribed":{"ref":2,"next":"…"}}` | messages of these topics come after `next`; as the answer to `unsubscribe`, they came up to `next` |
//! | `{"error":{"ref":1,"status":400,"detail":"…"}}` | nothing was done; without `ref` if the command has no readable one |
//! | `{"pong":{}}` | |
//! | `{"heartbeat":{"next":"…"}}` | everything up to `next` was sent, in every subscription |
//!
//! In `subscribed`, `next` is `null` if the position is unknown: a `gap` then follows and names it, or
//! the newest message of each topic, if `after` was `last`.
//!
//! With `newest`, `1` or `true`, the server skips a message when it already has a newer one of the same
//! topic to send. That is no gap.
//!
//! A `heartbeat` comes once after `subscribed`, as soon as every subscription has sent what there was: the
//! client is live. It also comes after each gap, and to clients that asked for it with
//! `?heartbeat=SECONDS`. A client may subscribe after its `next` instead of its last id. If its last id is
//! newer, it keeps that id.

use std::fmt;

use common::{Cursor, Gap, Message, Problem, Published};
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};
use serde_json::{json, value::RawValue};

/// The name that clients offer in `Sec-WebSocket-Protocol`.
pub(crate) const SUBPROTOCOL: &str = "feed.v1.json";
/// The longest `ref` in bytes of JSON.
const MAX_REF: usize = 64;

/// What a client asks for. Names and cursors are still text here, so that an error about them can carry
/// the command's `ref`.
#[derive(Debug)]
pub(crate) enum Command<'a> {
    Publish(Publish<'a>),
    Subscribe(Subscribe<'a>),
    Unsubscribe(Unsubscribe<'a>),
    Received(Received),
    Ping,
}

#[derive(Debug)]
pub(crate) struct Publish<'a> {
    pub(crate) topic: String,
    pub(crate) kind: Option<String>,
    pub(crate) data: &'a RawValue,
    /// The idempotency key: the same key and message again are published once.
    pub(crate) key: Option<String>,
    pub(crate) reference: Ref<'a>,
}

#[derive(Debug)]
pub(crate) struct Subscribe<'a> {
    pub(crate) topics: Vec<String>,
    pub(crate) after: Option<String>,
    pub(crate) newest: bool,
    pub(crate) reference: Ref<'a>,
}

#[derive(Debug)]
pub(crate) struct Unsubscribe<'a> {
    pub(crate) topics: Vec<String>,
    pub(crate) reference: Ref<'a>,
}

#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) id: String,
}

/// `1` as in a query, or `true`.
struct Newest;

impl<'de> Deserialize<'de> for Newest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match <&RawValue>::deserialize(deserializer)?.get() {
            "1" | "true" => Ok(Self),
            _ => Err(D::Error::custom("it is 1, true or absent")),
        }
    }
}

/// Links an answer to its command: a string or a number that is sent back byte for byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ref<'a>(&'a str);

impl<'de: 'a, 'a> Deserialize<'de> for Ref<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = <&RawValue>::deserialize(deserializer)?.get();
        let scalar = json.starts_with(|first| matches!(first, '"' | '-' | '0'..='9'));
        if !scalar || json.len() > MAX_REF {
            let expected = format!("a ref is a string or a number of at most {MAX_REF} bytes");
            return Err(D::Error::custom(expected));
        }
        Ok(Self(json))
    }
}

impl fmt::Display for Ref<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Reads one text message. If it is not a command, the error has its `ref`, if that can be read.
pub(crate) fn parse(text: &str) -> Result<Command<'_>, (Option<Ref<'_>>, Problem)> {
    let mut reference = None;
    read(text, &mut reference).map_err(|why| {
        let problem = Problem::bad_request(format!("not a command: {why}"));
        (reference, problem)
    })
}

fn read<'a>(text: &'a str, reference: &mut Option<Ref<'a>>) -> Result<Command<'a>, String> {
    let Members(frame) = object(text)?;
    let [(name, body)] = &frame[..] else {
        return Err("expected an object with one member".into());
    };
    let mut members = object(body.get()).map_err(|why| format!("{name}: {why}"))?;
    *reference = members.reference();
    let command = members.command(name);
    // Unknown members are refused: a misspelt `afer` must not subscribe from another position.
    let known = command.and_then(|command| members.end().map(|()| command));
    known.map_err(|why| format!("{name}: {why}"))
}

fn object(json: &str) -> Result<Members<'_>, String> {
    serde_json::from_str(json).map_err(|error| error.to_string())
}

/// The members of an object that were not taken yet. Derived, serde would also take arrays for objects.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Members<'a> {
    fn command(&mut self, name: &str) -> Result<Command<'a>, String> {
        Ok(match name {
            "publish" => Command::Publish(Publish {
                topic: self.required("topic")?,
                kind: self.optional("type")?,
                data: self.required("data")?,
                key: self.optional("key")?,
                reference: self.required("ref")?,
            }),
            "subscribe" => Command::Subscribe(Subscribe {
                topics: self.required("topics")?,
                after: self.optional("after")?,
                newest: self.optional::<Newest>("newest")?.is_some(),
                reference: self.required("ref")?,
            }),
            "unsubscribe" => Command::Unsubscribe(Unsubscribe {
                topics: self.required("topics")?,
                reference: self.required("ref")?,
            }),
            "received" => Command::Received(Received {
                id: self.required("id")?,
            }),
            "ping" => Command::Ping,
            _ => return Err("no such command".into()),
        })
    }

    fn reference(&self) -> Option<Ref<'a>> {
        let (_, json) = self.0.iter().find(|(name, _)| name == "ref")?;
        serde_json::from_str(json.get()).ok()
    }

    fn required<T: Deserialize<'a>>(&mut self, name: &str) -> Result<T, String> {
        let place = self.0.iter().position(|(other, _)| other == name);
        let (_, json) = self
            .0
            .remove(place.ok_or_else(|| format!("{name} is missing"))?);
        serde_json::from_str(json.get()).map_err(|error| format!("{name}: {error}"))
    }

    /// `null` is as if it were not there.
    fn optional<T: Deserialize<'a>>(&mut self, name: &str) -> Result<Option<T>, String> {
        if self.0.iter().all(|(other, _)| other != name) {
            return Ok(None);
        }
        self.required(name)
    }

    fn end(&self) -> Result<(), String> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(format!("{name} is unknown, or there twice")),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(AnyMembers).map(Self)
    }
}

struct AnyMembers;

impl<'de> Visitor<'de> for AnyMembers {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(members)
    }
}

/// The message in its envelope.
pub(crate) fn message(message: &Message) -> Vec<u8> {
    [b"{\"message\":", &message.json[..], b"}"].concat()
}

pub(crate) fn gap(gap: &Gap) -> String {
    format!(r#"{{"gap":{}}}"#, gap.to_json())
}

pub(crate) fn ack(reference: Ref<'_>, published: Published) -> String {
    let Published { id, duplicate } = published;
    format!(r#"{{"ack":{{"ref":{reference},"id":"{id}","duplicate":{duplicate}}}}}"#)
}

/// Without `reference`: the answer to the subscription in the request's path.
pub(crate) fn subscribed(reference: Option<Ref<'_>>, next: Option<Cursor>) -> String {
    let ref_member = ref_member(reference);
    let json = next.map_or("null".to_owned(), |next| format!("\"{next}\""));
    format!(r#"{{"subscribed":{{{ref_member}"next":{json}}}}}"#)
}

pub(crate) fn error(reference: Option<Ref<'_>>, problem: &Problem) -> String {
    let ref_member = ref_member(reference);
    let status = problem.status.as_u16();
    let detail = json!(problem.detail);
    format!(r#"{{"error":{{{ref_member}"status":{status},"detail":{detail}}}}}"#)
}

pub(crate) fn pong() -> String {
    r#"{"pong":{}}"#.to_owned()
}

pub(crate) fn heartbeat(next: Cursor) -> String {
    format!(r#"{{"heartbeat":{{"next":"{next}"}}}}"#)
}

fn ref_member(reference: Option<Ref<'_>>) -> String {
    reference.map_or(String::new(), |reference| format!("\"ref\":{reference},"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn scalar(json: &str) -> Option<Ref<'_>> {
        serde_json::from_str(json).ok()
    }

    #[test]
    fn a_ref_is_a_short_string_or_number() {
        let longest = format!("\"{}\"", "r".repeat(62));
        for good in ["1", "-1.50e3", "\"\"", "\"\\u0031\"", &longest] {
            assert_eq!(scalar(good), Some(Ref(good)));
        }
        let long = format!("\"{}\"", "r".repeat(63));
        for bad in ["null", "true", "[]", "{}", "", &long] {
            assert_eq!(scalar(bad), None, "{bad}");
        }
    }

    #[test]
    fn frames_are_the_documented_bytes() {
        let id: Cursor = "e-7".parse().unwrap();
        let one = scalar("1").unwrap();
        let published = Published {
            id,
            duplicate: false,
        };
        let problem = Problem::bad_request("a \"b\"");
        assert_eq!(
            ack(one, published),
            r#"{"ack":{"ref":1,"id":"e-7","duplicate":false}}"#
        );
        assert_eq!(
            subscribed(Some(one), Some(id)),
            r#"{"subscribed":{"ref":1,"next":"e-7"}}"#
        );
        assert_eq!(subscribed(None, None), r#"{"subscribed":{"next":null}}"#);
        assert_eq!(
            error(Some(one), &problem),
            r#"{"error":{"ref":1,"status":400,"detail":"a \"b\""}}"#
        );
        assert_eq!(
            error(None, &problem),
            r#"{"error":{"status":400,"detail":"a \"b\""}}"#
        );
        assert_eq!(pong(), r#"{"pong":{}}"#);
        assert_eq!(heartbeat(id), r#"{"heartbeat":{"next":"e-7"}}"#);
    }

    #[test]
    fn what_is_no_command_is_refused_with_its_ref_if_that_can_be_read() {
        let reference = |text| parse(text).unwrap_err().0;
        let misspelt = r#"{"subscribe":{"topics":["a"],"afer":"x","ref":7}}"#;
        assert_eq!(reference(misspelt), Some(Ref("7")));
        assert_eq!(reference(r#"{"leave":{"ref":"b"}}"#), Some(Ref("\"b\"")));
        let twice = r#"{"subscribe":{"ref":1,"ref":2,"topics":["a"]}}"#;
        assert_eq!(reference(twice), Some(Ref("1")));
        for nothing in [r#"{"leave":{"ref":[]}}"#, r#"{"leave":{}}"#, "[7]", "{"] {
            assert_eq!(reference(nothing), None, "{nothing}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_command_or_an_error_that_is_json(text in r#"([{}\[\]",:0-9]|publish|topics?|data|ref|ping|after){0,40}"#) {
            if let Err((reference, problem)) = parse(&text) {
                prop_assert!(serde_json::from_str::<Value>(&error(reference, &problem)).is_ok());
            }
        }

        #[test]
        fn data_is_taken_byte_for_byte(text: String) {
            let data = serde_json::to_string(&text).unwrap();
            let json = format!(r#"{{"publish":{{"topic":"a","data": {data} ,"ref":1}}}}"#);
            match parse(&json) {
                Ok(Command::Publish(publish)) => prop_assert_eq!(publish.data.get(), data),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
