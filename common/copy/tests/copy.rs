//! The copy sets of the READMEs: their files compile in an empty crate, alone and together, without a warning. The
//! dependencies are those that the command prints, in the versions of the workspace's `Cargo.lock`.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use copy::{Chosen, CopySet, ROOT};
use ra_ap_rustc_lexer::{FrontmatterAllowed, TokenKind, tokenize};

/// Every technique and the feed have one.
const SETS: [&str; 8] = [
    "common feed",
    "short-polling",
    "long-polling",
    "webhooks receive",
    "webhooks send",
    "webhooks verify",
    "websockets",
    "sse",
];

fn sets() -> Vec<CopySet> {
    CopySet::all().expect("the READMEs can be read")
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
            let (said, counted) = (file.lines, lines_of_code(&file.text));
            if said != counted {
                let file = file.target.display();
                wrong.push(format!("{}: {file} has {counted}, not {said}", set.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_file_ends_with_its_tests_and_has_no_others() {
    for file in sets().iter().flat_map(|set| &set.files) {
        let source = fs::read_to_string(&file.source).expect("it exists");
        let (path, tests) = (file.source.display(), &source[file.text.len()..]);
        assert!(!file.text.contains("cfg(test)"), "{path}");
        let inside = |line: &str| line.is_empty() || line.starts_with("    ");
        let outside: Vec<&str> = tests.lines().filter(|line| !inside(line)).collect();
        let expected: &[&str] = match tests {
            "" => &[],
            _ => &["#[cfg(test)]", "mod tests {", "}"],
        };
        assert_eq!(outside, expected, "{path}");
    }
}

#[test]
fn two_sets_never_put_different_files_at_one_path() {
    let mut sources = BTreeMap::new();
    for file in sets().into_iter().flat_map(|set| set.files) {
        let other = sources.insert(file.target, file.source.clone());
        assert_eq!(other.unwrap_or_else(|| file.source.clone()), file.source);
    }
}

#[test]
fn every_dependency_is_one_of_the_files() {
    for set in sets() {
        assert!(!set.dependencies.is_empty(), "{} has no crates", set.name);
        let sources: String = set.files.iter().map(|file| &*file.text).collect();
        for (name, _) in set
            .dependencies
            .iter()
            .filter_map(|line| line.split_once(" = "))
        {
            let path = format!("{}::", name.replace('-', "_"));
            assert!(sources.contains(&path), "{}: {name} is not used", set.name);
        }
    }
}

/// So merging them only adds features.
#[test]
fn two_sets_never_need_different_versions_of_a_crate() {
    let mut versions = BTreeMap::new();
    for set in sets() {
        let printed = Chosen(vec![set.clone()]).dependencies();
        assert_eq!(printed, set.dependencies.join("\n") + "\n", "{}", set.name);
        for line in set.dependencies {
            let (name, source) = line.split_once(" = ").expect("a version");
            let (version, _) = source.split_once(", features").unwrap_or((source, ""));
            let version = version
                .trim_matches(['{', '}', ' '])
                .replace("version = ", "");
            let other = versions.insert(name.to_owned(), version.clone());
            assert_eq!(other.unwrap_or_else(|| version.clone()), version, "{name}");
        }
    }
}

#[test]
#[ignore = "compiles the dependencies of each set once more; CI runs it"]
fn every_set_compiles_in_an_empty_crate_without_a_warning() {
    for set in sets() {
        compile(Chosen(vec![set]));
    }
}

#[test]
#[ignore = "compiles the dependencies of each set once more; CI runs it"]
fn every_set_compiles_with_the_feed_in_place_of_its_own_log() {
    let feed = sets().swap_remove(0);
    let mut compiled = Vec::new();
    for set in sets().into_iter().filter(|set| set.needs_feed) {
        compiled.push(set.name.clone());
        compile(Chosen(vec![feed.clone(), set]));
    }
    assert_eq!(compiled, ["short-polling", "long-polling", "sse"]);
}

#[test]
#[ignore = "compiles the dependencies of each set once more; CI runs it"]
fn every_set_compiles_in_one_crate_with_the_others() {
    compile(Chosen(sets()));
}

fn compile(chosen: Chosen) {
    let new = NewCrate::with(&chosen);
    assert_eq!(new.check(), "", "{}", new.0.display());
    new.has_the_workspaces_versions();
}

/// A crate in a temporary folder. Dropped, it is gone.
struct NewCrate(PathBuf);

impl NewCrate {
    /// As the command says.
    fn with(chosen: &Chosen) -> Self {
        let names: Vec<String> = chosen
            .0
            .iter()
            .map(|set| set.name.replace(' ', "-"))
            .collect();
        let name = format!("copy-{}", names.join("-"));
        let new = Self(env::temp_dir().join(format!("{name}-{}", std::process::id())));
        let src = new.0.join("src");
        chosen.copy_to(&src).expect("the folder is new");
        let manifest = format!(
            "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n\
             [workspace]\n\n[dependencies]\n{}",
            chosen.dependencies()
        );
        let lock = fs::read_to_string(Path::new(ROOT).join("Cargo.lock"));
        let lock = lock.expect("the workspace has a lock file");
        new.write("Cargo.toml", &manifest);
        new.write("Cargo.lock", &lock);
        new.write("src/lib.rs", &chosen.lib());
        if let Some(stub) = chosen.stub() {
            new.write("src/feed.rs", stub);
        }
        new
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.0.join(path), text).expect("the disk takes it");
    }

    /// The errors and warnings of `cargo check`.
    fn check(&self) -> String {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["check", "--quiet", "--offline"]);
        // One folder for all sets, so that each dependency is compiled once.
        cargo.env("CARGO_TARGET_DIR", Path::new(ROOT).join("target/copy-sets"));
        let checked = cargo.current_dir(&self.0).output().expect("cargo runs");
        let printed = String::from_utf8_lossy(&checked.stderr).into_owned();
        match checked.status.success() {
            true => printed,
            false => format!("it does not compile\n{printed}"),
        }
    }

    /// Cargo may have removed packages from the lock file, but nothing else.
    fn has_the_workspaces_versions(&self) {
        let workspace = packages(&Path::new(ROOT).join("Cargo.lock"));
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

/// Lines with a token of the language on them, without comments.
fn lines_of_code(source: &str) -> usize {
    let (mut rest, mut lines, mut line) = (source, BTreeSet::new(), 0);
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
fn comments_and_blank_lines_are_not_counted() {
    let source = "//! A file.\n\nuse a; // why\n\n/// What.\nfn b() {\n    /* so */\n    \"two\n\n    lines\"\n}\n";
    assert_eq!(lines_of_code(source), 6);
}
