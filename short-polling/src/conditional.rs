//! Conditional requests (RFC 9110 §13): an answer that the client has already shrinks to a 304.
//!
//! An [`etag`] begins with the last message of its topics that a reader has been given once it has
//! the answer, by this one or an earlier one: `W/"EPOCH-SEQ"`. Behind that stands, in an answer with
//! news, what they are: `W/"EPOCH-SEQ.DIGEST"`. So there are two ways to have an answer already:
//!
//! - news, by the same ETag: the same messages and the same gap, whatever was asked for;
//! - no news, by any ETag that begins like this answer's own. So a client may ask after the `next`
//!   of its last answer and send that answer's ETag along, and messages of other topics, which move
//!   `next`, leave it alone.
//!
//! A 304 therefore never hides a message or a gap: not from an ETag of other topics, nor from one
//! of a later position. The second way is more than RFC 9110 asks for, whose ETags are of one URL: it
//! is sound because the cursor is in the URL and no cache may answer by itself (`no-cache`).
//!
//! Weak, because `next` may differ between two answers of one ETag. A strong one would also change
//! on the way: nginx makes it weak when it compresses, and until 1.7.3 it took it away.

use std::hash::{DefaultHasher, Hash, Hasher};

use common::{Gap, Page};
use hyper::header::{HeaderMap, IF_NONE_MATCH};

/// The ETag of `page`.
pub fn etag(page: &Page) -> String {
    let last = page.last;
    if page.is_news() {
        format!("W/\"{last}.{:016x}\"", digest(page))
    } else {
        format!("W/\"{last}\"")
    }
}

/// Of the messages, whose ids name them, and the gap. A server of another build may come to another
/// one, and answers 200 once more.
fn digest(page: &Page) -> u64 {
    let mut digest = DefaultHasher::new();
    for message in &page.messages {
        message.id.hash(&mut digest);
    }
    page.gap.as_ref().map(Gap::to_json).hash(&mut digest);
    digest.finish()
}

/// Whether `If-None-Match` names `etag`, by weak comparison (RFC 9110 §8.8.3.2), or one of which
/// `etag` is the beginning, or is `*`, as any topic has a page. What does not parse names nothing:
/// to answer 200 is never wrong.
pub fn is_not_modified(request: &HeaderMap, etag: &str) -> bool {
    let (wanted, _) = opaque(etag.as_bytes()).unwrap_or_default();
    let is_known = |tag: &[u8]| matches!(tag.strip_prefix(wanted), Some([] | [b'.', ..]));
    let mut fields = request.get_all(IF_NONE_MATCH).iter();
    let (first, second) = (fields.next(), fields.next());
    // Several fields are one list (RFC 9110 §5.3), in which `*` stands alone.
    let is_any =
        second.is_none() && first.is_some_and(|field| field.as_bytes().trim_ascii() == b"*");
    let mut all = [first, second].into_iter().flatten().chain(fields);
    is_any || all.any(|list| tags(list.as_bytes()).any(is_known))
}

/// The opaque parts of a list's ETags, until one is malformed or no comma follows it.
fn tags(mut list: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        while let [b',' | b' ' | b'\t', rest @ ..] = list {
            list = rest;
        }
        let (tag, rest) = opaque(list)?;
        list = rest.trim_ascii_start();
        matches!(list, [] | [b',', ..]).then_some(tag)
    })
}

/// The part between the quotes of the ETag that `text` starts with, and what follows the ETag.
/// A quote cannot be escaped, and a comma inside is an ordinary byte.
fn opaque(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let quoted = text
        .strip_prefix(b"W/")
        .unwrap_or(text)
        .strip_prefix(b"\"")?;
    let end = quoted.iter().position(|byte| *byte == b'"')?;
    Some((&quoted[..end], &quoted[end + 1..]))
}

#[cfg(test)]
mod tests {
    use common::{Cursor, Gap, Reason};
    use hyper::header::HeaderValue;

    use super::*;

    const ETAG: &str = "W/\"m3k9qf-42\"";

