//! What pages of other sites may do here.
//!
//! A browser sends requests on behalf of any page. Two header fields tell whose: `Origin` names the
//! page, and `Host` the name under which the page found this server. A foreign `Origin` may not
//! publish or upgrade (cross-site request forgery). A server on loopback answers only to loopback names
//! (DNS rebinding).

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Version,
    header::{self, HeaderValue},
    http::uri::Authority,
};

use super::Problem;

/// How long a browser may cache the answer to a preflight, in seconds.
const PREFLIGHT_AGE: &str = "3600";

/// A page's origin: scheme, host and port, exactly. Never `null`, never `*`.
#[derive(Clone, PartialEq, Eq)]
pub struct Origin {
    /// `http` or `https`.
    scheme: &'static str,
    /// Host and port, lower case, without the scheme's default port.
    authority: String,
}

impl FromStr for Origin {
    type Err = BadOrigin;

    fn from_str(text: &str) -> Result<Self, BadOrigin> {
        let (scheme, rest) = text.split_once("://").ok_or(BadOrigin)?;
        let (scheme, default_port) = match scheme {
            "http" => ("http", ":80"),
            "https" => ("https", ":443"),
            _ => return Err(BadOrigin),
        };
        let parsed: Authority = rest.parse().map_err(|_| BadOrigin)?;
        if parsed.host().is_empty() || rest.contains('@') {
            return Err(BadOrigin);
        }
        let lower = rest.to_ascii_lowercase();
        let authority = lower.strip_suffix(default_port).unwrap_or(&lower);
        Ok(Self {
            scheme,
            authority: authority.to_owned(),
        })
    }
}

impl Origin {
    /// Whether a page of this origin found the server under `host`. The scheme counts as equal: the
    /// server cannot know it, because a proxy may have ended TLS.
    fn is_host(&self, host: &str) -> bool {
        Self::from_str(&format!("{}://{host}", self.scheme)).is_ok_and(|own| own == *self)
    }

    fn host(&self) -> &str {
        host_of(&self.authority)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an origin is http://HOST[:PORT] or https://HOST[:PORT]")]
pub struct BadOrigin;

/// The rules of one server.
#[derive(Debug, Clone)]
pub struct Browsers {
    /// Origins that count as the server's own.
    allowed: Vec<Origin>,
    /// Whether the server listens on loopback.
    loopback: bool,
    /// Response fields that scripts of an allowed origin may read.
    exposed: &'static str,
}

impl Browsers {
    /// The rules of a server on `listener`. Pages of the `allowed` origins count as its own, and their
    /// scripts may read the `exposed` response fields.
    pub fn new(allowed: Vec<Origin>, listener: SocketAddr, exposed: &'static str) -> Self {
        Self {
            allowed,
            loopback: listener.ip().is_loopback(),
            exposed,
        }
    }

    /// Checks a request before any route. `changes` says that it does more than read: it is a POST or
    /// an upgrade.
    ///
    /// # Errors
    /// 400 if `Host` is missing, repeated or invalid; 421 if it names another server; 403 if `Origin`
    /// is foreign and the request changes something.
    pub fn check<B>(&self, request: &Request<B>, changes: bool) -> Result<(), Problem> {
        let host = host(request)?;
        if let Some(host) = &host
            && self.loopback
            && !self.is_own_host(host.as_str())
        {
            let detail = format!(
                "Host {host} is not a loopback name, nor of an allowed origin (--allow-origin)"
            );
            return Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, detail));
        }
        match request.headers().get(header::ORIGIN) {
            Some(origin) if changes && !self.is_own_origin(origin, host.as_ref()) => {
                let origin = origin.to_str().unwrap_or("(not text)");
                let detail = format!("Origin {origin} is not allowed (--allow-origin)");
                Err(Problem::new(StatusCode::FORBIDDEN, detail))
            }
            _ => Ok(()),
        }
    }

    fn is_own_host(&self, authority: &str) -> bool {
        let host = host_of(authority);
        let address = host.trim_start_matches('[').trim_end_matches(']').parse();
        let mut allowed = self.allowed.iter().map(Origin::host);
        host.eq_ignore_ascii_case("localhost")
            || address.is_ok_and(|ip: IpAddr| ip.is_loopback())
            || allowed.any(|allowed| allowed.eq_ignore_ascii_case(host))
    }

    fn is_own_origin(&self, value: &HeaderValue, host: Option<&Authority>) -> bool {
        origin(value).is_some_and(|origin| {
            self.allowed.contains(&origin) || host.is_some_and(|host| origin.is_host(host.as_str()))
        })
    }

    /// Answers a CORS preflight, if the request is one and its origin is allowed.
    pub fn preflight<B>(&self, request: &Request<B>) -> Option<Response<Full<Bytes>>> {
        let headers = request.headers();
        let is_preflight = request.method() == Method::OPTIONS
            && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        if !is_preflight || self.allowed_origin(headers).is_none() {
            return None;
        }
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let fields = [
            (
                header::ACCESS_CONTROL_ALLOW_METHODS,
                "GET, HEAD, POST, PATCH, DELETE", // each path itself refuses those it does not take
            ),
            (
                header::ACCESS_CONTROL_ALLOW_HEADERS,
                "Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID",
            ),
            (header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_AGE),
        ];
        response
            .headers_mut()
            .extend(fields.map(|(name, value)| (name, HeaderValue::from_static(value))));
        Some(response)
    }

