//! A limit on log lines about rejected requests. A line for each would let a stranger fill the disk, so
//! the first ten lines of a second are written. The others are counted, and the count is written.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};
use tracing::warn;

/// The most lines in a [`WINDOW`].
const LINES: u64 = 10;
/// How long lines are counted, from the first of them.
const WINDOW: Duration = Duration::from_secs(1);

/// One source's share of the log. Each source has its own, so that a flood at one path does not hide a
/// mistake at another.
#[derive(Debug, Default)]
pub(crate) struct Quota {
    window: Mutex<Window>,
}

#[derive(Debug, Default)]
struct Window {
    until: Option<Instant>,
    requested: u64,
}

impl Quota {
    /// Whether a line may be written now. When the window ends, the number of omitted lines is logged.
    pub(crate) fn take(self: &Arc<Self>, source: &'static str) -> bool {
        let now = Instant::now();
        let mut window = self.window.lock().expect("nothing panics under this lock");
        if window.until.is_none_or(|until| until <= now) && window.requested <= LINES {
            *window = Window::default();
        }
        let until = *window.until.get_or_insert(now + WINDOW);
        window.requested += 1;
        if window.requested == LINES + 1 {
            tokio::spawn(self.clone().log_omitted(source, until));
        }
        window.requested <= LINES
    }

    async fn log_omitted(self: Arc<Self>, source: &'static str, until: Instant) {
        sleep_until(until).await;
        let mut window = self.window.lock().expect("nothing panics under this lock");
        let left_out = window.requested - LINES;
        *window = Window::default();
        warn!(source, left_out, "more were not believed");
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    fn taken(quota: &Arc<Quota>, times: usize) -> usize {
        (0..times).filter(|_| quota.take("standard")).count()
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_flood_ten_lines_a_second_are_written() {
        let quota = Arc::new(Quota::default());
        assert_eq!(taken(&quota, 1_000), 10);
        sleep(WINDOW - Duration::from_millis(1)).await;
        assert_eq!(taken(&quota, 1_000), 0);
        sleep(Duration::from_millis(2)).await;
        assert_eq!(taken(&quota, 1_000), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_seldom_is_always_written() {
        let quota = Arc::new(Quota::default());
        for _ in 0..10 {
            assert_eq!(taken(&quota, 10), 10);
            sleep(WINDOW).await;
        }
    }
}
