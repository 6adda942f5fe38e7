//! What a client is told when the feed refuses its message.

use hyper::StatusCode;

use super::problem::{Problem, retry_after};
use crate::feed::FeedError;

impl From<FeedError> for Problem {
    fn from(error: FeedError) -> Self {
        match error {
            FeedError::KeyReused(_) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, error),
            error => Self::unavailable(error, retry_after()),
        }
    }
}
