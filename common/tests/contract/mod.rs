//! What the feed promises, one sentence per test, wherever its messages are. A file that includes this module
//! chooses the log under test: by the type `Log`, and by a function `feed` that makes an empty one.

mod alone;
mod model;
mod per_topic;
mod verbs;
