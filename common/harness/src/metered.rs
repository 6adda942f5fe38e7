//! A built program with `--metrics`.

use tokio::task::yield_now;

use super::{Client, Process, Wait};

/// A program that serves metrics, too.
#[derive(Debug)]
pub struct Metered {
    /// The program.
    pub server: Process,
    metrics: Client,
}

impl Metered {
    /// Runs `program`, and reads where its metrics are.
    ///
    /// # Panics
    ///
    /// As [`Process::start`], or if the second line is not `metrics on http://ADDR/metrics`.
    pub async fn start(program: &str, args: &[&str]) -> Self {
        let args = [&["--metrics", "127.0.0.1:0"], args].concat();
        let (server, line) = Process::start_with_two_lines(program, &args).await;
        let addr = line.strip_prefix("metrics on http://");
        let addr = addr.and_then(|addr| addr.strip_suffix("/metrics\n")?.parse().ok());
        let addr = addr.unwrap_or_else(|| panic!("the second line of {program} is {line:?}"));
        Self {
            server,
            metrics: Client::new(addr),
        }
    }

    /// The samples that are not 0, sorted. Without bytes and times, which differ from run to run.
    ///
    /// # Panics
    ///
    /// If the answer is not OpenMetrics.
    pub async fn samples(&self) -> Vec<String> {
        let scraped = self.metrics.get("/metrics").send().await;
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        assert_eq!(scraped.header("content-type"), Some(kind));
        assert!(scraped.text().ends_with("\n# EOF\n"), "{}", scraped.text());
        let differs = |line: &&str| {
            ["#", "bytes", "seconds"]
                .iter()
                .any(|word| line.contains(word))
        };
        let lines = scraped.text().lines().filter(|line| !differs(line));
        let mut samples: Vec<String> = lines
            .filter(|line| !line.ends_with(" 0"))
            .map(Into::into)
            .collect();
        samples.sort();
        samples
    }

    /// Waits until this is one of the samples.
    ///
    /// # Panics
    ///
    /// If it does not become one.
    pub async fn until(&self, sample: &str) {
        let shows = async {
            while !self.samples().await.iter().any(|other| other == sample) {
                yield_now().await;
            }
        };
        let wait = Wait::until(format!("the sample {sample}"));
        wait.patiently(shows).await;
    }
}
