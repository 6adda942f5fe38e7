//! Why a request that may well be genuine was not believed, as far as it can be found out: for the log.
//!
//! Whoever sets a receiver up makes one of a few mistakes, and each leaves a trace: the signature fits
//! the other kind of secret, or the body in another layout, or another time. To try them costs a MAC
//! each, so it is done for the lines that are [written](crate::quota) and no others.

use bytes::Bytes;
use hyper::header::HeaderMap;

use crate::{
    source::{Secrets, Source},
    verify::{Refusal, github, standard, stripe, telegram},
};

/// Bodies over this size are not laid out anew.
const MAX_BODY: usize = 256 << 10;

/// The likely cause, in words. Neither secrets nor signatures are in it.
pub(crate) fn likely_cause(
    secrets: &Secrets,
    source: Source,
    headers: &HeaderMap,
    body: &Bytes,
    now: u64,
    refusal: Refusal,
) -> String {
    let fits = |secrets: &Secrets, body: Bytes, now| secrets.check(source, headers, body, now);
    let found = match refusal {
        Refusal::Absent(_) => another_sender(source, headers),
        Refusal::TooOld(age) => fits(secrets, body.clone(), now - age).then(|| {
            "the signature fits: a replay, a proxy that held it, or this machine's clock is ahead"
                .to_owned()
        }),
        Refusal::TooNew(ahead) => fits(secrets, body.clone(), now + ahead).then(|| {
            "the signature fits: this machine's clock is behind, or the sender's ahead".to_owned()
        }),
        Refusal::Mismatch if fits(&secrets.misread(), body.clone(), now) => Some(
            "the wrong kind of secret: Stripe's is the whole text, whsec_ included, and Standard \
             Webhooks' the base64 after it; it fits as the other"
                .to_owned(),
        ),
        Refusal::Mismatch => layouts(body)
            .into_iter()
            .find(|(_, layout)| fits(secrets, layout.clone(), now))
            .map(|(name, _)| format!("the body was parsed and written anew: it was signed {name}")),
        _ => None,
    };
    match (refusal, found) {
        (refusal, None) => refusal.to_string(),
        (Refusal::Mismatch, Some(found)) => format!("no signature fits: {found}"),
        (refusal, Some(found)) => format!("{refusal}: {found}"),
    }
}

/// A request with the fields of another sender came to the wrong path.
fn another_sender(source: Source, headers: &HeaderMap) -> Option<String> {
    let signs = |other: Source| match other {
        Source::Standard => standard::SIGNATURE,
        Source::Stripe => stripe::SIGNATURE,
        Source::GitHub => github::SIGNATURE,
        Source::Telegram => telegram::TOKEN,
    };
    let mut others = Source::ALL.into_iter().filter(|other| *other != source);
    let other = others.find(|other| headers.contains_key(signs(*other)))?;
    let (field, path) = (signs(other), other.path());
    Some(format!("it has {field}, which belongs to {path}"))
}

/// The layouts in which common programs write the same JSON.
fn layouts(body: &Bytes) -> Vec<(&'static str, Bytes)> {
    if body.len() > MAX_BODY {
        return Vec::new();
    }
    let ended = |mut text: Vec<u8>| {
        text.push(b'\n');
        text
    };
    let two = lay_out(body, ": ", "", Some(2));
    [
        ("without white space", lay_out(body, ":", "", None)),
        (
            "with spaces after colons and commas",
            lay_out(body, ": ", " ", None),
        ),
        (
            "indented by two spaces and with a line's end",
            ended(two.clone()),
        ),
        ("indented by two spaces", two),
        ("indented by four spaces", lay_out(body, ": ", "", Some(4))),
        ("with a line's end", ended(body.to_vec())),
        (
            "without white space at its end",
            body.trim_ascii_end().to_vec(),
        ),
    ]
    .map(|(name, text)| (name, text.into()))
    .into()
}

/// The same tokens of JSON with other white space between them: after a colon, after a comma, and, with
/// `indent`, a line for each member.
fn lay_out(json: &[u8], colon: &str, comma: &str, indent: Option<usize>) -> Vec<u8> {
    let (mut out, mut depth, mut in_text, mut escaped) = (Vec::new(), 0usize, false, false);
    let line = |out: &mut Vec<u8>, depth: usize| {
        if let Some(step) = indent {
            out.push(b'\n');
            out.resize(out.len() + step * depth, b' ');
        }
    };
    for &byte in json {
        if in_text {
            in_text = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            out.push(byte);
            continue;
        }
        let (opened, closes) = (
            matches!(out.last(), Some(b'{' | b'[')),
            matches!(byte, b'}' | b']'),
        );
        match byte {
            _ if byte.is_ascii_whitespace() => continue,
            _ if closes => depth = depth.saturating_sub(1),
            _ if opened => line(&mut out, depth),
            _ => {}
        }
        if closes && !opened {
            line(&mut out, depth); // an empty object has no lines
        }
        in_text = byte == b'"';
        match byte {
            b':' => out.extend_from_slice(colon.as_bytes()),
            b',' => {
                out.push(byte);
                out.extend_from_slice(comma.as_bytes());
                line(&mut out, depth);
            }
            _ => out.push(byte),
        }
        depth += usize::from(matches!(byte, b'{' | b'['));
    }
    out
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
            assert_eq!(lay_out(":", "", None), compact);
            assert_eq!(lay_out(": ", "", Some(2)), pretty);
            assert_eq!(lay_out(": ", " ", None), spaced);
        }
    }
}
