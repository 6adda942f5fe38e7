//! The client's half of WebSockets: subscribe, print, confirm, and reconnect after the last id.
//!
//! ```sh
//! cargo run -p websockets --example websockets_client -- ws://127.0.0.1:8004/topics/news
//! ```
//!
//! It needs no async runtime: one thread reads and confirms. tungstenite answers the server's pings while
//! the thread reads.

use std::{
    fmt,
    io::{self, ErrorKind, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    process::ExitCode,
    thread::sleep,
    time::Duration,
};

use clap::Parser;
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tungstenite::{
    Error, HandshakeError, Message, WebSocket,
    client::{ClientRequestBuilder, client},
    http::{Response, Uri},
    protocol::{CloseFrame, frame::coding::CloseCode},
};

/// Prints what is published, and publishes.
#[derive(Debug, Clone, Parser)]
pub struct Args {
    /// What to subscribe to: ws://HOST:PORT/topics/a,b
    pub url: Uri,
    /// Where to start: a cursor, `earliest`, `latest` or `last`.
    #[arg(long, default_value = "latest")]
    pub after: String,
    /// Publish this text to the topic of --to, once, even if the connection breaks meanwhile.
    #[arg(long, requires = "to", value_name = "TEXT")]
    pub say: Option<String>,
    /// The topic to publish to.
    #[arg(long, requires = "say", value_name = "TOPIC")]
    pub to: Option<String>,
}

fn main() -> ExitCode {
    let reason = Client::new(Args::parse()).run();
    eprintln!("error: {reason}");
    ExitCode::FAILURE
}

/// What a client keeps from one connection to the next.
#[derive(Debug)]
pub struct Client {
    url: Uri,
    /// Everything up to here was printed.
    after: String,
    /// The publish command that is not acknowledged yet. Its key makes a repetition harmless.
    unacknowledged: Option<String>,
    /// Connections that failed since the last good one.
    failures: u32,
}

/// A frame of the server: an object with one member. Members that are not listed here are ignored, so that
/// a later server may send new ones.
#[derive(Debug, Deserialize)]
struct Frame<'a> {
    subscribed: Option<Position>,
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    #[serde(borrow)]
    gap: Option<&'a RawValue>,
    heartbeat: Option<Position>,
    ack: Option<Identified>,
    error: Option<Refusal>,
}

#[derive(Debug, Deserialize)]
struct Position {
    next: Option<String>,
}

/// An acknowledgement or a message: both have an id.
#[derive(Debug, Deserialize)]
struct Identified {
    id: String,
}

#[derive(Debug, Deserialize)]
struct Refusal {
    status: u16,
    detail: String,
}

/// Why a connection ended.
#[derive(Debug)]
pub enum Failure {
    /// Reconnecting would not help.
    Final(String),
    /// It may work later, but not before this time.
    Passing(String, Duration),
}

impl Client {
    /// Starts where the arguments say.
    pub fn new(args: Args) -> Self {
        Self {
            url: args.url,
            after: args.after,
            unacknowledged: args.say.zip(args.to).map(publish_command),
            failures: 0,
        }
    }

    /// Connects again and again until a failure is final. Returns the reason.
    pub fn run(&mut self) -> String {
        loop {
            match self.session() {
                Failure::Final(reason) => return reason,
                Failure::Passing(reason, at_least) => {
                    self.failures += 1;
                    eprintln!("{reason}; reconnecting after {}", self.after);
                    sleep(at_least + backoff(self.failures, rand::random()));
                }
            }
        }
    }

    /// One connection, from the handshake to its end.
    pub fn session(&mut self) -> Failure {
        let lived = self.connect().and_then(|mut socket| {
            if let Some(publish) = &self.unacknowledged {
                socket.send(Message::text(publish.as_str()))?;
            }
            loop {
                match socket.read()? {
                    Message::Text(text) => self.take(&text, &mut socket)?,
                    Message::Close(frame) => return Err(closed(frame)),
                    _ => {}
                }
            }
        });
        let Err(failure): Result<std::convert::Infallible, _> = lived;
        failure
    }

    fn connect(&self) -> Result<WebSocket<Stream>, Failure> {
        let stream = connect(&self.url)?;
        let sign = self.url.query().map_or('?', |_| '&');
        let text = format!("{}{sign}after={}", self.url, self.after);
        let url = text
            .parse()
            .map_err(|error| Failure::Final(format!("{text}: {error}")))?;
        let request = ClientRequestBuilder::new(url).with_sub_protocol("feed.v1.json");
        match client(request, stream) {
            Ok((socket, _)) => Ok(socket),
            Err(HandshakeError::Failure(Error::Http(answer))) => Err(refused(&answer)),
            Err(HandshakeError::Failure(error)) => Err(error.into()),
            Err(HandshakeError::Interrupted(_)) => {
                Err(Error::from(io::Error::from(ErrorKind::TimedOut)).into())
            }
        }
    }

