//! A server on the `Socket` alone: it sends every message back.
//!
//! ```sh
//! cargo run -p websockets --example echo -- --listen 127.0.0.1:9001
//! ```
//!
//! It shows what a `Socket` needs around it: hyper accepts the handshake, `hyper::upgrade` gives the
//! connection, and one task per connection reads and writes. The Autobahn Testsuite and the benchmark
//! run against it. A real server also needs limits, pings and a drain: `session.rs` and `serve.rs`.

use std::{convert::Infallible, env, io};

use bytes::Bytes;
use common::accept_failed;
use http_body_util::Full;
use hyper::{
    Request, Response, body::Incoming, server::conn::http1, service::service_fn, upgrade::Upgraded,
};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use websockets::{
    close::{Ending, close},
    frames::{BINARY, Limits, TEXT, push_frame},
    handshake,
    socket::{Message, Socket},
};

/// The Autobahn Testsuite sends messages of 16 MiB, also in frames of 64 bytes. One more frame, an empty
/// one, may end the message.
const LIMITS: Limits = Limits {
    message: 16 * 1024 * 1024,
    fragments: 262_144 + 1,
};

#[tokio::main]
async fn main() -> io::Result<()> {
    let mut arguments = env::args().skip_while(|argument| argument != "--listen");
    let address = arguments.nth(1).unwrap_or("127.0.0.1:9001".into());
    run(&address).await
}

/// Serves at `address` for ever.
///
/// # Errors
/// If the address cannot be bound.
pub async fn run(address: &str) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(serve(stream));
            }
            Err(error) => accept_failed(error).await,
        }
    }
}

async fn serve(stream: TcpStream) {
    let _ = stream.set_nodelay(true); // It fails only on a socket that is closed already.
    let connection = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .with_upgrades();
    if let Err(error) = connection.await {
        eprintln!("connection ended: {error}");
    }
}

async fn answer(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    match handshake::answer(&request, "echo") {
        Ok(switching_protocols) => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                if let Ok(upgraded) = upgrade.await {
                    echo(upgraded).await;
                }
            });
            Ok(switching_protocols)
        }
        Err(refusal) => {
            let mut response = Response::new(Full::from(refusal.to_string()));
            *response.status_mut() = refusal.status;
            response.headers_mut().extend(refusal.fields());
            Ok(response)
        }
    }
}

async fn echo(upgraded: Upgraded) {
    // Bytes that came after the handshake are still inside `Upgraded`.
    let mut socket = Socket::new(TokioIo::new(upgraded), b"", LIMITS);
    let ending = loop {
        if let Err(ending) = echo_some(&mut socket).await {
            break ending;
        }
    };
    // A peer that does not accept the close frame is dropped all the same.
    let _ = close(&mut socket, ending).await;
}

/// Answers what one read brought with one write.
async fn echo_some(socket: &mut Socket<TokioIo<Upgraded>>) -> Result<(), Ending> {
    socket.ready(socket.unsent() == 0).await?;
    while let Some((message, out)) = socket.message()? {
        match message {
            Message::Text(text) => push_frame(TEXT, text.as_bytes(), out),
            Message::Binary(bytes) => push_frame(BINARY, bytes, out),
            Message::Close => return Err(Ending::ByPeer),
        }
    }
    Ok(socket.try_ready(false)?)
}
