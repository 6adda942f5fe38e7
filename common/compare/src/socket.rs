//! The sockets of the clients, the receiver and the page.

use std::{io, net::SocketAddr, sync::Arc};

use tokio::net::{TcpListener, TcpStream};
use tokio_util::io::{InspectReader, InspectWriter};

use crate::Traffic;

/// The next connection. An accept error pauses this and never ends it. Cancel-safe: dropping the future
/// loses no connection.
pub(crate) async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => common::accept_failed(error).await,
        }
    }
}

/// A new connection whose bytes are counted.
pub(crate) async fn connect(addr: SocketAddr, traffic: &Arc<Traffic>) -> io::Result<Counted> {
    match TcpStream::connect(addr).await {
        Ok(stream) => Ok(counted(stream, traffic)),
        Err(error) => {
            let text = format!("a client cannot connect to {addr}: {error}");
            Err(io::Error::new(error.kind(), text))
        }
    }
}

/// A socket that counts what is read from it and written to it.
pub(crate) type Counted = InspectWriter<InspectReader<TcpStream, Count>, Count>;
type Count = Box<dyn FnMut(&[u8]) + Send + Sync>;

/// Counts the bytes of a new connection.
pub(crate) fn counted(stream: TcpStream, traffic: &Arc<Traffic>) -> Counted {
    // Nagle's algorithm would hold small requests back, and add to the latency. This fails only on a
    // socket that is closed already.
    let _ = stream.set_nodelay(true);
    InspectWriter::new(InspectReader::new(stream, count(traffic)), count(traffic))
}

fn count(traffic: &Arc<Traffic>) -> Count {
    let traffic = traffic.clone();
    Box::new(move |bytes| traffic.bytes(bytes.len()))
}
