//! Where a feed lives: the value of `--feed`.

use std::{io, str::FromStr};

use crate::feed::{Feed, Retention};

/// Where a feed lives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum FeedSource {
    /// `memory`: the feed ends with the process.
    #[default]
    Memory,
    /// `file:PATH`: a message is on the disk before its publisher is answered, and survives a restart.
    #[cfg(feature = "file")]
    File(std::path::PathBuf),
    /// `nats://HOST:PORT,…`: a stream that any number of processes share.
    #[cfg(feature = "nats")]
    Nats(crate::nats::NatsUrl),
}

const FILE: bool = cfg!(feature = "file");
const NATS: bool = cfg!(feature = "nats");

impl FeedSource {
    /// The forms that this build takes.
    pub const FORMS: &str = match (FILE, NATS) {
        (false, false) => "memory",
        (true, false) => "memory|file:PATH",
        (false, true) => "memory|nats://…",
        (true, true) => "memory|file:PATH|nats://…",
    };

    /// The help of `--feed` in this build.
    pub const HELP: &str = match (FILE, NATS) {
        (false, false) => {
            "Where messages are kept: `memory` (lost when the process ends). Cargo's `--features file` and \
             `--features nats` add other places"
        }
        (true, false) => {
            "Where messages are kept: `memory` (lost when the process ends) or `file:PATH`"
        }
        (false, true) => {
            "Where messages are kept: `memory` (lost when the process ends) or `nats://HOST:PORT,…` (a stream \
             that many servers share)"
        }
        (true, true) => {
            "Where messages are kept: `memory` (lost when the process ends), `file:PATH`, or \
             `nats://HOST:PORT,…` (a stream that many servers share)"
        }
    };

    /// Opens the feed. With `new_epoch` a file or a stream keeps its messages and gets a new
    /// [`Epoch`](crate::Epoch), which a restored copy needs. A feed in memory always has a new one.
    ///
    /// # Errors
    /// If another process has the file open, or the file is not a feed, has another version or is
    /// damaged. If NATS does not answer, or its stream of this name does not fit.
    pub async fn open(&self, retention: Retention, new_epoch: bool) -> io::Result<Feed> {
        match self {
            Self::Memory => {
                let _ = new_epoch; // always
                Ok(Feed::new(retention))
            }
            #[cfg(feature = "file")]
            Self::File(path) => crate::store::journal::open(path, retention, new_epoch),
            #[cfg(feature = "nats")]
            Self::Nats(url) => crate::nats::open(url, retention, new_epoch).await,
        }
    }

    /// Parses the value of `--feed` for a program that keeps its own state beside the feed. Two such
    /// programs on one stream would both do the same work.
    ///
    /// # Errors
    /// If it is not a feed, or a feed on NATS.
    pub fn parse_own(text: &str) -> Result<Self, String> {
        if is_nats(text) {
            return Err("must be memory or file:PATH, because this program keeps its own state beside the feed".into());
        }
        text.parse()
    }
}

impl FromStr for FeedSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "memory" => Ok(Self::Memory),
            #[cfg(feature = "file")]
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            #[cfg(not(feature = "file"))]
            Some(("file", _)) => Err(missing("file")),
            #[cfg(feature = "nats")]
            Some(_) if is_nats(text) => text.parse().map(Self::Nats),
            #[cfg(not(feature = "nats"))]
            Some(_) if is_nats(text) => Err(missing("nats")),
            _ => Err(format!("must be {}", Self::FORMS.replace('|', " or "))),
        }
    }
}

#[cfg(not(all(feature = "file", feature = "nats")))]
fn missing(feature: &str) -> String {
    format!(
        "this program was built without the feature `{feature}`: build it with `--features {feature}`"
    )
}

fn is_nats(text: &str) -> bool {
    text.starts_with("nats://") || text.starts_with("tls://")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feed_is_in_memory_or_in_a_file_or_on_nats() {
        let parse = |text: &str| text.parse::<FeedSource>();
        assert_eq!(parse("memory"), Ok(FeedSource::Memory));
        for bad in [
            "",
            "file",
            "file:",
            "memory:",
            "nats",
            "nats://",
            "http://localhost",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        #[cfg(feature = "file")]
        assert_eq!(parse("file:a:b"), Ok(FeedSource::File("a:b".into())));
        #[cfg(feature = "nats")]
        assert!(matches!(parse("nats://a,b:1"), Ok(FeedSource::Nats(_))));
        #[cfg(not(feature = "nats"))]
        assert!(parse("nats://a").unwrap_err().contains("--features nats"));
        #[cfg(not(feature = "file"))]
        assert!(parse("file:a").unwrap_err().contains("--features file"));
    }

    #[test]
    fn what_a_build_offers_it_takes() {
        for (form, example) in [
            ("memory", "memory"),
            ("file:", "file:a"),
            ("nats:", "nats://a"),
        ] {
            let takes = example.parse::<FeedSource>().is_ok();
            assert_eq!(FeedSource::FORMS.contains(form), takes, "{form}");
            assert_eq!(
                FeedSource::HELP.contains(&format!("`{form}")),
                takes,
                "{form}"
            );
        }
    }

    #[test]
    fn a_program_with_state_of_its_own_takes_no_feed_that_is_shared() {
        assert_eq!(FeedSource::parse_own("memory"), Ok(FeedSource::Memory));
        let refused = FeedSource::parse_own("nats://localhost:4222");
        assert!(refused.unwrap_err().contains("file:PATH"));
    }
}