    /// Prints, then moves the cursor. If the program ends in between, the message is printed again.
    fn take(&mut self, text: &str, socket: &mut WebSocket<Stream>) -> Result<(), Failure> {
        let frame: Frame<'_> = parse(text)?;
        if let Some(Position { next }) = frame.subscribed {
            self.failures = 0;
            self.after = next.unwrap_or_else(|| self.after.clone());
        }
        if let Some(message) = frame.message {
            say(message.get())?;
            self.after = parse::<Identified>(message.get())?.id;
            let received = json!({"received": {"id": self.after}});
            socket.send(Message::text(received.to_string()))?;
        }
        if let Some(gap) = frame.gap {
            say(&format!("gap {gap}"))?;
        }
        if let Some(Position { next: Some(next) }) = frame.heartbeat {
            self.after = next;
        }
        if let Some(Identified { id }) = frame.ack {
            self.unacknowledged = None;
            eprintln!("published as {id}");
        }
        frame.error.map_or(Ok(()), |refusal| Err(refusal.into()))
    }
}

fn publish_command((data, topic): (String, String)) -> String {
    let key = format!("{:032x}", rand::random::<u128>());
    json!({"publish": {"topic": topic, "data": data, "key": key, "ref": "say"}}).to_string()
}

/// Prints a line. A closed standard output is final.
fn say(line: &str) -> Result<(), Failure> {
    let printed = writeln!(io::stdout(), "{line}");
    printed.map_err(|error| Failure::Final(format!("printing: {error}")))
}

/// A connection with timeouts. When a stopped process continues, Linux ends a waiting call with
/// [`ErrorKind::Interrupted`]. That is no timeout: bytes that came meanwhile are still unread.
#[derive(Debug)]
pub struct Stream<S = TcpStream>(pub S);

impl<S: Read> Read for Stream<S> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        uninterrupted(|| self.0.read(bytes))
    }
}

impl<S: Write> Write for Stream<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        uninterrupted(|| self.0.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn uninterrupted(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn connect(url: &Uri) -> Result<Stream, Failure> {
    let (Some("ws"), Some(host)) = (url.scheme_str(), url.host()) else {
        return Err(Failure::Final(format!("{url} is not ws://HOST:PORT/…")));
    };
    let addresses = (host, url.port_u16().unwrap_or(80)).to_socket_addrs();
    let first = addresses.map_err(Error::from)?.next();
    let address = first.ok_or_else(|| Failure::Final(format!("{host} has no address")))?;
    let stream = TcpStream::connect_timeout(&address, SILENCE).map_err(Error::from)?;
    stream.set_nodelay(true).map_err(Error::from)?;
    stream
        .set_read_timeout(Some(SILENCE))
        .map_err(Error::from)?;
    stream
        .set_write_timeout(Some(SILENCE))
        .map_err(Error::from)?;
    Ok(Stream(stream))
}

fn parse<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, Failure> {
    serde_json::from_str(json)
        .map_err(|error| Failure::Final(format!("cannot parse {json}: {error}")))
}

/// A 4xx means that the request itself is wrong. A 503 names the time to wait.
fn refused(answer: &Response<Option<Vec<u8>>>) -> Failure {
    let body = answer.body().as_deref().unwrap_or_default();
    let reason = format!("{}: {}", answer.status(), String::from_utf8_lossy(body));
    if answer.status().is_client_error() {
        return Failure::Final(reason);
    }
    let seconds = answer
        .headers()
        .get("retry-after")
        .and_then(|value| value.to_str().ok()?.parse().ok());
    Failure::Passing(reason, Duration::from_secs(seconds.unwrap_or(0)))
}

/// These codes are final: the server would refuse the same frames again.
fn closed(frame: Option<CloseFrame>) -> Failure {
    let reason = frame.as_ref().map_or("closed".into(), ToString::to_string);
    match frame.map(|frame| frame.code) {
        Some(
            CloseCode::Protocol | CloseCode::Unsupported | CloseCode::Invalid | CloseCode::Size,
        ) => Failure::Final(reason),
        Some(CloseCode::Again) => Failure::Passing(reason, OVERLOAD),
        _ => Failure::Passing(reason, Duration::ZERO),
    }
}

/// A 4xx means that the command itself is wrong. A 5xx means that the server cannot do it now.
impl From<Refusal> for Failure {
    fn from(Refusal { status, detail }: Refusal) -> Self {
        let reason = format!("{status}: {detail}");
        match status {
            500.. => Self::Passing(reason, BUSY),
            _ => Self::Final(reason),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Passing(error.to_string(), Duration::ZERO)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Final(reason) | Self::Passing(reason, _)) = self;
        f.write_str(reason)
    }
}

/// Full jitter: any time up to a bound that doubles with each failure. So clients that lost the same
/// server do not all return at once. `random` is from 0 to 1.
pub fn backoff(failures: u32, random: f64) -> Duration {
    let bound = FIRST_BACKOFF.saturating_mul(1 << (failures - 1).min(16));
    bound.min(LONGEST_BACKOFF).mul_f64(random)
}

/// The server pings after 20 s. A connection that is silent for twice as long is lost.
const SILENCE: Duration = Duration::from_secs(40);
/// How long to wait for a server that has no free slot.
const OVERLOAD: Duration = Duration::from_secs(5);
/// A frame has no Retry-After. This is the shortest one that a refused handshake names.
const BUSY: Duration = Duration::from_secs(5);
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
