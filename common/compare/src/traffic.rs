//! Counts what clients put on the wire and take off it.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::net::TcpStream;
use tokio_util::io::{InspectReader, InspectWriter};

/// Counts over all connections of a client, or of several.
#[derive(Debug, Default)]
pub struct Traffic(Mutex<Counts>);

/// The counts at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes that the programs write and read, in both directions. TCP's own are not in it.
    pub bytes: u64,
    /// HTTP requests, of either side.
    pub requests: u64,
    /// Answers with nothing new in them.
    pub empty: u64,
    /// Connections opened.
    pub connections: u64,
}

impl Traffic {
    /// The counts up to now.
    pub fn counts(&self) -> Counts {
        *self.now()
    }

    pub(crate) fn request(&self) {
        self.now().requests += 1;
    }

    pub(crate) fn empty(&self) {
        self.now().empty += 1;
    }

    fn now(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().expect("nothing panics under this lock")
    }
}

impl Counts {
    /// What both counted together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.zip(other, u64::wrapping_add)
    }

    /// What was counted after `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        self.zip(earlier, u64::wrapping_sub)
    }

    fn zip(self, other: Self, count: fn(u64, u64) -> u64) -> Self {
        Self {
            bytes: count(self.bytes, other.bytes),
            requests: count(self.requests, other.requests),
            empty: count(self.empty, other.empty),
            connections: count(self.connections, other.connections),
        }
    }
}

/// A socket that counts what was read from it and written to it.
pub(crate) type Counted = InspectWriter<InspectReader<TcpStream, Count>, Count>;
type Count = Box<dyn FnMut(&[u8]) + Send + Sync>;

/// Counts the bytes of a new connection.
pub(crate) fn counted(stream: TcpStream, traffic: &Arc<Traffic>) -> Counted {
    traffic.now().connections += 1;
    InspectWriter::new(InspectReader::new(stream, count(traffic)), count(traffic))
}

fn count(traffic: &Arc<Traffic>) -> Count {
    let traffic = traffic.clone();
    Box::new(move |bytes| traffic.now().bytes += bytes.len() as u64)
}
