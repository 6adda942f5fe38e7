//! All endpoints: registering, finding, changing and removing them, and starting and ending their loops.
//!
//! A change must run to its end, because it stops the endpoint's loop and starts it again. `route.rs` spawns it.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    io,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use common::{
    After, Cursor, Gauge, IdempotencyKey, Problem, Topic, retry_after, store::commit::CommitError,
};
use futures_util::future::join_all;
use hyper::StatusCode;
use rusqlite::Connection;
use serde::de::{DeserializeOwned, Error, Unexpected};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};
use tracing::{error, info, warn};
use url::{Position, Url};

use super::{
    deliver::Payload,
    endpoint::{
        AttemptView, Endpoint, NO_CHANGE, Nothing, Registration, Replay, Rotation, invalid,
        new_endpoint, new_secret,
    },
    ledger::Health,
    push::{Outbound, Push},
    store::{self, Key, Saved, to_json},
};

/// How often the feed is told what it must keep for the endpoints.
const PIN: Duration = Duration::from_secs(1);
/// The most secrets that sign at one time.
const MAX_SECRETS: usize = 10;
/// No backlog expires this soon after the start, because the clock may still be wrong.
const SETTLED: Duration = Duration::from_secs(3_600);
/// How long a change of an endpoint waits for its attempts in flight.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// The endpoint after a change, as JSON.
type Changed = Result<String, Problem>;

/// All endpoints and their loops.
pub(crate) struct Endpoints {
    outbound: Arc<Outbound>,
    /// One registration or change at a time.
    changing: tokio::sync::Mutex<()>,
    /// Whether the disk budget is used up.
    full: AtomicBool,
    loops: Mutex<Loops>,
}

#[derive(Default)]
struct Loops {
    /// By the endpoint's number, so in the order of registration.
    running: BTreeMap<i64, Running>,
    /// Nothing is registered or changed any more.
    is_draining: bool,
}

struct Running {
    endpoint: Arc<Endpoint>,
    /// Tells its loop to end, within this time.
    stop: watch::Sender<Option<Duration>>,
    /// Its loop, which has ended if the endpoint is disabled. `None` during a change.
    push: Option<JoinHandle<Push>>,
}

/// The right to change an endpoint. Nothing else changes meanwhile.
struct Turn<'a> {
    endpoint: Arc<Endpoint>,
    _one_at_a_time: tokio::sync::MutexGuard<'a, ()>,
}

impl Endpoints {
    /// Continues with the endpoints in the store.
    pub(crate) async fn open(outbound: Outbound) -> io::Result<Self> {
        let numbers = outbound.store.run(store::endpoints);
        let numbers = numbers.await.map_err(io::Error::other)?;
        let endpoints = Self {
            outbound: Arc::new(outbound),
            changing: tokio::sync::Mutex::default(),
            full: AtomicBool::new(false),
            loops: Mutex::default(),
        };
        for number in numbers {
            // Rows of one endpoint at a time, because all endpoints together may have a million.
            endpoints.start(number).await.map_err(|problem| {
                io::Error::other(format!("endpoint number {number}: {}", problem.detail))
            })?;
        }
        endpoints.pin();
        Ok(endpoints)
    }

    /// Tells the feed to keep the messages that an endpoint has not received, even if it is disabled.
    fn pin(&self) {
        let mut pins: HashMap<Topic, u64> = HashMap::new();
        for endpoint in self.list() {
            let status = endpoint.status();
            let disabled = status.disabled.as_ref();
            if disabled.is_some_and(|disabled| disabled.expired.is_some()) {
                continue;
            }
            let settled = status.settled;
            for topic in endpoint.target.topics.iter() {
                let pin = pins.entry(topic.clone()).or_insert(settled);
                *pin = settled.min(*pin);
            }
        }
        self.outbound.feed.pin(pins);
    }

