//! The sender: this crate's sender with a feed in a file and short delays.

use std::{io, path::Path, time::Duration};

use common::{FeedSource, Retention, listen};
use webhooks::{Config, schedule::Schedule};

/// The first delays between attempts, in milliseconds. A real sender waits for hours.
const DELAYS: [u64; 5] = [50, 100, 200, 400, 800];
/// The number of further attempts, one per second.
const MORE: usize = 30;
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) async fn run(folder: &Path, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    let delays = DELAYS.into_iter().chain([1_000; MORE]);
    let delays: Vec<_> = delays.map(Duration::from_millis).collect();
    let config = Config {
        allow_http: true,
        allow_loopback: true,
        schedule: Schedule::new(delays),
        attempt_timeout: ATTEMPT_TIMEOUT,
        ..Config::default()
    };
    let file = FeedSource::File(folder.join("feed.sqlite"));
    let feed = file.open(Retention::default(), false).await?;
    let listener = listen(([127, 0, 0, 1], 0).into()).await?;
    webhooks::run(listener, feed, config, shutdown).await?;
    Ok(())
}
