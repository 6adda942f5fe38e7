//! The client's half of short polling: ask, print, wait, ask again.
//!
//! ```sh
//! cargo run -p short-polling --example short_polling_client -- http://127.0.0.1:8001/topics/news
//! ```

use std::{
    error::Error,
    fmt,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use bytes::Bytes;
use clap::Parser;
use common::seconds;
use http_body_util::{BodyExt, Empty};
use hyper::{
    HeaderMap, Request, StatusCode, Uri,
    client::conn::http1::{self, SendRequest},
    header,
    http::response::Parts,
};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

/// Asks for news again and again: prints `no`, or the messages.
#[derive(Debug, Clone, Parser)]
pub struct Args {
    /// What to poll: http://HOST:PORT/topics/a,b, and a query such as ?limit=10 if need be
    pub url: Uri,
    /// Where to start: a cursor, `earliest` or `latest`.
    #[arg(long, default_value = "earliest")]
    pub after: String,
    /// Keeps the cursor in this file, and starts from it if it is there.
    #[arg(long, value_name = "PATH")]
    pub cursor_file: Option<PathBuf>,
    /// Seconds between polls, as long as the server gives no hint.
    #[arg(long, default_value = "5", value_parser = seconds, value_name = "SECONDS")]
    pub interval: Duration,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let error = match Reader::new(Args::parse()) {
        Ok(mut reader) => reader.run(&mut io::stdout()).await,
        Err(error) => error,
    };
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

/// What a client keeps: a position, and what it was last told there.
#[derive(Debug)]
pub struct Reader {
    server: Server,
    /// Everything up to here was printed.
    after: String,
    /// The last answer's; names what we have.
    etag: Option<String>,
    args: Args,
}

/// The other side, on a connection that is kept from poll to poll.
#[derive(Debug)]
struct Server {
    authority: String,
    open: Option<Connection>,
}

/// The answer to one poll.
#[derive(Debug, Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    messages: Vec<&'a RawValue>,
    next: String,
    more: bool,
    #[serde(borrow)]
    gap: Option<&'a RawValue>,
}

/// Why a poll gave nothing.
#[derive(Debug)]
pub enum Failure {
    /// Asking again would not help.
    Final(String),
    /// It may work later, not before this long.
    Passing(String, Duration),
}

impl Reader {
    /// Starts at the file's cursor, else where the arguments say.
    ///
    /// # Errors
    /// If the URL is none, or the file is there and cannot be read.
    pub fn new(args: Args) -> Result<Self, Failure> {
        let kept = args.cursor_file.as_deref().map(load).transpose();
        let kept = kept.map_err(cursor_file)?.flatten();
        Ok(Self {
            server: Server::at(&args.url)?,
            after: kept.unwrap_or_else(|| args.after.clone()),
            etag: None,
            args,
        })
    }

    /// Polls until there is no point in going on, and says why.
    pub async fn run(&mut self, output: &mut impl Write) -> Failure {
        let mut failures = 0;
        loop {
            let pause = match self.poll(output).await {
                Ok(pause) => {
                    failures = 0;
                    pause
                }
                Err(Failure::Passing(reason, at_least)) => {
                    failures += 1;
                    eprintln!("{reason}; asking again after {}", self.after);
                    at_least + backoff(failures, rand::random())
                }
                Err(error) => return error,
            };
            sleep(pause).await;
        }
    }

    /// One poll. Returns how long to wait until the next.
    ///
    /// # Errors
    /// If there was no answer, or one that is not 200 or 304. The cursor stands.
    pub async fn poll(&mut self, output: &mut impl Write) -> Result<Duration, Failure> {
        let path = with(&self.args.url, &format!("after={}", self.after));
        let (head, body) = self.server.get(&path, self.etag.as_deref()).await?;
        let more = match head.status {
            StatusCode::OK => self.take(&body, output)?,
            StatusCode::NOT_MODIFIED => say(output, "no").map(|()| false)?,
            status => return Err(refused(status, &head.headers, &body)),
        };
        let etag = head.headers.get(header::ETAG);
        self.etag = etag.and_then(|etag| Some(etag.to_str().ok()?.to_owned()));
        if more {
            return Ok(Duration::ZERO);
        }
        Ok(seconds_in(&head.headers, "x-poll-interval").unwrap_or(self.args.interval))
    }

    /// Prints a page, then moves the cursor: cut off in between, it is printed again. Returns
    /// whether there is more.
    fn take(&mut self, body: &[u8], output: &mut impl Write) -> Result<bool, Failure> {
        let page: Page<'_> = serde_json::from_slice(body)
            .map_err(|error| Failure::Final(format!("the answer is no page: {error}")))?;
        if let Some(gap) = page.gap {
            say(output, &format!("gap {gap}"))?;
        }
        for message in &page.messages {
            say(output, message.get())?;
        }
        if page.messages.is_empty() && page.gap.is_none() {
            say(output, "no")?;
        }
        self.after = page.next;
        if let Some(path) = &self.args.cursor_file {
            save(path, &self.after).map_err(cursor_file)?;
        }
        Ok(page.more)
    }
}

impl Server {
    fn at(url: &Uri) -> Result<Self, Failure> {
        match (url.scheme_str(), url.authority()) {
            (Some("http"), Some(authority)) => Ok(Self {
                authority: authority.to_string(),
                open: None,
            }),
            _ => Err(Failure::Final(format!("{url} is not http://HOST:PORT/…"))),
        }
    }

    /// One whole answer.
    async fn get(&mut self, path: &str, etag: Option<&str>) -> Result<(Parts, Bytes), Failure> {
        let lost = match timeout(TIMEOUT, self.try_get(path, etag)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        Err(Failure::Passing(lost, Duration::ZERO))
    }

    async fn try_get(&mut self, path: &str, etag: Option<&str>) -> Result<(Parts, Bytes), Lost> {
        let mut request = Request::get(path).header(header::HOST, &self.authority);
        if let Some(etag) = etag {
            request = request.header(header::IF_NONE_MATCH, etag);
        }
        let request = request.body(Empty::new())?;
        if let Some(kept) = self.open.take() {
            match self.exchange(kept, request.clone()).await {
                Err(lost) if was_unsent(&lost) => {}
                done => return done,
            }
        }
        let new = connect(&self.authority).await?;
        self.exchange(new, request).await
    }

    /// Keeps the connection if it gave a whole answer.
    async fn exchange(
        &mut self,
        mut connection: Connection,
        request: Request<Empty<Bytes>>,
    ) -> Result<(Parts, Bytes), Lost> {
        connection.ready().await?;
        let (head, body) = connection.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        self.open = Some(connection);
        Ok((head, body))
    }
}

/// The URL's path and query, with ours behind.
fn with(url: &Uri, parameters: &str) -> String {
    let before = url
        .query()
        .map_or("?".to_owned(), |query| format!("?{query}&"));
    format!("{}{before}{parameters}", url.path())
}

type Connection = SendRequest<Empty<Bytes>>;

/// Something between us and the server.
type Lost = Box<dyn Error + Send + Sync>;

/// Whether the server had closed the kept connection before our request was on it. One that breaks
/// later is a failure: after a restart all clients would come back at once.
fn was_unsent(lost: &Lost) -> bool {
    let error = lost.downcast_ref::<hyper::Error>();
    error.is_some_and(|error| error.is_closed() || error.is_canceled())
}

async fn connect(authority: &str) -> Result<Connection, Lost> {
    let stream = TcpStream::connect(authority).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Its error reaches whoever waits for an answer.
    tokio::spawn(connection);
    Ok(sender)
}

/// A 4xx says that the request itself is wrong; 408 and 429 do not mean it so.
fn refused(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Failure {
    let reason = format!("{status}: {}", String::from_utf8_lossy(body));
    let passing = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
    if status.is_client_error() && !passing.contains(&status) {
        return Failure::Final(reason);
    }
    let at_least = seconds_in(headers, header::RETRY_AFTER.as_str());
    Failure::Passing(reason, at_least.unwrap_or_default())
}

fn seconds_in(headers: &HeaderMap, name: &str) -> Option<Duration> {
    let seconds: u32 = headers.get(name)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds.into()))
}

/// Full jitter: any time up to a bound that doubles with each failure, so that clients that lost
/// the same server come back spread over the whole of it. `random` is from 0 to 1.
pub fn backoff(failures: u32, random: f64) -> Duration {
    let bound = FIRST_BACKOFF.saturating_mul(1 << (failures - 1).min(16));
    bound.min(LONGEST_BACKOFF).mul_f64(random)
}

fn say(output: &mut impl Write, line: &str) -> Result<(), Failure> {
    let printed = writeln!(output, "{line}").and_then(|()| output.flush());
    printed.map_err(|error| Failure::Final(format!("printing: {error}")))
}

fn load(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(cursor) => Ok(Some(cursor.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Atomically: whoever reads the file finds the old cursor or the new one, whole, even after a
/// power failure.
fn save(path: &Path, cursor: &str) -> io::Result<()> {
    let mut written = path.as_os_str().to_owned();
    written.push(".new");
    let mut file = File::create(&written)?;
    writeln!(file, "{cursor}")?;
    file.sync_all()?;
    fs::rename(written, path)
}

fn cursor_file(error: io::Error) -> Failure {
    Failure::Final(format!("cursor file: {error}"))
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Final(reason) | Self::Passing(reason, _)) = self;
        f.write_str(reason)
    }
}

/// For one answer.
const TIMEOUT: Duration = Duration::from_secs(15);
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