    /// Updates the pins, and expires old backlogs. Never ends.
    pub(crate) async fn keep_pinned(&self) -> Infallible {
        let mut every = interval(PIN);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            if self.outbound.steady.lasts() >= SETTLED.min(self.outbound.config.hold) {
                // The clock at the start may have been ahead, and corrected since.
                let now = self.now().min((self.outbound.clock)());
                self.expire(now).await;
            }
            self.pin();
            self.measure().await;
        }
    }

    /// Checks whether the messages, with their waiting and dead deliveries, exceed the disk budget.
    async fn measure(&self) {
        let measured = self.outbound.store.note(store::size);
        let Ok(size) = measured.await else {
            return; // the next write reports that the disk has failed
        };
        let full = size > self.outbound.config.disk;
        let was_full = self.full.swap(full, Ordering::Relaxed);
        if full && !was_full {
            warn!(
                size,
                "undelivered and dead messages use the whole disk budget"
            );
        }
    }

    /// Refuses to publish more when the disk budget is used up.
    pub(crate) fn check_disk(&self) -> Result<(), Problem> {
        if !self.full.load(Ordering::Relaxed) {
            return Ok(());
        }
        let disk = self.outbound.config.disk;
        let detail = format!("undelivered and dead messages use all {disk} bytes");
        Err(Problem::unavailable(detail, retry_after()))
    }

    /// Drops the backlogs of endpoints that have been disabled for too long: their deliveries are dead.
    async fn expire(&self, now: SystemTime) {
        for endpoint in self.list() {
            let is_over = endpoint.status().disabled.as_ref().is_some_and(|disabled| {
                let held = now.duration_since(disabled.since).unwrap_or_default();
                disabled.expired.is_none() && held >= self.outbound.config.hold
            });
            if !is_over {
                continue;
            }
            let expire =
                move |database: &Connection, saved: &mut Saved| store::expire(database, saved, now);
            let id = &endpoint.id;
            let expired = async { self.change(self.turn(&endpoint).await?, expire).await };
            match expired.await {
                Ok(_) => warn!(id, "disabled for too long: its backlog is now dead"),
                Err(problem) => warn!(id, problem.detail, "its backlog could not be ended yet"),
            }
        }
    }

    /// Registers an endpoint, which gets what is published from now on. A repeat with the same key and body
    /// returns the first endpoint, with 200 instead of 201.
    pub(crate) async fn register(
        &self,
        body: &[u8],
        key: Option<IdempotencyKey>,
    ) -> Result<(Arc<Endpoint>, StatusCode), Problem> {
        let mut registration: Registration =
            object(body).map_err(invalid("the body is no endpoint"))?;
        let secret = registration.secret.take();
        let target = registration.check()?;
        let secret = new_secret(secret)?;
        self.admit(&target.url)?;
        let saved = new_endpoint(&target, &secret, self.outbound.feed.head().seq);
        let key = key.map(|key| Key {
            key: key.to_string(),
            digest: Sha256::digest(body).to_vec(),
        });
        let _one_at_a_time = self.one_at_a_time().await?;
        if let Some(key) = key.clone()
            && let Some(endpoint) = self.registered(key).await?
        {
            return Ok((endpoint, StatusCode::OK));
        }
        self.check_room()?;
        let inserted = self.write(move |database| store::insert(database, &saved, key.as_ref()));
        let endpoint = self.start(inserted.await?).await?;
        self.pin();
        // Path and query may hold a token.
        let at = &endpoint.target.url[..Position::BeforePath];
        info!(endpoint = endpoint.id, at, "registered");
        Ok((endpoint, StatusCode::CREATED))
    }

    /// The endpoint that was registered with this key. Refuses the key for another body.
    async fn registered(&self, key: Key) -> Result<Option<Arc<Endpoint>>, Problem> {
        let used = format!(
            "Idempotency-Key {:.100} was used for another endpoint",
            key.key
        );
        let found = self.write(move |database| store::registered(database, &key));
        match found.await? {
            Some((_, false)) => Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, used)),
            Some((id, true)) => Ok(self.find(&id)),
            None => Ok(None),
        }
    }

    /// Changes an endpoint as the body of a `PATCH` says.
    pub(crate) async fn patch(&self, endpoint: &Endpoint, body: &[u8]) -> Changed {
        let mut changes: Map<String, Value> =
            serde_json::from_slice(body).map_err(invalid(NO_CHANGE))?;
        let enabled = changes.remove("enabled").map(serde_json::from_value);
        let enabled: Option<bool> = enabled.transpose().map_err(invalid("enabled"))?;
        let turn = self.turn(endpoint).await?;
        let target = turn.endpoint.target.changed(changes)?;
        let moves = target.url != turn.endpoint.target.url;
        if moves {
            self.admit(&target.url)?;
        }
        let disabled = Health::Disabled {
            since: self.now(),
            reason: "by hand".to_owned(),
            expired: None,
        };
        let change = move |_: &Connection, saved: &mut Saved| {
            saved.target = target.to_text();
            let is_disabled = saved.state.health.is_disabled();
            // Another server may do better.
            if enabled == Some(true) || moves && !is_disabled {
                saved.state.enable();
            }
            if enabled == Some(false) && !is_disabled {
                saved.state.health = disabled;
            }
            Ok(())
        };
        let (endpoint, ()) = self.change(turn, change).await?;
        if let Some(enabled) = enabled {
            info!(endpoint = endpoint.id, enabled, "set by hand");
        }
        Ok(endpoint.to_json(None))
    }

    /// Sends a signed test message to the endpoint now, once, and returns how that went. It changes nothing.
    pub(crate) async fn test(&self, endpoint: &Endpoint, body: &[u8]) -> Result<String, Problem> {
        let Nothing {} = object(body).map_err(invalid("the body is not {}"))?;
        let outbound = &self.outbound;
        let busy = || Problem::unavailable("all slots for attempts are in use", retry_after());
        let _place = outbound.stock.try_take().ok_or_else(busy)?;
        let at = (outbound.clock)();
        let id = format!("test-{:016x}", rand::random::<u64>());
        let timestamp = humantime::format_rfc3339_millis(at).to_string();
        let topic = endpoint.target.topics.iter().next().map(Topic::as_str);
        let json = json!({"id": id, "topic": topic, "type": "webhooks.test", "timestamp": timestamp, "data": {}});
        let message = Payload {
            json: json.to_string().into(),
            id,
        };
        let attempt = outbound.attempt(endpoint);
        let outcome = attempt.run(&mut None, &message, at).await;
        Ok(to_json(&AttemptView::new(&message.id, 1, &outcome, None)))
    }

    /// Sets a new secret, and shows it. The previous one signs too, for [`store::OVERLAP`].
    pub(crate) async fn rotate(&self, endpoint: &Endpoint, body: &[u8]) -> Changed {
        let rotation: Rotation = object(body).map_err(invalid("the body is no rotation"))?;
        let secret = new_secret(rotation.secret)?.reveal();
        let turn = self.turn(endpoint).await?;
        let now = self.now();
        if turn.endpoint.secrets(now).len() >= MAX_SECRETS {
            let detail = format!("the endpoint already has {MAX_SECRETS} active secrets");
            return Err(Problem::new(StatusCode::CONFLICT, detail));
        }
        let new = secret.clone();
        let change = move |_: &Connection, saved: &mut Saved| {
            saved.rotate(new, now);
            Ok(())
        };
        let (endpoint, ()) = self.change(turn, change).await?;
        info!(endpoint = endpoint.id, "its secrets changed");
        Ok(endpoint.to_json(Some(secret)))
    }

    /// Enables a disabled endpoint. It gets the messages that it missed.
    pub(crate) async fn enable(&self, endpoint: &Endpoint, body: &[u8]) -> Changed {
        let Nothing {} = object(body).map_err(invalid("the body is not {}"))?;
        self.patch(endpoint, br#"{"enabled":true}"#).await
    }

    /// Delivers everything after a position again, with the same ids.
    pub(crate) async fn replay(&self, endpoint: &Endpoint, body: &[u8]) -> Changed {
        let Replay { after } = object(body).map_err(invalid("the body is no replay"))?;
        let after: After = after.parse().map_err(invalid("after"))?;
        let position = self.outbound.feed.position(&endpoint.target.topics, &after);
        let position = position.ok_or("the feed has no such position");
        let cursor = position.map_err(invalid("after"))?.seq;
        let (turn, now) = (self.turn(endpoint).await?, self.now());
        let change = move |database: &Connection, saved: &mut Saved| {
            store::replay(database, saved, cursor, now)
        };
        let (endpoint, moved) = self.change(turn, change).await?;
        if !moved {
            return Err(invalid("after")(
                "the endpoint has not got this far: a replay goes back",
            ));
        }
        info!(endpoint = endpoint.id, %cursor, "replays");
        Ok(endpoint.to_json(None))
    }

    /// Makes a delivery due that is dead or waits for a later attempt, with the whole schedule of retries.
    pub(crate) async fn retry(&self, endpoint: &Endpoint, id: &str, body: &[u8]) -> Changed {
        let Nothing {} = object(body).map_err(invalid("the body is not {}"))?;
        let missing = || {
            let detail = format!("{id} is not dead, and waits for no later attempt");
            Problem::new(StatusCode::NOT_FOUND, detail)
        };
        let Cursor { seq, .. } = id.parse().map_err(|_| missing())?;
        let turn = self.turn(endpoint).await?;
        let (number, text, now) = (endpoint.number, id.to_owned(), self.now());
        let change = move |database: &Connection, _: &mut Saved| {
            store::revive(database, number, seq, &text, now)
        };
        let (endpoint, revived) = self.change(turn, change).await?;
        if !revived {
            return Err(missing());
        }
        info!(endpoint = endpoint.id, id, "a delivery is tried again");
        Ok(endpoint.to_json(None))
    }

    /// Waits until no other change is under way.
    async fn one_at_a_time(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, Problem> {
        let turn = self.changing.lock().await;
        match self.loops().is_draining {
            true => Err(Problem::unavailable("draining", retry_after())),
            false => Ok(turn),
        }
    }

    /// Waits until no other change is under way, and returns the endpoint as it then is.
    async fn turn(&self, endpoint: &Endpoint) -> Result<Turn<'_>, Problem> {
        let one_at_a_time = self.one_at_a_time().await?;
        let id = &endpoint.id;
        let removed = || Problem::new(StatusCode::NOT_FOUND, format!("{id} was removed"));
        Ok(Turn {
            endpoint: self.find(id).ok_or_else(removed)?,
            _one_at_a_time: one_at_a_time,
        })
    }

    /// Changes an endpoint in the store. Its loop ends first, and then a new one starts from the store, as after
    /// a restart. Attempts in flight have [`STOP_GRACE`] to end. Those that are cut are repeated.
    async fn change<T: Send + 'static>(
        &self,
        turn: Turn<'_>,
        work: impl FnOnce(&Connection, &mut Saved) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<(Arc<Endpoint>, T), Problem> {
        let number = turn.endpoint.number;
        if let Some(push) = self.halt(number)
            && let Err(error) = push.await
        {
            error!(%error, endpoint = turn.endpoint.id, "an endpoint's loop failed");
        }
        let change = move |database: &Connection| {
            let mut saved = store::endpoint(database, number)?;
            let done = work(database, &mut saved)?;
            store::save(database, &saved)?;
            Ok(done)
        };
        let changed = self.write(change).await;
        // Changed or not, the endpoint needs a loop again.
        let endpoint = self.start(number).await?;
        self.pin();
        Ok((endpoint, changed?))
    }

    /// Tells the endpoint's loop to end.
    fn halt(&self, number: i64) -> Option<JoinHandle<Push>> {
        let mut loops = self.loops();
        let running = loops.running.get_mut(&number)?;
        running.stop.send_replace(Some(STOP_GRACE));
        running.push.take()
    }

    /// Refuses a URL that shows by itself that it may not be called. A name is not resolved here, because its
    /// addresses are checked for each connection.
    fn admit(&self, url: &Url) -> Result<(), Problem> {
        self.outbound.guard.check(url).map_err(invalid("url"))
    }

    fn check_room(&self) -> Result<(), Problem> {
        let max = self.outbound.config.max_endpoints;
        if self.loops().running.len() >= max {
            let detail = format!("there are already {max} endpoints (--max-endpoints)");
            return Err(Problem::unavailable(detail, retry_after()));
        }
        Ok(())
    }

    /// Starts the loop of an endpoint as the store has it. While the server drains, the loop ends at once.
    async fn start(&self, number: i64) -> Result<Arc<Endpoint>, Problem> {
        let read = self.outbound.store.note(move |database| {
            let waiting = store::waiting(database, number)?;
            Ok((store::endpoint(database, number)?, waiting))
        });
        let (saved, waiting) = read.await.map_err(unavailable)?;
        let saved = saved.believed(&self.outbound.steady);
        let epoch = self.outbound.feed.head().epoch;
        let before = self
            .loops()
            .running
            .get(&number)
            .map(|running| running.endpoint.clone());
        let endpoint = Arc::new(Endpoint::restore(&saved, epoch, before.as_deref())?);
        let push = Push::new(self.outbound.clone(), endpoint.clone(), &saved, waiting);
        let mut loops = self.loops();
        let stop = watch::Sender::new(
            loops
                .is_draining
                .then_some(self.outbound.config.server.drain),
        );
        let running = Running {
            endpoint: endpoint.clone(),
            push: Some(tokio::spawn(push.run(stop.subscribe()))),
            stop,
        };
        loops.running.insert(number, running);
        Ok(endpoint)
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Problem> {
        self.outbound.store.run(work).await.map_err(unavailable)
    }

    pub(crate) fn now(&self) -> SystemTime {
        self.outbound.steady.now()
    }

    /// What `GET …/deliveries` shows. With `before` it shows the dead deliveries before that message.
    pub(crate) async fn deliveries(
        &self,
        endpoint: &Endpoint,
        before: Option<Cursor>,
    ) -> Result<String, Problem> {
        let (number, before) = (endpoint.number, before.map(|before| before.seq));
        let found = self.write(move |database| {
            let dead = store::dead(database, number, before)?;
            let gaps = store::gaps(database, number)?;
            Ok((dead, gaps))
        });
        let (dead, gaps) = found.await?;
        Ok(endpoint.deliveries_json(dead, gaps))
    }

    /// Every endpoint, oldest first.
    pub(crate) fn list(&self) -> Vec<Arc<Endpoint>> {
        let loops = self.loops();
        let running = loops.running.values();
        running.map(|running| running.endpoint.clone()).collect()
    }

    /// What the deliveries of all endpoints wait for. Those of a disabled endpoint are not due.
    pub(crate) fn gauges(&self) -> Vec<Gauge> {
        let (mut waiting, mut dead, mut disabled, mut overdue) = (0, 0, 0, Duration::ZERO);
        for endpoint in self.list() {
            let status = endpoint.status();
            waiting += status.waiting as u64;
            dead += status.dead;
            if status.disabled.is_some() {
                disabled += 1;
            } else if let Some(due) = status.oldest_due {
                overdue = overdue.max(self.now().duration_since(due).unwrap_or_default());
            }
        }
        let overdue = overdue.as_secs();
        vec![
            ("waiting_deliveries", "Deliveries to retry", waiting),
            ("overdue_seconds", "Since the first was due", overdue),
            ("dead_deliveries", "Failed at every attempt", dead),
            ("disabled_endpoints", "Not called any more", disabled),
        ]
    }

    pub(crate) fn find(&self, id: &str) -> Option<Arc<Endpoint>> {
        let loops = self.loops();
        let mut endpoints = loops.running.values().map(|running| &running.endpoint);
        endpoints.find(|endpoint| endpoint.id == id).cloned()
    }

    /// Removes an endpoint with its backlog.
    pub(crate) async fn remove(&self, endpoint: &Endpoint) -> Result<(), Problem> {
        let _one_at_a_time = self.changing.lock().await;
        let (id, number) = (&endpoint.id, endpoint.number);
        let removed = self.write(move |database| store::remove(database, number));
        removed.await?;
        if let Some(removed) = self.loops().running.remove(&number) {
            removed.push.inspect(JoinHandle::abort);
        }
        info!(endpoint = id, "removed");
        Ok(())
    }

    /// Tells every loop to claim nothing more, and to finish within the drain time.
    pub(crate) fn stop(&self) {
        let mut loops = self.loops();
        loops.is_draining = true;
        for running in loops.running.values() {
            running
                .stop
                .send_replace(Some(self.outbound.config.server.drain));
        }
    }

    /// Waits for the attempts in flight after [`Endpoints::stop`]. Returns how many deliveries are lost: with tables
    /// in memory, all that are left.
    pub(crate) async fn drained(&self) -> usize {
        let _no_change = self.changing.lock().await;
        let pushes: Vec<_> = {
            let mut loops = self.loops();
            let running = loops.running.values_mut();
            running.filter_map(|running| running.push.take()).collect()
        };
        // Each loop limits its own drain, and all began at the same time.
        let ended = join_all(pushes).await;
        let mut lost = 0;
        for push in ended {
            match push {
                Ok(_) if self.outbound.store.is_durable() => {} // the next start continues with what is left
                Ok(push) => lost += push.owed().await,
                Err(error) => error!(%error, "an endpoint's loop failed"),
            }
        }
        lost
    }

    fn loops(&self) -> MutexGuard<'_, Loops> {
        self.loops.lock().expect("nothing panics under this lock")
    }
}

/// Reads a JSON object. serde alone would also read a struct from an array.
fn object<T: DeserializeOwned>(body: &[u8]) -> serde_json::Result<T> {
    match body.trim_ascii_start().starts_with(b"[") {
        true => Err(Error::invalid_type(Unexpected::Seq, &"an object")),
        false => serde_json::from_slice(body),
    }
}

fn unavailable(error: CommitError) -> Problem {
    Problem::unavailable(error, retry_after())
}
