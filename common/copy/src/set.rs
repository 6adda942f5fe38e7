//! What the READMEs say: the copy sets, their files and dependencies.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use crate::ROOT;

/// The packages that have copy sets. `common` has some, too.
const MEMBERS: [&str; 5] = [
    "short-polling",
    "long-polling",
    "webhooks",
    "websockets",
    "sse",
];

/// The set with the log that other sets read.
pub(crate) const FEED: &str = "common feed";

/// One `## Copy set` section of a README.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopySet {
    /// The folder's name and what the heading adds: `sse`, `webhooks verify`.
    pub name: String,
    /// In the README's order.
    pub files: Vec<CopyFile>,
    /// The lines below `[dependencies]`.
    pub dependencies: Vec<String>,
    /// Whether the files read a log: that of `common feed`, or one that has what the stub `feed.rs` has.
    pub needs_feed: bool,
    /// The names of the sets that are copied with it.
    pub needs: Vec<String>,
}

/// A file of a copy set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyFile {
    /// Where it is now.
    pub source: PathBuf,
    /// Where it goes, below the new crate's `src`.
    pub target: PathBuf,
    /// What is copied: the file without its tests, which would need more crates.
    pub text: String,
    /// Lines of code, as the README says.
    pub lines: usize,
}

impl CopySet {
    /// The copy sets of all READMEs.
    ///
    /// # Errors
    /// If a README is missing or has a row that cannot be read.
    pub fn all() -> io::Result<Vec<Self>> {
        let mut sets = Vec::new();
        for package in ["common"].into_iter().chain(MEMBERS) {
            sets.extend(Self::of(package)?);
        }
        Ok(sets)
    }

    /// The words of its name.
    pub(crate) fn words(&self) -> Vec<&str> {
        self.name.split(' ').collect()
    }

    fn of(package: &str) -> io::Result<Vec<Self>> {
        let folder = Path::new(ROOT).join(package);
        let mut sets = parse(
            package,
            &folder,
            &fs::read_to_string(folder.join("README.md"))?,
        )?;
        let entries = fs::read_dir(folder.join("src"))?;
        let paths = entries.map(|entry| Ok(entry?.path()));
        let mut folders: Vec<PathBuf> = paths.collect::<io::Result<_>>()?;
        folders.sort();
        for folder in folders {
            if let Ok(readme) = fs::read_to_string(folder.join("README.md")) {
                sets.extend(parse(package, &folder, &readme)?);
            }
        }
        Ok(sets)
    }
}

impl CopyFile {
    /// The crates of this workspace that the examples in the doc comments name.
    pub(crate) fn names_in_examples(&self) -> impl Iterator<Item = &str> {
        let lines = self.text.lines().map(str::trim_start);
        let comments = lines.filter(|line| line.starts_with("///") || line.starts_with("//!"));
        let paths = comments.flat_map(|line| line.split([' ', '(', '!']));
        let names = paths.filter_map(|path| path.split_once("::").map(|(name, _)| name));
        names.filter(|name| {
            MEMBERS
                .iter()
                .any(|member| member.replace('-', "_") == *name)
        })
    }
}

/// Cuts the tests, which are at the end of a file.
fn without_tests(source: &str) -> &str {
    let (code, _) = source
        .split_once("\n#[cfg(test)]\nmod tests {\n")
        .unwrap_or((source, ""));
    code
}

/// How many lines of code the copy sets of a package have together. A file that is in two of them counts once.
pub fn lines(package: &str) -> Option<usize> {
    let sets = CopySet::of(package).ok()?;
    let files = sets.iter().flat_map(|set| &set.files);
    let lines: BTreeMap<&Path, usize> = files
        .map(|file| (file.source.as_path(), file.lines))
        .collect();
    Some(lines.values().sum()).filter(|sum| *sum > 0)
}

/// The copy sets of the README in `folder`.
fn parse(package: &str, folder: &Path, readme: &str) -> io::Result<Vec<CopySet>> {
    let sections = readme.split("\n## ");
    let sets = sections.filter_map(|section| section.strip_prefix("Copy set"));
    sets.map(|text| section(package, folder, text)).collect()
}

/// `text` begins after `Copy set` in the heading, with the set's own name if it has one.
fn section(package: &str, folder: &Path, text: &str) -> io::Result<CopySet> {
    let (own_name, body) = text.split_once('\n').unwrap_or((text, ""));
    let name = match own_name.trim_start_matches(':').trim() {
        "" => package.to_owned(),
        own => format!("{package} {own}"),
    };
    let needs = listed(body, "Needs: ");
    let mut set = CopySet {
        name,
        files: Vec::new(),
        dependencies: listed(body, "Crates: "),
        needs_feed: needs.contains(&FEED.to_owned()) || body.contains("/copy/feed.rs)"),
        needs,
    };
    for line in body.lines() {
        if let Some((_, row)) = line.split_once("](")
            && let Some((path, rest)) = row.split_once(") |")
        {
            set.files.push(file(folder, path, rest)?);
        }
    }
    Ok(set)
}

