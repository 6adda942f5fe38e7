//! The sets that go into one crate. A file or dependency that several of them have is taken once.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use crate::{CopyFile, CopySet, set::FEED};

/// A `feed.rs` for a crate that does not copy the set `common feed`.
const STUB: &str = include_str!("../feed.rs");

/// The sets that go into one crate.
#[derive(Debug, Clone)]
pub struct Chosen(pub Vec<CopySet>);

impl Chosen {
    /// Reads the arguments of the command: the names of sets among `all`, and a folder.
    ///
    /// # Errors
    /// If there is no such set, or no folder.
    pub fn parse(all: Vec<CopySet>, words: &[&str]) -> io::Result<(Self, PathBuf)> {
        let (mut chosen, mut rest) = (Vec::new(), words);
        while let Some(set) = first_named(&all, rest) {
            chosen.push(set.clone());
            rest = &rest[set.words().len()..];
        }
        match rest {
            [folder] if !chosen.is_empty() => Ok((Self::with_needs(&all, chosen), folder.into())),
            [] => Err(io::Error::other("no folder is given: SET… DIR")),
            [unknown, ..] => {
                let names: Vec<&str> = all.iter().map(|set| set.name.as_str()).collect();
                Err(io::Error::other(format!(
                    "no copy set {unknown:?}; there are: {}",
                    names.join(", ")
                )))
            }
        }
    }

    /// Adds the sets that these need.
    pub fn with_needs(all: &[CopySet], sets: Vec<CopySet>) -> Self {
        let mut chosen = Self(sets);
        let needs: Vec<String> = chosen.0.iter().flat_map(|set| set.needs.clone()).collect();
        for name in needs {
            if chosen.0.iter().all(|set| set.name != name) {
                let needed = all.iter().find(|set| set.name == name);
                chosen.0.extend(needed.cloned());
            }
        }
        chosen
    }

    /// The files of all sets, each once.
    pub fn files(&self) -> Vec<&CopyFile> {
        let mut files = Vec::new();
        for file in self.0.iter().flat_map(|set| &set.files) {
            if !files.contains(&file) {
                files.push(file);
            }
        }
        files
    }

    /// Copies all files into the `src` folder of a crate, or none. The paths below `src` stay as they are, so that
    /// `super::` and `crate::` in the files still hold. A file that is there already stays if it is the same.
    ///
    /// # Errors
    /// If a file is there already and differs, or the disk refuses.
    pub fn copy_to(&self, folder: &Path) -> io::Result<()> {
        let mut missing = Vec::new();
        for file in self.files() {
            let target = folder.join(&file.target);
            match fs::read(&target) {
                Ok(bytes) if bytes == file.text.as_bytes() => {}
                Ok(_) => {
                    let message = format!(
                        "{} differs from the one to be copied; nothing is copied",
                        target.display()
                    );
                    return Err(io::Error::other(message));
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    missing.push((target, &file.text))
                }
                Err(error) => return Err(error),
            }
        }
        for (target, text) in missing {
            fs::create_dir_all(target.parent().unwrap_or(folder))?;
            fs::write(target, text)?;
        }
        Ok(())
    }

    /// The lines below `[dependencies]`. A crate that several sets need has the features of all.
    pub fn dependencies(&self) -> String {
        let mut crates: BTreeMap<&str, (&str, BTreeSet<&str>)> = BTreeMap::new();
        for entry in self.0.iter().flat_map(|set| &set.dependencies) {
            let (name, version, features) = dependency(entry);
            let merged = crates.entry(name).or_default();
            merged.0 = version;
            merged.1.extend(features);
        }
        crates
            .iter()
            .map(|(name, (version, features))| line(name, version, features))
            .collect()
    }

    /// What the crate's `lib.rs` must have: the modules, and the names that the files expect at its root.
    pub fn lib(&self) -> String {
        let mut targets: BTreeSet<&Path> = self.files().iter().map(|file| &*file.target).collect();
        if self.stub().is_some() {
            targets.insert(Path::new("feed.rs"));
        }
        let mut lib = modules(&targets);
        if self
            .files()
            .iter()
            .any(|file| file.text.contains("\nuse common::"))
        {
            lib.insert_str(0, "extern crate self as common;\n\n");
        }
        if targets.contains(Path::new("http/stall.rs")) {
            lib += "pub use http::stall::*;\n";
        }
        if self.0.iter().any(|set| set.needs_feed) {
            lib += "pub use feed::*;\npub use http::{problem::*, query::*};\n";
        }
        lib
    }

    /// The crates that examples in doc comments name.
    pub fn names_in_examples(&self) -> BTreeSet<&str> {
        let files = self.files();
        let names = files.iter().flat_map(|file| file.names_in_examples());
        names.collect()
    }

