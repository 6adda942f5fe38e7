//! The opening handshake (RFC 6455 §4.2), as pure functions over a request's head.

use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Version,
    header::{self, HeaderName, HeaderValue},
};
use tungstenite::handshake::derive_accept_key;

/// Why a request does not become a websocket: the answer's status, and what the client has to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// 400, 405 or 426.
    pub status: StatusCode,
    reason: String,
}

impl Refusal {
    /// The header fields that go with the status. A 426 names what to upgrade to (RFC 9110 §15.5.22,
    /// RFC 6455 §4.4).
    pub fn fields(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> + use<> {
        let fields: &[_] = match self.status {
            StatusCode::UPGRADE_REQUIRED => &[
                (header::UPGRADE, "websocket"),
                (header::CONNECTION, "upgrade"),
                (header::SEC_WEBSOCKET_VERSION, "13"),
            ],
            StatusCode::METHOD_NOT_ALLOWED => &[(header::ALLOW, "GET")],
            _ => &[],
        };
        fields
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)))
    }
}

/// Whether the request asks to become a websocket.
pub fn is_asked(headers: &HeaderMap) -> bool {
    has_token(headers, &header::UPGRADE, "websocket")
}

/// The 101 that turns this connection into a websocket. `subprotocol` names what the messages mean. A
/// client need not offer it, but a client that offers only others is refused.
///
/// An offer of permessage-deflate is declined by not answering it, because it costs memory: a connection
/// of Python's `websockets` takes 64 to 316 KiB with it, and 14 KiB without.
///
/// # Errors
/// The first thing that is wrong with the request.
pub fn answer<B, T: Default>(
    request: &Request<B>,
    subprotocol: &'static str,
) -> Result<Response<T>, Refusal> {
    const UPGRADE: StatusCode = StatusCode::UPGRADE_REQUIRED;
    const METHOD: StatusCode = StatusCode::METHOD_NOT_ALLOWED;
    const BAD: StatusCode = StatusCode::BAD_REQUEST;
    let headers = request.headers();
    let asked = "this path is a WebSocket: send Upgrade: websocket";
    require(is_asked(headers), UPGRADE, asked)?;
    let is_get = request.method() == Method::GET;
    require(is_get, METHOD, "this path takes GET")?;
    // HTTP/1.0 has no `Upgrade`, and HTTP/2 has another handshake (RFC 8441).
    let is_http = request.version() == Version::HTTP_11;
    require(is_http, BAD, "a websocket needs HTTP/1.1")?;
    let upgrades = has_token(headers, &header::CONNECTION, "upgrade");
    let hint = "Connection does not contain Upgrade; a proxy may have removed it";
    require(upgrades, BAD, hint)?;
    // Older versions are drafts that no browser speaks any more.
    let version = single(headers, &header::SEC_WEBSOCKET_VERSION);
    let is_13 = version.is_some_and(|version| version == "13");
    require(is_13, UPGRADE, "Sec-WebSocket-Version must be 13")?;
    // The client's nonce. Its hash in the answer proves that no cache answered.
    let key = single(headers, &header::SEC_WEBSOCKET_KEY)
        .ok_or_else(|| refusal(BAD, "Sec-WebSocket-Key must occur exactly once"))?;
    require(
        is_nonce(key),
        BAD,
        "Sec-WebSocket-Key is not 16 bytes in Base64",
    )?;
    let chosen = choose(subprotocol, headers)?;
    Ok(switching_protocols(key, chosen))
}

/// Whether this is Base64 of 16 bytes. The last four bits say nothing, and the standard's own example in
/// §4.1 has some that are not zero.
fn is_nonce(key: &HeaderValue) -> bool {
    let digits = key.as_bytes().strip_suffix(b"==").unwrap_or_default();
    digits.len() == 22
        && digits
            .iter()
            .all(|digit| digit.is_ascii_alphanumeric() || b"+/".contains(digit))
}

fn require(holds: bool, status: StatusCode, reason: impl Into<String>) -> Result<(), Refusal> {
    if holds {
        Ok(())
    } else {
        Err(refusal(status, reason))
    }
}

fn refusal(status: StatusCode, reason: impl Into<String>) -> Refusal {
    Refusal {
        status,
        reason: reason.into(),
    }
}

/// A browser fails a connection if the server chooses a subprotocol that it did not offer, and also if
/// the server chooses none of those that it offered.
fn choose(ours: &'static str, headers: &HeaderMap) -> Result<Option<&'static str>, Refusal> {
    let mut offers = tokens(headers, &header::SEC_WEBSOCKET_PROTOCOL).peekable();
    if offers.peek().is_none() {
        return Ok(None);
    }
    let is_offered = offers.any(|offer| offer == ours);
    let reason = format!("Sec-WebSocket-Protocol does not offer {ours}");
    require(is_offered, StatusCode::BAD_REQUEST, reason)?;
    Ok(Some(ours))
}

fn switching_protocols<T: Default>(
    key: &HeaderValue,
    subprotocol: Option<&'static str>,
) -> Response<T> {
    let hash = derive_accept_key(key.as_bytes());
    let accept = HeaderValue::try_from(hash).expect("Base64 is a field value");
    let mut response = Response::new(T::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().extend([
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
    ]);
    if let Some(chosen) = subprotocol {
        let chosen = HeaderValue::from_static(chosen);
        let headers = response.headers_mut();
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, chosen);
    }
    response
}

/// Whether the field lists this token, ignoring case. Several lines of a field are one list.
fn has_token(headers: &HeaderMap, field: &HeaderName, token: &str) -> bool {
    tokens(headers, field).any(|other| other.eq_ignore_ascii_case(token))
}

/// The elements of a list. Empty ones do not count (RFC 9110 §5.6.1.2).
fn tokens<'a>(headers: &'a HeaderMap, field: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(field).iter();
    let lists = lines.filter_map(|line| line.to_str().ok());
    let elements = lists.flat_map(|list| list.split(',').map(str::trim));
    elements.filter(|element| !element.is_empty())
}

/// The field's value, if the field is there exactly once. If there were two, a proxy might use one and
/// this server the other.
fn single<'a>(headers: &'a HeaderMap, field: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(field).iter();
    values.next().filter(|_| values.next().is_none())
}
