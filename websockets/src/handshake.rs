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
    pub fn fields(&self) -> Vec<(HeaderName, HeaderValue)> {
        let value = HeaderValue::from_static;
        match self.status {
            StatusCode::UPGRADE_REQUIRED => vec![
                (header::UPGRADE, value("websocket")),
                (header::CONNECTION, value("upgrade")),
                (header::SEC_WEBSOCKET_VERSION, value("13")),
            ],
            StatusCode::METHOD_NOT_ALLOWED => vec![(header::ALLOW, value("GET"))],
            _ => Vec::new(),
        }
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
    const BAD: StatusCode = StatusCode::BAD_REQUEST;
    let headers = request.headers();
    // Older versions are drafts that no browser speaks any more.
    let version = single(headers, &header::SEC_WEBSOCKET_VERSION);
    // The client's nonce. Its hash in the answer proves that no cache answered.
    let key = single(headers, &header::SEC_WEBSOCKET_KEY);
    let (status, reason) = if !is_asked(headers) {
        (UPGRADE, "this path is a WebSocket: send Upgrade: websocket")
    } else if request.method() != Method::GET {
        (StatusCode::METHOD_NOT_ALLOWED, "this path takes GET")
    } else if request.version() != Version::HTTP_11 {
        // HTTP/1.0 has no `Upgrade`, and HTTP/2 has another handshake (RFC 8441).
        (BAD, "a websocket needs HTTP/1.1")
    } else if !has_token(headers, &header::CONNECTION, "upgrade") {
        (
            BAD,
            "Connection does not contain Upgrade; a proxy may have removed it",
        )
    } else if version.is_none_or(|version| version != "13") {
        (UPGRADE, "Sec-WebSocket-Version must be 13")
    } else {
        match key {
            None => (BAD, "Sec-WebSocket-Key must occur exactly once"),
            Some(key) if is_nonce(key) => {
                let chosen = choose(subprotocol, headers)?;
                return Ok(switching_protocols(key, chosen));
            }
            Some(_) => (BAD, "Sec-WebSocket-Key is not 16 bytes in Base64"),
        }
    };
    Err(Refusal {
        status,
        reason: reason.to_owned(),
    })
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

/// A browser fails a connection if the server chooses a subprotocol that it did not offer, and also if
/// the server chooses none of those that it offered.
fn choose(ours: &'static str, headers: &HeaderMap) -> Result<Option<HeaderValue>, Refusal> {
    let mut offers = tokens(headers, &header::SEC_WEBSOCKET_PROTOCOL).peekable();
    if offers.peek().is_none() {
        return Ok(None);
    }
    if offers.any(|offer| offer == ours) {
        return Ok(Some(HeaderValue::from_static(ours)));
    }
    Err(Refusal {
        status: StatusCode::BAD_REQUEST,
        reason: format!("Sec-WebSocket-Protocol does not offer {ours}"),
    })
}

fn switching_protocols<T: Default>(key: &HeaderValue, chosen: Option<HeaderValue>) -> Response<T> {
    let hash = derive_accept_key(key.as_bytes());
    let accept = HeaderValue::try_from(hash).expect("Base64 is a field value");
    let mut response = Response::new(T::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().extend([
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
    ]);
    let chosen = chosen.map(|chosen| (header::SEC_WEBSOCKET_PROTOCOL, chosen));
    response.headers_mut().extend(chosen);
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