    /// The crate's `feed.rs`, unless the feed is copied or nothing needs it.
    pub fn stub(&self) -> Option<&'static str> {
        let is_there = self.0.iter().any(|set| set.name == FEED);
        let is_needed = self.0.iter().any(|set| set.needs_feed);
        (is_needed && !is_there).then_some(STUB)
    }
}

/// The set whose name these words begin with. The longest name counts, because one name may begin with another.
fn first_named<'a>(all: &'a [CopySet], words: &[&str]) -> Option<&'a CopySet> {
    let named = all.iter().filter(|set| words.starts_with(&set.words()));
    named.max_by_key(|set| set.words().len())
}

/// A `mod` for each file, or for its folder.
fn modules(targets: &BTreeSet<&Path>) -> String {
    let mut modules: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for target in targets {
        let path = target.with_extension("").display().to_string();
        let (module, below) = path.split_once('/').unwrap_or((&path, ""));
        modules
            .entry(module.to_owned())
            .or_default()
            .push(below.to_owned());
    }
    let mut text = String::new();
    for (module, files) in modules {
        // A folder with a `mod.rs` names its other files itself.
        if files.iter().any(|file| file.is_empty() || file == "mod") {
            text += &format!("pub mod {module};\n");
        } else {
            let files: String = files
                .iter()
                .map(|file| format!("    pub mod {file};\n"))
                .collect();
            text += &format!("pub mod {module} {{\n{files}}}\n");
        }
    }
    text
}

impl fmt::Display for Chosen {
    /// What was copied, and what remains to be done.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files = self.files();
        let lines: usize = files.iter().map(|file| file.lines).sum();
        writeln!(f, "{} files with {lines} lines of code:\n", files.len())?;
        for file in files {
            writeln!(f, "  {} ({})", file.target.display(), file.lines)?;
        }
        writeln!(f, "\nTheir unit tests are left out.")?;
        let names = self.names_in_examples();
        if !names.is_empty() {
            let names = names.into_iter().collect::<Vec<_>>().join("`, `");
            writeln!(
                f,
                "The examples in their doc comments name `{names}`: replace that by the name of your crate."
            )?;
        }
        writeln!(
            f,
            "\nAdd to Cargo.toml:\n\n[dependencies]\n{}",
            self.dependencies()
        )?;
        write!(
            f,
            "Add to lib.rs. Without a lib.rs, add to main.rs:\n\n{}",
            self.lib()
        )?;
        match self.stub() {
            Some(stub) => write!(
                f,
                "\nThe feed must be there, too: copy `{FEED}`, or write a feed.rs over your own log, which must define what this stub defines:\n\n{stub}"
            ),
            None => Ok(()),
        }
    }
}

/// The name in an entry of `[dependencies]`, its version with what follows, and its features.
fn dependency(entry: &str) -> (&str, &str, impl Iterator<Item = &str>) {
    let (name, source) = entry.split_once(" = ").unwrap_or((entry, ""));
    let table = source
        .trim_start_matches("{ version = ")
        .trim_end_matches(" }");
    let (version, features) = table.split_once(", features = [").unwrap_or((table, ""));
    (name, version, features.split('"').skip(1).step_by(2))
}

/// The reverse of [`dependency`].
fn line(name: &str, version: &str, features: &BTreeSet<&str>) -> String {
    let features = Vec::from_iter(features);
    match (version.contains(','), features.is_empty()) {
        (false, true) => format!("{name} = {version}\n"),
        (true, true) => format!("{name} = {{ version = {version} }}\n"),
        (_, false) => format!("{name} = {{ version = {version}, features = {features:?} }}\n"),
    }
}

#[cfg(test)]
mod tests {
    use std::env;

    use super::*;

    fn set(name: &str, files: &[(&str, &str)], dependencies: &[&str]) -> CopySet {
        let file = |(target, text): &(&str, &str)| CopyFile {
            source: target.into(),
            target: target.into(),
            text: (*text).to_owned(),
            lines: 1,
        };
        CopySet {
            name: name.to_owned(),
            files: files.iter().map(file).collect(),
            dependencies: dependencies.iter().map(|line| (*line).to_owned()).collect(),
            needs_feed: false,
            needs: Vec::new(),
        }
    }

