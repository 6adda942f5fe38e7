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
//! `?heartbeat=SECONDS`. A client may subscribe after its `next` instead of its last id. If a subscription's
//! last id is newer, the client keeps that id: `next` is the oldest position of all subscriptions.

use std::{
    fmt::{self, Display},
    iter,
    str::FromStr,
};

use common::{
    After, Cursor, Data, Draft, Gap, IdempotencyKey, Message, Problem, Published, Topic, Topics,
};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{json, value::RawValue};

use crate::{
    frames::{TEXT, begin_frame},
    handshake::Refusal,
};

/// The name that clients offer in `Sec-WebSocket-Protocol`.
pub const SUBPROTOCOL: &str = "feed.v1.json";
/// The longest `ref` in bytes of JSON.
const MAX_REF: usize = 64;

/// A refused handshake has the same form as every other error.
impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self {
            headers: refusal.fields(),
            ..Self::new(refusal.status, refusal)
        }
    }
}

/// What a client asks for.
#[derive(Debug)]
pub(crate) enum Command {
    /// With a key, the same message again is published once.
    Publish(Topic, Draft, Option<IdempotencyKey>),
    /// Where to start, and whether only the newest messages are wanted.
    Subscribe(Topics, After, bool),
    Unsubscribe(Topics),
    /// The client has this message.
    Received(Cursor),
    Ping,
}

/// Links an answer to its command: a string or a number that is sent back byte for byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ref<'a>(&'a str);

impl<'a> Ref<'a> {
    fn new(json: &'a str) -> Option<Self> {
        let scalar = json.starts_with(|first| matches!(first, '"' | '-' | '0'..='9'));
        // An answer with a lone surrogate or `1e999` would be JSON that common parsers fail on.
        let readable = json.len() <= MAX_REF && Data::json(json.as_bytes()).is_ok();
        (scalar && readable).then_some(Self(json))
    }
}

/// Reads one text message: the command's `ref`, if that can be read, and the command, or what is wrong
/// with it.
pub(crate) fn parse(text: &str) -> (Option<Ref<'_>>, Result<Command, Problem>) {
    match RawCommand::parse(text) {
        Ok(command) => (command.reference(), command.check()),
        Err(problem) => (None, Err(problem)),
    }
}

/// A command as JSON.
struct RawCommand<'a> {
    name: String,
    /// The members that were not taken yet.
    left: Vec<Member<'a>>,
}

type Member<'a> = (String, &'a RawValue);

impl<'a> RawCommand<'a> {
    fn parse(text: &'a str) -> Result<Self, Problem> {
        let mut frame = object(text).map_err(not_a_command)?;
        let (Some((name, body)), None) = (frame.pop(), frame.pop()) else {
            return Err(not_a_command("expected an object with one member"));
        };
        match object(body.get()) {
            Ok(left) => Ok(Self { name, left }),
            Err(error) => Err(not_a_command(format!("{name}: {error}"))),
        }
    }

