//! What the feed promises, one sentence a test, wherever its messages are. A file that includes this
//! says which log is tested: by the type `Log`, and by a function `feed` that makes an empty one.

mod alone;
mod model;
mod per_topic;
mod verbs;