    #[test]
    fn a_name_is_one_word_or_two_and_the_last_word_is_the_folder() {
        let all = || {
            ["common feed", "sse", "webhooks send"]
                .map(|name| set(name, &[], &[]))
                .to_vec()
        };
        let parse = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            let parsed = Chosen::parse(all(), &words).map_err(|error| error.to_string())?;
            let names: Vec<String> = parsed.0.0.into_iter().map(|set| set.name).collect();
            Ok((names.join(", "), parsed.1.display().to_string()))
        };
        let parsed = |names: &str, folder: &str| Ok((names.to_owned(), folder.to_owned()));
        assert_eq!(parse("sse x/src"), parsed("sse", "x/src"));
        assert_eq!(parse("sse common feed x"), parsed("sse, common feed", "x"));
        assert_eq!(
            parse("webhooks send ./sse"),
            parsed("webhooks send", "./sse")
        );
        for (wrong, word) in [
            ("webhooks x", "webhooks"),
            ("sse common x", "common"),
            ("x", "x"),
        ] {
            let message =
                format!("no copy set {word:?}; there are: common feed, sse, webhooks send");
            assert_eq!(parse(wrong), Err(message));
        }
        for no_folder in ["sse", "common feed sse"] {
            assert!(
                parse(no_folder).unwrap_err().contains("folder"),
                "{no_folder}"
            );
        }
    }

    #[test]
    fn the_longest_name_counts_and_a_set_brings_those_that_it_needs() {
        let mut all = ["common feed", "hooks", "hooks send"]
            .map(|name| set(name, &[], &[]))
            .to_vec();
        all[2].needs = vec!["hooks".to_owned(), "common feed".to_owned()];
        for (line, names) in [
            ("hooks x", vec!["hooks"]),
            ("hooks send x", vec!["hooks send", "hooks", "common feed"]),
            (
                "common feed hooks send x",
                vec!["common feed", "hooks send", "hooks"],
            ),
        ] {
            let words: Vec<&str> = line.split(' ').collect();
            let (chosen, _) = Chosen::parse(all.clone(), &words).unwrap();
            let chosen: Vec<_> = chosen.0.iter().map(|set| set.name.as_str()).collect();
            assert_eq!(chosen, names, "{line}");
        }
    }

    #[test]
    fn a_crate_that_two_sets_need_has_the_features_of_both() {
        let one = set(
            "one",
            &[],
            &[
                r#"bytes = "1""#,
                r#"hyper = "1""#,
                r#"tokio = { version = "1", features = ["sync", "time"] }"#,
            ],
        );
        let two = set(
            "two",
            &[],
            &[
                r#"futures-util = { version = "0.3", default-features = false }"#,
                r#"hyper = { version = "1", features = ["client"] }"#,
                r#"tokio = { version = "1", features = ["net", "time"] }"#,
            ],
        );
        let merged = r#"bytes = "1"
futures-util = { version = "0.3", default-features = false }
hyper = { version = "1", features = ["client"] }
tokio = { version = "1", features = ["net", "sync", "time"] }
"#;
        assert_eq!(
            Chosen(vec![one.clone(), two.clone()]).dependencies(),
            merged
        );
        assert_eq!(Chosen(vec![two, one]).dependencies(), merged);
    }

    #[test]
    fn lib_rs_names_each_file_or_its_folder_and_what_the_files_expect_at_the_root() {
        let files = [
            ("verify/mod.rs", ""),
            ("verify/github.rs", ""),
            ("b.rs", "\nuse common::Feed;"),
            ("a/d.rs", ""),
            ("a/c.rs", ""),
        ];
        let mut chosen = Chosen(vec![set("one", &files, &[])]);
        let modules = "pub mod a {\n    pub mod c;\n    pub mod d;\n}\npub mod b;\n";
        let common = "extern crate self as common;\n\n";
        assert_eq!(chosen.lib(), format!("{common}{modules}pub mod verify;\n"));
        assert_eq!(chosen.stub(), None);

        let root = "pub use feed::*;\npub use http::{problem::*, query::*};\n";
        chosen.0[0].needs_feed = true;
        let with_feed = format!("{common}{modules}pub mod feed;\npub mod verify;\n{root}");
        assert_eq!(chosen.lib(), with_feed);
        assert_eq!(chosen.stub(), Some(STUB));

        chosen
            .0
            .push(set(FEED, &[("feed/mod.rs", ""), ("feed/log.rs", "")], &[]));
        assert_eq!(chosen.lib(), with_feed);
        assert_eq!(chosen.stub(), None);
    }

    #[test]
    fn all_files_are_copied_or_none_and_one_that_is_there_must_be_the_same() {
        let folder = env::temp_dir().join(format!("copy-{}", std::process::id()));
        let copy = |sets: &[CopySet]| Chosen(sets.to_vec()).copy_to(&folder);
        let (one, two) = (("http/one.rs", "1"), ("two.rs", "2"));
        copy(&[set("a", &[one], &[])]).unwrap();
        copy(&[set("a", &[one], &[]), set("b", &[two, one], &[])]).unwrap();
        assert_eq!(fs::read_to_string(folder.join("two.rs")).unwrap(), "2");

        let other = [("three.rs", "3"), ("http/one.rs", "another")];
        let error = copy(&[set("c", &other, &[])]).unwrap_err().to_string();
        assert!(error.contains("one.rs differs"), "{error}");
        assert!(!folder.join("three.rs").exists());
        assert_eq!(fs::read_to_string(folder.join("http/one.rs")).unwrap(), "1");
        fs::remove_dir_all(&folder).unwrap();
    }
}
