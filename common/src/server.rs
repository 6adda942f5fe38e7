//! What a server's process needs around `run`: signals, descriptors, and how the drain went.

use std::{future::Future, io, net::SocketAddr, time::Duration};

use tokio::net::TcpListener;
use tracing::{info, warn};

/// How a drain went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections that ended by themselves after the signal.
    pub finished: usize,
    /// Connections that were cut at the deadline.
    pub cut: usize,
}

/// Binds `address` and prints the first line of standard output: `listening on http://ADDR`, with
/// the port that port 0 took.
///
/// # Errors
/// The system's, with the address.
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
    };
    let listener = TcpListener::bind(address).await.map_err(named)?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(listener)
}

/// Resolves at the first SIGTERM or SIGINT (elsewhere Ctrl-C). From then on a second one exits the
/// process at once. Call it before anything tells the outside that the process is there: it listens
/// for signals from the call on.
pub fn shutdown_signal() -> impl Future<Output = ()> {
    let first = signal();
    async {
        first.await;
        info!("draining; a second signal exits at once");
        let second = signal();
        tokio::spawn(async {
            second.await;
            std::process::exit(1);
        });
    }
}

#[cfg(unix)]
fn signal() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
    // Registered before the future is first polled: no signal is missed.
    let listen = |kind| signal(kind).expect("signal handlers can be installed inside a runtime");
    let (mut terminate, mut interrupt) = (
        listen(SignalKind::terminate()),
        listen(SignalKind::interrupt()),
    );
    async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}

#[cfg(not(unix))]
async fn signal() {
    tokio::signal::ctrl_c()
        .await
        .expect("Ctrl-C can be listened for inside a runtime");
}

/// Descriptors that are not connections: the listener, the runtime's, logs, a database.
const OWN_DESCRIPTORS: u64 = 32;

/// Raises the soft descriptor limit to the hard one and returns how many of the wanted connections
/// then have a descriptor. Says so in one line if that is fewer.
pub fn fit_descriptors(wanted: usize) -> usize {
    let limit = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(u64::MAX);
    let fitting = fit(wanted, limit);
    if fitting < wanted {
        warn!("the descriptor limit is {limit}: at most {fitting} connections instead of {wanted}");
    }
    fitting
}

fn fit(wanted: usize, limit: u64) -> usize {
    let available = limit.saturating_sub(OWN_DESCRIPTORS).max(1);
    wanted.min(usize::try_from(available).unwrap_or(usize::MAX))
}

/// Parses a knob in seconds: `10`, `0.5`.
///
/// # Errors
/// What is not a number of seconds from 0 to 10 years.
pub fn seconds(text: &str) -> Result<Duration, String> {
    const TEN_YEARS: f64 = 315_360_000.0;
    let seconds: f64 = text
        .parse()
        .map_err(|_| "not a number of seconds".to_owned())?;
    if !(0.0..=TEN_YEARS).contains(&seconds) {
        return Err(format!("not within 0 and {TEN_YEARS} seconds"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// The same for a knob that means nothing at 0, such as a heartbeat.
///
/// # Errors
/// As [`seconds`], and 0.
pub fn positive_seconds(text: &str) -> Result<Duration, String> {
    seconds(text).and_then(|time| {
        if time.is_zero() {
            Err("more than 0 seconds".to_owned())
        } else {
            Ok(time)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_fit_the_descriptors_that_are_left() {
        assert_eq!(fit(10_256, 20_000), 10_256);
        assert_eq!(fit(10_256, 10_288), 10_256);
        assert_eq!(fit(10_256, 10_287), 10_255);
        assert_eq!(fit(10_256, 256), 224);
        assert_eq!(fit(10_256, 0), 1);
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
