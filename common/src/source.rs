//! Where a feed lives: the value of `--feed`.

use std::{io, str::FromStr};

use crate::{Feed, Retention};

/// Where a feed lives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum FeedSource {
    /// `memory`: it ends with the process.
    #[default]
    Memory,
    /// `file:PATH`: what was published is on the disk before it is answered, and is there after a
    /// restart.
    #[cfg(feature = "file")]
    File(std::path::PathBuf),
}

impl FeedSource {
    /// Opens the feed. With `new_epoch` a file begins another history with the same messages, as an
    /// old copy of it has to: see [`Epoch`](crate::Epoch). In memory every feed does.
    ///
    /// # Errors
    /// If another process has the file, or it is not a feed, of another version, or damaged.
    pub fn open(&self, retention: Retention, new_epoch: bool) -> io::Result<Feed> {
        match self {
            Self::Memory => {
                let _ = new_epoch; // each has a new one
                Ok(Feed::new(retention))
            }
            #[cfg(feature = "file")]
            Self::File(path) => crate::journal::open(path, retention, new_epoch),
        }
    }
}

impl FromStr for FeedSource {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "memory" => Ok(Self::Memory),
            #[cfg(feature = "file")]
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            #[cfg(not(feature = "file"))]
            Some(("file", _)) => Err("this program was built without the feature `file`"),
            _ => Err("a feed is memory or file:PATH"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feed_is_in_memory_or_in_a_file() {
        let parse = |text: &str| text.parse::<FeedSource>();
        assert_eq!(parse("memory"), Ok(FeedSource::Memory));
        for bad in ["", "file", "file:", "memory:", "nats://localhost"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        #[cfg(feature = "file")]
        assert_eq!(parse("file:a:b"), Ok(FeedSource::File("a:b".into())));
    }
}
