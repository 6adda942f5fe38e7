//! The program's log on standard error. Logging never blocks the server, and never ends it. `RUST_LOG` says
//! which lines are written, by default those of level `INFO` and above.
//!
//! A line waits in a bounded queue for a thread that writes it. If nobody reads standard error, lines are
//! dropped and counted. The count is written as soon as writing works again.
//!
//! tracing-appender has such a queue and thread. But it does not count lines that could not be written, it
//! cannot flush from a panic hook, and at the end of the process it may panic if standard output is closed.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    collections::HashMap,
    io::{self, Write},
    panic,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use tracing::{Level, Metadata, error};
use tracing_subscriber::{
    EnvFilter, Layer,
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use super::{Quota, counters};

/// How many lines may wait. One more is dropped.
const MAX_LINES: usize = 1_024;
/// The longest line of level `INFO` and below, in bytes. Strangers can cause these.
const MAX_INFO: usize = 200;
/// The longest line of level `WARN` or `ERROR`, in bytes.
const MAX_ERROR: usize = 1_024;
/// How many lines a second one place in the code may write.
const LINES_OF_A_PLACE: u64 = 40;
/// How long the end of the process waits for lines that are not written yet.
const FLUSH: Duration = Duration::from_secs(1);

/// Sends the log to standard error, and panics too. Call it first in `main`.
///
/// # Panics
/// If the process has another subscriber already.
pub fn log_to_stderr() {
    panic::set_hook(Box::new(|panic| {
        error!("{panic}");
        let trace = Backtrace::capture();
        if trace.status() == BacktraceStatus::Captured {
            stderr().push(format!("{trace}\n"));
        }
        stderr().flush(FLUSH);
    }));
    let levels = EnvFilter::builder().with_default_directive(Level::INFO.into());
    let lines = fmt::layer()
        .with_ansi(false)
        .with_writer(Places::default())
        .with_filter(levels.from_env_lossy());
    tracing_subscriber::registry()
        .with(lines)
        .with(counters::layer())
        .init();
}

/// Writes a last line to standard error, and waits a moment for the lines before it.
pub(super) fn last_line(line: String) {
    stderr().send(line);
    flush();
}

/// Waits a moment for the lines that are not written yet.
pub(super) fn flush() {
    stderr().flush(FLUSH);
}

/// How many lines were dropped since the start.
pub(super) fn dropped() -> u64 {
    stderr().dropped.load(Relaxed)
}

/// The lines for standard error, with the thread that writes them.
fn stderr() -> &'static Lines {
    static LINES: LazyLock<Arc<Lines>> = LazyLock::new(|| {
        let (lines, queue) = Lines::new();
        let writer = lines.clone();
        let thread = thread::Builder::new().name("log".into());
        // Without a thread the lines are dropped, like those that cannot be written.
        let _ = thread.spawn(move || writer.write_to(io::stderr(), queue));
        lines
    });
    &LINES
}

/// Lines on their way to their writer.
#[derive(Debug)]
struct Lines {
    queue: Sender<Queued>,
    /// Lines in the queue.
    waiting: AtomicUsize,
    /// Lines that were dropped since the start.
    dropped: AtomicU64,
}

#[derive(Debug)]
enum Queued {
    Line(String),
    /// Dropped when everything before it is written, which its receiver waits for.
    Flush(Sender<()>),
}

impl Lines {
    fn new() -> (Arc<Self>, Receiver<Queued>) {
        let (sender, queue) = channel();
        let lines = Self {
            queue: sender,
            waiting: AtomicUsize::new(0),
            dropped: AtomicU64::new(0),
        };
        (Arc::new(lines), queue)
    }

