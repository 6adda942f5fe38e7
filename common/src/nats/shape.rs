//! The stream as it is to be: what a cursor's meaning and a reader's gaps depend on.

use async_nats::jetstream::{
    ErrorCode,
    context::{Context, GetStreamErrorKind},
    stream::Config,
};
use serde_json::{Value, json};
use tracing::warn;

use crate::feed::{Epoch, Retention, store::KEY_LIFE};

use super::{BadStream, STREAM, nats};

/// What the stream's description says before its epoch.
const EPOCH: &str = "epoch ";
/// What has to be as this program wants it, by NATS's own names. Whoever deletes messages by hand, or
/// lets time do it, makes cursors silently wrong.
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

/// Sees to it that there is a stream, and that it is as it is to be. With `new_epoch` it is made so.
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
            // Another process was faster, with an epoch of its own.
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

/// The epoch is in the stream's description.
pub(super) fn epoch_of(config: &Config) -> Result<Epoch, BadStream> {
    let description = config.description.as_deref().unwrap_or_default();
    let epoch = description.strip_prefix(EPOCH);
    let epoch = epoch.and_then(|epoch| epoch.parse().ok());
    epoch.ok_or_else(|| unfit("description", &json!(description), &json!("epoch …")))
}

fn config(retention: &Retention, replicas: Option<usize>) -> Config {
    let limit = |limit: usize| i64::try_from(limit).unwrap_or(-1);
    // It counts otherwise than the log, which is to be the one that trims.
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

fn unfit(field: &'static str, found: &Value, wanted: &Value) -> BadStream {
    let (found, wanted) = (found.to_string(), wanted.to_string());
    BadStream::Unfit {
        field,
        found,
        wanted,
    }
}
