//! The servers' addresses: `nats://[USER:PASSWORD@]HOST[:PORT],…[?replicas=N]`.
//!
//! Parsed by hand, because the url crate allows only one host.

use std::{fmt, str::FromStr};

use async_nats::ServerAddr;

/// The value of `--feed` for a feed on NATS. `tls://` instead of `nats://` encrypts the connections.
#[derive(Clone, PartialEq, Eq)]
pub struct NatsUrl {
    pub(super) servers: Vec<ServerAddr>,
    /// A user with a password, or a token.
    pub(super) login: Option<(String, Option<String>)>,
    /// How many servers store each message. An existing stream must have the same number. `None`: one for a
    /// new stream, and any number for an existing one.
    pub(super) replicas: Option<usize>,
}

impl FromStr for NatsUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or("the scheme is missing")?;
        // First, and by the last `@`: a password may contain any other character. A host cannot contain an `@`.
        let (login, rest) = match rest.rsplit_once('@') {
            None => (None, rest),
            // Refused rather than guessed: the password may be meant as it is, or percent-encoded.
            Some((login, _)) if login.contains('%') => {
                return Err("a user or a password must not contain %-escapes".into());
            }
            Some((login, rest)) => (Some(self::login(login)), rest),
        };
        let (hosts, query) = rest.split_once('?').unwrap_or((rest, ""));
        let servers = hosts.split(',').map(|host| server(scheme, host));
        Ok(Self {
            servers: servers.collect::<Result<_, _>>()?,
            login,
            replicas: replicas(query)?,
        })
    }
}

/// A login without a colon is a token. The first colon counts, because a password may contain one.
pub(super) fn login(text: &str) -> (String, Option<String>) {
    match text.split_once(':') {
        None => (text.into(), None),
        Some((user, password)) => (user.into(), Some(password.into())),
    }
}

/// Parsed with the scheme, because `tls://` is part of what the client must know. A path is an error, because the
/// client would ignore it.
fn server(scheme: &str, host: &str) -> Result<ServerAddr, String> {
    if let Some(at) = host.find('/')
        && host[at..] != *"/"
    {
        let reason = "a nats:// URL has no path: the name of the stream is fixed";
        return Err(format!("{}: {reason}", &host[at..]));
    }
    match format!("{scheme}://{host}").parse::<ServerAddr>() {
        Ok(server) if !server.host().is_empty() => Ok(server),
        Ok(_) => Err(format!("{host:?} is not a server")),
        Err(error) => Err(format!("{host:?} is not a server: {error}")),
    }
}

/// NATS allows 1 to 5. An unknown parameter is an error, because a misspelled one would be ignored.
fn replicas(query: &str) -> Result<Option<usize>, String> {
    match query.split_once('=') {
        None if query.is_empty() => Ok(None),
        Some(("replicas", count)) => match count.parse() {
            Ok(1..=5) => Ok(count.parse().ok()),
            _ => Err(format!("replicas={count}: must be 1 to 5")),
        },
        _ => Err(format!("{query}: the only parameter is replicas=N")),
    }
}

/// Without the login: this text goes into log lines and error messages.
impl fmt::Display for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nats://")?;
        for (index, server) in self.servers.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{}:{}", server.host(), server.port())?;
        }
        Ok(())
    }
}

/// Not derived, because a derived one would print the password.
impl fmt::Debug for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_servers_and_perhaps_a_login_and_replicas() {
        let url: NatsUrl = "nats://u:p:q@a,b:1,[::1]:2?replicas=3".parse().unwrap();
        assert_eq!(url.to_string(), "nats://a:4222,b:1,::1:2");
        assert_eq!(url.login, Some(("u".into(), Some("p:q".into()))));
        assert_eq!(url.replicas, Some(3));
        let url: NatsUrl = "nats://u:p/q?r@a?replicas=1".parse().unwrap();
        assert_eq!(url.login, Some(("u".into(), Some("p/q?r".into()))));
        let url: NatsUrl = "tls://token@a".parse().unwrap();
        assert_eq!(url.login, Some(("token".into(), None)));
        assert!(url.servers[0].tls_required() && url.replicas.is_none());
        assert!(!format!("{url:?}").contains("token"));
        for bad in [
            "a:1",
            "nats://",
            "nats://a,",
            "nats://a?replicas=0",
            "nats://a?replicas=6",
            "nats://a?x=1",
            "nats://u:%41@a",
            "nats://a:port",
        ] {
            assert!(bad.parse::<NatsUrl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_url_has_no_path() {
        for same in ["nats://a", "nats://a/", "nats://a/?replicas=1"] {
            let url: NatsUrl = same.parse().unwrap();
            assert_eq!(url.to_string(), "nats://a:4222");
        }
        for (path, named) in [
            ("nats://a:1/stream", "/stream"),
            ("nats://a,b/x/?replicas=3", "/x/"),
            ("nats://a/x,b", "/x"),
            ("nats://a//", "//"),
        ] {
            let error = path.parse::<NatsUrl>().unwrap_err();
            let reason = "a nats:// URL has no path: the name of the stream is fixed";
            assert_eq!(error, format!("{named}: {reason}"), "{path}");
        }
    }
}
