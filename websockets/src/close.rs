//! How a session ends, and what the peer learns of it (RFC 6455 §7).
//!
//! tungstenite returns an error and sends nothing; a peer would see its connection break and not
//! know that its own frame was the reason. So the code goes on the wire here:
//!
//! | code | when | come again? |
//! | --- | --- | --- |
//! | the peer's own | it closed | as it likes |
//! | 1002 | its frames break the protocol | no |
//! | 1003 | a binary message | no |
//! | 1007 | a text message that is not UTF-8 | no |
//! | 1008 | no answer to a ping | yes |
//! | 1009 | a message over the limit, or of too many fragments | no |
//! | 1011 | the feed failed | yes, later |
//! | 1012 | the server restarts | yes |
//! | 1013 | there are as many sessions as there may be | yes, later |

use std::{fmt, io, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tungstenite::{
    Error,
    error::ProtocolError,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use crate::socket::{Reset, Socket, TooManyFragments};

/// How long a peer has for its part of the closing.
const CLOSING: Duration = Duration::from_secs(5);
/// The longest reason in bytes: a control frame has 125, and the code takes two.
const MAX_REASON: usize = 123;

/// Why a session ends.
#[derive(Debug)]
pub(crate) enum Ending {
    /// The peer sent a close frame, and tungstenite has queued the answer.
    ByPeer,
    /// We close, and the peer's answer is waited for.
    Ours(CloseFrame),
    /// Where the peer's next frame would begin is not known any more: we close, and no answer would
    /// be understood.
    Failed(CloseFrame),
    /// There is nobody to tell: the peer has left without a close frame, was reset, or takes no bytes.
    Gone(Error),
}

impl Ending {
    /// We close with this code and reason.
    pub(crate) fn ours(code: CloseCode, reason: &'static str) -> Self {
        Self::Ours(CloseFrame {
            code,
            reason: reason.into(),
        })
    }

    fn failed(code: CloseCode, error: &dyn fmt::Display) -> Self {
        let mut reason = error.to_string();
        reason.truncate(reason.floor_char_boundary(MAX_REASON));
        Self::Failed(CloseFrame {
            code,
            reason: reason.into(),
        })
    }
}

impl From<Error> for Ending {
    fn from(error: Error) -> Self {
        match error {
            Error::Io(ref io)
                if io
                    .get_ref()
                    .is_some_and(|cause| cause.is::<TooManyFragments>()) =>
            {
                Self::failed(CloseCode::Size, &TooManyFragments)
            }
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) | Error::Io(_) => {
                Self::Gone(error)
            }
            Error::Protocol(_) => Self::failed(CloseCode::Protocol, &error),
            Error::Utf8(_) => Self::failed(CloseCode::Invalid, &error),
            Error::Capacity(_) => Self::failed(CloseCode::Size, &error),
            _ => Self::failed(CloseCode::Error, &error),
        }
    }
}

impl From<io::Error> for Ending {
    fn from(error: io::Error) -> Self {
        Self::Gone(error.into())
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ByPeer => f.write_str("closed by the peer"),
            Self::Ours(frame) | Self::Failed(frame) => write!(f, "{frame}"),
            Self::Gone(error) => write!(f, "{error}"),
        }
    }
}

/// Ends the connection as `ending` asks for, in bounded time. What was pushed before is written
/// first; what the peer sends from now on is not acted upon. False if the peer could not be told,
/// since it took no byte: it is reset.
pub(crate) async fn close<S>(socket: &mut Socket<S>, ending: Ending) -> bool
where
    S: AsyncRead + AsyncWrite + Unpin + Reset,
{
    // A peer that takes longer is cut off, whatever it was in the middle of.
    let _ = timeout(CLOSING, goodbye(socket, ending)).await;
    let told = socket.unsent() == 0;
    if !told {
        socket.reset();
    }
    told
}

async fn goodbye<S>(socket: &mut Socket<S>, ending: Ending) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match ending {
        Ending::Gone(error) => return Err(error),
        Ending::ByPeer => socket.handshake().await?,
        Ending::Ours(frame) => {
            socket.close(frame).await?;
            socket.handshake().await?;
        }
        Ending::Failed(frame) => socket.close(frame).await?,
    }
    // The server closes first, so that TIME-WAIT is not the client's (§7.1.1). To drop a socket
    // with unread bytes would reset the connection, and a reset can overtake the close frame.
    socket.shutdown().await?;
    socket.discard().await.map_err(io::Error::into)
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
