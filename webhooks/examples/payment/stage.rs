//! The scene: starts the four programs, watches what they do, and checks at the end that each payment
//! took effect exactly once.

use std::{
    env,
    ffi::OsStr,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use common::Cursor;
use hyper::{Request, header::CONTENT_TYPE};
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};
use webhooks::verify::standard::Secret;

use crate::{
    http::{self, Failure},
    link::{FAULTS, Fault, Link, PEACE},
    program::{Program, Timeline},
};

/// How long a payment may take on average to take effect.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause between two looks at the effects.
const LOOK: Duration = Duration::from_millis(20);
/// How often the shop is killed.
const SHOP_KILLS: usize = 2;
/// Each time at this customer.
const SHOP_KILLED_AT: usize = 3;

/// A payment's number and amount.
type Paid = (i64, i64);

/// The programs and the links between them.
struct Stage {
    folder: PathBuf,
    timeline: Timeline,
    shop: Arc<Program>,
    relay: Arc<Program>,
    to_sender: Arc<Link>,
    sender: Arc<Program>,
    to_back_end: Arc<Link>,
    back_end: Arc<Program>,
    /// The path of the back end's registration at the sender.
    endpoint: String,
}

/// Plays the scene with this number of payments.
pub(crate) async fn play(payments: i64, chaos: bool) -> Result<(), Failure> {
    let folder = Folder::new()?;
    let stage = Stage::set(&folder.0, payments, chaos).await?;
    let patience = PATIENCE * u32::try_from(payments)?;
    let watched = timeout(patience, stage.watch(payments)).await;
    let summary = stage.summary();
    stage.clear().await?;
    let paid = rows(&folder.0.join("shop.sqlite"), PAYMENTS)?;
    let mut effects = rows(&folder.0.join("inbox.sqlite"), ORDERS).unwrap_or_default();
    effects.sort_unstable();
    println!(
        "{} payments, {} effects, {summary}",
        paid.len(),
        effects.len()
    );
    if paid.len() as i64 != payments || effects != paid {
        let times = |one: &Paid| effects.iter().filter(|other| *other == one).count();
        let wrong = paid.iter().map(|one| (one.0, times(one)));
        let wrong: Vec<_> = wrong.filter(|(_, times)| *times != 1).collect();
        return Err(format!("(payment, effects) that are not one each: {wrong:?}").into());
    }
    watched.map_err(|_| "each payment took effect once, but something is still in progress")?;
    Ok(())
}

impl Stage {
    async fn set(folder: &Path, payments: i64, chaos: bool) -> Result<Self, Failure> {
        let timeline = Timeline(Instant::now());
        let start = |name, role: &str, args: &[&dyn AsRef<OsStr>]| {
            let args = args.iter().map(|arg| (*arg).as_ref().to_owned());
            let args = [role.into(), folder.into()].into_iter().chain(args);
            Program::start(name, args, timeline)
        };
        let faults: &[Fault] = if chaos { &FAULTS } else { &PEACE };
        let secret = Secret::from_key(rand::random::<[u8; 32]>()).reveal();
        let (before_sender, before_back_end) = (bind().await?, bind().await?);
        let sender_address = before_sender.local_addr()?.to_string();

        let sender = start("sender", "sender", &[])?;
        let back_end = start("back end", "back-end", &[&secret])?;
        let to_back_end = Link::new([&sender, &back_end], timeline, faults);
        let url = format!("http://{}/webhook", before_back_end.local_addr()?);
        tokio::spawn(to_back_end.clone().serve(before_back_end));
        let endpoint = register(sender.address().await, &url, &secret).await?;
        back_end.address().await; // A slow start would use up faults: the sender waits for a second only.
        let relay = start("relay", "relay", &[&sender_address])?;
        let to_sender = Link::new([&relay, &sender], timeline, faults);
        tokio::spawn(to_sender.clone().serve(before_sender));
        let shop = start("shop", "shop", &[&payments.to_string()])?;
        if chaos {
            tokio::spawn(kill_in_a_payment(shop.clone()));
        }
        Ok(Self {
            folder: folder.to_owned(),
            timeline,
            shop,
            relay,
            to_sender,
            sender,
            to_back_end,
            back_end,
            endpoint,
        })
    }