    /// Queues a line, or drops it if the queue is full. Never waits for the writer.
    fn push(&self, line: String) {
        if self.waiting.load(Relaxed) < MAX_LINES {
            self.send(line);
        } else {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    fn send(&self, line: String) {
        self.waiting.fetch_add(1, Relaxed);
        // It fails only without a thread.
        let _ = self.queue.send(Queued::Line(line));
    }

    fn write_to(&self, mut out: impl Write, queue: Receiver<Queued>) {
        let mut reported = 0;
        for queued in queue {
            match queued {
                Queued::Line(line) => self.write(&line, &mut out, &mut reported),
                Queued::Flush(flushed) => drop(flushed),
            }
        }
    }

    /// Writes a line, and then how many were dropped since `reported` of them.
    fn write(&self, line: &str, out: &mut impl Write, reported: &mut u64) {
        self.waiting.fetch_sub(1, Relaxed);
        if out.write_all(line.as_bytes()).is_err() {
            self.dropped.fetch_add(1, Relaxed);
            return;
        }
        let dropped = self.dropped.load(Relaxed);
        if dropped > *reported {
            let report = format!("{} lines of the log were dropped\n", dropped - *reported);
            if out.write_all(report.as_bytes()).is_ok() {
                *reported = dropped;
            }
        }
    }

    /// Waits until all lines are written, but no longer than `limit`.
    fn flush(&self, limit: Duration) {
        let (flush, flushed) = channel();
        // The caller goes on, whether the lines are written, the time is over, or there is no thread.
        let _ = self.queue.send(Queued::Flush(flush));
        let _ = flushed.recv_timeout(limit);
    }
}

/// The places in the code that write lines, each with its quota.
#[derive(Debug, Default)]
struct Places(Mutex<HashMap<&'static str, &'static Quota>>);

impl Places {
    fn quota(&self, place: &'static str) -> &'static Quota {
        let mut quotas = self.0.lock().expect("nothing panics under this lock");
        // Leaked, because there are only as many as the code has places.
        quotas
            .entry(place)
            .or_insert_with(|| Box::leak(Box::new(Quota::new(LINES_OF_A_PLACE))))
    }
}

impl MakeWriter<'_> for Places {
    type Writer = LineWriter;

    fn make_writer(&self) -> LineWriter {
        LineWriter { max: MAX_INFO }
    }

    fn make_writer_for(&self, event: &Metadata<'_>) -> LineWriter {
        let place = event.name(); // "event FILE:LINE"
        let max = match *event.level() {
            _ if !self.quota(place).take(place) => 0,
            Level::ERROR | Level::WARN => MAX_ERROR,
            _ => MAX_INFO,
        };
        LineWriter { max }
    }
}

/// Queues one line. The subscriber writes it in one call.
struct LineWriter {
    /// The greatest length of the line in bytes, or 0 if it is left out.
    max: usize,
}

impl Write for LineWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.max > 0 {
            stderr().push(one_line(&String::from_utf8_lossy(line), self.max));
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The text as one line of at most `max` bytes, with its line end. A long text is cut between two characters.
fn one_line(text: &str, max: usize) -> String {
    let line = text.trim_end_matches('\n').replace(char::is_control, " ");
    if line.len() < max {
        return line + "\n";
    }
    let starts = line.char_indices().map(|(start, _)| start);
    let end = starts
        .take_while(|start| *start <= max - "…\n".len())
        .last();
    format!("{}…\n", &line[..end.unwrap_or_default()])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A writer that hands over each line, and waits for what becomes of it.
    struct Slow {
        lines: Sender<String>,
        outcomes: Receiver<io::Result<()>>,
    }

    impl Write for Slow {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let text = String::from_utf8(line.to_vec()).unwrap();
            let sent = self.lines.send(text);
            let outcome = self.outcomes.recv();
            match (sent, outcome) {
                (Ok(()), Ok(outcome)) => outcome.map(|()| line.len()),
                _ => loop {
                    thread::park(); // the test is over
                },
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Lines with their writer: what it is given, and where its outcomes come from.
    fn slow() -> (Arc<Lines>, Receiver<String>, Sender<io::Result<()>>) {
        let ((lines, written), (outcome, outcomes)) = (channel(), channel());
        let ((queue, queued), slow) = (Lines::new(), Slow { lines, outcomes });
        let writer = queue.clone();
        thread::spawn(move || writer.write_to(slow, queued));
        (queue, written, outcome)
    }

    #[test]
    fn a_writer_that_is_stuck_costs_lines_and_no_time_and_the_count_is_written() {
        let (queue, written, outcome) = slow();
        queue.push("first\n".into());
        assert_eq!(written.recv().unwrap(), "first\n");
        for _ in 0..MAX_LINES + 7 {
            queue.push("more\n".into());
        }
        queue.flush(Duration::from_millis(10)); // it comes back
        outcome.send(Ok(())).unwrap();
        assert_eq!(written.recv().unwrap(), "7 lines of the log were dropped\n");
        for _ in 0..MAX_LINES {
            outcome.send(Ok(())).unwrap();
            assert_eq!(written.recv().unwrap(), "more\n");
        }
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_so_is_a_report_of_them() {
        let (queue, written, outcome) = slow();
        for text in ["a", "b", "c", "d"] {
            queue.push(text.into());
        }
        let broken = || Err(io::Error::from(io::ErrorKind::BrokenPipe));
        for (line, end) in [
            ("a", broken()),
            ("b", Ok(())),
            ("1 lines of the log were dropped\n", broken()),
            ("c", Ok(())),
            ("1 lines of the log were dropped\n", Ok(())),
            ("d", Ok(())),
        ] {
            assert_eq!(written.recv().unwrap(), line);
            outcome.send(end).unwrap();
        }
        queue.flush(Duration::MAX);
    }

    #[test]
    fn a_line_of_200_bytes_is_whole_and_a_longer_one_is_cut() {
        let whole = format!("{}\n", "x".repeat(199));
        assert_eq!(one_line(&whole, 200), whole);
        let cut = one_line(&format!("{}\n", "x".repeat(200)), 200);
        assert_eq!(cut, format!("{}…\n", "x".repeat(196)));
        assert_eq!(cut.len(), 200);
        let wide = one_line(&"é".repeat(200), 200);
        assert_eq!(wide, format!("{}…\n", "é".repeat(98)));
    }

    #[test]
    fn a_line_is_one_line() {
        assert_eq!(one_line("a\nb\u{1b}[1mc\r\n", 200), "a b [1mc \n");
    }
}