/// A row with a link to a file and its lines of code.
fn file(folder: &Path, path: &str, rest: &str) -> io::Result<CopyFile> {
    let lines = rest.split('|').next().unwrap_or_default().trim();
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{path}: {error}"));
    let source = fs::canonicalize(folder.join(path)).map_err(named)?;
    let text = fs::read_to_string(&source).map_err(named)?;
    let below_src = source.to_str().and_then(|path| path.rsplit_once("/src/"));
    Ok(CopyFile {
        target: below_src.map_or(path, |(_, below)| below).into(),
        source,
        text: without_tests(&text).to_owned(),
        lines: lines
            .parse()
            .map_err(|_| io::Error::other(format!("{path}: not a number of lines: {lines:?}")))?,
    })
}

/// The code spans in the line that begins with `start`.
fn listed(body: &str, start: &str) -> Vec<String> {
    let line = body.lines().find(|line| line.starts_with(start));
    let entries = line.unwrap_or_default().split('`').skip(1).step_by(2);
    entries.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const README: &str = "\
# A member

## Copy set: send

| file | code lines | what it is |
| --- | ---: | --- |
| [`src/set.rs`](src/set.rs) | 210 | the answer |
| [`../src/feed/log.rs`](../src/feed/log.rs) | 7 | a guard |

Needs: [`hooks`](#copy-set) · [`common feed`](README.md)

Crates: `bytes = \"1\"` · `rand = \"0.10\"`

## After it

| [`src/d.rs`](src/d.rs) | 1 | not of the set |
";

    fn here() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR"))
    }

    #[test]
    fn a_section_is_read_up_to_the_next_heading() {
        let folder = here();
        let sets = parse("hooks", folder, README).unwrap();
        let file = |source: &str, target: &str, lines| {
            let source = fs::canonicalize(folder.join(source)).unwrap();
            let text = fs::read_to_string(&source).unwrap();
            CopyFile {
                text: without_tests(&text).to_owned(),
                source,
                target: target.into(),
                lines,
            }
        };
        let expected = CopySet {
            name: "hooks send".to_owned(),
            files: vec![
                file("src/set.rs", "set.rs", 210),
                file("../src/feed/log.rs", "feed/log.rs", 7),
            ],
            dependencies: vec!["bytes = \"1\"".to_owned(), "rand = \"0.10\"".to_owned()],
            needs_feed: true,
            needs: vec!["hooks".to_owned(), "common feed".to_owned()],
        };
        assert_eq!(sets, [expected]);
        assert!(parse("x", Path::new("x"), "# No\n").unwrap().is_empty());
        let stub = "# SSE\n\n## Copy set\n\n[a stub](../common/copy/feed.rs)\n";
        let unnamed = parse("sse", folder, stub).unwrap();
        assert_eq!(
            (unnamed[0].name.as_str(), unnamed[0].needs_feed),
            ("sse", true)
        );
    }

    #[test]
    fn a_folder_below_src_names_its_files_from_there() {
        let folder = here().join("../src/feed");
        let rows = "| [`log.rs`](log.rs) | 1 | |\n| [`query.rs`](../http/query.rs) | 2 | |\n";
        let sets = parse("hooks", &folder, &format!("\n## Copy set\n{rows}")).unwrap();
        let targets: Vec<_> = sets[0].files.iter().map(|file| &file.target).collect();
        assert_eq!(
            targets,
            [Path::new("feed/log.rs"), Path::new("http/query.rs")]
        );
    }

    #[test]
    fn a_row_without_a_number_of_lines_or_without_its_file_is_an_error() {
        let error = |row: &str| {
            let parsed = parse("x", here(), &format!("\n## Copy set\n{row}\n"));
            parsed.unwrap_err().to_string()
        };
        let many = error("| [`src/lib.rs`](src/lib.rs) | many | it |");
        assert_eq!(many, "src/lib.rs: not a number of lines: \"many\"");
        let missing = error("| [`src/none.rs`](src/none.rs) | 1 | it |");
        assert!(missing.starts_with("src/none.rs: "), "{missing}");
    }

    #[test]
    fn the_tests_at_the_end_of_a_file_are_left_out() {
        let source = "fn a() {}\n\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n";
        assert_eq!(without_tests(source), "fn a() {}\n");
        assert_eq!(without_tests("fn a() {}\n"), "fn a() {}\n");
    }
}
