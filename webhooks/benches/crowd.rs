//! Whether broken endpoints delay the healthy ones: `cargo bench -p webhooks --bench crowd`.
//!
//! Two cases in turns: 900 healthy endpoints alone, and the same with 100 broken ones. Each endpoint gets each
//! message, and the next one is published when all healthy endpoints have the last one, so a slow machine builds no
//! queue. The broken ones fail in seven ways at once, see [`Way`]. Counted is how long after its publish a message
//! is at each healthy endpoint. The endpoints are in this process too.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, LazyLock, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use common::{Data, Draft, Feed, Retention};
use harness::Client;
use hickory_resolver::{
    TokioResolver,
    config::{NameServerConfig, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    sync::oneshot,
    time::{interval, sleep, timeout},
};
use webhooks::{Config, sender::guard::Addresses};

const RUNS: usize = 3;
const MESSAGES: usize = 20;
/// The time between two messages, if all healthy endpoints have the first one by then.
const PACE: Duration = Duration::from_millis(250);
const HEALTHY: usize = 900;
const BROKEN: usize = 100;
const TARGET: f64 = 1.2;

#[tokio::main]
async fn main() {
    let broken = Broken::open().await;
    let mut rows = Vec::new();
    for _ in 0..RUNS {
        let alone = run(None).await;
        let among = run(Some(&broken)).await;
        let ratio = among[1].as_secs_f64() / alone[1].as_secs_f64();
        for (name, [p50, p99]) in [("alone", alone), ("among the broken", among)] {
            let (p50, p99) = (millis(p50), millis(p99));
            println!("{name:<16} p50 {p50:>6.1} ms  p99 {p99:>6.1} ms");
        }
        rows.push(ratio);
    }
    rows.sort_unstable_by(f64::total_cmp);
    let (ratio, least, most) = (rows[RUNS / 2], rows[0], rows[RUNS - 1]);
    let missed = match ratio > TARGET {
        true => "  over the aim of 1.2",
        false => "",
    };
    println!("p99 ratio {ratio:.2} ({least:.2} – {most:.2}){missed}");
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

/// How an endpoint is broken.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// It takes every other message, and answers 500 to the others.
    Poison,
    /// It answers 429 and asks for a second.
    Throttle,
    /// The name server of its name never answers.
    SilentDns,
    /// The first of its two addresses never answers.
    SilentAddress,
    /// Its answer's body comes byte by byte, ten a second.
    Trickle,
    /// Its answer's body has no end.
    Endless,
    /// It does not speak TLS, although its URL says so.
    NoTls,
}

const WAYS: [Way; 7] = [
    Way::Poison,
    Way::Throttle,
    Way::SilentDns,
    Way::SilentAddress,
    Way::Trickle,
    Way::Endless,
    Way::NoTls,
];

/// What an endpoint does.
#[derive(Clone)]
enum Health {
    Well(Arc<Mutex<Vec<Duration>>>, Instant),
    Broken(Way),
}

/// The addresses of the endpoints that are called by name.
static SILENT_SERVER: OnceLock<SocketAddr> = OnceLock::new();
static TWO_ADDRESSES: OnceLock<[SocketAddr; 2]> = OnceLock::new();

/// Resolves the names of this bench.
fn lookup(name: &str, port: u16) -> Addresses<'_> {
    static RESOLVER: LazyLock<TokioResolver> = LazyLock::new(|| {
        let silent = SILENT_SERVER.get().expect("it is bound");
        let mut server = NameServerConfig::udp(silent.ip());
        server.connections[0].port = silent.port();
        let config = ResolverConfig::from_name_servers(vec![server]);
        let resolver = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        resolver.build().expect("no option needs a file")
    });
    Box::pin(async move {
        if name == "two.example" {
            return Ok(TWO_ADDRESSES.get().expect("they are bound").to_vec());
        }
        let found = RESOLVER.lookup_ip(name).await.map_err(io::Error::other)?;
        Ok(found.iter().map(|ip| (ip, port).into()).collect())
    })
}

/// The median and the 99th percentile of the healthy.
async fn run(broken: Option<&Broken>) -> [Duration; 2] {
    let feed = Feed::new(Retention::default());
    let mut config = Config {
        allow_http: true,
        allow_loopback: true,
        lookup,
        ..Config::default()
    };
    config.server.drain = Duration::from_secs(1);
    config.fit(); // raises the limit of descriptors
    let listener = bound().await;
    let addr = listener.local_addr().expect("it is bound");
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async { drop(stopped.await) };
    let server = tokio::spawn(webhooks::run(listener, feed.clone(), config, shutdown));

    let (taken, began) = (Arc::new(Mutex::new(Vec::new())), Instant::now());
    let well = sink(Health::Well(taken.clone(), began)).await;
    for _ in 0..HEALTHY {
        register(addr, &format!("http://{well}/")).await;
    }
    if let Some(broken) = broken {
        for number in 0..BROKEN {
            register(addr, &broken.url(number)).await;
        }
    }
    let mut pace = interval(PACE);
    for number in 0..=MESSAGES {
        pace.tick().await;
        let text = began.elapsed().as_micros().to_string();
        let topic = "a".parse().expect("it is a topic");
        let published = feed.publish(topic, Draft::new(Data::text(&text))).await;
        published.expect("memory takes it");
        // The first message opens all connections at once, and is not counted.
        while taken.lock().expect("nobody panics").len() < HEALTHY * number.max(1) {
            sleep(Duration::from_millis(10)).await;
        }
        if number == 0 {
            taken.lock().expect("nobody panics").clear();
        }
    }
    let _ = stop.send(());
    // With broken endpoints it ends with what they are owed.
    let _ = server.await.expect("it does not panic");
    let mut taken = taken.lock().expect("nobody panics");
    taken.sort_unstable();
    [taken[taken.len() / 2], taken[taken.len() * 99 / 100]]
}

