//! How a session ends, and what the peer learns of it (RFC 6455 §7).
//!
//! | code | reason | may the client reconnect? |
//! | --- | --- | --- |
//! | the peer's own | the peer closed | as it likes |
//! | 1002 | its frames break the protocol | no |
//! | 1003 | it sent a binary message | no |
//! | 1007 | it sent a text message that is not UTF-8 | no |
//! | 1008 | it did not answer a ping | yes |
//! | 1009 | its message is over the limit, or has too many fragments | no |
//! | 1011 | the feed failed | yes, later |
//! | 1012 | the server restarts, or the session is at its greatest age | yes |
//! | 1013 | the server is at its session limit | yes, later |
//!
//! A peer may close with 1000 to 1003, 1007 to 1014, or 3000 to 4999, and gets its own code and reason
//! back. Any other code breaks the protocol, because it is not registered or must never be sent.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tracing::{debug, trace};
use tungstenite::protocol::frame::coding::CloseCode;

use crate::{
    frames::{CLOSE, Violation},
    socket::Socket,
};

/// How long the whole closing may take.
const CLOSING: Duration = Duration::from_secs(5);
/// How long a peer has to send its close frame. After that, our FIN is sent in any case. A browser reports
/// an unclean close if the FIN arrives before it has sent its own frame.
const LINGER: Duration = Duration::from_secs(3);
/// How many bytes a peer may send before its close frame. A browser first finishes the message that it is sending.
const LINGER_BYTES: usize = 16 * 1024 * 1024;

/// Why a session ends.
#[derive(Debug)]
pub enum Ending {
    /// The peer sent a close frame, and the answer is queued.
    ByPeer,
    /// We close, with a reason for the peer.
    Ours(CloseCode, &'static str),
    /// No close frame: the peer left without one, reset the connection, or accepts no bytes.
    Gone(io::Error),
}

/// The peer did not accept everything that was written to it. Reset the connection: otherwise the kernel
/// keeps the rest in memory.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer accepted no data")]
pub struct Stalled;

/// Ends the connection as `ending` says, within seconds. What was queued before is written first. What
/// the peer still sends has no effect.
///
/// # Errors
/// [`Stalled`], if the peer did not accept all bytes.
pub async fn close<S>(socket: &mut Socket<S>, ending: Ending) -> Result<(), Stalled>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    debug!(?ending, "session ends");
    match &ending {
        Ending::ByPeer => trace!(count.closes = "peer"),
        Ending::Ours(code, _) => trace!(count.closes = u16::from(*code).to_string()),
        Ending::Gone(_) => trace!(count.closes = "gone"),
    }
    // If a slow peer runs into the timeout, its connection is dropped anyway.
    let _ = timeout(CLOSING, goodbye(socket, ending)).await;
    if socket.unsent() > 0 {
        return Err(Stalled);
    }
    Ok(())
}

async fn goodbye<S>(socket: &mut Socket<S>, ending: Ending) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match ending {
        Ending::Gone(error) => return Err(error),
        Ending::ByPeer => socket.ready(false).await?,
        Ending::Ours(code, reason) => {
            let code_bytes = u16::from(code).to_be_bytes();
            socket.push(CLOSE, &[&code_bytes, reason.as_bytes()].concat());
            socket.ready(false).await?;
            // After a broken frame it is unknown where the next one begins.
            if code != CloseCode::Protocol {
                // Without an answer the connection ends all the same.
                let _ = timeout(LINGER, socket.skip_to_close(LINGER_BYTES)).await;
            }
        }
    }
    // The server closes first, so that TIME-WAIT stays here (§7.1.1). Then it reads on: dropping a
    // socket with unread bytes would reset the connection, and a reset can overtake the close frame.
    socket.shutdown().await
}

impl From<Violation> for Ending {
    fn from(Violation(code, reason): Violation) -> Self {
        Self::Ours(code, reason)
    }
}

impl From<io::Error> for Ending {
    fn from(error: io::Error) -> Self {
        Self::Gone(error)
    }
}
