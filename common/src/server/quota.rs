//! A limit on log lines that strangers can cause. With a line for each request they could fill the disk. So
//! the first lines of each second are written. The others are counted, and their number is written.

use std::{
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    time::{Instant, sleep_until},
};
use tracing::warn;

/// How long lines are counted, from the first of them.
const WINDOW: Duration = Duration::from_secs(1);

/// The share that one kind of line has of the log. Each kind has its own, so that a flood of one does not
/// hide the others.
#[derive(Debug)]
pub struct Quota {
    /// The most lines in a [`WINDOW`].
    lines: u64,
    /// Since the first line, until the next [`WINDOW`] begins.
    window: Mutex<Option<Window>>,
}

#[derive(Debug)]
struct Window {
    until: Instant,
    requested: u64,
}

impl Quota {
    /// At most this many lines in a second.
    pub const fn new(lines: u64) -> Self {
        let window = Mutex::new(None);
        Self { lines, window }
    }

    /// Whether a line about `kind` may be written now. When the second is over, the number of omitted
    /// lines is logged. Outside a tokio runtime, where no timer runs, that is at the next call.
    pub fn take(&'static self, kind: &'static str) -> bool {
        let now = Instant::now();
        self.end_window(kind, now);
        let mut current = self.window();
        let window = current.get_or_insert(Window {
            until: now + WINDOW,
            requested: 0,
        });
        window.requested += 1;
        if window.requested == self.lines + 1
            && let Ok(runtime) = Handle::try_current()
        {
            let until = window.until;
            runtime.spawn(async move {
                sleep_until(until).await;
                self.end_window(kind, until);
            });
        }
        window.requested <= self.lines
    }

    /// If the second is over, counts anew, and logs what was left out.
    fn end_window(&'static self, kind: &'static str, now: Instant) {
        let ended = self.window().take_if(|window| window.until <= now);
        let left_out = ended.map_or(0, |window| window.requested.saturating_sub(self.lines));
        if left_out > 0 {
            warn!(kind, left_out, "similar lines were left out");
        }
    }

    fn window(&self) -> MutexGuard<'_, Option<Window>> {
        self.window.lock().expect("nothing panics under this lock")
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    fn taken(quota: &'static Quota, times: usize) -> usize {
        (0..times).filter(|_| quota.take("standard")).count()
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_flood_ten_lines_a_second_are_written() {
        static QUOTA: Quota = Quota::new(10);
        assert_eq!(taken(&QUOTA, 1_000), 10);
        sleep(WINDOW - Duration::from_millis(1)).await;
        assert_eq!(taken(&QUOTA, 1_000), 0);
        sleep(Duration::from_millis(2)).await;
        assert_eq!(taken(&QUOTA, 1_000), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_seldom_is_always_written() {
        static QUOTA: Quota = Quota::new(10);
        for _ in 0..10 {
            assert_eq!(taken(&QUOTA, 10), 10);
            sleep(WINDOW).await;
        }
    }

    #[test]
    fn the_last_line_of_a_second_is_written_and_one_more_is_not_without_a_runtime_too() {
        static QUOTA: Quota = Quota::new(3);
        assert_eq!(taken(&QUOTA, 3), 3);
        assert!(!QUOTA.take("standard"));
    }
}
