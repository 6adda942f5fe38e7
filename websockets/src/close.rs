//! How a session ends, and what the peer learns of it (RFC 6455 §7).
//!
//! On an error tungstenite sends nothing. The peer would only see its connection break, and not learn that
//! its own frame was the reason. So the close frame is sent here:
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
//! | 1012 | the server restarts | yes |
//! | 1013 | the server is at its session limit | yes, later |

use std::{fmt, io, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tracing::debug;
use tungstenite::{
    Error,
    error::ProtocolError,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use crate::socket::{Socket, TooManyFragments};

/// How long a peer has to take our close frame and to send its own.
const CLOSING: Duration = Duration::from_secs(5);
/// The longest reason in bytes: a control frame has at most 125, and the code takes two.
const MAX_REASON: usize = 123;

/// Why a session ends.
#[derive(Debug)]
pub enum Ending {
    /// The peer sent a close frame, and tungstenite has queued the answer.
    ByPeer,
    /// We close, and wait for the peer's answer.
    Ours(CloseFrame),
    /// We close, and do not wait: after broken frames, the peer's next frame cannot be found.
    Failed(CloseFrame),
    /// No close frame: the peer left without one, was reset, or takes no bytes.
    Gone(Error),
}

/// The peer did not take everything that was written to it. Reset the connection: otherwise the kernel
/// keeps the rest in memory.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer took no byte")]
pub struct Stalled;

/// Ends the connection as `ending` says, within seconds. What was queued before is written first. What
/// the peer still sends has no effect.
///
/// # Errors
/// [`Stalled`], if the peer did not take all bytes.
pub async fn close<S>(socket: &mut Socket<S>, ending: Ending) -> Result<(), Stalled>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    debug!(?ending, "session ends");
    // If a slow peer runs into the timeout, its connection is dropped anyway.
    let _ = timeout(CLOSING, goodbye(socket, ending)).await;
    if socket.unsent() > 0 {
        return Err(Stalled);
    }
    Ok(())
}

async fn goodbye<S>(socket: &mut Socket<S>, ending: Ending) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match ending {
        Ending::Gone(error) => return Err(error),
        Ending::ByPeer => socket.finish_close().await?,
        Ending::Ours(frame) => {
            socket.close(frame).await?;
            socket.finish_close().await?;
        }
        Ending::Failed(frame) => socket.close(frame).await?,
    }
    // The server closes first, so that TIME-WAIT stays here (§7.1.1). Then it reads on: dropping a
    // socket with unread bytes would reset the connection, and a reset can overtake the close frame.
    socket.shutdown().await?;
    socket.discard().await.map_err(io::Error::into)
}

impl Ending {
    /// We close with this code and reason.
    pub fn ours(code: CloseCode, reason: &'static str) -> Self {
        Self::Ours(CloseFrame {
            code,
            reason: reason.into(),
        })
    }

    fn failed(code: CloseCode, error: &dyn fmt::Display) -> Self {
        let mut reason = error.to_string();
        // By characters, so that the reason stays valid UTF-8.
        while reason.len() > MAX_REASON {
            reason.pop();
        }
        Self::Failed(CloseFrame {
            code,
            reason: reason.into(),
        })
    }
}

impl From<Error> for Ending {
    fn from(error: Error) -> Self {
        match error {
            Error::Io(error) => error.into(),
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Self::Gone(error),
            Error::Protocol(_) => Self::failed(CloseCode::Protocol, &error),
            Error::Utf8(_) => Self::failed(CloseCode::Invalid, &error),
            Error::Capacity(_) => Self::failed(CloseCode::Size, &error),
            _ => Self::failed(CloseCode::Error, &error),
        }
    }
}

impl From<io::Error> for Ending {
    fn from(error: io::Error) -> Self {
        match error.get_ref().and_then(|cause| cause.downcast_ref()) {
            Some(limit @ TooManyFragments) => Self::failed(CloseCode::Size, limit),
            None => Self::Gone(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_fits_into_a_control_frame_and_stays_text() {
        let error = Error::Utf8("é".repeat(100));
        let Ending::Failed(frame) = error.into() else {
            panic!("it ends the session");
        };
        assert_eq!(frame.code, CloseCode::Invalid);
        assert!((MAX_REASON - 1..=MAX_REASON).contains(&frame.reason.len()));
        assert!(frame.reason.ends_with('é'));
    }
}
