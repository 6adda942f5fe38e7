//! All servers on one feed, in one process: what is published to one is heard from each, and a client may change its
//! technique and keep its cursor.
//!
//! ```console
//! $ cargo run -p compare --example one_feed
//! ```

use std::{future::pending, io, net::Ipv4Addr};

use compare::{Knobs, Technique, run};
use tokio::{net::TcpListener, task::JoinSet};

#[tokio::main]
async fn main() -> io::Result<()> {
    let knobs = Knobs::default();
    let feed = knobs.feed();
    let mut servers = JoinSet::new();
    for technique in Technique::ALL {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        println!("{technique} http://{}", listener.local_addr()?);
        let (feed, knobs) = (feed.handle(), knobs.clone());
        servers.spawn(run(technique, listener, feed, knobs, pending()));
    }
    // They run until this process is killed.
    match servers.join_next().await {
        Some(ended) => ended?.map(drop),
        None => Ok(()),
    }
}
