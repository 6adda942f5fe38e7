//! How much of the log strangers may fill. A line for each forged request would be an attack of its own,
//! on the disk and on whoever reads: some are written, the others are counted, and the count is written.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};
use tracing::warn;

/// The most lines in a [`WINDOW`].
const LINES: u64 = 10;
/// For so long the lines are counted, from the first of them.
const WINDOW: Duration = Duration::from_secs(1);

/// One sender's share of the log, so that a flood at one path does not hide what is wrong at another.
#[derive(Default)]
pub(crate) struct Quota {
    window: Mutex<Window>,
}

#[derive(Default)]
struct Window {
    until: Option<Instant>,
    asked: u64,
}

impl Quota {
    /// Whether a line may be written now. When the window ends, what was left out is told.
    pub(crate) fn take(self: &Arc<Self>, source: &'static str) -> bool {
        let now = Instant::now();
        let mut window = self.window.lock().expect("nothing panics under this lock");
        if window.until.is_none_or(|until| until <= now) && window.asked <= LINES {
            *window = Window::default();
        }
        let until = *window.until.get_or_insert(now + WINDOW);
        window.asked += 1;
        if window.asked == LINES + 1 {
            tokio::spawn(self.clone().tell(source, until));
        }
        window.asked <= LINES
    }

    async fn tell(self: Arc<Self>, source: &'static str, until: Instant) {
        sleep_until(until).await;
        let mut window = self.window.lock().expect("nothing panics under this lock");
        let left_out = window.asked - LINES;
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
