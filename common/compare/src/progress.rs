//! Shows that it goes on: a bar on a terminal, now and then a line elsewhere. On standard error.

use std::{
    convert::Infallible,
    io::{IsTerminal, stderr},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::interval;

/// The bar's length.
const WIDTH: usize = 40;

/// Shows how many of `total` messages are `delivered`, until it is dropped.
pub(crate) async fn show(delivered: &AtomicUsize, total: usize) -> Infallible {
    let millis = if stderr().is_terminal() { 100 } else { 2_000 };
    let mut ticks = interval(Duration::from_millis(millis));
    loop {
        ticks.tick().await;
        draw(delivered, total);
    }
}

/// Shows how far it came, and leaves the line to what comes next.
pub(crate) fn end(delivered: &AtomicUsize, total: usize) {
    draw(delivered, total);
    if stderr().is_terminal() {
        eprintln!();
    }
}

fn draw(delivered: &AtomicUsize, total: usize) {
    let line = line(delivered.load(Relaxed), total);
    if stderr().is_terminal() {
        eprint!("\r{line}");
    } else {
        eprintln!("{line}");
    }
}

fn line(delivered: usize, total: usize) -> String {
    let filled = WIDTH * delivered.min(total) / total;
    let bar = "#".repeat(filled) + &"-".repeat(WIDTH - filled);
    format!("[{bar}] {delivered} of {total} delivered")
}