    /// Prints each effect, until there are `payments` of them and nothing is in progress.
    async fn watch(&self, payments: i64) {
        let mut seen = 0;
        loop {
            // Reading fails before the file exists, and while its owner is being killed.
            let effects = rows(&self.folder.join("inbox.sqlite"), ORDERS).unwrap_or_default();
            for (payment, _) in effects.iter().skip(seen) {
                let what = format!("payment {payment}: in effect");
                self.timeline.say(self.back_end.name, &what);
            }
            seen = seen.max(effects.len());
            if seen as i64 >= payments && self.is_quiet(payments).await.unwrap_or(false) {
                return;
            }
            sleep(LOOK).await;
        }
    }

    /// Whether every payment is published, delivered and handled. This includes repeats: a message that came
    /// twice must not take effect a moment later.
    async fn is_quiet(&self, payments: i64) -> Result<bool, Failure> {
        let shop = read_only(&self.folder.join("shop.sqlite"))?;
        let published: i64 = shop.query_row("SELECT count(message) FROM outbox", [], first)?;
        let last = "SELECT message FROM outbox ORDER BY id DESC LIMIT 1";
        let message: String = shop.query_row(last, [], first)?;
        let last: Cursor = message.parse()?;
        let endpoint = ask(self.sender.address().await, &self.endpoint).await?;
        // It may be further: the sender publishes its own messages for the operator.
        let after: Cursor = endpoint["after"].as_str().unwrap_or_default().parse()?;
        let waiting = ask(self.back_end.address().await, "/events?state=waiting").await?;
        Ok(published == payments
            && after.seq >= last.seq
            && endpoint["in_flight"] == 0
            && endpoint["waiting"] == 0
            && waiting["events"] == json!([]))
    }

    fn summary(&self) -> String {
        let repeats = [&self.to_sender, &self.to_back_end].map(|link| link.repeats());
        let programs = [&self.shop, &self.relay, &self.sender, &self.back_end];
        let kills: usize = programs.iter().map(|program| program.kills()).sum();
        let [published, delivered] = repeats;
        let dropped = published + delivered;
        format!(
            "{dropped} repeats dropped ({published} published, {delivered} delivered), {kills} kills"
        )
    }

    /// Ends the programs in the order in which messages pass through them.
    async fn clear(self) -> io::Result<()> {
        for program in [self.shop, self.relay, self.sender, self.back_end] {
            program.dismiss().await?;
        }
        Ok(())
    }
}

async fn bind() -> io::Result<TcpListener> {
    TcpListener::bind("127.0.0.1:0").await
}

/// Registers the back end for payments, and returns the registration's path at the sender.
async fn register(sender: SocketAddr, url: &str, secret: &str) -> Result<String, Failure> {
    let registration = json!({"url": url, "topics": ["payments"], "secret": secret});
    let request = Request::post("/endpoints")
        .header(CONTENT_TYPE, "application/json")
        .body(registration.to_string().into())?;
    let answer = http::send(sender, request).await?;
    let endpoint: Value = serde_json::from_slice(answer.body())?;
    let id = endpoint["id"].as_str().ok_or("it was not registered")?;
    Ok(format!("/endpoints/{id}"))
}

async fn ask(server: SocketAddr, path: &str) -> Result<Value, Failure> {
    let request = Request::get(path).body(Default::default())?;
    let answer = http::send(server, request).await?;
    Ok(serde_json::from_slice(answer.body())?)
}

/// Kills the shop while a customer pays. The payment must then exist with its outbox row, or not at all.
async fn kill_in_a_payment(shop: Arc<Program>) -> io::Result<()> {
    let (mut lines, mut customers) = (shop.lines(), 0);
    while let Ok(line) = lines.recv().await {
        customers += usize::from(line == "a customer pays");
        if customers == SHOP_KILLED_AT && shop.kills() < SHOP_KILLS {
            customers = 0;
            shop.kill()?;
        }
    }
    Ok(())
}

const PAYMENTS: &str = "SELECT id, amount FROM payments ORDER BY id";
const ORDERS: &str = "SELECT payment, amount FROM orders ORDER BY rowid";

/// What the database contains, whatever the programs have printed.
fn rows(database: &Path, query: &str) -> rusqlite::Result<Vec<Paid>> {
    let database = read_only(database)?;
    let mut statement = database.prepare(query)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

fn read_only(database: &Path) -> rusqlite::Result<Connection> {
    Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

fn first<T: rusqlite::types::FromSql>(row: &rusqlite::Row<'_>) -> rusqlite::Result<T> {
    row.get(0)
}

/// A folder for the databases. Dropping it deletes it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> io::Result<Self> {
        let folder = env::temp_dir().join(format!("payment-{:016x}", rand::random::<u64>()));
        fs::create_dir(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // After an error some files stay in the temporary folder.
        let _ = fs::remove_dir_all(&self.0);
    }
}
