//! Finds, for the log, why a request failed verification although it is probably genuine.
//!
//! Setting up a receiver, people make a few typical mistakes. After each of them the signature still matches
//! something: the other kind of secret, another layout of the body, or another time. Each test computes a
//! MAC, so the receiver tests only requests that it [logs](common::Quota).

use bytes::Bytes;
use hyper::header::HeaderMap;

use super::source::{Rejection, Secrets, Source};
use crate::verify::{Refusal, standard, stripe};

/// Larger bodies are not tested in other layouts, because each layout is a copy and a MAC of the body.
const MAX_BODY: usize = 256 << 10;

/// The likely cause, in words. The text has no secret and no signature.
pub(crate) fn likely_cause(
    secrets: &Secrets,
    source: Source,
    headers: &HeaderMap,
    body: &Bytes,
    now: u64,
    refusal: Refusal,
) -> String {
    let fits = |secrets: &Secrets, body: Bytes, now| fits(secrets, source, headers, body, now);
    let cause = match refusal {
        Refusal::Absent(_) => another_source(source, headers),
        // With the signed time as `now` the age passes. If the signature matches too, only the age was wrong.
        Refusal::TooOld(age) => fits(secrets, body.clone(), now - age).then(|| {
            "the signature fits: a replay, a proxy that held it, or this machine's clock is ahead"
                .to_owned()
        }),
        Refusal::TooNew(ahead) => fits(secrets, body.clone(), now + ahead).then(|| {
            "the signature fits: this machine's clock is behind, or the sender's ahead".to_owned()
        }),
        Refusal::Mismatch if fits(&confused(secrets), body.clone(), now) => Some(
            "the wrong kind of secret: Stripe's is the whole text, whsec_ included, and Standard \
             Webhooks' the base64 after it; it fits as the other"
                .to_owned(),
        ),
        Refusal::Mismatch => layouts(body)
            .into_iter()
            .find(|(_, layout)| fits(secrets, layout.clone().into(), now))
            .map(|(name, _)| format!("the body was parsed and written anew: it was signed {name}")),
        _ => None,
    };
    match (refusal, cause) {
        (refusal, None) => refusal.to_string(),
        (Refusal::Mismatch, Some(cause)) => format!("no signature fits: {cause}"),
        (refusal, Some(cause)) => format!("{refusal}: {cause}"),
    }
}

/// Whether the request would be genuine with these secrets, this body or at this time.
fn fits(secrets: &Secrets, source: Source, headers: &HeaderMap, body: Bytes, now: u64) -> bool {
    let verified = secrets.verify(source, headers, body, now);
    !matches!(verified, Err(Rejection::NotGenuine(_)))
}

/// A request that has the field of another source came to the wrong path.
fn another_source(source: Source, headers: &HeaderMap) -> Option<String> {
    let other = Source::ALL
        .into_iter()
        .find(|other| *other != source && headers.contains_key(other.proof()))?;
    let (field, path) = (other.proof(), other.path());
    Some(format!("it has {field}, which belongs to {path}"))
}

/// Every secret read both ways: for Stripe the key is the whole text `whsec_TEXT`, for Standard Webhooks it is
/// the bytes that TEXT encodes.
fn confused(secrets: &Secrets) -> Secrets {
    // GitHub and Telegram have no second kind of secret, so theirs are not in it.
    let mut keys: Vec<Vec<u8>> = Vec::new();
    for secret in &secrets.standard {
        keys.extend([secret.key().into(), secret.reveal().into()]);
    }
    for secret in &secrets.stripe {
        keys.push(secret.key().into());
        let text = str::from_utf8(secret.key()).unwrap_or_default();
        let decoded = text
            .parse()
            .map(|secret: standard::Secret| secret.key().into());
        keys.extend(decoded);
    }
    Secrets {
        standard: keys
            .iter()
            .cloned()
            .map(standard::Secret::from_key)
            .collect(),
        stripe: keys.into_iter().map(stripe::Secret::from_key).collect(),
        past: secrets.past,
        ..Secrets::default()
    }
}

/// Ways in which common programs write the same JSON: the space after colons and commas, and the indent.
const LAYOUTS: [(&str, &str, &str, Option<usize>); 4] = [
    ("without white space", ":", ",", None),
    ("with spaces after colons and commas", ": ", ", ", None),
    ("indented by two spaces", ": ", ",", Some(2)),
    ("indented by four spaces", ": ", ",", Some(4)),
];

/// The same JSON in other layouts.
fn layouts(body: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    if body.len() > MAX_BODY {
        return Vec::new(); // the layouts of a 25 MiB body would take longer than the request
    }
    let mut layouts = vec![
        ("with a line's end", [body, b"\n"].concat()),
        (
            "without white space at its end",
            body.trim_ascii_end().into(),
        ),
    ];
    for (name, colon, comma, indent) in LAYOUTS {
        layouts.push((name, lay_out(body, colon, comma, indent)));
    }
    let indented = [&*lay_out(body, ": ", ",", Some(2)), b"\n"].concat();
    layouts.push(("indented by two spaces and with a line's end", indented));
    layouts
}

/// Writes the same JSON tokens with other white space. `colon` and `comma` include the space after them.
/// With `indent` each member has its own line. By hand, because a serializer would also change escapes and
/// numbers, and then the signature would not match.
fn lay_out(json: &[u8], colon: &str, comma: &str, indent: Option<usize>) -> Vec<u8> {
    let (mut out, mut depth, mut in_text, mut escaped) = (Vec::new(), 0usize, false, false);
    for &byte in json {
        // Inside a string every byte stays, white space and brackets included.
        if in_text {
            in_text = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            out.push(byte);
            continue;
        }
        // The body's own layout goes; only the new one is written.
        if byte.is_ascii_whitespace() {
            continue;
        }
        let after_opening = matches!(out.last(), Some(b'{' | b'['));
        if matches!(byte, b'}' | b']') {
            depth = depth.saturating_sub(1);
            if !after_opening {
                new_line(&mut out, indent, depth); // an empty object stays on its line
            }
        } else if after_opening {
            new_line(&mut out, indent, depth);
        }
        match byte {
            b':' => out.extend_from_slice(colon.as_bytes()),
            b',' => out.extend_from_slice(comma.as_bytes()),
            _ => out.push(byte),
        }
        match byte {
            b'"' => in_text = true,
            b'{' | b'[' => depth += 1,
            b',' => new_line(&mut out, indent, depth),
            _ => {}
        }
    }
    out
}

fn new_line(out: &mut Vec<u8>, indent: Option<usize>, depth: usize) {
    if let Some(step) = indent {
        out.push(b'\n');
        out.resize(out.len() + step * depth, b' ');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_laid_out_as_others_write_it() {
        let value = serde_json::json!({"a": [1, "x, \\\"{: y", {}], "b": {"c": []}, "d": null});
        let compact = serde_json::to_string(&value).unwrap();
        let pretty = serde_json::to_string_pretty(&value).unwrap();
        let spaced = r#"{"a": [1, "x, \\\"{: y", {}], "b": {"c": []}, "d": null}"#;
        for text in [&compact, &pretty, spaced] {
            let lay_out = |colon, comma, indent| {
                let out = lay_out(text.as_bytes(), colon, comma, indent);
                String::from_utf8(out).unwrap()
            };
            assert_eq!(lay_out(":", ",", None), compact);
            assert_eq!(lay_out(": ", ",", Some(2)), pretty);
            assert_eq!(lay_out(": ", ", ", None), spaced);
        }
    }
}
