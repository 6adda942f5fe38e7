//! What pages of other sites may do here.
//!
//! A browser sends requests on behalf of any page. `Origin` says which page, and `Host` under which name
//! the page found this server. A foreign `Origin` may not publish or upgrade (cross-site request forgery).
//! A server on loopback answers only to loopback names (DNS rebinding). A public server cannot know its
//! own names: it trusts pages of every name that leads to it, until `--allow-origin` lists the origins.
//! An address cannot be rebound, so it is always trusted.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Version,
    header::{self, HeaderValue},
    http::uri::Authority,
};
use tracing::trace;

use super::Problem;

/// How long a browser may cache the answer to a preflight, in seconds.
const PREFLIGHT_AGE: HeaderValue = HeaderValue::from_static("3600");

/// A page's origin: scheme, host and port, exactly. Any scheme, because the pages of an app in a web
/// view have one of their own, such as `capacitor://localhost`. Never `null`, never `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Lower case, as browsers send it.
    scheme: String,
    /// Lower case, and without the scheme's default port.
    authority: Authority,
}

impl FromStr for Origin {
    type Err = BadOrigin;

    fn from_str(text: &str) -> Result<Self, BadOrigin> {
        let (scheme, rest) = text.split_once("://").ok_or(BadOrigin)?;
        let default_port = match scheme {
            "http" => ":80",
            "https" => ":443",
            _ => "",
        };
        let lower = rest.to_ascii_lowercase();
        let authority = authority(lower.strip_suffix(default_port).unwrap_or(&lower));
        match authority {
            Some(authority) if is_scheme(scheme) && !lower.contains('*') => Ok(Self {
                scheme: scheme.to_owned(),
                authority,
            }),
            _ => Err(BadOrigin),
        }
    }
}

/// A scheme of RFC 3986 §3.1 in lower case.
fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_lowercase())
        && text
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'+' | b'-' | b'.'))
}

impl Origin {
    /// Whether a page of this origin found the server under `host`. `http` and `https` count as equal:
    /// the server cannot know which, because a proxy may have ended TLS. No app is served from here.
    fn is_host(&self, host: &str) -> bool {
        // Parsed as an origin, which drops the scheme's default port.
        matches!(self.scheme.as_str(), "http" | "https")
            && Self::from_str(&format!("{}://{host}", self.scheme)).as_ref() == Ok(self)
    }
}

