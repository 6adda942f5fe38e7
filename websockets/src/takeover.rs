//! An addition that saves memory: an idle session costs a socket and a few cursors.
//!
//! hyper's way to hand over an upgraded connection is to pack what it still holds into a box, behind
//! a channel, and its buffers have grown by then. None of it is needed: hyper parses the head and the
//! route answers as ever; but before any byte of the 101 is written, the socket is taken back,
//! everything of hyper is dropped, and the head is written here. What was read beyond the request's
//! head are the session's first frames.
//!
//! The contract. `Connection::into_parts` is documented for a connection that is done; ours is idle,
//! waiting for a service that never answers. What it could still hold is an *earlier* answer that
//! the client has not taken yet, if the upgrade was pipelined behind it. hyper 1.12 writes an answer
//! out before it parses the next head, but does not promise to; [`FlushWatch`] sees every write and
//! flush, and nothing is taken over between a write and a successful flush. The tests below and in
//! `tests/takeover.rs` hold that an earlier answer arrives whole.

use std::{
    convert::Infallible,
    future::{pending, poll_fn},
    io::Write,
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    task::Poll,
    time::SystemTime,
};

use bytes::Bytes;
use common::{FlushNotes, FlushWatch, StallGuard};
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, http::response, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    sync::watch,
};
use tracing::debug;

use crate::{
    App,
    route::{self, Opening},
    serve,
    session::Session,
    socket::Socket,
};

/// One connection as long as it is hyper's, as `serve::with_hyper` is. Some if it goes on as a session.
pub(crate) async fn without_hyper<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    app: Arc<App>,
    mut draining: watch::Receiver<bool>,
) -> Option<Session<StallGuard<S>>> {
    let taken = match parse(stream, &app, &mut draining).await {
        Ok(taken) => taken?,
        Err(error) => {
            debug!(%error, "connection ended");
            return None;
        }
    };
    let Taken {
        mut io,
        early,
        answer,
    } = taken;
    if let Err(error) = io.write_all(&answer.head).await {
        debug!(%error, "connection ended");
        return None;
    }
    let Opening {
        asked,
        limits,
        place,
        ..
    } = answer.opening;
    let socket = Socket::new(io, &early, limits);
    Some(Session::new(&app, socket, asked, place))
}

/// What hyper gave back.
struct Taken<S> {
    io: StallGuard<S>,
    /// Read beyond the request's head.
    early: Bytes,
    answer: Answer,
}

/// Lets hyper answer until a session opens.
async fn parse<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    app: &Arc<App>,
    draining: &mut watch::Receiver<bool>,
) -> hyper::Result<Option<Taken<S>>> {
    let desk = Arc::new(Desk::default());
    let guarded = StallGuard::new(stream, app.config.stall);
    let io = FlushWatch::new(guarded, desk.flushes.clone());
    let builder = serve::http(app);
    let service = service_fn(|request| answer(app.clone(), desk.clone(), request));
    let mut http = builder.serve_connection(TokioIo::new(io), service);
    let (mut drain, mut told) = (pin!(draining.changed()), false);
    let answered = poll_fn(|task| {
        if !told && drain.as_mut().poll(task).is_ready() {
            told = true;
            Pin::new(&mut http).graceful_shutdown();
        }
        let served = Pin::new(&mut http).poll(task).map_ok(|()| None);
        desk.take()
            .map_or(served, |answer| Poll::Ready(Ok(Some(answer))))
    });
    let Some(answer) = answered.await? else {
        return Ok(None);
    };
    let parts = http.into_parts();
    Ok(Some(Taken {
        io: parts.io.into_inner().into_inner(),
        early: parts.read_buf,
        answer,
    }))
}

/// A 101 to be written without hyper.
struct Answer {
    head: Vec<u8>,
    opening: Opening,
}

/// What the service inside hyper and the task around it tell each other.
#[derive(Default)]
struct Desk {
    taken: Mutex<Option<Answer>>,
    /// Whether hyper holds bytes of an earlier answer.
    flushes: FlushNotes,
}

impl Desk {
    fn take(&self) -> Option<Answer> {
        let flushed = self.flushes.is_flushed();
        self.taken
            .lock()
            .expect("nothing panics under this lock")
            .take_if(|_| flushed)
    }
}

/// The route's answer; one that opens a session goes to the desk, and hyper waits for it for ever.
async fn answer(
    app: Arc<App>,
    desk: Arc<Desk>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let opening = Mutex::new(None);
    let response = route::route(app, &opening, request).await?;
    let Some(opening) = opening
        .into_inner()
        .expect("nothing panics under this lock")
    else {
        return Ok(response);
    };
    let head = encode(&response.into_parts().0);
    *desk.taken.lock().expect("nothing panics under this lock") = Some(Answer { head, opening });
    pending().await
}

/// The head's bytes (RFC 9112 §4). hyper would have added the date.
fn encode(head: &response::Parts) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {}\r\n", head.status).into_bytes();
    for (name, value) in &head.headers {
        bytes.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    let date = httpdate::fmt_http_date(SystemTime::now());
    write!(bytes, "date: {date}\r\n\r\n").expect("a Vec takes any bytes");
    bytes
}

#[cfg(test)]
mod tests {
    use common::{Feed, Retention};
    use tokio::io::{AsyncReadExt, join, simplex};

    use super::*;
    use crate::Config;

    #[tokio::test]
    async fn a_session_behind_an_answer_that_is_not_written_yet_waits_for_it() {
        let path = "x".repeat(8_000);
        let (requests, mut client) = simplex(16_384);
        let (mut answers, server) = simplex(1_000);
        let early = format!("POST /{path} HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
        client.write_all(early.as_bytes()).await.unwrap();
        let upgrade = harness::handshake("a", "/topics", &[]) + "first frames";
        client.write_all(upgrade.as_bytes()).await.unwrap();

        let address = "[::]:0".parse().unwrap();
        let app = App::new(&Feed::new(Retention::default()), Config::default(), address);
        let (_drain, mut draining) = watch::channel(false);
        let parsing = tokio::spawn(async move {
            parse(join(requests, server), &Arc::new(app), &mut draining).await
        });
        let mut written = String::new();
        let reading = tokio::spawn(async move {
            answers.read_to_string(&mut written).await.unwrap();
            written
        });
        let taken = parsing.await.unwrap().unwrap();
        let mut taken = taken.expect("a session was asked for");
        taken.io.shutdown().await.unwrap();
        assert_eq!(taken.early, "first frames");
        let head = taken.answer.head;
        assert!(head.starts_with(b"HTTP/1.1 101 Switching Protocols\r\n"));
        let written = reading.await.unwrap();
        let (head, body) = written.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 404 Not Found\r\n"));
        assert!(
            body.contains(&path) && body.ends_with('}'),
            "{}",
            body.len()
        );
    }

    #[tokio::test]
    async fn what_a_session_keeps_of_its_connection_is_small() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let app = App::new(&Feed::new(Retention::default()), Config::default(), address);
        let (_drain, draining) = watch::channel(false);
        let size = size_of_val(&serve::connection(stream, Arc::new(app), draining));
        // So many fill a task of 1 KiB with tokio's own 104; ten thousand of them are open.
        assert!(size <= 920, "{size} bytes");
    }
}
