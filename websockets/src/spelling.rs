//! The field names of the 101, spelt as in RFC 6455. Some clients accept no other spelling, although
//! names are case-insensitive.
//!
//! hyper writes names in lower case and has no setting for single ones. But it can keep the spelling of a
//! request in the request's extensions. An answer with the same extensions is written in this spelling.

use std::{
    convert::Infallible,
    future::ready,
    sync::{LazyLock, Mutex},
};

use futures_util::FutureExt;
use hyper::{
    Request, Response, body::Incoming, http::Extensions, server::conn::http1, service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::io::{join, sink};

/// A request with all names of a 101. In HTTP/1.0, because it must not upgrade.
const NAMES: &str = "GET / HTTP/1.0\r\nUpgrade:\r\nConnection:\r\nSec-WebSocket-Accept:\r\n\
    Sec-WebSocket-Protocol:\r\nX-Content-Type-Options:\r\nVary:\r\nDate:\r\n\r\n";

/// The extensions that give an answer this spelling.
pub(crate) static SPELLING: LazyLock<Extensions> = LazyLock::new(|| {
    let kept = Mutex::new(Extensions::new());
    let keep = service_fn(|mut request: Request<Incoming>| {
        let extensions = std::mem::take(request.extensions_mut());
        *kept.lock().expect("nothing panics under this lock") = extensions;
        ready(Ok::<_, Infallible>(Response::new(String::new())))
    });
    let io = TokioIo::new(join(NAMES.as_bytes(), sink()));
    let mut http = http1::Builder::new();
    // The input is all there and the output goes nowhere, so this does not wait.
    let served = http.preserve_header_case(true).serve_connection(io, keep);
    let _ = served.now_or_never();
    kept.into_inner().expect("nothing panics under this lock")
});
