//! The endpoints: registering, finding, removing them, and ending their loops.

use std::sync::{Arc, Mutex, MutexGuard};

use common::{Cursor, Problem, retry_after};
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tracing::{error, info};
use url::Url;

use crate::{
    endpoint::{Endpoint, Registration, invalid},
    guard::Unresolved,
    push::{Outbound, Push},
};

/// All endpoints and their loops.
pub(crate) struct Endpoints {
    outbound: Arc<Outbound>,
    max: usize,
    stopping: watch::Sender<bool>,
    /// In the order of registration; `None` once the server drains.
    running: Mutex<Option<Vec<Running>>>,
}

struct Running {
    endpoint: Arc<Endpoint>,
    push: JoinHandle<Push>,
}

impl Endpoints {
    pub(crate) fn new(outbound: Outbound, max: usize) -> Self {
        Self {
            outbound: Arc::new(outbound),
            max,
            stopping: watch::Sender::new(false),
            running: Mutex::new(Some(Vec::new())),
        }
    }

    /// Begins to deliver to a new endpoint what is published from now on.
    pub(crate) async fn register(&self, body: &[u8]) -> Result<Arc<Endpoint>, Problem> {
        let registration: Registration =
            serde_json::from_slice(body).map_err(invalid("the body is no endpoint"))?;
        let target = registration.parse()?;
        self.admit(&target.url).await?;
        let after = self.outbound.feed.head();
        let endpoint = Arc::new(Endpoint::new(target, after));
        self.start(endpoint.clone(), after)?;
        info!(endpoint = endpoint.id, url = %endpoint.url, "registered");
        Ok(endpoint)
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

    fn start(&self, endpoint: Arc<Endpoint>, after: Cursor) -> Result<(), Problem> {
        let mut running = self.running();
        let unavailable = |detail: &str| Problem::unavailable(detail, retry_after());
        let running = running.as_mut().ok_or_else(|| unavailable("draining"))?;
        if running.len() >= self.max {
            let detail = format!("there are {} endpoints already (--max-endpoints)", self.max);
            return Err(unavailable(&detail));
        }
        let push = Push::new(self.outbound.clone(), endpoint.clone(), after);
        let push = tokio::spawn(push.run(self.stopping.subscribe()));
        running.push(Running { endpoint, push });
        Ok(())
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

    /// Ends the endpoint's loop, and with it all it owes.
    pub(crate) fn remove(&self, id: &str) {
        let mut running = self.running();
        let running = running.as_mut();
        if let Some(running) = running
            && let Some(at) = running.iter().position(|one| one.endpoint.id == id)
        {
            running.remove(at).push.abort();
            info!(endpoint = id, "removed");
        }
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
