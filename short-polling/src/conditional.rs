//! Conditional requests (RFC 9110 §13): an answer that the client has already shrinks to a 304.
//!
//! An [`etag`] names what a reader *has* once it has the answer, not the answer's bytes:
//! `W/"EPOCH-SEQ"`, the last message of its topics that it was given, by this answer or an earlier
//! one. Messages of other topics move `next` and leave the ETag alone, and so does `earliest`
//! losing its oldest. So a client may ask after the `next` of its last answer and send that
//! answer's ETag along: while nothing is new it has what it would be given, and is told so.
//!
//! A gap is news too, and stands behind the position. The ETag of the quiet answer that follows is
//! a plain one again, and that answer a 200, once.
//!
//! Weak, because `next` may differ between two answers of one ETag. A strong one would also change
//! on the way: nginx makes it weak when it compresses, and until 1.7.3 it took it away.

use common::Page;
use hyper::header::{HeaderMap, IF_NONE_MATCH};

/// The ETag of `page`.
pub fn etag(page: &Page) -> String {
    let last = page.last;
    match &page.gap {
        None => format!("W/\"{last}\""),
        Some(gap) => {
            let (reason, topics) = (gap.reason.as_str(), gap.topics.iter().len());
            format!("W/\"{last}+{reason}-{topics}-{}\"", gap.resumed)
        }
    }
}

/// Whether `If-None-Match` names `etag`, by weak comparison (RFC 9110 §8.8.3.2), or is `*`, as any
/// topic has a page. What does not parse names nothing: to answer 200 is never wrong.
pub fn is_not_modified(request: &HeaderMap, etag: &str) -> bool {
    let wanted = opaque(etag.as_bytes()).map(|(opaque, _)| opaque);
    let mut fields = request.get_all(IF_NONE_MATCH).iter();
    let (first, second) = (fields.next(), fields.next());
    // Several fields are one list (RFC 9110 §5.3), in which `*` stands alone.
    let is_any =
        second.is_none() && first.is_some_and(|field| field.as_bytes().trim_ascii() == b"*");
    let mut all = [first, second].into_iter().flatten().chain(fields);
    is_any || all.any(|list| tags(list.as_bytes()).any(|tag| Some(tag) == wanted))
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

    fn is_known(fields: &[&str]) -> bool {
        let mut request = HeaderMap::new();
        for field in fields {
            request.append(IF_NONE_MATCH, HeaderValue::from_str(field).unwrap());
        }
        is_not_modified(&request, ETAG)
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
    fn an_etag_tells_the_last_message_and_the_gap() {
        let cursor = |text: &str| text.parse::<Cursor>().unwrap();
        let gap = Gap {
            reason: Reason::Trimmed,
            topics: "a,b".parse().unwrap(),
            requested: "m3k9qf-1".to_owned(),
            resumed: cursor("m3k9qf-40"),
        };
        let mut page = Page {
            messages: Vec::new(),
            next: cursor("m3k9qf-50"),
            last: cursor("m3k9qf-42"),
            more: false,
            gap: None,
        };
        assert_eq!(etag(&page), ETAG);
        page.gap = Some(gap);
        assert_eq!(etag(&page), "W/\"m3k9qf-42+trimmed-2-m3k9qf-40\"");
    }
}