async fn bound() -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").await;
    listener.expect("a port is free")
}

/// The broken endpoints.
struct Broken {
    sinks: Vec<SocketAddr>,
    /// Kept open, because a closed port answers.
    _silent: (UdpSocket, TcpListener, Vec<TcpStream>),
}

impl Broken {
    async fn open() -> Self {
        let mut sinks = Vec::new();
        for way in WAYS {
            sinks.push(sink(Health::Broken(way)).await);
        }
        let server = UdpSocket::bind("127.0.0.1:0")
            .await
            .expect("a port is free");
        let addr = server.local_addr().expect("it is bound");
        SILENT_SERVER.set(addr).expect("it is set once");
        let (silent, fill) = silent_listener().await;
        let first = silent.local_addr().expect("it is bound");
        let two = [first, sinks[Way::SilentAddress as usize]];
        TWO_ADDRESSES.set(two).expect("they are set once");
        Self {
            sinks,
            _silent: (server, silent, fill),
        }
    }

    fn url(&self, number: usize) -> String {
        let way = WAYS[number % WAYS.len()];
        let sink = self.sinks[way as usize];
        match way {
            Way::SilentDns => format!("http://silent-{number}.example/"),
            Way::SilentAddress => "http://two.example/".to_owned(),
            Way::NoTls => format!("https://{sink}/"),
            _ => format!("http://{sink}/"),
        }
    }
}

/// A listener whose backlog is full, with the connections that fill it: one more is neither made nor refused.
async fn silent_listener() -> (TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().expect("there are descriptors");
    let any = "127.0.0.1:0".parse().expect("it is an address");
    socket.bind(any).expect("a port is free");
    let listener = socket.listen(0).expect("it is bound");
    let addr = listener.local_addr().expect("it is bound");
    let mut fill = Vec::new();
    while let Ok(Ok(stream)) = timeout(Duration::from_millis(500), TcpStream::connect(addr)).await {
        fill.push(stream);
    }
    (listener, fill)
}

async fn sink(health: Health) -> SocketAddr {
    let listener = bound().await;
    let addr = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, health.clone()));
        }
    });
    addr
}

/// The bodies of this bench end with `"}` and nothing else does.
async fn answer(mut stream: TcpStream, health: Health) {
    let mut buffer = vec![0; 4_096];
    let mut read = 0;
    while let Ok(more @ 1..) = stream.read(&mut buffer[read..]).await {
        read += more;
        let is_hello = matches!(health, Health::Broken(Way::NoTls));
        if !is_hello && !buffer[..read].ends_with(b"\"}") {
            continue;
        }
        let answered = match &health {
            Health::Well(taken, began) => {
                let taken_now = began.elapsed() - published(&buffer[..read]);
                taken.lock().expect("nobody panics").push(taken_now);
                stream.write_all(OK).await
            }
            Health::Broken(way) => fail(&mut stream, *way).await,
        };
        read = 0;
        if answered.is_err() {
            return;
        }
    }
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

async fn fail(stream: &mut TcpStream, way: Way) -> io::Result<()> {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n";
    match way {
        Way::Poison if CALLS.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) => {
            stream
                .write_all(b"HTTP/1.1 500 E\r\ncontent-length: 0\r\n\r\n")
                .await
        }
        Way::Throttle => {
            stream
                .write_all(b"HTTP/1.1 429 T\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n")
                .await
        }
        Way::Trickle => {
            stream.write_all(head).await?;
            loop {
                sleep(Duration::from_millis(100)).await;
                stream.write_all(b"x").await?;
            }
        }
        Way::Endless => {
            stream.write_all(head).await?;
            loop {
                stream.write_all(&[b'x'; 4_096]).await?;
            }
        }
        Way::Poison | Way::SilentDns | Way::SilentAddress | Way::NoTls => {
            stream.write_all(OK).await
        }
    }
}

/// The data is when it was published, in microseconds.
fn published(request: &[u8]) -> Duration {
    let text = str::from_utf8(request).expect("it is text");
    let (_, data) = text.rsplit_once(r#""data":""#).expect("it is a message");
    let micros = data
        .trim_end_matches("\"}")
        .parse()
        .expect("it is a number");
    Duration::from_micros(micros)
}

async fn register(sender: SocketAddr, url: &str) {
    let body = format!(r#"{{"url":"{url}","topics":["a"]}}"#);
    let client = Client::new(sender);
    let request = client.post("/endpoints", body);
    let request = request.header("content-type", "application/json");
    let answer = request.send().await;
    assert_eq!(answer.status, 201, "{}", answer.text());
}
