//! The opening handshake (RFC 6455 §4.2), as pure functions over the request's head.

use base64::prelude::{BASE64_STANDARD, Engine};
use bytes::Bytes;
use common::Problem;
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Version,
    header::{self, HeaderName, HeaderValue},
};
use tungstenite::handshake::derive_accept_key;

/// The JSON frames of `protocol.rs`. A client need not offer it; one that offers others only has
/// come to the wrong server.
pub(crate) const SUBPROTOCOL: &str = "feed.v1.json";

/// Whether the request asks to become a websocket.
pub(crate) fn is_asked(headers: &HeaderMap) -> bool {
    names(headers, &header::UPGRADE, "websocket")
}

/// The 101 that turns this connection into a websocket. An offer of permessage-deflate is declined
/// by not answering it: a connection of Python's `websockets` takes 64 to 316 KiB with it, and 14
/// without.
///
/// # Errors
/// What a refused client can do about it: 426 with the protocol or the version to ask for, 405 for
/// the wrong method, 400 for the rest.
pub(crate) fn answer<B>(request: &Request<B>) -> Result<Response<Full<Bytes>>, Problem> {
    let headers = request.headers();
    if !is_asked(headers) {
        return Err(upgrade_required(
            "this is a websocket: ask with Upgrade: websocket",
        ));
    }
    if request.method() != Method::GET {
        return Err(Problem::method_not_allowed("GET"));
    }
    if request.version() != Version::HTTP_11 {
        return Err(Problem::bad_request("a websocket needs HTTP/1.1"));
    }
    if !names(headers, &header::CONNECTION, "upgrade") {
        let detail = "Connection does not name Upgrade; has a proxy taken it away?";
        return Err(Problem::bad_request(detail));
    }
    if only(headers, &header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let refusal = upgrade_required("Sec-WebSocket-Version is not 13");
        return Err(refusal.with(
            header::SEC_WEBSOCKET_VERSION,
            HeaderValue::from_static("13"),
        ));
    }
    let key = key(headers)?;
    let subprotocol = subprotocol(headers)?;
    Ok(switching(key, subprotocol))
}

/// 426, and in what to upgrade (RFC 9110 §15.5.22). `Upgrade` is always named in `Connection`.
fn upgrade_required(detail: &str) -> Problem {
    Problem::new(StatusCode::UPGRADE_REQUIRED, detail)
        .with(header::UPGRADE, HeaderValue::from_static("websocket"))
        .with(header::CONNECTION, HeaderValue::from_static("upgrade"))
}

/// A nonce of 16 bytes in Base64. That it comes back hashed proves that no cache answers.
fn key(headers: &HeaderMap) -> Result<&HeaderValue, Problem> {
    let key = only(headers, &header::SEC_WEBSOCKET_KEY)
        .ok_or_else(|| Problem::bad_request("Sec-WebSocket-Key is not there exactly once"))?;
    match BASE64_STANDARD.decode(key) {
        Ok(nonce) if nonce.len() == 16 => Ok(key),
        _ => Err(Problem::bad_request(
            "Sec-WebSocket-Key is not 16 bytes in Base64",
        )),
    }
}

/// A browser fails a connection whose subprotocol it did not offer, and also one that leaves an
/// offer unanswered.
fn subprotocol(headers: &HeaderMap) -> Result<Option<&'static str>, Problem> {
    if !headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL) {
        return Ok(None);
    }
    let offered =
        tokens(headers, &header::SEC_WEBSOCKET_PROTOCOL).any(|offer| offer == SUBPROTOCOL);
    if !offered {
        let detail = format!("Sec-WebSocket-Protocol does not offer {SUBPROTOCOL}");
        return Err(Problem::bad_request(detail));
    }
    Ok(Some(SUBPROTOCOL))
}

fn switching(key: &HeaderValue, subprotocol: Option<&'static str>) -> Response<Full<Bytes>> {
    let accept = derive_accept_key(key.as_bytes());
    let accept = HeaderValue::try_from(accept).expect("Base64 is a field value");
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let fields = [
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
    ];
    let subprotocol = subprotocol.map(HeaderValue::from_static);
    let headers = response.headers_mut();
    headers.extend(fields);
    headers.extend(subprotocol.map(|value| (header::SEC_WEBSOCKET_PROTOCOL, value)));
    response
}

/// Whether a list of tokens, over all lines of the field, has this one in any case.
fn names(headers: &HeaderMap, field: &HeaderName, token: &str) -> bool {
    tokens(headers, field).any(|named| named.eq_ignore_ascii_case(token))
}

fn tokens<'a>(headers: &'a HeaderMap, field: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(field).iter();
    let lists = lines.filter_map(|line| line.to_str().ok());
    lists.flat_map(|list| list.split(',').map(str::trim))
}

/// The field's value, if it is there exactly once.
fn only<'a>(headers: &'a HeaderMap, field: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(field).iter();
    values.next().filter(|_| values.next().is_none())
}
