//! Requests and their allowed answers. The cases come from public suites (Http11Probe, h1spec, the tests of Cowboy
//! and llhttp) and from RFC 9110 and 9112.
//!
//! After each row, the test sends a request for `/next`. An answer is shown as its status, or as `next` or
//! `smuggled` if it is the 404 for that path. So `201 next` is a publish and then the next request: the server
//! understood the framing. `400` is a refusal and then the end of the connection. No row may show `smuggled`.
//!
//! Every allowed answer is safe. Where RFC 9112 asks for another one, a comment says what hyper does instead, and why
//! nothing can be smuggled.

/// One request, and the answers that are allowed.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) bytes: Vec<u8>,
    pub(super) answers: &'static [&'static str],
}

const REFUSED: &[&str] = &["400"];
/// The request is served, and the connection goes on.
const SERVED: &[&str] = &["200 next"];
const PUBLISHED: &[&str] = &["201 next"];
/// Both are allowed.
const EITHER: &[&str] = &["400", "200 next"];
const GET_SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";

fn raw(name: &'static str, bytes: impl Into<Vec<u8>>, answers: &'static [&'static str]) -> Row {
    Row {
        name,
        bytes: bytes.into(),
        answers,
    }
}

/// A request line, with a `Host`.
fn line(name: &'static str, line: &str, answers: &'static [&'static str]) -> Row {
    raw(name, format!("{line}\r\nHost: localhost\r\n\r\n"), answers)
}

/// A GET with these field lines, each with its line end.
fn get(name: &'static str, fields: &str, answers: &'static [&'static str]) -> Row {
    let head = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n";
    raw(name, format!("{head}{fields}\r\n"), answers)
}

/// A publish with these field lines and this body.
fn post(name: &'static str, fields: &str, body: &str, answers: &'static [&'static str]) -> Row {
    let head = "POST /topics/a HTTP/1.1\r\nHost: localhost\r\n";
    raw(name, format!("{head}{fields}\r\n{body}"), answers)
}

fn chunked(name: &'static str, body: &str, answers: &'static [&'static str]) -> Row {
    post(name, "Transfer-Encoding: chunked\r\n", body, answers)
}

/// A publish with ambiguous framing. A request for `/smuggled` stands where the body ends in one of two readings.
fn doubtful(name: &'static str, fields: &str, body: &str) -> Row {
    let body = format!("{body}{GET_SMUGGLED}");
    post(name, fields, &body, REFUSED)
}

pub(super) fn all() -> Vec<Row> {
    [
        request_lines(),
        versions(),
        targets(),
        hosts(),
        line_ends(),
        field_names(),
        field_values(),
        lengths(),
        codings(),
        conflicts(),
        chunk_sizes(),
        chunk_extensions(),
        chunk_ends(),
        trailers(),
        connections(),
        expectations(),
        methods(),
        pipelines(),
        limits(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn request_lines() -> Vec<Row> {
    vec![
        line("a plain request", "GET /healthz HTTP/1.1", SERVED),
        line(
            "two spaces after the method",
            "GET  /healthz HTTP/1.1",
            REFUSED,
        ),
        line(
            "two spaces before the version",
            "GET /healthz  HTTP/1.1",
            REFUSED,
        ),
        line("a tab after the method", "GET\t/healthz HTTP/1.1", REFUSED),
        line(
            "a tab before the version",
            "GET /healthz\tHTTP/1.1",
            REFUSED,
        ),
        line(
            "a space before the method",
            " GET /healthz HTTP/1.1",
            REFUSED,
        ),
        line(
            "a space after the version",
            "GET /healthz HTTP/1.1 ",
            REFUSED,
        ),
        line("no target", "GET HTTP/1.1", REFUSED),
        line("an empty target", "GET  HTTP/1.1", REFUSED),
        line("no version, as in HTTP/0.9", "GET /healthz", REFUSED),
        line("only a method", "GET", REFUSED),
        line("a space in the target", "GET /health z HTTP/1.1", REFUSED),
        line(
            "a fragment in the target",
            "GET /healthz#x HTTP/1.1",
            &["400", "200 next", "404 next"],
        ),
        line(
            "a lower-case method",
            "get /healthz HTTP/1.1",
            &["400", "405 next", "501"],
        ),
        line(
            "an unknown method",
            "BREW /healthz HTTP/1.1",
            &["405 next", "501 next"],
        ),
        line(
            "a method with a symbol of a token",
            "M-SEARCH /healthz HTTP/1.1",
            &["405 next", "501 next"],
        ),
        line(
            "a method that is no token",
            "G(T /healthz HTTP/1.1",
            REFUSED,
        ),
        line(
            "a method with a control character",
            "G\u{1}T /healthz HTTP/1.1",
            REFUSED,
        ),
        line(
            "CONNECT with an authority",
            "CONNECT example.org:443 HTTP/1.1",
            &["400", "404 next", "405 next", "421 next"],
        ),
        line(
            "CONNECT with a path",
            "CONNECT /healthz HTTP/1.1",
            &["400", "405 next"],
        ),
        line(
            "TRACE",
            "TRACE /healthz HTTP/1.1",
            &["405 next", "501 next"],
        ),
        line("the preface of HTTP/2", "PRI * HTTP/2.0", &["400", "505"]),
        // hyper knows this preface, and closes without an answer.
        raw(
            "the whole preface of HTTP/2",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            &["", "400", "505"],
        ),
        raw(
            "TLS",
            &b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n"[..],
            REFUSED,
        ),
        raw("noise", &b"\x00\xff\xfe\x80\x01\r\n\r\n"[..], REFUSED),
        raw(
            "an answer instead of a request",
            "HTTP/1.1 200 OK\r\nHost: localhost\r\n\r\n",
            REFUSED,
        ),
    ]
}

fn versions() -> Vec<Row> {
    vec![
        line("HTTP/1.0", "GET /healthz HTTP/1.0", &["200"]),
        line(
            "HTTP/1.2",
            "GET /healthz HTTP/1.2",
            &["400", "200 next", "505"],
        ),
        line(
            "HTTP/0.9 spelled out",
            "GET /healthz HTTP/0.9",
            &["400", "505"],
        ),
        line("HTTP/2.0", "GET /healthz HTTP/2.0", &["400", "505"]),
        line("HTTP/3.0", "GET /healthz HTTP/3.0", &["400", "505"]),
        line("HTTP/1", "GET /healthz HTTP/1", REFUSED),
        line("HTTP/1.", "GET /healthz HTTP/1.", REFUSED),
        line("HTTP/1.1.1", "GET /healthz HTTP/1.1.1", REFUSED),
        line("HTTP/01.1", "GET /healthz HTTP/01.1", REFUSED),
        line("HTTP/1.01", "GET /healthz HTTP/1.01", REFUSED),
        line("HTTP/1.10", "GET /healthz HTTP/1.10", REFUSED),
        line("HTTP /1.1", "GET /healthz HTTP /1.1", REFUSED),
        line("HTTP/ 1.1", "GET /healthz HTTP/ 1.1", REFUSED),
        line("http/1.1", "GET /healthz http/1.1", REFUSED),
        line("HTTPS/1.1", "GET /healthz HTTPS/1.1", REFUSED),
        line("HTTP/a.b", "GET /healthz HTTP/a.b", REFUSED),
    ]
}

fn targets() -> Vec<Row> {
    let absolute = |name, target: &str, host: &str, answers| {
        raw(
            name,
            format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            answers,
        )
    };
    vec![
        absolute(
            "absolute form",
            "http://localhost/healthz",
            "localhost",
            SERVED,
        ),
        absolute(
            "absolute form, the scheme in capitals",
            "HTTP://localhost/healthz",
            "localhost",
            SERVED,
        ),
        // RFC 9112 §3.2.2: the host of the target counts, not the field. Browsers never send this form to a server.
        absolute(
            "absolute form, another Host",
            "http://localhost/healthz",
            "rebound.example",
            &["400", "421 next", "200 next"],
        ),
        absolute(
            "absolute form, a foreign target",
            "http://rebound.example/healthz",
            "localhost",
            &["400", "421 next"],
        ),
        absolute(
            "absolute form, an empty path",
            "http://localhost",
            "localhost",
            SERVED,
        ),
        absolute(
            "absolute form, a user",
            "http://a@localhost/healthz",
            "localhost",
            &["400", "400 next"],
        ),
        absolute(
            "absolute form, another scheme",
            "ftp://localhost/healthz",
            "localhost",
            EITHER,
        ),
        line(
            "OPTIONS *",
            "OPTIONS * HTTP/1.1",
            &["200 next", "204 next", "404 next", "405 next"],
        ),
        line("GET *", "GET * HTTP/1.1", &["400", "404 next"]),
        line(
            "authority form with GET",
            "GET localhost:80 HTTP/1.1",
            &["400", "404 next"],
        ),
        line(
            "a relative target",
            "GET healthz HTTP/1.1",
            &["400", "404 next", "421 next"],
        ),
        line(
            "a target of only a query",
            "GET ?a HTTP/1.1",
            &["400", "404 next"],
        ),
        line(
            "two slashes",
            "GET //healthz HTTP/1.1",
            &["400", "404 next"],
        ),
        line(
            "dot segments",
            "GET /a/../healthz HTTP/1.1",
            &["400", "404 next"],
        ),
        line(
            "percent-encoded dot segments",
            "GET /a/%2e%2e/healthz HTTP/1.1",
            &["400", "404 next"],
        ),
        line(
            "a percent-encoded line end",
            "GET /healthz%0d%0aX: HTTP/1.1",
            &["400", "404 next"],
        ),
        line(
            "a percent-encoded NUL",
            "GET /healthz%00 HTTP/1.1",
            &["400", "404 next"],
        ),
        line(
            "an overlong UTF-8 dot",
            "GET /%c0%ae%c0%ae/healthz HTTP/1.1",
            &["400", "404 next"],
        ),
        line(
            "a backslash",
            "GET \\healthz HTTP/1.1",
            &["400", "404 next"],
        ),
        line(
            "a backslash in the path",
            "GET /a\\..\\healthz HTTP/1.1",
            &["400", "404 next"],
        ),
        line(
            "letters beyond ASCII",
            "GET /h\u{e9}althz HTTP/1.1",
            &["400", "404 next"],
        ),
        raw(
            "bytes that are no UTF-8",
            &b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n"[..],
            &["400", "404 next"],
        ),
        raw(
            "NUL in the target",
            &b"GET /\0 HTTP/1.1\r\nHost: localhost\r\n\r\n"[..],
            REFUSED,
        ),
        line(
            "DEL in the target",
            "GET /\u{7f} HTTP/1.1",
            &["400", "404 next"],
        ),
        line(
            "a query with everything",
            "GET /healthz?a=b&c=%20&d?/ HTTP/1.1",
            SERVED,
        ),
    ]
}

fn hosts() -> Vec<Row> {
    let host = |name, fields: &str, answers| {
        raw(
            name,
            format!("GET /healthz HTTP/1.1\r\n{fields}\r\n"),
            answers,
        )
    };
    const NAMED: &[&str] = &["400", "400 next"];
    vec![
        host("no Host", "", NAMED),
        raw(
            "no Host in HTTP/1.0",
            "GET /healthz HTTP/1.0\r\n\r\n",
            &["200", "400"],
        ),
        host(
            "two Hosts",
            "Host: localhost\r\nHost: other.example\r\n",
            NAMED,
        ),
        host(
            "two equal Hosts",
            "Host: localhost\r\nHost: localhost\r\n",
            NAMED,
        ),
        host(
            "an empty Host",
            "Host:\r\n",
            &["400", "400 next", "421 next"],
        ),
        host("a Host with a user", "Host: a@localhost\r\n", NAMED),
        host("a Host with a path", "Host: localhost/a\r\n", NAMED),
        host("a Host with a scheme", "Host: http://localhost\r\n", NAMED),
        host(
            "two names in one Host",
            "Host: localhost, other.example\r\n",
            NAMED,
        ),
        host("a Host with spaces", "Host: local host\r\n", NAMED),
        host("a Host with a port", "Host: localhost:80\r\n", SERVED),
        host(
            "a Host with an empty port",
            "Host: localhost:\r\n",
            &["400 next", "200 next"],
        ),
        host(
            "a Host whose port is no number",
            "Host: localhost:x\r\n",
            NAMED,
        ),
        host(
            "a Host whose port is too large",
            "Host: localhost:99999\r\n",
            NAMED,
        ),
        host("a Host in capitals", "HOST: LOCALHOST\r\n", SERVED),
        host("a Host of IPv6", "Host: [::1]:80\r\n", SERVED),
        host("a Host of IPv6 without an end", "Host: [::1\r\n", NAMED),
        host(
            "a Host of another name",
            "Host: rebound.example\r\n",
            &["421 next"],
        ),
    ]
}

fn line_ends() -> Vec<Row> {
    const BARE_LF: &[&str] = &["400", "200 next"]; // RFC 9112 §2.2: a bare LF may count as a line end.
    vec![
        raw(
            "a bare LF after the request line",
            "GET /healthz HTTP/1.1\nHost: localhost\r\n\r\n",
            BARE_LF,
        ),
        raw(
            "a bare LF after a field",
            "GET /healthz HTTP/1.1\r\nHost: localhost\n\r\n",
            BARE_LF,
        ),
        raw(
            "only bare LFs",
            "GET /healthz HTTP/1.1\nHost: localhost\n\n",
            BARE_LF,
        ),
        raw(
            "a bare CR after the request line",
            "GET /healthz HTTP/1.1\rHost: localhost\r\n\r\n",
            REFUSED,
        ),
        raw(
            "a bare CR after a field",
            "GET /healthz HTTP/1.1\r\nHost: localhost\rX: y\r\n\r\n",
            REFUSED,
        ),
        raw(
            "only bare CRs",
            "GET /healthz HTTP/1.1\rHost: localhost\r\r",
            REFUSED,
        ),
        raw(
            "CR CR LF",
            "GET /healthz HTTP/1.1\r\r\nHost: localhost\r\n\r\n",
            REFUSED,
        ),
        raw(
            "one empty line before the request",
            "\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
            BARE_LF,
        ),
        raw(
            "three empty lines before the request",
            "\r\n\r\n\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
            BARE_LF,
        ),
        raw(
            "an LF before the request",
            "\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
            BARE_LF,
        ),
        raw(
            "a line of spaces before the request",
            "   \r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
            REFUSED,
        ),
        raw(
            "a space before the first field",
            "GET /healthz HTTP/1.1\r\n Host: localhost\r\n\r\n",
            REFUSED,
        ),
        raw(
            "a line of spaces instead of the empty line",
            "GET /healthz HTTP/1.1\r\nHost: localhost\r\n  \r\n\r\n",
            REFUSED,
        ),
    ]
}

fn field_names() -> Vec<Row> {
    vec![
        get("a space before the colon", "X : y\r\n", REFUSED),
        get("a tab before the colon", "X\t: y\r\n", REFUSED),
        get("no colon", "X y\r\n", REFUSED),
        get("no name", ": y\r\n", REFUSED),
        get("a space in the name", "X Y: z\r\n", REFUSED),
        get("brackets in the name", "[X]: y\r\n", REFUSED),
        get("a quote in the name", "X\"Y: z\r\n", REFUSED),
        get("a slash in the name", "X/Y: z\r\n", REFUSED),
        get(
            "every symbol of a token",
            "!#$%&'*+-.^_`|~0aA: y\r\n",
            SERVED,
        ),
        get("a name beyond ASCII", "X\u{e9}: y\r\n", REFUSED),
        get("NUL in the name", "X\0Y: z\r\n", REFUSED),
        get("a control character in the name", "X\u{1}Y: z\r\n", REFUSED),
        get("a name in any case", "cOnNeCtIoN: keep-alive\r\n", SERVED),
        get("an underscore in the name", "Content_Length: 5\r\n", SERVED),
    ]
}

fn field_values() -> Vec<Row> {
    vec![
        get("an empty value", "X:\r\n", SERVED),
        get("no space after the colon", "X:y\r\n", SERVED),
        get(
            "spaces and tabs around the value",
            "X: \t y \t \r\n",
            SERVED,
        ),
        get("NUL in the value", "X: a\0b\r\n", REFUSED),
        get(
            "a control character in the value",
            "X: a\u{1}b\r\n",
            REFUSED,
        ),
        get("DEL in the value", "X: a\u{7f}b\r\n", REFUSED),
        get("a bare CR in the value", "X: a\rb\r\n", REFUSED),
        get("letters beyond ASCII in the value", "X: \u{e9}\r\n", SERVED),
        get("a folded value", "X: a\r\n b\r\n", REFUSED),
        get("a value folded by a tab", "X: a\r\n\tb\r\n", REFUSED),
        get("a field repeated", "X: a\r\nX: b\r\n", SERVED),
    ]
}

fn lengths() -> Vec<Row> {
    let length = |name, value: &str| {
        let bytes = format!(
            "POST /topics/a HTTP/1.1\r\nHost: localhost\r\nContent-Length:{value}\r\n\r\nhello"
        );
        raw(name, bytes, REFUSED)
    };
    const LATE: &[&str] = &["408"];
    vec![
        post("a length", "Content-Length: 5\r\n", "hello", PUBLISHED),
        post("a length of 0", "Content-Length: 0\r\n", "", PUBLISHED),
        post("no length and no coding", "", "", PUBLISHED),
        post(
            "leading zeros",
            "Content-Length: 0005\r\n",
            "hello",
            &["400", "201 next"],
        ),
        post(
            "spaces around the length",
            "Content-Length: \t 5 \t\r\n",
            "hello",
            PUBLISHED,
        ),
        post(
            "no space before the length",
            "Content-Length:5\r\n",
            "hello",
            PUBLISHED,
        ),
        length("an empty length", ""),
        length("a negative length", " -5"),
        length("a length of -0", " -0"),
        length("a plus sign", " +5"),
        length("a hexadecimal length", " 0x5"),
        length("an octal length", " 0o5"),
        length("an underscore", " 1_0"),
        length("a fraction", " 5.0"),
        length("an exponent", " 5e0"),
        length("no number", " five"),
        length("a space within", " 5 5"),
        length("a comma", " 5,"),
        length("two different lengths in a list", " 5, 6"),
        length("a length of 21 digits", " 100000000000000000005"),
        length("2^64 + 5", " 18446744073709551621"),
        length("a NUL", " 5\0"),
        // RFC 9110 §8.6: a list of equal lengths counts as one length, or is refused.
        post(
            "two equal lengths in a list",
            "Content-Length: 5, 5\r\n",
            "hello",
            &["400", "201 next"],
        ),
        post(
            "two equal length fields",
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "hello",
            &["400", "201 next"],
        ),
        post(
            "two different length fields",
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "hello",
            REFUSED,
        ),
        post(
            "a different length first",
            "Content-Length: 0\r\nContent-Length: 5\r\n",
            "hello",
            REFUSED,
        ),
        raw(
            "a length whose body does not come",
            "POST /topics/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\nhello",
            LATE,
        ),
        get("a GET with a length of 0", "Content-Length: 0\r\n", SERVED),
        get(
            "a GET with an empty chunked body",
            "Transfer-Encoding: chunked\r\n\r\n0\r\n",
            SERVED,
        ),
        // It is answered, and its body is not parsed as a request.
        raw(
            "a GET with a body",
            "GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello",
            &["400", "400 next"],
        ),
        raw(
            "a GET whose body is a request",
            format!(
                "GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{GET_SMUGGLED}",
                GET_SMUGGLED.len()
            ),
            &["400", "400 next"],
        ),
        raw(
            "a HEAD whose body is a request",
            format!(
                "HEAD /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{GET_SMUGGLED}",
                GET_SMUGGLED.len()
            ),
            &["400", "400 next"],
        ),
        raw(
            "an OPTIONS whose body is a request",
            format!(
                "OPTIONS /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{GET_SMUGGLED}",
                GET_SMUGGLED.len()
            ),
            &["400", "200", "200 next"],
        ),
        raw(
            "a DELETE whose body is a request",
            format!(
                "DELETE /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{GET_SMUGGLED}",
                GET_SMUGGLED.len()
            ),
            &["405", "405 next"],
        ),
        raw(
            "a refused POST whose body is a request",
            format!(
                "POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{GET_SMUGGLED}",
                GET_SMUGGLED.len()
            ),
            &["405", "405 next"],
        ),
    ]
}

fn codings() -> Vec<Row> {
    let coding = |name, fields: &str| post(name, fields, "5\r\nhello\r\n0\r\n\r\n", REFUSED);
    const CHUNKS: &str = "5\r\nhello\r\n0\r\n\r\n";
    vec![
        chunked("chunked", CHUNKS, PUBLISHED),
        post(
            "chunked in capitals",
            "Transfer-Encoding: CHUNKED\r\n",
            CHUNKS,
            PUBLISHED,
        ),
        post(
            "chunked after a tab",
            "Transfer-Encoding:\tchunked\r\n",
            CHUNKS,
            PUBLISHED,
        ),
        post(
            "chunked before a space",
            "Transfer-Encoding: chunked \r\n",
            CHUNKS,
            PUBLISHED,
        ),
        // For an unknown coding, RFC 9112 §6.1 asks for 501 and allows 400.
        post(
            "gzip, chunked",
            "Transfer-Encoding: gzip, chunked\r\n",
            CHUNKS,
            &["400", "501", "201 next"],
        ),
        post(
            "an empty element before chunked",
            "Transfer-Encoding: , chunked\r\n",
            CHUNKS,
            &["400", "201 next"],
        ),
        post(
            "chunked in a second field",
            "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
            CHUNKS,
            &["400", "501", "201 next"],
        ),
        post(
            "chunked twice",
            "Transfer-Encoding: chunked, chunked\r\n",
            CHUNKS,
            &["400", "201 next"],
        ),
        post(
            "two fields of chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            CHUNKS,
            &["400", "201 next"],
        ),
        coding(
            "chunked is not the last",
            "Transfer-Encoding: chunked, gzip\r\n",
        ),
        coding(
            "chunked is not the last field",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n",
        ),
        coding(
            "an empty element after chunked",
            "Transfer-Encoding: chunked,\r\n",
        ),
        coding("an unknown coding", "Transfer-Encoding: xchunked\r\n"),
        coding("identity", "Transfer-Encoding: identity\r\n"),
        coding("only gzip", "Transfer-Encoding: gzip\r\n"),
        coding("an empty coding", "Transfer-Encoding:\r\n"),
        coding("a parameter", "Transfer-Encoding: chunked;a=b\r\n"),
        coding("quotes", "Transfer-Encoding: \"chunked\"\r\n"),
        coding("a vertical tab", "Transfer-Encoding: \u{b}chunked\r\n"),
        coding("a form feed", "Transfer-Encoding: \u{c}chunked\r\n"),
        coding("a NUL", "Transfer-Encoding: chunked\0\r\n"),
        coding(
            "a space before the colon of the coding",
            "Transfer-Encoding : chunked\r\n",
        ),
        coding("a folded coding", "Transfer-Encoding:\r\n chunked\r\n"),
        coding(
            "a bare CR before chunked",
            "Transfer-Encoding: \rchunked\r\n",
        ),
        raw(
            "chunked in HTTP/1.0",
            format!(
                "POST /topics/a HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{CHUNKS}"
            ),
            &["400", "201"],
        ),
        raw(
            "a GET with a chunked body",
            format!(
                "GET /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{CHUNKS}"
            ),
            &["400", "400 next"],
        ),
    ]
}

fn conflicts() -> Vec<Row> {
    // RFC 9112 §6.1: the server refuses the request, or uses the coding, ignores the length, and closes the
    // connection after the answer.
    const BOTH: &[&str] = &["400", "201", "201 next"];
    let long = format!("0\r\n\r\n{GET_SMUGGLED}");
    let length = format!("Content-Length: {}\r\n", long.len());
    vec![
        post(
            "a length and chunked",
            "Content-Length: 15\r\nTransfer-Encoding: chunked\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            BOTH,
        ),
        post(
            "chunked and a length",
            "Transfer-Encoding: chunked\r\nContent-Length: 15\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            BOTH,
        ),
        post(
            "chunked and a length that is too short",
            "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            BOTH,
        ),
        post(
            "chunked and an invalid length",
            "Transfer-Encoding: chunked\r\nContent-Length: x\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            BOTH,
        ),
        post(
            "chunked and two lengths",
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\nContent-Length: 6\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            BOTH,
        ),
        doubtful(
            "a length that hides a request, and xchunked",
            &format!("{length}Transfer-Encoding: xchunked\r\n"),
            &long,
        ),
        doubtful(
            "a length that hides a request, and a folded chunked",
            &format!("{length}Transfer-Encoding:\r\n chunked\r\n"),
            &long,
        ),
        doubtful(
            "a length that hides a request, and chunked before a colon's space",
            &format!("{length}Transfer-Encoding : chunked\r\n"),
            &long,
        ),
        doubtful(
            "a length that hides a request, and chunked, identity",
            &format!("{length}Transfer-Encoding: chunked, identity\r\n"),
            &long,
        ),
        doubtful(
            "two lengths, one of which hides a request",
            &format!("Content-Length: 0\r\n{length}"),
            "",
        ),
        doubtful(
            "a length with a plus sign that hides a request",
            "Content-Length: +46\r\n",
            "",
        ),
        doubtful(
            "a length in a list that hides a request",
            "Content-Length: 0, 46\r\n",
            "",
        ),
    ]
}

fn chunk_sizes() -> Vec<Row> {
    let size = |name, size: &str| chunked(name, &format!("{size}\r\nhello\r\n0\r\n\r\n"), REFUSED);
    vec![
        chunked("no chunk but the last", "0\r\n\r\n", PUBLISHED),
        chunked("two chunks", "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", PUBLISHED),
        chunked(
            "a size in capitals",
            "A\r\n0123456789\r\n0\r\n\r\n",
            PUBLISHED,
        ),
        chunked(
            "a size with leading zeros",
            "0005\r\nhello\r\n0\r\n\r\n",
            &["400", "201 next"],
        ),
        chunked(
            "a last chunk of many zeros",
            "5\r\nhello\r\n0000\r\n\r\n",
            &["400", "201 next"],
        ),
        size("a prefix 0x", "0x5"),
        size("a size with an underscore", "0_5"),
        size("a negative size", "-5"),
        size("a size with a plus sign", "+5"),
        size("a space before the size", " 5"),
        size("no hexadecimal digit", "g"),
        size("no size", ""),
        size("a size of 17 digits", "10000000000000005"),
        // hyper waits for that many bytes.
        chunked(
            "a size of 2^64 - 1",
            "ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
            &["400", "408", "413"],
        ),
        size("a NUL in the size", "5\0"),
        size("a size in quotes", "\"5\""),
        // RFC 9112 §7.1.1: whitespace may precede an extension's semicolon. hyper also accepts it here.
        chunked(
            "spaces after the size",
            "5  \r\nhello\r\n0\r\n\r\n",
            &["400", "201 next"],
        ),
        chunked(
            "a tab after the size",
            "5\t\r\nhello\r\n0\r\n\r\n",
            &["400", "201 next"],
        ),
        size("a space within the size", "0 5"),
    ]
}

fn chunk_extensions() -> Vec<Row> {
    // hyper skips an extension up to its line end, and does not check its grammar. It refuses a CR or LF inside, so
    // an extension cannot hide a line end.
    const TAKEN: &[&str] = &["400", "201 next"];
    let extension = |name, extension: &str, answers| {
        chunked(
            name,
            &format!("5{extension}\r\nhello\r\n0\r\n\r\n"),
            answers,
        )
    };
    vec![
        extension("an extension", ";a=b", PUBLISHED),
        extension("an extension without a value", ";a", PUBLISHED),
        extension("an extension in quotes", ";a=\"b;c\"", PUBLISHED),
        extension("an extension after a space", " ;a=b", TAKEN),
        extension("a bare semicolon", ";", TAKEN),
        extension("an extension that is no token", ";@=b", TAKEN),
        extension("an extension with a control character", ";a\u{1}=b", TAKEN),
        extension("an extension with a NUL", ";a\0=b", TAKEN),
        extension("an extension with a bare CR", ";a\r=b", REFUSED),
        extension("an extension with a bare LF", ";a\n=b", REFUSED),
        extension("a line end before the chunk's data", ";a\n5", REFUSED),
        chunked(
            "an extension of the last chunk",
            "5\r\nhello\r\n0;a=b\r\n\r\n",
            PUBLISHED,
        ),
        chunked(
            "extensions of 20 KiB",
            &format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(20 << 10)),
            REFUSED,
        ),
        chunked(
            "many small extensions",
            &format!("{}0\r\n\r\n", "1;aaaaaaaa\r\nx\r\n".repeat(200)),
            PUBLISHED,
        ),
    ]
}

fn chunk_ends() -> Vec<Row> {
    vec![
        chunked("a bare LF after the size", "5\nhello\r\n0\r\n\r\n", REFUSED),
        chunked("a bare CR after the size", "5\rhello\r\n0\r\n\r\n", REFUSED),
        chunked("a bare LF after the data", "5\r\nhello\n0\r\n\r\n", REFUSED),
        chunked("a bare CR after the data", "5\r\nhello\r0\r\n\r\n", REFUSED),
        chunked("no line end after the data", "5\r\nhello0\r\n\r\n", REFUSED),
        chunked(
            "more data than the size",
            "5\r\nhello!!\r\n0\r\n\r\n",
            REFUSED,
        ),
        chunked(
            "less data than the size",
            "7\r\nhello\r\n0\r\n\r\n",
            REFUSED,
        ),
        chunked("a bare LF at the end", "5\r\nhello\r\n0\n\n", REFUSED),
        chunked("a bare CR at the end", "5\r\nhello\r\n0\r\r", REFUSED),
        chunked(
            "a request in a chunk",
            &format!("{:x}\r\n{GET_SMUGGLED}\r\n0\r\n\r\n", GET_SMUGGLED.len()),
            PUBLISHED,
        ),
    ]
}

fn trailers() -> Vec<Row> {
    // hyper reads trailers up to the empty line, and does not treat them as fields. So they change nothing.
    const READ: &[&str] = &["400", "201 next"];
    let trailer = |name, trailer: &str, answers| {
        chunked(name, &format!("5\r\nhello\r\n0\r\n{trailer}\r\n"), answers)
    };
    vec![
        trailer("a trailer", "X: y\r\n", PUBLISHED),
        trailer("two trailers", "X: y\r\nZ: w\r\n", PUBLISHED),
        trailer("a length as a trailer", "Content-Length: 50\r\n", READ),
        trailer(
            "a coding as a trailer",
            "Transfer-Encoding: chunked\r\n",
            READ,
        ),
        trailer("a Host as a trailer", "Host: rebound.example\r\n", READ),
        trailer("a Connection as a trailer", "Connection: close\r\n", READ),
        trailer(
            "a media type as a trailer",
            "Content-Type: application/json\r\n",
            READ,
        ),
        trailer(
            "a trailer without a colon",
            "nonsense\r\n",
            &["400", "201", "201 next"],
        ),
        trailer(
            "a folded trailer",
            "X: a\r\n b\r\n",
            &["400", "201", "201 next"],
        ),
        trailer(
            "a trailer with a bare LF",
            "X: y\n",
            &["400", "201", "201 next"],
        ),
        chunked(
            "trailers of 20 KiB",
            &format!("5\r\nhello\r\n0\r\nX: {}\r\n\r\n", "x".repeat(20 << 10)),
            &["400", "431", "201", "201 next"],
        ),
        chunked(
            "two thousand trailers",
            &format!("5\r\nhello\r\n0\r\n{}\r\n", "X: y\r\n".repeat(2_000)),
            &["400", "431", "201", "201 next"],
        ),
    ]
}

fn connections() -> Vec<Row> {
    let old = |name, fields: &str, answers| {
        raw(
            name,
            format!("GET /healthz HTTP/1.0\r\nHost: localhost\r\n{fields}\r\n"),
            answers,
        )
    };
    vec![
        get("Connection: close", "Connection: close\r\n", &["200"]),
        get(
            "Connection: close in capitals",
            "Connection: CLOSE\r\n",
            &["200"],
        ),
        get("close in a list", "Connection: te, close\r\n", &["200"]),
        get(
            "close in a second field",
            "Connection: te\r\nConnection: close\r\n",
            &["200"],
        ),
        get(
            "Connection: keep-alive",
            "Connection: keep-alive\r\n",
            SERVED,
        ),
        get("an unknown option", "Connection: x\r\nX: y\r\n", SERVED),
        old("HTTP/1.0 closes", "", &["200"]),
        // With the takeover the connection is closed. RFC 9112 §9.3 allows that.
        old(
            "HTTP/1.0 with keep-alive",
            "Connection: keep-alive\r\n",
            &["200", "200 next"],
        ),
        get(
            "an upgrade to HTTP/2",
            "Connection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n",
            SERVED,
        ),
        get(
            "an upgrade to an unknown protocol",
            "Connection: upgrade\r\nUpgrade: x\r\n",
            SERVED,
        ),
        post(
            "a publish that closes",
            "Connection: close\r\nContent-Length: 5\r\n",
            "hello",
            &["201"],
        ),
    ]
}

fn expectations() -> Vec<Row> {
    vec![
        post(
            "Expect: 100-continue with its body",
            "Expect: 100-continue\r\nContent-Length: 5\r\n",
            "hello",
            &["201 next", "100 201 next"],
        ),
        post(
            "Expect in capitals",
            "Expect: 100-CONTINUE\r\nContent-Length: 5\r\n",
            "hello",
            &["201 next", "100 201 next"],
        ),
        post(
            "Expect with chunks",
            "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            &["201 next", "100 201 next"],
        ),
        get("Expect without a body", "Expect: 100-continue\r\n", SERVED),
        // RFC 9110 §10.1.1: another expectation may get a 417.
        post(
            "an unknown expectation",
            "Expect: x\r\nContent-Length: 5\r\n",
            "hello",
            &["201 next", "417"],
        ),
        post(
            "Expect and a refused length that hides a request",
            &format!(
                "Expect: 100-continue\r\nContent-Length: {}\r\nIdempotency-Key: a b\r\n",
                GET_SMUGGLED.len()
            ),
            GET_SMUGGLED,
            &["400", "400 next", "100 400 next"],
        ),
        raw(
            "Expect in HTTP/1.0",
            "POST /topics/a HTTP/1.0\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
            &["201"],
        ),
    ]
}

fn methods() -> Vec<Row> {
    vec![
        line("HEAD", "HEAD /healthz HTTP/1.1", SERVED),
        line("HEAD of nothing", "HEAD /nothing HTTP/1.1", &["404 next"]),
        line("GET of nothing", "GET /nothing HTTP/1.1", &["404 next"]),
        line("PUT", "PUT /healthz HTTP/1.1", &["405 next"]),
        line("DELETE", "DELETE /healthz HTTP/1.1", &["405 next"]),
        line("OPTIONS of health", "OPTIONS /healthz HTTP/1.1", SERVED),
        get(
            "If-Modified-Since",
            "If-Modified-Since: Sat, 01 Jan 2000 00:00:00 GMT\r\n",
            SERVED,
        ),
        get("overlapping ranges", "Range: bytes=0-,0-,0-,0-\r\n", SERVED),
        get(
            "an Accept that no answer can match",
            "Accept: application/x-nothing\r\n",
            &["200 next", "406 next"],
        ),
    ]
}

fn pipelines() -> Vec<Row> {
    let health = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let publish = "POST /topics/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx";
    let head = "HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let refused = "POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx";
    vec![
        raw("two requests", [health, health].concat(), &["200 200 next"]),
        raw(
            "three kinds",
            [health, publish, head].concat(),
            &["200 201 200 next"],
        ),
        raw(
            "two publishes",
            [publish, publish].concat(),
            &["201 201 next"],
        ),
        raw(
            "a refusal between",
            [health, refused, health].concat(),
            &["200 404 200 next", "200 404"],
        ),
        raw(
            "a malformed one between",
            [health, "GET\r\n\r\n", GET_SMUGGLED].concat(),
            &["200 400"],
        ),
        raw(
            "nothing follows a close",
            [
                "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
                GET_SMUGGLED,
            ]
            .concat(),
            &["200"],
        ),
        raw(
            "nothing follows HTTP/1.0",
            [
                "GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n",
                GET_SMUGGLED,
            ]
            .concat(),
            &["200"],
        ),
        raw(
            "ten of them",
            health.repeat(10),
            &["200 200 200 200 200 200 200 200 200 200 next"],
        ),
        raw(
            "an empty line between",
            [health, "\r\n", health].concat(),
            &["200 200 next", "200 400"],
        ),
        raw(
            "more than the length",
            "POST /topics/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello, world\r\n\r\n",
            &["201 400"],
        ),
    ]
}

fn limits() -> Vec<Row> {
    let big = |size: usize| "x".repeat(size);
    const LONG: &[&str] = &["400", "414", "431"];
    vec![
        line(
            "a target of 8,000 bytes",
            &format!("GET /{} HTTP/1.1", big(8_000)),
            &["404 next"],
        ),
        line(
            "a target of 20 KiB",
            &format!("GET /{} HTTP/1.1", big(20 << 10)),
            LONG,
        ),
        line(
            "a target of 100 KiB",
            &format!("GET /{} HTTP/1.1", big(100 << 10)),
            LONG,
        ),
        line(
            "a method of 20 KiB",
            &format!("{} / HTTP/1.1", big(20 << 10)),
            LONG,
        ),
        get(
            "a value of 8,000 bytes",
            &format!("X: {}\r\n", big(8_000)),
            SERVED,
        ),
        get(
            "a value of 20 KiB",
            &format!("X: {}\r\n", big(20 << 10)),
            LONG,
        ),
        get(
            "a name of 20 KiB",
            &format!("{}: y\r\n", big(20 << 10)),
            LONG,
        ),
        get("fifty fields", &"X: y\r\n".repeat(50), SERVED),
        get("a thousand fields", &"X: y\r\n".repeat(1_000), LONG),
        post(
            "a body over the limit",
            &format!("Content-Length: {}\r\n", 70_000),
            &big(70_000),
            &["413 next", "413"],
        ),
        post(
            "a chunked body over the limit",
            "Transfer-Encoding: chunked\r\n",
            &format!("11170\r\n{}\r\n0\r\n\r\n", big(70_000)),
            &["413 next", "413"],
        ),
        post(
            "a body of 3 MiB",
            &format!("Content-Length: {}\r\n", 3 << 20),
            &big(3 << 20),
            &["413 next", "413"],
        ),
    ]
}