    /// The origin of the request, if it is allowed.
    pub fn allowed_origin(&self, request: &HeaderMap) -> Option<HeaderValue> {
        let value = request.get(header::ORIGIN)?;
        if !self.allowed.contains(&origin(value)?) {
            return None;
        }
        // Copied, not cloned: a clone points into hyper's read buffer, and would keep all of it while
        // an answer waits.
        HeaderValue::from_bytes(value.as_bytes()).ok()
    }

    /// Adds to an answer what browsers need: `nosniff`, `Vary`, and CORS for an allowed origin.
    pub fn finish<B>(&self, allowed_origin: Option<HeaderValue>, response: &mut Response<B>) {
        let headers = response.headers_mut();
        headers.insert(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
        headers.append(header::VARY, HeaderValue::from_name(header::ORIGIN));
        if let Some(origin) = allowed_origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            let exposed = HeaderValue::from_static(self.exposed);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        }
    }
}

fn origin(value: &HeaderValue) -> Option<Origin> {
    value.to_str().ok()?.parse().ok()
}

/// The authority that the request is for (RFC 9112 §3.2). Only HTTP/1.0 may leave it out.
fn host<B>(request: &Request<B>) -> Result<Option<Authority>, Problem> {
    let mut fields = request.headers().get_all(header::HOST).iter();
    let host = match (fields.next(), fields.next()) {
        (Some(value), None) => Some(authority(value)?),
        (None, _) if request.version() == Version::HTTP_10 => None,
        (None, _) => return Err(Problem::bad_request("Host is missing")),
        (Some(_), Some(_)) => return Err(Problem::bad_request("Host is repeated")),
    };
    // An absolute request target overrides the field.
    Ok(request.uri().authority().cloned().or(host))
}

fn authority(value: &HeaderValue) -> Result<Authority, Problem> {
    let text = value.to_str().ok();
    let parsed = text.and_then(|text| text.parse::<Authority>().ok());
    match parsed {
        Some(authority) if !authority.as_str().contains('@') => Ok(authority),
        _ => Err(Problem::bad_request("Host is not HOST[:PORT]")),
    }
}

fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(allowed: &[&str], listener: &str, fields: &[(&str, &str)]) -> u16 {
        let allowed = allowed
            .iter()
            .map(|origin| origin.parse().unwrap())
            .collect();
        let browsers = Browsers::new(allowed, listener.parse().unwrap(), "");
        let request = fields
            .iter()
            .fold(Request::builder(), |request, (name, value)| {
                request.header(*name, *value)
            });
        match browsers.check(&request.body(()).unwrap(), true) {
            Ok(()) => 200,
            Err(problem) => problem.status.as_u16(),
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        for (text, origin) in [
            ("http://a", "http://a"),
            ("https://A.b:443", "https://a.b"),
            ("http://a:443", "http://a:443"),
            ("http://[::1]:80", "http://[::1]"),
        ] {
            assert_eq!(text.parse::<Origin>().unwrap().to_string(), origin);
        }
        for bad in [
            "",
            "null",
            "*",
            "a",
            "http://",
            "http://a/",
            "http://a/b",
            "ftp://a",
            "HTTP://a",
            "http://u@a",
            "http://a b",
        ] {
            assert_eq!(bad.parse::<Origin>(), Err(BadOrigin), "{bad:?}");
        }
    }

    #[test]
    fn a_loopback_listener_answers_to_loopback_names() {
        for host in [
            "localhost",
            "LOCALHOST:8001",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:80",
        ] {
            assert_eq!(
                check(&[], "127.0.0.1:8001", &[("host", host)]),
                200,
                "{host}"
            );
        }
        for host in [
            "example.org",
            "localhost.evil.org",
            "10.0.0.1",
            "127.0.0.1.evil.org",
            "[::2]",
        ] {
            assert_eq!(
                check(&[], "127.0.0.1:8001", &[("host", host)]),
                421,
                "{host}"
            );
            assert_eq!(check(&[], "[::]:8001", &[("host", host)]), 200, "{host}");
        }
        assert_eq!(
            check(&["https://a.org"], "127.0.0.1:8001", &[("host", "a.org:9")]),
            200
        );
    }

    #[test]
    fn a_host_is_there_once() {
        for bad in [
            &[][..],
            &[("host", "localhost"), ("host", "localhost")],
            &[("host", "a b")],
            &[("host", "u@localhost")],
        ] {
            assert_eq!(check(&[], "[::]:1", bad), 400, "{bad:?}");
        }
    }

    #[test]
    fn a_foreign_origin_may_not_change_anything() {
        let judge = |allowed: &[&str], host, origin| {
            check(allowed, "[::]:1", &[("host", host), ("origin", origin)])
        };
        assert_eq!(judge(&[], "a.org", "https://a.org"), 200);
        assert_eq!(judge(&[], "a.org:8080", "http://a.org:8080"), 200);
        assert_eq!(judge(&[], "a.org:443", "https://a.org"), 200);
        assert_eq!(judge(&["https://b.org"], "a.org", "https://b.org"), 200);
        for foreign in [
            "https://b.org",
            "http://a.org:8080",
            "null",
            "https://a.org.b.org",
            "a.org",
            "",
        ] {
            assert_eq!(judge(&["http://b.org"], "a.org", foreign), 403, "{foreign}");
        }
    }
}