    fn reference(&self) -> Option<Ref<'a>> {
        let mut refs = self.left.iter().filter(|(name, _)| name == "ref");
        Ref::new(refs.next()?.1.get())
    }

    fn check(mut self) -> Result<Command, Problem> {
        let command = match &*self.name {
            "publish" => {
                Command::Publish(self.text("topic")?, self.draft()?, self.optional("key")?)
            }
            "subscribe" => Command::Subscribe(self.topics()?, self.after()?, self.newest()?),
            "unsubscribe" => Command::Unsubscribe(self.topics()?),
            "received" => Command::Received(self.text("id")?),
            "ping" => Command::Ping,
            _ => return Err(self.wrong("no such command")),
        };
        if !matches!(command, Command::Received(_) | Command::Ping)
            && Ref::new(self.json("ref")?).is_none()
        {
            let reason = format!("ref: a ref is a string or a number of at most {MAX_REF} bytes");
            return Err(self.wrong(reason));
        }
        // Unknown members are refused: a misspelt `afer` must not subscribe from another position.
        match self.left.first() {
            None => Ok(command),
            Some((name, _)) => Err(self.wrong(format!("{name} is unknown, or there twice"))),
        }
    }

    fn draft(&mut self) -> Result<Draft, Problem> {
        let kind = self.optional("type")?.unwrap_or_default();
        // Checked once more, because serde takes some JSON that breaks other parsers.
        let checked = Data::json(self.json("data")?.as_bytes());
        let data = checked.map_err(Problem::bad_request)?;
        Ok(Draft { kind, data })
    }

    fn topics(&mut self) -> Result<Topics, Problem> {
        let json = self.json("topics")?;
        let names = self.read::<Vec<String>>("topics", json)?;
        Topics::named(names.iter().map(String::as_str)).map_err(Problem::bad_request)
    }

    fn after(&mut self) -> Result<After, Problem> {
        let text = self.optional::<String>("after")?;
        let after = text.map_or(Ok(After::Latest), |text| text.parse());
        after.map_err(|error| Problem::bad_request(format!("after: {error}")))
    }

    fn newest(&mut self) -> Result<bool, Problem> {
        match self.take("newest") {
            None | Some("null") => Ok(false),
            Some("1" | "true") => Ok(true),
            Some(_) => Err(self.wrong("newest: it is 1, true or absent")),
        }
    }

    fn text<T: FromStr<Err: ToString>>(&mut self, name: &str) -> Result<T, Problem> {
        let text = self.optional(name)?;
        text.ok_or_else(|| self.wrong(format!("{name} is missing")))
    }

    /// A text member. `null` counts as absent.
    fn optional<T: FromStr<Err: ToString>>(&mut self, name: &str) -> Result<Option<T>, Problem> {
        let json = self.take(name).unwrap_or("null");
        let text = self.read::<Option<String>>(name, json)?;
        let value = text.map(|text| text.parse()).transpose();
        value.map_err(Problem::bad_request)
    }

    fn read<T: Deserialize<'a>>(&self, name: &str, json: &'a str) -> Result<T, Problem> {
        serde_json::from_str(json).map_err(|error| self.wrong(format!("{name}: {error}")))
    }

    fn json(&mut self, name: &str) -> Result<&'a str, Problem> {
        let json = self.take(name);
        json.ok_or_else(|| self.wrong(format!("{name} is missing")))
    }

    /// The member's JSON.
    fn take(&mut self, name: &str) -> Option<&'a str> {
        let place = self.left.iter().position(|(other, _)| other == name)?;
        Some(self.left.remove(place).1.get())
    }

    fn wrong(&self, why: impl Display) -> Problem {
        not_a_command(format!("{}: {why}", self.name))
    }
}

fn not_a_command(why: impl Display) -> Problem {
    Problem::bad_request(format!("not a command: {why}"))
}

/// The members of an object in their order. A derived `Deserialize` would also take arrays for objects.
fn object(json: &str) -> serde_json::Result<Vec<Member<'_>>> {
    let mut json = serde_json::Deserializer::from_str(json);
    let members = json.deserialize_map(Object)?;
    json.end()?;
    Ok(members)
}

struct Object;

impl<'de> Visitor<'de> for Object {
    type Value = Vec<Member<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        iter::from_fn(|| map.next_entry().transpose()).collect()
    }
}

