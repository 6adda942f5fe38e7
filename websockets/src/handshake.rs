//! The opening handshake (RFC 6455 §4.2), as pure functions over a request's head.

use base64::prelude::{BASE64_STANDARD, Engine};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Version,
    header::{self, HeaderName, HeaderValue},
};
use tungstenite::handshake::derive_accept_key;

/// Why a request does not become a websocket. The text tells the client what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No `Upgrade: websocket`.
    #[error("this is a websocket: ask with Upgrade: websocket")]
    NotAsked,
    /// `Sec-WebSocket-Version` is missing, repeated or another version.
    #[error("Sec-WebSocket-Version is not 13")]
    Version,
    /// Another method than GET.
    #[error("this path takes GET")]
    Method,
    /// Not HTTP/1.1. HTTP/2 has a handshake of its own (RFC 8441).
    #[error("a websocket needs HTTP/1.1")]
    Http,
    /// `Connection` does not name `Upgrade`.
    #[error("Connection does not name Upgrade; has a proxy taken it away?")]
    Connection,
    /// `Sec-WebSocket-Key` is missing or repeated.
    #[error("Sec-WebSocket-Key is not there exactly once")]
    NoKey,
    /// `Sec-WebSocket-Key` has another form.
    #[error("Sec-WebSocket-Key is not 16 bytes in Base64")]
    BadKey,
    /// The client offers subprotocols, but not this server's.
    #[error("Sec-WebSocket-Protocol does not offer {0}")]
    Subprotocol(&'static str),
}

impl Refusal {
    /// The answer's status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NotAsked | Self::Version => StatusCode::UPGRADE_REQUIRED,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// The header fields that go with the status: a 426 names what to upgrade to (RFC 9110 §15.5.22),
    /// and `Connection` always names `Upgrade`.
    pub fn fields(&self) -> Vec<(HeaderName, HeaderValue)> {
        let mut fields = Vec::new();
        if self.status() == StatusCode::UPGRADE_REQUIRED {
            fields.push((header::UPGRADE, HeaderValue::from_static("websocket")));
            fields.push((header::CONNECTION, HeaderValue::from_static("upgrade")));
        }
        match self {
            Self::Version => fields.push((
                header::SEC_WEBSOCKET_VERSION,
                HeaderValue::from_static("13"),
            )),
            Self::Method => fields.push((header::ALLOW, HeaderValue::from_static("GET"))),
            _ => {}
        }
        fields
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
    let headers = request.headers();
    if !is_asked(headers) {
        return Err(Refusal::NotAsked);
    }
    if request.method() != Method::GET {
        return Err(Refusal::Method);
    }
    // HTTP/1.0 has no `Upgrade`, and HTTP/2 has another handshake.
    if request.version() != Version::HTTP_11 {
        return Err(Refusal::Http);
    }
    if !has_token(headers, &header::CONNECTION, "upgrade") {
        return Err(Refusal::Connection);
    }
    // Older versions are drafts that no browser speaks any more.
    if single(headers, &header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Refusal::Version);
    }
    let key = key(headers)?;
    let chosen = choose(subprotocol, headers)?;
    Ok(switching_protocols(key, chosen))
}

/// The client's nonce, 16 bytes in Base64. Its hash in the answer proves that no cache answered.
fn key(headers: &HeaderMap) -> Result<&HeaderValue, Refusal> {
    let key = single(headers, &header::SEC_WEBSOCKET_KEY).ok_or(Refusal::NoKey)?;
    match BASE64_STANDARD.decode(key) {
        Ok(nonce) if nonce.len() == 16 => Ok(key),
        _ => Err(Refusal::BadKey),
    }
}

/// A browser fails a connection if the server chooses a subprotocol that it did not offer, and also if
/// the server chooses none of those that it offered.
fn choose(ours: &'static str, headers: &HeaderMap) -> Result<Option<&'static str>, Refusal> {
    if !headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL) {
        return Ok(None);
    }
    if !tokens(headers, &header::SEC_WEBSOCKET_PROTOCOL).any(|offer| offer == ours) {
        return Err(Refusal::Subprotocol(ours));
    }
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

fn tokens<'a>(headers: &'a HeaderMap, field: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(field).iter();
    let lists = lines.filter_map(|line| line.to_str().ok());
    lists.flat_map(|list| list.split(',').map(str::trim))
}

/// The field's value, if the field is there exactly once. If there were two, a proxy might use one and
/// this server the other.
fn single<'a>(headers: &'a HeaderMap, field: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(field).iter();
    values.next().filter(|_| values.next().is_none())
}
