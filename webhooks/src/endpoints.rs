//! The endpoints: registering, finding, removing them, and ending their loops.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use common::{Problem, retry_after};
use rusqlite::Connection;
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tracing::{error, info};
use url::Url;

use crate::{
    endpoint::{Endpoint, Registration, invalid},
    guard::Unresolved,
    push::{Outbound, Push},
    store::{self, Saved, Waiting},
};

/// All endpoints and their loops.
pub(crate) struct Endpoints {
    outbound: Arc<Outbound>,
    max: usize,
    /// So that there is still room when it is in the store.
    registering: tokio::sync::Mutex<()>,
    stopping: watch::Sender<bool>,
    /// In the order of registration; `None` once the server drains.
    running: Mutex<Option<Vec<Running>>>,
}

struct Running {
    endpoint: Arc<Endpoint>,
    push: JoinHandle<Push>,
}

impl Endpoints {
    /// Goes on with those that are in the store.
    pub(crate) async fn open(outbound: Outbound, max: usize) -> io::Result<Self> {
        let saved = outbound.store.run(|database| {
            let with_waiting = |saved: Saved| {
                let waiting = store::waiting(database, saved.endpoint)?;
                Ok((saved, waiting))
            };
            let endpoints = store::endpoints(database)?.into_iter();
            endpoints.map(with_waiting).collect::<Result<Vec<_>, _>>()
        });
        let saved = saved.await.map_err(io::Error::other)?;
        let endpoints = Self {
            outbound: Arc::new(outbound),
            max,
            registering: tokio::sync::Mutex::default(),
            stopping: watch::Sender::new(false),
            running: Mutex::new(Some(Vec::new())),
        };
        for (saved, waiting) in saved {
            let damaged = |problem: Problem| {
                let detail = format!("endpoint {} is damaged: {}", saved.id, problem.detail);
                io::Error::other(detail)
            };
            endpoints.start(&saved, waiting).map_err(damaged)?;
        }
        Ok(endpoints)
    }

    /// Begins to deliver to a new endpoint what is published from now on, and returns it with its secret.
    pub(crate) async fn register(&self, body: &[u8]) -> Result<(Arc<Endpoint>, String), Problem> {
        let registration: Registration =
            serde_json::from_slice(body).map_err(invalid("the body is no endpoint"))?;
        let target = registration.parse()?;
        self.admit(&target.url).await?;
        let _one_at_a_time = self.registering.lock().await;
        self.check_room()?;
        let mut saved = target.save(self.outbound.feed.head().seq);
        let row = saved.clone();
        let inserted = self.write(move |database| store::insert(database, &row));
        saved.endpoint = inserted.await?;
        let endpoint = self.start(&saved, Vec::new())?;
        info!(endpoint = endpoint.id, url = %endpoint.url, "registered");
        Ok((endpoint, saved.secrets.remove(0)))
    }

    /// A target that is never going to be called is refused at once. One that does not resolve is
    /// not: its name may come later. The same is judged again at each attempt.
    async fn admit(&self, url: &Url) -> Result<(), Problem> {
        let guard = self.outbound.guard;
        guard.check(url).map_err(invalid("url"))?;
        match timeout(self.outbound.attempt_timeout, guard.resolve(url)).await {
            Ok(Err(Unresolved::Refused(target))) => Err(invalid("url")(target)),
            Ok(Ok(_) | Err(Unresolved::Dns(_))) | Err(_) => Ok(()),
        }
    }

    fn check_room(&self) -> Result<(), Problem> {
        let running = self.running();
        let unavailable = |detail: &str| Problem::unavailable(detail, retry_after());
        let running = running.as_ref().ok_or_else(|| unavailable("draining"))?;
        if running.len() >= self.max {
            let detail = format!("there are {} endpoints already (--max-endpoints)", self.max);
            return Err(unavailable(&detail));
        }
        Ok(())
    }

    /// Starts the loop of an endpoint, unless the server drains: then the next start will.
    fn start(&self, saved: &Saved, waiting: Vec<Waiting>) -> Result<Arc<Endpoint>, Problem> {
        let epoch = self.outbound.feed.head().epoch;
        let endpoint = Arc::new(Endpoint::restore(saved, epoch)?);
        let push = Push::new(self.outbound.clone(), endpoint.clone(), saved, waiting);
        if let Some(running) = self.running().as_mut() {
            let push = tokio::spawn(push.run(self.stopping.subscribe()));
            running.push(Running {
                endpoint: endpoint.clone(),
                push,
            });
        }
        Ok(endpoint)
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Problem> {
        let written = self.outbound.store.run(move |database| work(database));
        let unavailable = |error| Problem::unavailable(error, retry_after());
        written.await.map_err(unavailable)
    }

    /// What `GET …/deliveries` shows.
    pub(crate) async fn deliveries(&self, endpoint: &Endpoint) -> Result<String, Problem> {
        let number = endpoint.number;
        let found = self.write(move |database| {
            let attempts = store::attempts(database, number)?;
            Ok((attempts, store::dead(database, number)?))
        });
        let (attempts, dead) = found.await?;
        Ok(endpoint.deliveries_json(attempts, dead))
    }

    /// Every endpoint, oldest first.
    pub(crate) fn list(&self) -> Vec<Arc<Endpoint>> {
        let running = self.running();
        let endpoints = running.iter().flatten();
        endpoints.map(|running| running.endpoint.clone()).collect()
    }

    pub(crate) fn find(&self, id: &str) -> Option<Arc<Endpoint>> {
        let running = self.running();
        let found = running.iter().flatten().find(|one| one.endpoint.id == id);
        found.map(|running| running.endpoint.clone())
    }

    /// Ends the endpoint's loop, and with it all it is owed.
    pub(crate) async fn remove(&self, endpoint: &Endpoint) -> Result<(), Problem> {
        if let Some(running) = self.running().as_mut()
            && let Some(at) = running
                .iter()
                .position(|one| one.endpoint.id == endpoint.id)
        {
            running.remove(at).push.abort();
        }
        let number = endpoint.number;
        let removed = self.write(move |database| store::remove(database, number));
        removed.await?;
        info!(endpoint = endpoint.id, "removed");
        Ok(())
    }

    /// From now on nothing is claimed, and nobody registered.
    pub(crate) fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Waits for [`Endpoints::stop`], then for what is in flight, and gives what is left of each.
    pub(crate) async fn drained(&self) -> Vec<Push> {
        let mut stopping = self.stopping.subscribe();
        // Ends with an error only if the sender is gone, which `self` holds.
        let _ = stopping.wait_for(|stop| *stop).await;
        let running = self.running().take().unwrap_or_default();
        let mut left = Vec::with_capacity(running.len());
        for running in running {
            // Each bounds its own drain, and all began at the same time.
            match running.push.await {
                Ok(push) => left.push(push),
                Err(error) => error!(%error, "an endpoint's loop failed"),
            }
        }
        left
    }

    fn running(&self) -> MutexGuard<'_, Option<Vec<Running>>> {
        self.running.lock().expect("nothing panics under this lock")
    }
}
