//! The knobs that several servers have. A member flattens them into its own `Config`, after its own
//! knobs. Where its default differs, it says so with `#[command(mut_arg(…))]`.

use std::{ffi::OsStr, io, net::SocketAddr, time::Duration};

use clap::{Arg, Args, Command, builder::TypedValueParser, error::ErrorKind};
use hyper::server::conn::http1;
use tokio::net::TcpListener;

use super::fit_descriptors;
use crate::{
    Browsers, Feed, FeedSource, Origin, PublishLimits, Retention, Timeouts, http::FairTimer,
};

/// The longest request head in bytes. A longer one gets hyper's 431. hyper also buffers at most this
/// much of an answer.
const MAX_HEAD: usize = 16 * 1024;

/// Connections beyond the subscribers, so that publishers and health checks are served when every
/// subscriber's slot is taken.
const SPARE_CONNECTIONS: usize = 256;

/// The knobs of a server: limits and times of its connections.
///
/// There is no `Default`: the defaults are the command line's, and some differ per member.
#[derive(Debug, Clone, Args)]
pub struct ServerConfig {
    /// Serve at most this many connections. At the limit, the one that was idle longest is closed for a new
    /// one. If none is idle, new ones wait in the kernel's backlog [default: subscribers + 256].
    #[arg(long, value_parser = positive, value_name = "N")]
    pub max_connections: Option<usize>,
    /// The largest request body, in bytes.
    #[arg(long, default_value_t = 65_536, value_name = "BYTES")]
    pub max_message: usize,
    /// How long a request's head may take, then its body, in seconds. An idle connection is closed
    /// after the same time. Keep it longer than a load balancer keeps its connections, mostly 60 s.
    #[arg(long, default_value = "75", value_parser = positive_seconds, value_name = "SECONDS")]
    pub read_timeout: Duration,
    /// Disconnect a client that accepts no data for this many seconds.
    #[arg(long, default_value = "30", value_parser = positive_seconds, value_name = "SECONDS")]
    pub stall: Duration,
    /// After a shutdown signal, how long open connections may take to finish, in seconds.
    #[arg(long, default_value = "10", value_parser = seconds, value_name = "SECONDS")]
    pub drain: Duration,
    /// Let browser pages of this origin read and publish, also with credentials; repeatable. The form
    /// is SCHEME://HOST or SCHEME://HOST:PORT, compared exactly. Without this option a public server
    /// trusts pages of its own host name. With it, list that name too.
    #[arg(long, value_name = "ORIGIN")]
    pub allow_origin: Vec<Origin>,
    /// Serve metrics at http://ADDR:PORT/metrics, in OpenMetrics. Anyone who reaches the address may read
    /// them, so give it an address that clients do not reach. Without this option nothing is counted.
    #[arg(long, value_parser = address, value_name = "ADDR:PORT")]
    pub metrics: Option<SocketAddr>,
}

impl ServerConfig {
    /// The help of `--max-connections` in a program that sets a number as its default.
    pub const MAX_CONNECTIONS: &str = "Serve at most this many connections. At the limit, the one that was \
        idle longest is closed for a new one. If none is idle, new ones wait in the kernel's backlog";

    /// How many connections may be open. `subscribers` is the member's limit, or 0 if it has none.
    pub fn connections(&self, subscribers: usize) -> usize {
        self.max_connections
            .unwrap_or(subscribers.saturating_add(SPARE_CONNECTIONS))
    }

    /// Lowers the limit on connections to the descriptors that the process may have. Returns how many
    /// of the `subscribers` fit: if descriptors are short, a quarter of them is kept for publishers
    /// and health checks.
    pub fn fit(&mut self, subscribers: usize) -> usize {
        let wanted = self.connections(subscribers);
        let fitting = fit_descriptors(wanted);
        self.max_connections = Some(fitting);
        if fitting < wanted {
            subscribers.min(fitting / 4 * 3)
        } else {
            subscribers
        }
    }

    /// What a publisher may send.
    pub fn publish_limits(&self) -> PublishLimits {
        PublishLimits {
            max_message: self.max_message,
            body_timeout: self.read_timeout,
        }
    }

    /// How long a client may take, as [`serve_unbuffered`](crate::serve_unbuffered) wants to know.
    pub fn timeouts(&self) -> Timeouts {
        Timeouts {
            read: self.read_timeout,
            stall: self.stall,
        }
    }