/// The text is not an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an origin is SCHEME://HOST[:PORT], such as https://example.org, without a path")]
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
            loopback: is_loopback(listener.ip()),
            exposed,
        }
    }

    /// Checks a request before any route. `changes` says that it does more than read: it is a POST or
    /// an upgrade.
    ///
    /// # Errors
    /// 400 if `Host` is missing, repeated or invalid, or `Origin` is repeated; 421 if `Host` names
    /// another server; 403 if `Origin` is foreign and the request changes something.
    pub fn check<B>(&self, request: &Request<B>, changes: bool) -> Result<(), Problem> {
        let host = host(request)?;
        if request.headers().get_all(header::ORIGIN).iter().count() > 1 {
            return Err(Problem::bad_request("Origin is repeated"));
        }
        if let Some(host) = &host
            && self.loopback
            && !self.is_own_host(host.host())
        {
            let detail = format!(
                "Host {:.100} is neither a loopback name nor the host of an allowed origin (--allow-origin)",
                host.as_str()
            );
            return Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, detail));
        }
        match request.headers().get(header::ORIGIN) {
            Some(origin) if changes && !self.is_own_origin(origin, host.as_ref()) => {
                let origin = origin.to_str().unwrap_or("(not text)");
                let detail = format!("Origin {origin:.100} is not allowed (--allow-origin)");
                Err(Problem::new(StatusCode::FORBIDDEN, detail))
            }
            _ => Ok(()),
        }
    }

    fn is_own_host(&self, host: &str) -> bool {
        let mut allowed = self.allowed.iter().map(|origin| origin.authority.host());
        is_loopback_name(host) || allowed.any(|allowed| allowed.eq_ignore_ascii_case(host))
    }

    fn is_own_origin(&self, value: &HeaderValue, host: Option<&Authority>) -> bool {
        origin(value).is_some_and(|origin| {
            self.allowed.contains(&origin)
                || host
                    .is_some_and(|host| self.trusts(host.host()) && origin.is_host(host.as_str()))
        })
    }

    /// Whether pages found under this host are the server's own. A foreign page can rebind a name to this
    /// server, but neither an address nor a loopback name.
    fn trusts(&self, host: &str) -> bool {
        let local = self.loopback && is_loopback_name(host);
        self.allowed.is_empty() || address(host).is_some() || local
    }

    /// Answers a CORS preflight, if the request is one and its origin is allowed.
    pub fn preflight<B, A: Default>(&self, request: &Request<B>) -> Option<Response<A>> {
        let headers = request.headers();
        let is_preflight = request.method() == Method::OPTIONS
            && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        if !is_preflight || self.allowed_origin(headers).is_none() {
            return None;
        }
        let mut response = Response::new(A::default());
        *response.status_mut() = StatusCode::NO_CONTENT;
        // The same for all paths: each refuses the methods that it does not take.
        let methods = HeaderValue::from_static("GET, HEAD, POST, PATCH, DELETE");
        let answer = response.headers_mut();
        answer.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        answer.insert(header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_AGE);
        // A trusted origin may send any field. `*` is not enough: it does not cover `Authorization`, and
        // does not count for a request with credentials.
        for asked in headers.get_all(header::ACCESS_CONTROL_REQUEST_HEADERS) {
            answer.append(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
        }
        Some(response)
    }

    /// The origin of the request, if it is allowed.
    pub fn allowed_origin(&self, request: &HeaderMap) -> Option<HeaderValue> {
        if self.allowed.is_empty() {
            return None;
        }
        let mut values = request.get_all(header::ORIGIN).iter();
        let value = values.next().filter(|_| values.next().is_none())?;
        if !self.allowed.contains(&origin(value)?) {
            return None;
        }
        // Copied, not cloned: a clone points into hyper's read buffer, and would keep all of it while
        // an answer waits.
        HeaderValue::from_bytes(value.as_bytes()).ok()
    }

    /// Adds to an answer what browsers need: `nosniff`, `Vary`, and CORS for an allowed origin.
    pub fn finish<B>(&self, allowed_origin: Option<HeaderValue>, response: &mut Response<B>) {
        trace!(count.answers = response.status().as_str());
        let headers = response.headers_mut();
        headers.insert(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
        headers.append(header::VARY, HeaderValue::from_name(header::ORIGIN));
        if let Some(origin) = allowed_origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            let yes = HeaderValue::from_static("true");
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
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
    let field = match (fields.next(), fields.next()) {
        (Some(value), None) => Some(parse_host(value.to_str().unwrap_or_default())?),
        (None, _) if request.version() == Version::HTTP_10 => None,
        (None, _) => return Err(Problem::bad_request("Host is missing")),
        (Some(_), Some(_)) => return Err(Problem::bad_request("Host is repeated")),
    };
    match request.uri().authority() {
        // An absolute request target overrides the field.
        Some(target) => parse_host(target.as_str()).map(Some),
        None => Ok(field),
    }
}

/// Unlike an origin, a Host may have an empty port.
fn parse_host(text: &str) -> Result<Authority, Problem> {
    authority(text.strip_suffix(':').unwrap_or(text))
        .ok_or_else(|| Problem::bad_request("Host is not HOST[:PORT]"))
}

/// HOST or HOST:PORT, without a user.
fn authority(text: &str) -> Option<Authority> {
    let authority: Authority = text.parse().ok()?;
    let port = text.strip_prefix(authority.host())?;
    let is_valid = port.is_empty() || authority.port_u16().is_some();
    (is_valid && !authority.host().is_empty()).then_some(authority)
}

/// `localhost` and the names below it, which resolve to loopback (RFC 6761 §6.3), and its addresses.
fn is_loopback_name(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let mut labels = name.rsplit('.');
    let top = labels.next().unwrap_or_default();
    let named = top.eq_ignore_ascii_case("localhost") && labels.all(|label| !label.is_empty());
    named || address(host).is_some_and(is_loopback)
}

/// Includes IPv4 addresses that are written as IPv6.
fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// The host as an address. `None` if it is a name.
fn address(host: &str) -> Option<IpAddr> {
    let literal = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    literal.unwrap_or(host).parse().ok()
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderName;

    use super::*;

    fn browsers(allowed: &[&str], listener: &str) -> Browsers {
        let origins = allowed.iter().map(|origin| origin.parse().unwrap());
        Browsers::new(origins.collect(), listener.parse().unwrap(), "ETag")
    }

    fn request(method: Method, fields: &[(&str, &str)]) -> Request<()> {
        let request = Request::builder().method(method);
        let with = fields.iter().fold(request, |request, (name, value)| {
            request.header(*name, *value)
        });
        with.body(()).unwrap()
    }

    fn check(allowed: &[&str], listener: &str, fields: &[(&str, &str)]) -> u16 {
        match browsers(allowed, listener).check(&request(Method::POST, fields), true) {
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
            ("capacitor://localhost", "capacitor://localhost"),
            ("tauri://localhost:80", "tauri://localhost:80"),
            ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh"),
        ] {
            let parsed: Origin = text.parse().unwrap();
            assert_eq!(format!("{}://{}", parsed.scheme, parsed.authority), origin);
        }
        for bad in [
            "",
            "null",
            "*",
            "a",
            "http://",
            "http://*",
            "https://*.a.org",
            "http://a/",
            "http://a/b",
            "file://",
            "HTTP://a",
            "://a",
            "1x://a",
            "a b://a",
            "http://u@a",
            "http://a b",
            "http://a:",
            "http://a:65536",
            "http://:80",
        ] {
            assert_eq!(bad.parse::<Origin>(), Err(BadOrigin), "{bad:?}");
        }
    }

    #[test]
    fn a_loopback_listener_answers_to_loopback_names() {
        for host in [
            "localhost",
            "LOCALHOST:8001",
            "localhost.",
            "localhost.:8001",
            "app.localhost",
            "a.b.LocalHost.:1",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:80",
            "[::ffff:127.0.0.1]:8001",
            "[::ffff:7f00:1]",
        ] {
            for listener in ["127.0.0.1:8001", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
                assert_eq!(check(&[], listener, &[("host", host)]), 200, "{host}");
            }
        }
        for host in [
            "example.org",
            "localhost.evil.org",
            "evillocalhost",
            "localhost..",
            ".localhost",
            "10.0.0.1",
            "127.0.0.1.evil.org",
            "[::2]",
            "[::ffff:10.0.0.1]",
        ] {
            for listener in ["127.0.0.1:8001", "[::ffff:127.0.0.1]:1"] {
                assert_eq!(check(&[], listener, &[("host", host)]), 421, "{host}");
            }
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
    fn an_origin_is_there_once_even_where_nothing_changes() {
        let own = ("origin", "http://localhost");
        let foreign = ("origin", "http://b.org");
        for origins in [[own, own], [own, foreign], [foreign, own]] {
            let fields = [&[("host", "localhost")][..], &origins].concat();
            assert_eq!(check(&[own.1], "127.0.0.1:1", &fields), 400, "{origins:?}");
            let rules = browsers(&[own.1], "127.0.0.1:1");
            let get = request(Method::GET, &fields);
            let refused = rules.check(&get, false).unwrap_err();
            assert_eq!(refused.status, StatusCode::BAD_REQUEST);
            assert_eq!(rules.allowed_origin(get.headers()), None);
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

    #[test]
    fn an_app_is_allowed_by_its_own_scheme_and_by_nothing_else() {
        let judge = |allowed: &[&str], origin| {
            let fields = [("host", "localhost"), ("origin", origin)];
            check(allowed, "127.0.0.1:1", &fields)
        };
        for app in [
            "capacitor://localhost",
            "tauri://localhost",
            "chrome-extension://abcdefgh",
        ] {
            assert_eq!(judge(&[app], app), 200, "{app}");
            assert_eq!(
                judge(&[], app),
                403,
                "{app}: the Host of a page names no app"
            );
            assert_eq!(judge(&["ionic://localhost"], app), 403, "{app}");
        }
    }

    /// A name can be rebound to this server by whoever owns it; an address cannot.
    #[test]
    fn a_name_is_its_own_origin_only_without_a_list() {
        let judge = |allowed: &[&str], listener, host, scheme: &str| {
            let origin = format!("{scheme}://{host}");
            check(allowed, listener, &[("host", host), ("origin", &origin)])
        };
        let list = &["https://a.org"][..];
        for (host, listed) in [
            ("rebound.org:8001", 403),
            ("localhost:8001", 403),
            ("10.0.0.1:8001", 200),
            ("[2001:db8::1]:8001", 200),
            ("a.org", 200),
        ] {
            assert_eq!(judge(list, "0.0.0.0:8001", host, "https"), listed, "{host}");
            assert_eq!(judge(&[], "0.0.0.0:8001", host, "https"), 200, "{host}");
        }
        assert_eq!(judge(list, "0.0.0.0:8001", "a.org", "http"), 403);
        assert_eq!(judge(list, "127.0.0.1:1", "localhost:1", "http"), 200);
        assert_eq!(judge(list, "127.0.0.1:1", "a.org", "http"), 403);
    }

    #[test]
    fn an_allowed_origin_may_send_credentials_and_any_field() {
        let rules = browsers(&["https://a.org"], "[::]:1");
        let preflight = |fields: &[(&str, &str)]| {
            let asks = [("host", "b.org"), ("access-control-request-method", "POST")];
            let request = request(Method::OPTIONS, &[&asks, fields].concat());
            let origin = rules.allowed_origin(request.headers());
            let mut response: Response<()> = rules.preflight(&request)?;
            rules.finish(origin, &mut response);
            Some(response)
        };
        let origin = ("origin", "https://a.org");
        let asked = (
            "access-control-request-headers",
            "traceparent,x-requested-with",
        );
        let response = preflight(&[origin, asked]).unwrap();
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        for (name, value) in [
            ("access-control-allow-origin", "https://a.org"),
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-headers", asked.1),
            ("access-control-expose-headers", "ETag"),
            ("vary", "origin"),
        ] {
            assert_eq!(response.headers()[name], value, "{name}");
        }
        let plain = preflight(&[origin]).unwrap();
        assert!(!plain.headers().contains_key("access-control-allow-headers"));
        assert!(preflight(&[("origin", "https://c.org"), asked]).is_none());
        assert!(preflight(&[("origin", "null"), asked]).is_none());
    }

    #[test]
    fn a_foreign_origin_learns_nothing() {
        let mut response = Response::new(());
        browsers(&["https://a.org"], "[::]:1").finish(None, &mut response);
        let names: Vec<_> = response.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["x-content-type-options", "vary"]);
    }
}
