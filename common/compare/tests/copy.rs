//! The copy sets of the READMEs compile in an empty crate, without a warning.
//!
//! For each set a crate is made of its files and of `stubs/SET.rs`, which becomes `lib.rs` and defines
//! the names that the README leaves to the copier. Dependencies are those of the README, in the
//! versions of the workspace's `Cargo.lock`.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use compare::CopySet;
use ra_ap_rustc_lexer::{FrontmatterAllowed, TokenKind, tokenize};

/// Every technique and the feed have one.
const SETS: [&str; 8] = [
    "common-feed",
    "short-polling",
    "long-polling",
    "webhooks-receive",
    "webhooks-send",
    "webhooks-verify",
    "websockets",
    "sse",
];

fn sets() -> Vec<CopySet> {
    CopySet::all().expect("the READMEs can be read")
}

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_readme_has_its_copy_sets() {
    let names: Vec<String> = sets().into_iter().map(|set| set.name).collect();
    assert_eq!(names, SETS);
}

#[test]
fn the_lines_of_code_are_those_of_the_files() {
    let mut wrong = Vec::new();
    for set in sets() {
        for file in &set.files {
            let source = fs::read_to_string(&file.source);
            let source = source.unwrap_or_else(|error| panic!("{file:?}: {error}"));
            let (said, counted) = (file.lines, lines_of_code(&source));
            if said != counted {
                let file = file.target.display();
                wrong.push(format!("{}: {file} has {counted}, not {said}", set.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_dependency_is_one_of_the_files() {
    for set in sets() {
        assert!(!set.dependencies.is_empty(), "{} has no crates", set.name);
        let sources = set
            .files
            .iter()
            .map(|file| fs::read_to_string(&file.source));
        let sources: String = sources.map(|source| source.expect("it exists")).collect();
        let lines = set.dependencies.lines();
        for (name, _) in lines.filter_map(|line| line.split_once(" = ")) {
            let path = format!("{}::", name.replace('-', "_"));
            assert!(sources.contains(&path), "{}: {name} is not used", set.name);
        }
    }
}

#[test]
#[ignore = "compiles the dependencies of each set once more; CI runs it"]
fn every_set_compiles_in_an_empty_crate_without_a_warning() {
    let mut wrong = String::new();
    for set in sets() {
        let new = NewCrate::with(&set);
        let printed = new.check();
        if !printed.is_empty() {
            wrong += &format!("{}:\n{printed}\n", set.name);
        }
        new.has_the_workspaces_versions();
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
#[ignore = "compiles the dependencies of each set once more; CI runs it"]
fn every_set_compiles_with_the_feed_in_place_of_its_own_log() {
    let mut sets = sets();
    let feed = sets.remove(0);
    assert_eq!(feed.name, "common-feed");
    let mut compiled = Vec::new();
    for mut set in sets {
        let Some(lib) = set.with_feed() else {
            continue;
        };
        let own = set.dependencies.lines().chain(feed.dependencies.lines());
        let mut crates = BTreeMap::new();
        for (name, version) in own.filter_map(|line| line.split_once(" = ")) {
            crates.entry(name).or_insert(version); // The set's own line has all features.
        }
        let crates = crates
            .iter()
            .map(|(name, version)| format!("{name} = {version}\n"));
        set.dependencies = crates.collect();
        compiled.push(set.name.clone());
        set.name += "-with-feed";
        let new = NewCrate::empty(&set);
        for set in [&set, &feed] {
            let copied = set.copy_to(&new.0.join("src"));
            copied.expect("no file is in both sets");
        }
        fs::write(new.0.join("src/lib.rs"), lib).expect("the disk takes it");
        assert_eq!(new.check(), "", "{}", set.name);
    }
    assert_eq!(compiled, ["short-polling", "long-polling", "sse"]);
}

/// A crate in a temporary folder. Dropped, it is gone.
struct NewCrate(PathBuf);

impl NewCrate {
    fn with(set: &CopySet) -> Self {
        let new = Self::empty(set);
        set.copy_to(&new.0.join("src")).expect("the files exist");
        let stub = fs::copy(set.stub(), new.0.join("src/lib.rs"));
        stub.expect("every set has a stub");
        new
    }

    /// With the set's dependencies, and no file.
    fn empty(set: &CopySet) -> Self {
        let folder = env::temp_dir().join(format!("copy-{}-{}", set.name, std::process::id()));
        let new = Self(folder);
        fs::create_dir_all(new.0.join("src")).expect("there is a folder for temporary files");
        let manifest = format!(
            "[package]\nname = \"copy-{}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n\
             [workspace]\n\n[dependencies]\n{}",
            set.name, set.dependencies
        );
        fs::write(new.0.join("Cargo.toml"), manifest).expect("the disk takes it");
        let lock = fs::copy(here().join("../../Cargo.lock"), new.0.join("Cargo.lock"));
        lock.expect("the workspace has a lock file");
        new
    }

    /// The errors and warnings of `cargo check`.
    fn check(&self) -> String {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["check", "--quiet", "--offline"]);
        // One folder for all sets, so that each dependency is compiled once.
        cargo.env("CARGO_TARGET_DIR", here().join("../../target/copy-sets"));
        let checked = cargo.current_dir(&self.0).output().expect("cargo runs");
        let printed = String::from_utf8_lossy(&checked.stderr).into_owned();
        match checked.status.success() {
            true => printed,
            false => format!("it does not compile\n{printed}"),
        }
    }

    /// Cargo may have removed packages from the lock file, but nothing else.
    fn has_the_workspaces_versions(&self) {
        let workspace = packages(&here().join("../../Cargo.lock"));
        let others = packages(&self.0.join("Cargo.lock"));
        let others = others.difference(&workspace);
        let new: Vec<_> = others.filter(|lines| !lines.contains("copy-")).collect();
        assert!(new.is_empty(), "not of the workspace: {new:?}");
    }
}

impl Drop for NewCrate {
    fn drop(&mut self) {
        // What stays is in the temporary folder.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Names and versions.
fn packages(lock: &Path) -> BTreeSet<String> {
    let lock = fs::read_to_string(lock).expect("there is a lock file");
    let packages = lock.split("[[package]]\n").skip(1);
    packages
        .map(|package| package.lines().take(2).collect::<Vec<_>>().join(" "))
        .collect()
}

/// Lines with a token of the language on them, without comments and without the tests at the end of a file.
fn lines_of_code(source: &str) -> usize {
    let mut rest = source.split("#[cfg(test)]\nmod ").next().unwrap_or(source);
    let (mut lines, mut line) = (BTreeSet::new(), 0);
    for token in tokenize(rest, FrontmatterAllowed::No) {
        let (text, behind) = rest.split_at(token.len as usize);
        let last = line + text.matches('\n').count();
        if is_code(token.kind) {
            lines.extend(line..=last);
        }
        (rest, line) = (behind, last);
    }
    lines.len()
}

fn is_code(kind: TokenKind) -> bool {
    !matches!(
        kind,
        TokenKind::Whitespace | TokenKind::LineComment { .. } | TokenKind::BlockComment { .. }
    )
}

#[test]
fn comments_blank_lines_and_tests_are_not_counted() {
    let source = "//! A file.\n\nuse a; // why\n\n/// What.\nfn b() {\n    /* so */\n    \"two\n\n    lines\"\n}\n\n\
                  #[cfg(test)]\nmod tests {\n    fn c() {}\n}\n";
    assert_eq!(lines_of_code(source), 6);
}
