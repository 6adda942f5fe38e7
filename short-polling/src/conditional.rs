//! Conditional requests (RFC 9110 §13): an answer that the client already has shrinks to a 304.
//!
//! An [`etag`] names the last message that a client has after it has read the answer:
//! `W/"EPOCH-SEQ"`. If the answer has news, that is messages or a gap, a digest of them follows:
//! `W/"EPOCH-SEQ.DIGEST"`. Two rules decide whether the client already has an answer:
//!
//! - An answer with news: the client sends the same ETag. Then it has the same messages and the same
//!   gap, whatever it asked for.
//! - An answer without news: the client sends this ETag, with or without a digest. So a client may send
//!   the ETag of its last answer together with that answer's `next`. Messages of other topics move
//!   `next`, but not the ETag.
//!
//! An example of the second rule, with a client of topic `a`:
//!
//! 1. It polls and gets message `e-1`, with ETag `W/"e-1.f09e"` and `next` `e-1`.
//! 2. Another topic gets message `e-2`.
//! 3. The client polls after `e-1` with its ETag. There is no news, so the new ETag is `W/"e-1"`. The
//!    client's ETag is that with a digest: it gets a 304.
//!
//! So a 304 never hides a message or a gap, not even if the ETag is from other topics or from a later
//! position. The second rule goes beyond RFC 9110, where an ETag belongs to one URL. It is sound because
//! the cursor is in the URL, and no cache may answer by itself (`no-cache`).
//!
//! The ETag is weak because `next` may differ between two answers with the same one. A proxy that compresses
//! may add a suffix, such as `"e-1-gzip"`. The client's ETag still matches then.

use std::{
    fmt::Write,
    hash::{DefaultHasher, Hash, Hasher},
};

use common::Page;
use hyper::header::{HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};

/// The ETag of a page.
pub fn etag(page: &Page) -> String {
    // Not `format!`, which allocates three times. That costs 4 % of a poll.
    let mut etag = String::with_capacity(LONGEST);
    let written = match page.is_news() {
        true => write!(etag, "W/\"{}.{:016x}\"", page.last, digest(page)),
        false => write!(etag, "W/\"{}\"", page.last),
    };
    written.expect("a String takes any text");
    etag
}

/// `W/`, two quotes, the longest cursor, a dot and a digest.
const LONGEST: usize = 73;

/// The digest of a page's messages, by their ids, and its gap. A server of another build may compute
/// another digest; its client then gets one more 200.
fn digest(page: &Page) -> u64 {
    let mut digest = DefaultHasher::new();
    for message in &page.messages {
        message.id.hash(&mut digest);
    }
    let gap = page.gap.as_ref().map(|gap| gap.to_json());
    gap.hash(&mut digest);
    digest.finish()
}

/// Whether the request has an `If-Match` that does not match (RFC 9110 §13.1.1). The comparison is strong and
/// every ETag here is weak, so only `*` matches. Check this before [`is_not_modified`] (§13.2.2).
pub fn is_precondition_failed(request: &HeaderMap) -> bool {
    request.contains_key(IF_MATCH) && !is_star(request, IF_MATCH)
}

/// Whether the client already has the answer with this `etag`: `If-None-Match` is `*`, lists this ETag,
/// or lists this ETag with a digest or a proxy's suffix. The comparison is weak (RFC 9110 §8.8.3.2). Text that
/// does not parse matches nothing, because a 200 is never wrong.
///
/// ```
/// use hyper::header::{HeaderMap, HeaderValue, IF_NONE_MATCH};
/// use short_polling::conditional::is_not_modified;
///
/// let mut request = HeaderMap::new();
/// let list = HeaderValue::from_static(r#""e-7", W/"e-42.f09e""#);
/// request.insert(IF_NONE_MATCH, list);
/// assert!(is_not_modified(&request, r#"W/"e-42""#));
/// assert!(!is_not_modified(&request, r#"W/"e-43""#));
/// ```
pub fn is_not_modified(request: &HeaderMap, etag: &str) -> bool {
    let (wanted, _) = opaque(etag.as_bytes()).unwrap_or_default();
    is_star(request, IF_NONE_MATCH)
        || lists(request, IF_NONE_MATCH).any(|list| tags(list).any(|tag| continues(tag, wanted)))
}

/// Whether the field is `*`, which is only valid alone.
fn is_star(request: &HeaderMap, name: HeaderName) -> bool {
    lists(request, name).eq([b"*"])
}

/// The values of a field. Together they are one list (RFC 9110 §5.3).
fn lists(request: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &[u8]> {
    let fields = request.get_all(name).into_iter();
    fields.map(|field| HeaderValue::as_bytes(field).trim_ascii())
}

/// Whether `tag` is `wanted`, or continues it with a digest or the suffix of a proxy.
fn continues(tag: &[u8], wanted: &[u8]) -> bool {
    matches!(tag.strip_prefix(wanted), Some([] | [b'.' | b'-', ..]))
}

/// The opaque parts of a list's ETags, up to the first that is malformed or not followed by a comma.
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

/// The part between the quotes of the ETag at the start of `text`, and what follows the ETag. A quote
/// cannot be escaped, and a comma between the quotes is an ordinary byte.
fn opaque(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let unprefixed = text.strip_prefix(b"W/").unwrap_or(text);
    let quoted = unprefixed.strip_prefix(b"\"")?;
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
            then: cursor("m3k9qf-50").into(),
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
    fn an_etag_survives_a_proxy_that_compresses() {
        let mut news = quiet();
        news.gap = Some(gap("m3k9qf-1", "a"));
        let digest = etag(&news);
        let digest = digest.trim_start_matches("W/").trim_matches('"');
        for suffix in ["-gzip", "--gzip", "-br", "-zstd"] {
            assert!(is_known(&[&format!("\"m3k9qf-42{suffix}\"")]));
            assert!(is_known(&[&format!("\"a\", W/\"m3k9qf-42{suffix}\"")]));
            assert!(is_known(&[&format!("\"{digest}{suffix}\"")]));
            assert!(is_had(&news, &[&format!("W/\"{digest}{suffix}\"")]));
            assert!(!is_had(&news, &[&format!("W/\"m3k9qf-42{suffix}\"")]));
            assert!(!is_known(&[&format!("\"m3k9qf-421{suffix}\"")]));
        }
    }

    #[test]
    fn only_a_star_passes_if_match() {
        let fails = |fields: &[&str]| {
            let values = fields.iter().map(|field| field.parse().unwrap());
            is_precondition_failed(&values.map(|value| (IF_MATCH, value)).collect())
        };
        assert!(!fails(&[]) && !fails(&["*"]) && !fails(&[" * "]));
        for list in [ETAG, "\"m3k9qf-42\"", "", "*, \"a\""] {
            assert!(fails(&[list]), "{list}");
        }
        assert!(fails(&["*", "*"]));
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
