//! What the metrics count: events of `tracing` with a field `count.NAME`.
//!
//! A number is added, and a text counts 1 for that label. So one line counts, such as
//! `trace!(count.gaps = "trimmed")`, and a file that is copied needs no crate for it but `tracing`. Without
//! `--metrics` these events are disabled, which costs two loads and two branches.
//!
//! The labels are those of [`SERIES`], whatever a peer sends. No series is per topic, because any client may
//! create 10,000 topics.

use std::{
    fmt,
    sync::{
        LazyLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use prometheus_client::{
    metrics::{
        counter::{ConstCounter, Counter},
        family::Family,
        histogram::Histogram,
    },
    registry::Registry,
};
use tracing::{
    Event, Metadata, Subscriber,
    callsite::rebuild_interest_cache,
    field::{Field, Visit},
};
use tracing_subscriber::{
    filter::filter_fn,
    layer::{Context, Layer},
    registry::LookupSpan,
};

/// The prefix of the fields that count.
const PREFIX: &str = "count.";

/// The counters: name, help, label, and the values of the label. A value that is not listed counts as the last
/// one. The first ones are served by every server, the others by those that name them.
#[rustfmt::skip]
const SERIES: [(&str, &str, &str, &[&str]); 12] = [
    ("answers", "Answers, by status", "status", &[
        "101", "200", "201", "202", "204", "304", "400", "401", "403", "404", "405", "408", "409", "412", "413",
        "415", "421", "422", "426", "429", "503", "other",
    ]),
    ("gaps", "Gaps: readers that miss messages, by reason", "reason", &["trimmed", "foreign", "ahead"]),
    ("sent_bytes", "Bytes written to clients", "", &[]),
    ("stalled", "Clients cut because they accepted no data for --stall", "", &[]),
    ("commits", "Transactions that were written to the file", "", &[]),
    ("committed", "Jobs in these transactions", "", &[]),
    ("deliveries", "Messages written to subscribers", "", &[]),
    ("refused", "Subscribers refused at the limit", "", &[]),
    ("waits", "Waits that ended, by outcome", "outcome", &["news", "timeout", "ended"]),
    ("closes", "Sessions that ended, by close code", "code", &[
        "1002", "1003", "1007", "1008", "1009", "1011", "1012", "1013", "peer", "gone",
    ]),
    ("attempts", "Attempts to deliver, by outcome", "outcome", &[
        "delivered", "status", "timeout", "connect", "dns", "tls", "broken", "refused", "panicked",
    ]),
    ("received", "Webhooks whose body was read, by outcome", "outcome", &[
        "accepted", "absent", "malformed", "mismatch", "too_new", "too_old", "unreadable", "not_stored",
    ]),
];
const SHARED: usize = 6;
/// The most values of a label.
const MOST_VALUES: usize = 22;

/// The counts of [`SERIES`].
static COUNTS: [[AtomicU64; MOST_VALUES]; SERIES.len()] =
    [const { [const { AtomicU64::new(0) }; MOST_VALUES] }; SERIES.len()];

/// How long a store takes for a message.
static PUBLISHING: LazyLock<Histogram> = LazyLock::new(|| {
    Histogram::new([0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0])
});

/// Registers the shared counters, those that `own` names, and the histogram, as they are now.
pub(super) fn register(own: &[&str], registry: &mut Registry) {
    for (index, (name, ..)) in SERIES.iter().enumerate() {
        if index < SHARED || own.contains(name) {
            register_one(index, registry);
        }
    }
    let help = "Time until a published message is in the file or on NATS";
    registry.register("publish_seconds", help, PUBLISHING.clone());
}

fn register_one(index: usize, registry: &mut Registry) {
    let (name, help, label, values) = SERIES[index];
    let counts = COUNTS[index].each_ref().map(|count| count.load(Relaxed));
    if label.is_empty() {
        return registry.register(name, help, ConstCounter::new(counts[0]));
    }
    let family = Family::<[(&str, &str); 1], Counter>::default();
    for (value, count) in values.iter().zip(counts) {
        family.get_or_create(&[(label, *value)]).inc_by(count);
    }
    registry.register(name, help, family);
}

/// Whether the events that count are enabled.
static COUNTING: AtomicBool = AtomicBool::new(false);

/// Enables the events that count, from now on.
pub(super) fn enable() {
    COUNTING.store(true, Relaxed);
    rebuild_interest_cache();
}

/// The layer of `tracing` that counts. Its filter is asked again by [`enable`].
pub(super) fn layer<S: Subscriber + for<'a> LookupSpan<'a>>() -> impl Layer<S> {
    Counters.with_filter(filter_fn(counts))
}

struct Counters;

fn counts(event: &Metadata<'_>) -> bool {
    let mut names = event.fields().iter().map(|field| field.name());
    COUNTING.load(Relaxed) && names.any(|name| name.starts_with(PREFIX))
}

impl<S: Subscriber> Layer<S> for Counters {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        event.record(&mut Self);
    }
}

impl Visit for Counters {
    fn record_u64(&mut self, field: &Field, amount: u64) {
        if let Some(index) = counted(field) {
            COUNTS[index][0].fetch_add(amount, Relaxed);
        }
    }

    fn record_i64(&mut self, field: &Field, amount: i64) {
        self.record_u64(field, amount.unsigned_abs());
    }

    fn record_f64(&mut self, field: &Field, seconds: f64) {
        if field.name() == "count.publish_seconds" {
            PUBLISHING.observe(seconds);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if let Some(index) = counted(field) {
            let (.., values) = SERIES[index];
            let listed = values.iter().position(|listed| *listed == value);
            let place = listed.unwrap_or(values.len() - 1);
            COUNTS[index][place].fetch_add(1, Relaxed);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

/// Which of [`SERIES`] a field counts in.
fn counted(field: &Field) -> Option<usize> {
    let counted = field.name().strip_prefix(PREFIX)?;
    SERIES.iter().position(|(name, ..)| *name == counted)
}

#[cfg(test)]
mod tests {
    use tracing::{subscriber::with_default, trace};
    use tracing_subscriber::{layer::SubscriberExt, registry};

    use super::*;

    fn count() {
        trace!(count.received = "accepted", id = "m-1");
        trace!(count.received = "what a peer sends");
        trace!(count.committed = 3, count.commits = 1);
        trace!(count.committed = 4_usize, other = 7);
        trace!(count.publish_seconds = 0.25);
        trace!("no count");
    }

    fn counted() -> String {
        let mut registry = Registry::default();
        register(&["received"], &mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn numbers_are_added_texts_are_labels_and_nothing_counts_before_it_is_enabled() {
        let zeros = counted();
        let counters = registry().with(layer());
        with_default(counters, || {
            count();
            assert_eq!(counted().lines().count(), zeros.lines().count());
            assert!(counted().contains("\ncommitted_total 0\n"));
            enable();
            count();
        });
        for line in [
            r#"received_total{outcome="accepted"} 1"#,
            r#"received_total{outcome="not_stored"} 1"#, // the last label, for any other text
            "committed_total 7",
            "commits_total 1",
            "publish_seconds_sum 0.25",
            r#"publish_seconds_bucket{le="0.1"} 0"#,
            r#"publish_seconds_bucket{le="0.5"} 1"#,
        ] {
            assert!(counted().lines().any(|other| other == line), "{line}");
        }
        assert!(
            !counted().contains("closes"),
            "it belongs to another server"
        );
    }

    #[test]
    fn the_documentation_lists_each_series_with_its_labels() {
        let documented = include_str!("../../deploy/metrics.md");
        for (name, _, label, values) in SERIES {
            let name = format!("| `feed_{name}_total` |");
            let mut rows = documented.lines().filter(|row| row.starts_with(&name));
            let row = rows.next().expect(&name);
            let listed = values
                .iter()
                .all(|value| row.contains(&format!("`{value}`")));
            assert!(
                row.contains(label) && (listed || label == "status"),
                "{row}"
            );
        }
    }
}
