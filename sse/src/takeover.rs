//! Optional, to save memory: takes an open stream out of hyper.
//!
//! hyper keeps a read and a write buffer of 8 KiB each while an answer streams. A stream that mostly
//! waits needs neither. So hyper parses the request and the route answers it as usual. Before any byte
//! of a streaming answer is written, [`Handover`] takes the connection back and drops hyper. The answer
//! is then written here: its head, and its body until one side ends it. The client sees the same bytes as
//! from plain hyper.
//!
//! `common/src/http/takeover/mod.rs` states the contract with hyper, and tests it.

use std::{
    convert::Infallible,
    error::Error,
    future::{pending, poll_fn},
    io,
    sync::Arc,
};

use bytes::{Buf, Bytes};
use common::{Activity, Handover, StallGuard, encode_head};
use http_body_util::{Either, Full};
use hyper::{Request, Response, Version, body::Incoming};
use tokio::{
    io::{AsyncWriteExt, Interest},
    net::TcpStream,
    sync::watch,
};
use tracing::debug;

use crate::{
    route::{App, route},
    stream::Subscriber,
};

/// One connection, as `serve::connection` is with plain hyper.
pub(crate) fn connection(
    socket: TcpStream,
    app: Arc<App>,
    activity: Activity,
    draining: watch::Receiver<bool>,
) -> impl Future<Output = ()> {
    // Boxed, so that hyper's memory is freed once the stream is open.
    let opening = Box::pin(open(socket, app, activity, draining));
    async move {
        // Borrowed, not moved: a value moved across an await is stored twice in the future
        // (rust-lang/rust#62958).
        match &mut opening.await {
            Ok(Some((socket, stream))) => {
                if let Err(error) = write(socket, stream).await {
                    debug!(%error, "stream ended");
                }
            }
            Ok(None) => {}
            Err(error) => debug!(%error, "connection ended"),
        }
    }
}

/// A streaming answer of which the head is written.
struct OpenStream {
    /// Whether the body is in chunks. If not, it ends with the connection.
    chunked: bool,
    subscriber: Subscriber,
}

/// Lets hyper answer requests until one asks for a stream, and writes the head of that answer. Bytes after
/// that request are dropped, because a stream is the connection's last answer.
async fn open(
    socket: TcpStream,
    app: Arc<App>,
    activity: Activity,
    mut draining: watch::Receiver<bool>,
) -> Result<Option<(StallGuard<TcpStream>, OpenStream)>, Box<dyn Error + Send + Sync>> {
    let handover = Handover::default();
    let http = app.server.http1();
    let io = StallGuard::new(socket, app.server.stall);
    let taken = handover.serve(&http, io, &mut draining, |request| {
        answer(request, app.clone(), &activity, &handover)
    });
    let Some(mut taken) = taken.await? else {
        return Ok(None);
    };
    let (head, stream) = taken.given;
    taken.io.write_all(&head).await?;
    Ok(Some((taken.io, stream)))
}

/// The service inside hyper. A stream is handed over, and this future waits until hyper is dropped.
async fn answer(
    mut request: Request<Incoming>,
    app: Arc<App>,
    activity: &Activity,
    handover: &Handover<(Vec<u8>, OpenStream)>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let busy = activity.serves(&mut request);
    let version = request.version();
    let (head, body) = route(app, request).await?.into_parts();
    match body {
        Either::Left(body) => Ok(Response::from_parts(head, body)),
        Either::Right(subscriber) => {
            busy.to_the_end();
            let stream = OpenStream {
                chunked: version != Version::HTTP_10,
                subscriber,
            };
            handover.give((encode_head(version, &head, None), stream));
            pending().await
        }
    }
}

/// Writes the body until it ends or the client leaves.
async fn write(socket: &mut StallGuard<TcpStream>, stream: &mut OpenStream) -> io::Result<()> {
    loop {
        let blocks = tokio::select! {
            biased; // Blocks first: if the client has left, writing them fails.
            blocks = stream.subscriber.next() => blocks,
            gone = gone(socket.get_ref()) => return gone,
        };
        match blocks {
            Some(blocks) if stream.chunked => write_chunk(socket, &blocks).await?,
            Some(blocks) => socket.write_all(&blocks).await?,
            None => return end(socket, stream.chunked).await,
        }
    }
}

/// Writes one chunk (RFC 9112 §7.1), with one system call as a rule.
async fn write_chunk(socket: &mut StallGuard<TcpStream>, blocks: &[u8]) -> io::Result<()> {
    let size = format!("{:x}\r\n", blocks.len());
    let mut chunk = size.as_bytes().chain(blocks).chain(&b"\r\n"[..]);
    socket.write_all_buf(&mut chunk).await
}

/// Ends the body. A connection that is cut has no last chunk, so the client can tell the two apart.
async fn end(socket: &mut StallGuard<TcpStream>, chunked: bool) -> io::Result<()> {
    if chunked {
        socket.write_all(b"0\r\n\r\n").await?;
    }
    socket.shutdown().await
}

/// Resolves when the connection is broken. The end of what the client sends is not that (RFC 9112 §9.6). A
/// client that closed both sides looks the same, until it answers the next block or heartbeat with a reset.
/// What the client sends during the stream is read and dropped.
async fn gone(socket: &TcpStream) -> io::Result<()> {
    while !is_ended(socket)? {
        poll_fn(|task| socket.poll_read_ready(task)).await?;
    }
    // Boxed, because few clients come here.
    Box::pin(socket.ready(Interest::ERROR)).await.map(drop)
}

/// Drops what the client has sent, and tells whether that was all.
fn is_ended(socket: &TcpStream) -> io::Result<bool> {
    match socket.try_read(&mut [0; 1_024]) {
        Ok(read) => Ok(read == 0),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use common::{Connections, Feed, Retention};
    use tokio::net::TcpListener;

    use super::*;
    use crate::Config;

    #[tokio::test]
    async fn what_a_stream_keeps_of_its_connection_is_small() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let socket = TcpStream::connect(address).await.unwrap();
        let feed = Feed::new(Retention::default());
        let app = Arc::new(App::new(feed, Config::default(), &listener).unwrap());
        let connections = Connections::new(1);
        let (activity, draining) = (connections.activity(), connections.draining());
        let size = size_of_val(&connection(socket, app, activity, draining));
        // 784 with rustc 1.95. With tokio's own 104 bytes, 792 fill a task of 896; ten thousand are open.
        assert!(size <= 792, "{size} bytes");
    }
}
