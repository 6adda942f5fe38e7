//! Copy sets: the files of a technique that go into another project.
//!
//! They are read from the `## Copy set` sections of the READMEs of the packages, and of the folders below
//! `src`. So a reader sees the list that `compare -- copy` copies and that the test compiles.

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::Args;

use crate::Technique;

/// The sources as they were when this was built.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Copies one technique's files into a project, and prints what remains to be done there.
#[derive(Debug, Clone, Args)]
pub struct Copy {
    /// Which copy set: `sse`, `webhooks verify`, … (a wrong name lists them all).
    #[arg(required = true, num_args = 1.., value_name = "SET")]
    set: Vec<String>,
    /// Where to: the `src` folder of a crate. Files that exist are never overwritten.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl Copy {
    /// Copies the files and prints the rest.
    ///
    /// # Errors
    /// If there is no such set, a file exists already, or the disk refuses.
    pub fn run(&self) -> io::Result<()> {
        let set = CopySet::named(&self.set.join("-"))?;
        set.copy_to(&self.folder)?;
        write!(io::stdout(), "{set}")
    }
}

/// One `## Copy set` section of a README.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopySet {
    /// The folder's name and what the heading adds: `sse`, `webhooks-verify`.
    pub name: String,
    /// In the README's order.
    pub files: Vec<CopyFile>,
    /// The lines below `[dependencies]`.
    pub dependencies: String,
}

/// A file of a copy set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyFile {
    /// Where it is now.
    pub source: PathBuf,
    /// Where it goes, below the new crate's `src`.
    pub target: PathBuf,
    /// Lines of code, as the README says.
    pub lines: usize,
}

impl CopySet {
    /// The copy sets of all READMEs.
    ///
    /// # Errors
    /// If a README is missing or has a row that cannot be read.
    pub fn all() -> io::Result<Vec<Self>> {
        let mut sets = Self::of("common")?;
        for technique in Technique::ALL {
            sets.extend(Self::of(&technique.to_string())?);
        }
        Ok(sets)
    }

    fn of(package: &str) -> io::Result<Vec<Self>> {
        let folder = Path::new(ROOT).join(package);
        let mut sets = parse(
            package,
            &folder,
            &fs::read_to_string(folder.join("README.md"))?,
        )?;
        let below = fs::read_dir(folder.join("src"))?;
        let below = below.map(|entry| Ok(entry?.path()));
        let mut folders: Vec<PathBuf> = below.collect::<io::Result<_>>()?;
        folders.sort();
        for folder in folders {
            if let Ok(readme) = fs::read_to_string(folder.join("README.md")) {
                sets.extend(parse(package, &folder, &readme)?);
            }
        }
        Ok(sets)
    }

    fn named(name: &str) -> io::Result<Self> {
        let mut sets = Self::all()?;
        if let Some(at) = sets.iter().position(|set| set.name == name) {
            return Ok(sets.swap_remove(at));
        }
        let names: Vec<&str> = sets.iter().map(|set| set.name.as_str()).collect();
        let unknown = format!("no copy set {name:?}; there are: {}", names.join(", "));
        Err(io::Error::other(unknown))
    }

    /// A `lib.rs` that defines the names which the files leave to the copier.
    pub fn stub(&self) -> PathBuf {
        let file = format!("common/compare/tests/stubs/{}.rs", self.name);
        Path::new(ROOT).join(file)
    }

    /// A `lib.rs` for this set and the feed's: the stub's modules, and the feed in place of its log. `None` if the set
    /// needs no log.
    pub fn with_feed(&self) -> Option<String> {
        let stub = fs::read_to_string(self.stub()).ok()?;
        let (above, _) = stub.split_once("/// Your log.")?;
        let modules = above.lines().filter(|line| {
            !(line.is_empty() || line.starts_with("//!") || line.starts_with("use "))
        });
        let modules: Vec<&str> = modules.collect();
        let feed = ["pub mod feed;", "pub use feed::*;\n"];
        Some([&modules[..], &feed].concat().join("\n"))
    }

    /// Copies all files into the `src` folder of a crate, or none. The paths below `src` stay as they
    /// are, so that `super::` and `crate::` in the files still hold.
    ///
    /// # Errors
    /// If one of the files exists there already, or the disk refuses.
    pub fn copy_to(&self, folder: &Path) -> io::Result<()> {
        let targets = self.files.iter().map(|file| folder.join(&file.target));
        if let Some(taken) = targets.clone().find(|target| target.exists()) {
            let message = format!("{} exists already; nothing is copied", taken.display());
            return Err(io::Error::other(message));
        }
        for (file, target) in self.files.iter().zip(targets) {
            fs::create_dir_all(target.parent().unwrap_or(folder))?;
            fs::copy(&file.source, target)?;
        }
        Ok(())
    }
}

impl fmt::Display for CopySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: usize = self.files.iter().map(|file| file.lines).sum();
        let files = self.files.len();
        writeln!(f, "Copied {files} files with {lines} lines of code:\n")?;
        for file in &self.files {
            writeln!(f, "  {} ({})", file.target.display(), file.lines)?;
        }
        writeln!(f, "\nAdd to Cargo.toml:\n")?;
        writeln!(f, "[dependencies]\n{}", self.dependencies)?;
        writeln!(
            f,
            "Remove `mod tests` from the files, or add what it imports."
        )?;
        if let Some(lib) = self.with_feed() {
            writeln!(
                f,
                "\nIf you also copy `common feed`, this is your lib.rs:\n\n{lib}\nIf not:"
            )?;
        }
        writeln!(f, "\nYour lib.rs must define what this stub defines:\n")?;
        f.write_str(&fs::read_to_string(self.stub()).unwrap_or_default())
    }
}