/// Appends the frame of a message in its envelope.
pub(crate) fn push_message(message: &Message, out: &mut Vec<u8>) {
    let parts = [b"{\"message\":", &message.json[..], b"}"];
    begin_frame(TEXT, parts.iter().map(|part| part.len()).sum(), out);
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

pub(crate) fn gap(gap: &Gap) -> String {
    format!(r#"{{"gap":{}}}"#, gap.to_json())
}

pub(crate) fn ack(reference: Option<Ref<'_>>, published: Published) -> String {
    let Published { id, duplicate } = published;
    let member = ref_member(reference);
    format!(r#"{{"ack":{{{member}"id":"{id}","duplicate":{duplicate}}}}}"#)
}

/// Without `reference`: the answer to the subscription in the request's path.
pub(crate) fn subscribed(reference: Option<Ref<'_>>, next: Option<Cursor>) -> String {
    let member = ref_member(reference);
    let next = json!(next.map(|next| next.to_string()));
    format!(r#"{{"subscribed":{{{member}"next":{next}}}}}"#)
}

pub(crate) fn error(reference: Option<Ref<'_>>, problem: &Problem) -> String {
    let (member, status) = (ref_member(reference), problem.status.as_u16());
    let detail = json!(problem.detail);
    format!(r#"{{"error":{{{member}"status":{status},"detail":{detail}}}}}"#)
}

pub(crate) fn pong() -> String {
    r#"{"pong":{}}"#.to_owned()
}

pub(crate) fn heartbeat(next: Cursor) -> String {
    format!(r#"{{"heartbeat":{{"next":"{next}"}}}}"#)
}

fn ref_member(reference: Option<Ref<'_>>) -> String {
    reference.map_or(String::new(), |Ref(json)| format!("\"ref\":{json},"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_ref_is_a_short_string_or_number() {
        let longest = format!("\"{}\"", "r".repeat(62));
        for good in ["1", "-1.50e3", "\"\"", "\"\\u0031\"", &longest] {
            assert_eq!(Ref::new(good), Some(Ref(good)));
        }
        let long = format!("\"{}\"", "r".repeat(63));
        for bad in ["null", "true", "[]", "{}", "", &long] {
            assert_eq!(Ref::new(bad), None, "{bad}");
        }
    }

    #[test]
    fn frames_are_the_documented_bytes() {
        let id: Cursor = "e-7".parse().unwrap();
        let one = Ref::new("1");
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
            subscribed(one, Some(id)),
            r#"{"subscribed":{"ref":1,"next":"e-7"}}"#
        );
        assert_eq!(subscribed(None, None), r#"{"subscribed":{"next":null}}"#);
        assert_eq!(
            error(one, &problem),
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
        let reference = |text| {
            let (reference, command) = parse(text);
            assert!(command.is_err(), "{text}");
            reference
        };
        let misspelt = r#"{"subscribe":{"topics":["a"],"afer":"x","ref":7}}"#;
        assert_eq!(reference(misspelt), Some(Ref("7")));
        assert_eq!(reference(r#"{"leave":{"ref":"b"}}"#), Some(Ref("\"b\"")));
        let twice = r#"{"subscribe":{"ref":1,"ref":2,"topics":["a"]}}"#;
        assert_eq!(reference(twice), Some(Ref("1")));
        for nothing in [
            r#"{"leave":{"ref":[]}}"#,
            r#"{"leave":{"ref":"\ud800"}}"#,
            r#"{"leave":{"ref":1e999}}"#,
            r#"{"leave":{}}"#,
            "[7]",
            "{",
        ] {
            assert_eq!(reference(nothing), None, "{nothing}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_command_or_an_error_that_is_json(text in r#"([{}\[\]",:0-9]|publish|topics?|data|ref|ping|after){0,40}"#) {
            if let (reference, Err(problem)) = parse(&text) {
                prop_assert!(serde_json::from_str::<Value>(&error(reference, &problem)).is_ok());
            }
        }

        #[test]
        fn data_is_taken_byte_for_byte(text: String) {
            let data = serde_json::to_string(&text).unwrap();
            let json = format!(r#"{{"publish":{{"topic":"a","data": {data} ,"ref":1}}}}"#);
            match parse(&json) {
                (_, Ok(Command::Publish(_, draft, _))) => prop_assert_eq!(draft.data.as_str(), data),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
