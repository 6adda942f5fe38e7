//! A page as the bytes that go on the wire, encoded once for all who read it.
//!
//! A message goes to thousands of sessions in the same moment, each as a page of its own, and mostly as
//! the same page. So each thread keeps the page that it encoded last: whoever has the same messages
//! to send shares its bytes.

use std::{cell::RefCell, sync::Arc};

use bytes::Bytes;
use common::{Cursor, Message};

use crate::{protocol, socket};

thread_local! {
    static LAST: RefCell<Encoded> = RefCell::default();
}

#[derive(Default)]
struct Encoded {
    ids: Vec<Cursor>,
    frames: Bytes,
}

/// The frames of these messages.
pub(crate) fn of(messages: &[Arc<Message>]) -> Bytes {
    LAST.with_borrow_mut(|last| {
        if !last.holds(messages) {
            *last = Encoded::new(messages);
        }
        last.frames.clone()
    })
}

impl Encoded {
    fn new(messages: &[Arc<Message>]) -> Self {
        let mut frames = Vec::new();
        for message in messages {
            socket::text_frame(&protocol::message(message), &mut frames);
        }
        Self {
            ids: messages.iter().map(|message| message.id).collect(),
            frames: frames.into(),
        }
    }

    /// An id names a message for ever.
    fn holds(&self, messages: &[Arc<Message>]) -> bool {
        self.ids
            .iter()
            .eq(messages.iter().map(|message| &message.id))
    }
}

#[cfg(test)]
mod tests {
    use common::{After, Data, Draft, Feed, PageLimit, Retention};

    use super::*;

    #[tokio::test]
    async fn who_sends_the_same_messages_shares_their_bytes_and_nobody_gets_others() {
        let feed = Feed::new(Retention::default());
        for text in ["one", "two"] {
            let draft = Draft::new(Data::text(text));
            feed.publish("a".parse().unwrap(), draft).await.unwrap();
        }
        let topics = "a".parse().unwrap();
        let page = feed.read(&topics, &After::Earliest, PageLimit::default());
        let messages = page.await.unwrap().messages;
        let (both, again) = (of(&messages), of(&messages));
        assert_eq!(both.as_ptr(), again.as_ptr());
        let one = of(&messages[..1]);
        assert_eq!(one, both[..one.len()]);
        assert_eq!(of(&messages[1..]), both[one.len()..]);
        assert_eq!(of(&messages), both);
        let json = &messages[0].json;
        let text = [b"{\"message\":", &json[..], b"}"].concat();
        let header = [0x81, 126, 0, text.len().try_into().unwrap()];
        let header = if text.len() < 126 {
            &[0x81, header[3]][..]
        } else {
            &header[..]
        };
        assert_eq!(one, [header, &text].concat());
    }
}
