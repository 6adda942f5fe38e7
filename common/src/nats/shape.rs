//! The stream's configuration, on which the meaning of cursors and gaps depends.

use std::fmt::Display;

use async_nats::jetstream::{
    ErrorCode,
    context::{Context, GetStreamErrorKind},
    stream::Config,
};
use serde_json::{Value, json};
use tracing::warn;

use crate::feed::{Epoch, Retention, store::KEY_LIFE};

/// The stream's name, and the first word of its subjects: topic `a.b` is subject `FEED.a.b`.
pub(super) const STREAM: &str = "FEED";
/// The stream was made anew, or given a new epoch, by somebody else.
pub(super) const RENEWED: &str = "it has begun another history";
/// The stream's description is this and the epoch.
const EPOCH: &str = "epoch ";
/// The fields that must be as this program wants them, by their names in NATS. A stream whose messages
/// can be deleted by hand or by age would make cursors silently wrong.
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

/// Why a stream cannot be a feed, or is not one now.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadStream {
    #[error("{0}")]
    Nats(String),
    #[error(
        "stream {STREAM} has {field} {found}, and this program wants {wanted}: edit it, or start with --new-epoch"
    )]
    Unfit {
        field: &'static str,
        found: String,
        wanted: String,
    },
}

pub(super) fn nats(error: impl Display) -> BadStream {
    BadStream::Nats(error.to_string())
}

/// Creates the stream, or checks that it fits. With `new_epoch` it is made to fit.
pub(super) async fn prepare(
    context: &Context,
    retention: &Retention,
    replicas: Option<usize>,
    new_epoch: bool,
) -> Result<(), BadStream> {
    let wanted = config(retention, replicas);
    let Some(found) = existing(context).await? else {
        return match context.create_stream(wanted.clone()).await {
            Ok(_) => Ok(()),
            // Another process created it first, with another epoch.
            Err(error) => match existing(context).await? {
                Some(found) => check(&found, &wanted, replicas),
                None => Err(nats(error)),
            },
        };
    };
    if !new_epoch {
        return check(&found, &wanted, replicas);
    }
    let renewed = Config {
        num_replicas: replicas.unwrap_or(found.num_replicas),
        max_bytes: found.max_bytes,
        duplicate_window: found.duplicate_window,
        storage: found.storage,
        ..wanted
    };
    context.update_stream(renewed).await.map_err(nats)?;
    Ok(())
}

/// The epoch is in the stream's description, the one text that NATS keeps with a stream's configuration.
pub(super) fn epoch_of(config: &Config) -> Result<Epoch, BadStream> {
    let description = config.description.as_deref().unwrap_or_default();
    let epoch = description.strip_prefix(EPOCH);
    let epoch = epoch.and_then(|epoch| epoch.parse().ok());
    epoch.ok_or_else(|| unfit("description", &json!(description), &json!("epoch …")))
}

fn config(retention: &Retention, replicas: Option<usize>) -> Config {
    let limit = |limit: usize| i64::try_from(limit).unwrap_or(-1);
    // The stream counts bytes differently. Twice as many, so that the log trims first.
    let bytes = retention.total_bytes.saturating_mul(2);
    Config {
        name: STREAM.into(),
        subjects: vec![format!("{STREAM}.>")],
        description: Some(format!("{EPOCH}{}", Epoch::random().as_str())),
        max_messages_per_subject: limit(retention.messages),
        max_messages: -1,
        max_bytes: limit(bytes.saturating_add(1 << 20)),
        duplicate_window: KEY_LIFE,
        allow_direct: true,
        deny_delete: true,
        deny_purge: true,
        num_replicas: replicas.unwrap_or(1),
        ..Config::default()
    }
}

async fn existing(context: &Context) -> Result<Option<Config>, BadStream> {
    let error = match context.get_stream(STREAM).await {
        Ok(stream) => return Ok(Some(stream.cached_info().config.clone())),
        Err(error) => error,
    };
    match error.kind() {
        GetStreamErrorKind::JetStream(error)
            if error.error_code() == ErrorCode::STREAM_NOT_FOUND =>
        {
            Ok(None)
        }
        _ => Err(nats(error)),
    }
}

fn check(found: &Config, wanted: &Config, replicas: Option<usize>) -> Result<(), BadStream> {
    let [ours, theirs] = [wanted, found].map(|config| json!(config));
    let said = replicas.map(|_| "num_replicas");
    for field in FIXED.into_iter().chain(said) {
        if theirs[field] != ours[field] {
            return Err(unfit(field, &theirs[field], &ours[field]));
        }
    }
    if found.duplicate_window < wanted.duplicate_window {
        let life = found.duplicate_window;
        warn!("the stream remembers an Idempotency-Key for {life:?}");
    }
    epoch_of(found).map(drop)
}

/// Names the field, so that an administrator knows what to edit.
fn unfit(field: &'static str, found: &Value, wanted: &Value) -> BadStream {
    let (found, wanted) = (found.to_string(), wanted.to_string());
    BadStream::Unfit {
        field,
        found,
        wanted,
    }
}