    /// No news since m3k9qf-42.
    fn quiet() -> Page {
        Page {
            messages: Vec::new(),
            next: cursor("m3k9qf-50"),
            last: cursor("m3k9qf-42"),
            more: false,
            gap: None,
            published: None,
        }
    }

    fn cursor(text: &str) -> Cursor {
        text.parse().unwrap()
    }

    fn gap(requested: &str, topics: &str) -> Gap {
        Gap {
            reason: Reason::Trimmed,
            topics: topics.parse().unwrap(),
            requested: requested.to_owned(),
            resumed: cursor("m3k9qf-40"),
        }
    }

    fn is_known(fields: &[&str]) -> bool {
        is_had(&quiet(), fields)
    }

    fn is_had(page: &Page, fields: &[&str]) -> bool {
        let mut request = HeaderMap::new();
        for field in fields {
            request.append(IF_NONE_MATCH, HeaderValue::from_str(field).unwrap());
        }
        is_not_modified(&request, &etag(page))
    }

    #[test]
    fn if_none_match_is_a_list_compared_weakly() {
        for known in [
            &["W/\"m3k9qf-42\""][..],
            &["\"m3k9qf-42\""],
            &["  W/\"m3k9qf-42\"\t"],
            &["\"a\", W/\"b\",W/\"m3k9qf-42\""],
            &[", ,\"a,b\" , \"m3k9qf-42\","],
            &["\"a\"", "\"m3k9qf-42\""],
            &["*"],
            &[" * "],
        ] {
            assert!(is_known(known), "{known:?}");
        }
        for unknown in [
            &[][..],
            &[""],
            &["W/\"m3k9qf-4\""],
            &["W/\"m3k9qf-42 \""],
            &["W/\"M3K9QF-42\""],
            &["\"\""],
            &["\"a, W/\"m3k9qf-42"],
        ] {
            assert!(!is_known(unknown), "{unknown:?}");
        }
    }

    #[test]
    fn what_does_not_parse_names_nothing() {
        for malformed in [
            "m3k9qf-42",
            "\"m3k9qf-42",
            "W/m3k9qf-42",
            "w/\"m3k9qf-42\"",
            "W/ \"m3k9qf-42\"",
            "*, \"a\"",
            "'m3k9qf-42'",
            "\"m3k9qf-42\" \"a\"",
            "\"m3k9qf-42\"W/\"a\"",
            "\"a\" \"m3k9qf-42\"",
        ] {
            assert!(!is_known(&[malformed]), "{malformed:?}");
        }
        assert!(!is_known(&["*", "\"a\""]) && !is_known(&["*", "*"]));
        assert!(
            is_known(&["\"m3k9qf-42\", what"]),
            "before the malformed one"
        );
    }

    #[test]
    fn an_etag_tells_the_last_message_and_what_is_new() {
        let quiet = quiet();
        assert_eq!(etag(&quiet), ETAG);
        let news = [("m3k9qf-1", "a"), ("m3k9qf-1", "a,b"), ("m3k9qf-2", "a")]
            .map(|(requested, topics)| gap(requested, topics))
            .map(|gap| Page {
                gap: Some(gap),
                ..quiet.clone()
            });
        for (index, page) in news.iter().enumerate() {
            assert!(etag(page).starts_with("W/\"m3k9qf-42."), "{}", etag(page));
            assert!(is_had(page, &[&etag(page)]));
            for other in &news[..index] {
                assert!(!is_had(page, &[&etag(other)]) && !is_had(other, &[&etag(page)]));
            }
        }
    }

    #[test]
    fn the_etag_of_the_last_news_is_known_until_there_is_more() {
        let (quiet, mut news) = (quiet(), quiet());
        news.gap = Some(gap("m3k9qf-1", "a"));
        assert!(is_had(&quiet, &[&etag(&news)]));
        assert!(!is_had(&news, &[ETAG]));
        for other in ["W/\"m3k9qf-4.0\"", "W/\"m3k9qf-421\"", "W/\"m3k9qf-41.0\""] {
            assert!(!is_had(&quiet, &[other]), "{other}");
        }
    }
}
