//! What the feed promises, one sentence a test, wherever it lives: whoever includes this says where
//! by its function `feed`.

mod alone;
mod model;
mod verbs;