/// A measure of complexity: how many lines of code the copy sets of a technique have together. A file that is in
/// two of them counts once.
pub(crate) fn lines(technique: Technique) -> Option<usize> {
    let sets = CopySet::of(&technique.to_string()).ok()?;
    let files = sets.iter().flat_map(|set| &set.files);
    let lines: BTreeMap<&Path, usize> = files
        .map(|file| (file.source.as_path(), file.lines))
        .collect();
    Some(lines.values().sum()).filter(|sum| *sum > 0)
}

/// The copy sets of a README of this package that lies in `folder`.
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
        own => format!("{package}-{own}"),
    };
    let mut set = CopySet {
        name,
        files: Vec::new(),
        dependencies: dependencies(body),
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
    let source = fs::canonicalize(folder.join(path))
        .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
    let below_src = source.to_str().and_then(|path| path.rsplit_once("/src/"));
    Ok(CopyFile {
        target: below_src.map_or(path, |(_, below)| below).into(),
        source,
        lines: lines
            .parse()
            .map_err(|_| io::Error::other(format!("{path}: not a number of lines: {lines:?}")))?,
    })
}

/// The entries of `[dependencies]`: the code spans in the line that begins with `Crates:`.
fn dependencies(body: &str) -> String {
    let line = body.lines().find(|line| line.starts_with("Crates: "));
    let entries = line.unwrap_or_default().split('`').skip(1).step_by(2);
    entries.flat_map(|entry| [entry, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const README: &str = "\
# A member

## Copy set: send

| file | code lines | what it is |
| --- | ---: | --- |
| [`src/live/log.rs`](src/live/log.rs) | 210 | the answer |
| [`../src/feed/log.rs`](../src/feed/log.rs) | 7 | a guard |

Crates: `bytes = \"1\"` · `rand = \"0.10\"`

## After it

| [`src/d.rs`](src/d.rs) | 1 | not of the set |
";

    #[test]
    fn a_section_is_read_up_to_the_next_heading() {
        let folder = Path::new(ROOT).join("common/compare");
        let sets = parse("hooks", &folder, README).unwrap();
        let file = |source: &str, target: &str, lines| CopyFile {
            source: fs::canonicalize(folder.join(source)).unwrap(),
            target: target.into(),
            lines,
        };
        let expected = CopySet {
            name: "hooks-send".to_owned(),
            files: vec![
                file("src/live/log.rs", "live/log.rs", 210),
                file("../src/feed/log.rs", "feed/log.rs", 7),
            ],
            dependencies: "bytes = \"1\"\nrand = \"0.10\"\n".to_owned(),
        };
        assert_eq!(sets, [expected]);
        assert!(parse("x", Path::new("x"), "# No\n").unwrap().is_empty());
        let unnamed = parse("sse", &folder, "# SSE\n\n## Copy set\n").unwrap();
        assert_eq!(unnamed[0].name, "sse");
    }

    #[test]
    fn a_folder_below_src_names_its_files_from_there() {
        let folder = Path::new(ROOT).join("common/compare/src/live");
        let rows = "| [`log.rs`](log.rs) | 1 | |\n| [`lane.rs`](../measure/lane.rs) | 2 | |\n";
        let sets = parse("hooks", &folder, &format!("\n## Copy set\n{rows}")).unwrap();
        let targets: Vec<_> = sets[0].files.iter().map(|file| &file.target).collect();
        assert_eq!(
            targets,
            [Path::new("live/log.rs"), Path::new("measure/lane.rs")]
        );
    }

    #[test]
    fn a_row_without_a_number_of_lines_or_without_its_file_is_an_error() {
        let error = |row: &str| {
            let folder = Path::new(ROOT).join("common/compare");
            let parsed = parse("x", &folder, &format!("\n## Copy set\n{row}\n"));
            parsed.unwrap_err().to_string()
        };
        let many = error("| [`src/lib.rs`](src/lib.rs) | many | it |");
        assert_eq!(many, "src/lib.rs: not a number of lines: \"many\"");
        let missing = error("| [`src/none.rs`](src/none.rs) | 1 | it |");
        assert!(missing.starts_with("src/none.rs: "), "{missing}");
    }

    #[test]
    fn all_files_are_copied_or_none() {
        let folder = std::env::temp_dir().join(format!("copy-{}", std::process::id()));
        let file = |name: &str| CopyFile {
            source: Path::new(ROOT).join("common/compare").join(name),
            target: name.into(),
            lines: 1,
        };
        let set = |names: &[&str]| CopySet {
            name: String::new(),
            files: names.iter().map(|name| file(name)).collect(),
            dependencies: String::new(),
        };
        set(&["src/lib.rs"]).copy_to(&folder).unwrap();
        let again = set(&["Cargo.toml", "src/lib.rs"]).copy_to(&folder);
        assert!(again.unwrap_err().to_string().contains("exists already"));
        assert!(folder.join("src/lib.rs").exists() && !folder.join("Cargo.toml").exists());
        fs::remove_dir_all(&folder).unwrap();
    }
}