    /// The rules for browsers on `listener`. Scripts of the allowed origins may read the `exposed`
    /// response fields.
    ///
    /// # Errors
    /// If the listener has no address.
    pub fn browsers(&self, listener: &TcpListener, exposed: &'static str) -> io::Result<Browsers> {
        let address = listener.local_addr()?;
        Ok(Browsers::new(self.allow_origin.clone(), address, exposed))
    }

    /// hyper's server for HTTP/1, with every limit that it has. The five servers need the same ones.
    /// What hyper does with them stays in view, in each `serve.rs`.
    pub fn http1(&self) -> http1::Builder {
        let mut http = http1::Builder::new();
        // hyper needs a timer: without one, its own limit on slow heads is silently off. It closes
        // an idle connection after the same time.
        // A client that sends no more after its request still wants the answer (RFC 9112 §9.6).
        http.timer(FairTimer)
            .header_read_timeout(self.read_timeout)
            .half_close(true)
            .max_buf_size(MAX_HEAD);
        http
    }
}

/// The knobs of a server's feed.
#[derive(Debug, Clone, Args)]
pub struct FeedConfig {
    /// How many messages to keep per topic.
    #[arg(long, default_value_t = 1_000, value_parser = positive, value_name = "N")]
    pub retain: usize,
    /// Where messages are kept.
    #[arg(long, default_value = "memory", value_parser = FeedParser(str::parse), value_name = FeedSource::FORMS, help = FeedSource::HELP)]
    pub feed: FeedSource,
    /// Start a new epoch. Use it once, after restoring an old copy of the file or the stream.
    #[arg(long)]
    pub new_epoch: bool,
}

impl FeedConfig {
    /// Opens the feed.
    ///
    /// # Errors
    /// As [`FeedSource::open`].
    pub async fn open(&self) -> io::Result<Feed> {
        let retention = Retention {
            messages: self.retain,
            ..Retention::default()
        };
        self.feed.open(retention, self.new_epoch).await
    }
}

/// Parses the value of `--feed` by this function. clap's own error would repeat the value, which may contain a
/// password.
#[derive(Debug, Clone, Copy)]
pub struct FeedParser(pub fn(&str) -> Result<FeedSource, String>);

impl TypedValueParser for FeedParser {
    type Value = FeedSource;

    fn parse_ref(
        &self,
        command: &Command,
        _: Option<&Arg>,
        value: &OsStr,
    ) -> Result<FeedSource, clap::Error> {
        let text = value.to_str().ok_or_else(|| "must be UTF-8".to_owned());
        text.and_then(self.0).map_err(|reason| {
            let message = format!("--feed: {reason}\n");
            clap::Error::raw(ErrorKind::ValueValidation, message).with_cmd(command)
        })
    }
}

/// Parses a number of things that a server needs at least one of.
///
/// # Errors
/// If the text is not a whole number above 0.
pub fn positive(text: &str) -> Result<usize, String> {
    let number: Option<usize> = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| "must be a whole number above 0".to_owned())
}

/// Parses an address to listen on: `IP:PORT`, or `localhost:PORT`, which is 127.0.0.1. Other names are not looked
/// up: they may have several addresses.
///
/// # Errors
/// If it is neither.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    let port = text.strip_prefix("localhost:");
    let local = port.map(|port| format!("127.0.0.1:{port}"));
    let address = local.as_deref().unwrap_or(text).parse();
    address.map_err(|_| "must be IP:PORT or localhost:PORT, such as 127.0.0.1:8000".to_owned())
}

