//! The stream's configuration. Cursors and gaps are only right if the stream has this configuration, so it
//! is checked at every start and never changed silently.

use std::error::Error;

use async_nats::jetstream::{
    context::Context,
    stream::{Config, Stream},
};
use serde_json::{Value, json};
use tracing::warn;

use crate::feed::{Epoch, Retention, store::KEY_LIFE};

/// The stream's name, and the first word of its subjects: topic `a.b` is subject `FEED.a.b`.
pub(super) const STREAM: &str = "FEED";
/// Another process has created the stream again, or given it a new epoch.
pub(super) const RENEWED: &str = "it got a new epoch meanwhile";
/// The stream's description is this prefix followed by the epoch.
const EPOCH: &str = "epoch ";
/// The fields that must have this program's values, by their names in NATS:
/// - the limits must be the log's (`follow.rs` computes from them what the stream has dropped);
/// - deletion by age, by hand or by purge is off, because such a loss would not become a gap;
/// - `no_ack` is off, because a publisher's answer needs the acknowledgement.
///
/// Other fields, such as replicas and storage, are the administrator's choice.
const FIXED: [&str; 10] = [
    "subjects",
    "retention",
    "discard",
    "max_msgs_per_subject",
    "max_msgs",
    "max_age",
    "allow_direct",
    "deny_delete",
    "deny_purge",
    "no_ack",
];

/// Why the stream cannot be used as a feed.
pub(super) type BadStream = Box<dyn Error + Send + Sync>;

/// Creates the stream, or checks its configuration. With `new_epoch` updates the configuration instead.
pub(super) async fn prepare(
    context: &Context,
    retention: &Retention,
    replicas: Option<usize>,
    new_epoch: bool,
) -> Result<Stream, BadStream> {
    let wanted = config(retention, replicas);
    let stream = match context.get_or_create_stream(&wanted).await {
        Ok(stream) => stream,
        // Several servers may start at once. If another one created it first, its epoch counts.
        Err(error) => context.get_stream(STREAM).await.map_err(|_| error)?,
    };
    let found = &stream.cached_info().config;
    if !new_epoch {
        check(found, &wanted, replicas)?;
        return Ok(stream);
    }
    // A new epoch comes from `wanted`. What an administrator may have chosen stays.
    let renewed = Config {
        num_replicas: replicas.unwrap_or(found.num_replicas),
        max_bytes: found.max_bytes,
        duplicate_window: found.duplicate_window,
        storage: found.storage,
        ..wanted
    };
    context.update_stream(renewed).await?;
    Ok(stream)
}

/// Reads the epoch from the stream's description, a free text that NATS stores with the configuration.
pub(super) fn epoch_of(config: &Config) -> Result<Epoch, BadStream> {
    let description = config.description.as_deref().unwrap_or_default();
    let parsed = description
        .strip_prefix(EPOCH)
        .and_then(|epoch| epoch.parse().ok());
    parsed.ok_or_else(|| unfit("description", &json!(description), &json!("epoch …")))
}

fn config(retention: &Retention, replicas: Option<usize>) -> Config {
    // The stream counts bytes in its own way. It gets twice the log's limit, so that the log trims first: what
    // the log trims itself becomes an exact gap.
    let bytes = retention.total_bytes.saturating_mul(2);
    Config {
        name: STREAM.into(),
        subjects: vec![format!("{STREAM}.>")],
        description: Some(format!("{EPOCH}{}", Epoch::random().as_str())),
        max_messages_per_subject: limit(retention.messages),
        max_messages: -1, // no limit: the log has none over all topics either
        max_bytes: limit(bytes.saturating_add(1 << 20)),
        duplicate_window: KEY_LIFE, // the stream itself recognizes a repeated key, for all processes
        allow_direct: true, // any server may answer a read of an old message, not only the leader
        deny_delete: true,
        deny_purge: true,
        num_replicas: replicas.unwrap_or(1), // a single server cannot hold more
        ..Config::default()
    }
}

/// NATS takes -1 for no limit.
fn limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(-1)
}

/// Checks each fixed field, and the replicas if the URL names them. Compared as JSON, so that a field is
/// found by the name that the error shows.
fn check(found: &Config, wanted: &Config, replicas: Option<usize>) -> Result<(), BadStream> {
    let [ours, theirs] = [wanted, found].map(|config| json!(config));
    let chosen = replicas.map(|_| "num_replicas");
    for field in FIXED.into_iter().chain(chosen) {
        if theirs[field] != ours[field] {
            return Err(unfit(field, &theirs[field], &ours[field]));
        }
    }
    // Only a warning: a shorter window weakens idempotency keys but makes no cursor wrong.
    if found.duplicate_window < wanted.duplicate_window {
        let life = found.duplicate_window;
        warn!("the stream remembers an Idempotency-Key only for {life:?}");
    }
    epoch_of(found).map(drop)
}

/// Names the field, so that an administrator knows what to edit.
fn unfit(field: &str, found: &Value, wanted: &Value) -> BadStream {
    let how = "edit the stream, or start once with --new-epoch";
    format!("stream {STREAM} has {field} {found}, but needs {wanted}: {how}").into()
}
