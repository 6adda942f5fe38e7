//! Optional, to save memory and time: takes an open stream out of hyper, and lets it wait in a group.
//!
//! hyper keeps a read and a write buffer of 8 KiB each while an answer streams. A stream that mostly
//! waits needs neither. So hyper parses the request and the route answers it as usual. Before any byte
//! of a streaming answer is written, [`Handover`] takes the connection back and drops hyper. A task of
//! this file then writes the answer: its head, and its body until the stream has caught up. Then the
//! stream waits in its group (`group.rs`). It goes back to a task when it is slow or must end. The client
//! sees the same bytes as from plain hyper.
//!
//! `common/src/http/takeover/mod.rs` states the contract with hyper, and tests it.

mod group;
mod position;

use std::{convert::Infallible, future::pending, io, sync::Arc};

use bytes::Bytes;
use common::{Activity, Handover, StallGuard, encode_head};
use http_body_util::{Either, Full};
use hyper::{Request, Response, Version, body::Incoming};
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::watch};
use tracing::debug;

use crate::{
    route::{App, route},
    stream::Subscriber,
};

pub(crate) use group::Groups;

/// One connection. With plain hyper this is `serve::connection`. Here hyper answers requests until one asks for a
/// stream. Bytes after that request are dropped, because a stream is the connection's last answer.
pub(crate) async fn connection(
    socket: TcpStream,
    app: Arc<App>,
    groups: Arc<Groups>,
    activity: Activity,
    mut draining: watch::Receiver<bool>,
) {
    // In a block, so that the task of a stream keeps no memory for it.
    let taken = {
        let handover = Handover::default();
        let http = app.server.http1();
        let io = StallGuard::new(socket, app.server.stall);
        let service = |request| answer(request, app.clone(), &activity, &handover);
        handover.serve(&http, io, &mut draining, service).await
    };
    match taken {
        Ok(Some(taken)) => {
            let (head, is_chunked, subscriber) = taken.given;
            let stream = OpenStream {
                socket: taken.io,
                is_chunked,
                subscriber,
                activity,
            };
            stream.serve(head.into(), groups).await;
        }
        Ok(None) => {}
        Err(error) => debug!(%error, "connection ended"),
    }
}

/// The service inside hyper. A stream is handed over, and this future waits until hyper is dropped.
async fn answer(
    mut request: Request<Incoming>,
    app: Arc<App>,
    activity: &Activity,
    handover: &Handover<(Vec<u8>, bool, Subscriber)>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let busy = activity.busy_with(&mut request);
    let version = request.version();
    let (head, body) = route(app, request).await?.into_parts();
    match body {
        Either::Left(body) => Ok(Response::from_parts(head, body)),
        Either::Right(subscriber) => {
            busy.to_the_end();
            let head = encode_head(version, &head, None);
            handover.give((head, version != Version::HTTP_10, subscriber));
            pending().await
        }
    }
}

/// A stream outside of hyper, while a task writes it.
struct OpenStream {
    socket: StallGuard<TcpStream>,
    /// Whether the body is in chunks. If not (HTTP/1.0), the end of the connection is the end of the body.
    is_chunked: bool,
    subscriber: Subscriber,
    /// The connection counts as open while this exists.
    activity: Activity,
}

impl OpenStream {
    /// Writes `first` and what the stream has missed. If the stream goes on, it then joins its group.
    async fn serve(mut self, first: Bytes, groups: Arc<Groups>) {
        match self.catch_up(&first).await {
            Ok(true) => groups.join(self),
            Ok(false) => {}
            Err(error) => debug!(%error, "stream ended"),
        }
    }

    /// Writes `first`, and then blocks until the stream waits for news. `false` if it has ended.
    async fn catch_up(&mut self, first: &[u8]) -> io::Result<bool> {
        self.socket.write_all(first).await?;
        while !self.subscriber.waits() {
            let Some(blocks) = self.subscriber.next().await else {
                return self.end().await.map(|()| false);
            };
            let bytes = framed(blocks, self.is_chunked);
            self.socket.write_all(&bytes).await?;
        }
        Ok(true)
    }

    /// Ends the body. A connection that is cut has no last chunk, so the client can tell the two apart.
    async fn end(&mut self) -> io::Result<()> {
        if self.is_chunked {
            self.socket.write_all(b"0\r\n\r\n").await?;
        }
        // Reads what the client has sent. With unread bytes the kernel would reset the connection, and the
        // client could lose the last block.
        let _ = self.socket.get_ref().try_read(&mut [0; 4_096]);
        self.socket.shutdown().await
    }
}

/// Blocks as they are on the wire: in one chunk (RFC 9112 §7.1), or without a frame.
fn framed(blocks: Vec<u8>, is_chunked: bool) -> Vec<u8> {
    if !is_chunked {
        return blocks;
    }
    let size = format!("{:x}\r\n", blocks.len());
    [size.as_bytes(), &blocks, b"\r\n"].concat()
}