/// Parses a knob in seconds: `10`, `0.5`.
///
/// # Errors
/// If the text is not a number of seconds from 0 to 10 years.
pub fn seconds(text: &str) -> Result<Duration, String> {
    const TEN_YEARS: f64 = 315_360_000.0;
    let seconds: f64 = text
        .parse()
        .map_err(|_| "must be a number of seconds".to_owned())?;
    if !(0.0..=TEN_YEARS).contains(&seconds) {
        return Err(format!("must be 0 to {TEN_YEARS} seconds"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Parses a knob in seconds that makes no sense at 0, such as a heartbeat.
///
/// # Errors
/// As [`seconds`], and for 0.
pub fn positive_seconds(text: &str) -> Result<Duration, String> {
    match seconds(text)? {
        Duration::ZERO => Err("must be more than 0 seconds".to_owned()),
        time => Ok(time),
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::ready};

    use clap::Parser;
    use hyper::{Response, service::service_fn};
    use hyper_util::rt::TokioIo;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        spawn,
        task::yield_now,
        time::advance,
    };

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        server: ServerConfig,
    }

    fn parse(args: &[&str]) -> ServerConfig {
        let args = ["program"].iter().chain(args);
        Program::parse_from(args).server
    }

    #[test]
    fn connections_are_the_subscribers_and_some_more_unless_the_knob_says() {
        assert_eq!(parse(&[]).connections(10_000), 10_256);
        assert_eq!(parse(&[]).connections(usize::MAX), usize::MAX);
        assert_eq!(parse(&["--max-connections", "7"]).connections(10_000), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_came_while_the_process_was_stopped_is_answered() {
        let (mut client, io) = duplex(1_024);
        let config = parse(&[]);
        let service =
            service_fn(|_| ready(Ok::<_, Infallible>(Response::new(String::from("hello")))));
        spawn(config.http1().serve_connection(TokioIo::new(io), service));
        yield_now().await;
        // The timers run before the request is seen.
        advance(config.read_timeout * 100).await;
        for _ in 0..9 {
            yield_now().await;
        }
        let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        client.write_all(request).await.unwrap();
        let mut status = [0; 15];
        client.read_exact(&mut status).await.unwrap();
        assert_eq!(&status, b"HTTP/1.1 200 OK");
    }

    #[test]
    fn a_limit_that_the_descriptors_admit_stays() {
        // Few enough for a process that may open 256 files.
        let mut config = parse(&["--max-connections", "20"]);
        assert_eq!(config.fit(10), 10);
        assert_eq!(config.max_connections, Some(20));
    }

    #[test]
    fn where_descriptors_are_short_a_quarter_of_them_is_not_for_subscribers() {
        let mut config = parse(&["--max-connections", &usize::MAX.to_string()]);
        let subscribers = config.fit(usize::MAX);
        let connections = config.connections(0);
        assert!(connections < usize::MAX);
        assert_eq!(subscribers, connections / 4 * 3);
    }

    #[derive(Parser)]
    struct WithFeed {
        #[command(flatten)]
        feed: FeedConfig,
    }

    #[test]
    fn a_refused_feed_is_not_shown_because_it_may_contain_a_password() {
        let parse = |feed| WithFeed::try_parse_from(["program", "--feed", feed]);
        assert_eq!(parse("memory").unwrap().feed.feed, FeedSource::Memory);
        for bad in [
            "nats://u:S3CRET@",
            "nats://u:S3CRET@a:99999",
            "nats://u:S3CRET@a/x",
            "nats://u:S3CRET?@a,",
            "nats://u:S3%CRET@a",
            "nats://a,,b?replicas=9&S3CRET@",
            "natss://u:S3CRET@a",
            "NATS://u:S3CRET@a",
        ] {
            let refused = parse(bad).map(|_| ()).unwrap_err().to_string();
            assert!(refused.starts_with("error: --feed: "), "{refused}");
            assert!(!refused.contains("S3CRET"), "{refused}");
        }
    }

    #[test]
    fn a_number_of_things_is_at_least_one() {
        assert_eq!([positive("1"), positive("007")], [Ok(1), Ok(7)]);
        for bad in ["0", "-1", "1.0", "", "99999999999999999999"] {
            assert_eq!(positive(bad).unwrap_err(), "must be a whole number above 0");
        }
    }

    #[test]
    fn an_address_is_an_ip_or_localhost_with_a_port() {
        for (text, parsed) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("localhost:0", "127.0.0.1:0"),
            ("[::1]:80", "[::1]:80"),
        ] {
            assert_eq!(address(text).unwrap().to_string(), parsed);
        }
        for bad in [
            "",
            "80",
            ":80",
            "127.0.0.1",
            "localhost",
            "localhost:",
            "localhost:65536",
            "example.org:80",
        ] {
            assert!(address(bad).unwrap_err().contains("IP:PORT"), "{bad}");
        }
    }

    #[test]
    fn seconds_are_finite_and_not_negative() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        assert_eq!(seconds("0"), Ok(Duration::ZERO));
        for bad in ["", "x", "-1", "NaN", "inf", "1e300", "10s"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
        assert!(positive_seconds("0").is_err() && positive_seconds("1e-12").is_err());
        assert_eq!(positive_seconds("0.5"), Ok(Duration::from_millis(500)));
    }
}
