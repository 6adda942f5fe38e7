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
const SETS: [&str; 9] = [
    "common feed",
    "short-polling",
    "long-polling",
    "webhooks receive",
    "webhooks send",
    "webhooks verify",
    "websockets",
    "websockets protocol",
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
        compile(Chosen::with_needs(&sets(), vec![set]));
    }
}

#[test]
#[ignore = "compiles the dependencies of each set once more; CI runs it"]
fn every_set_compiles_with_the_feed_in_place_of_its_own_log() {
    let feed = sets().swap_remove(0);
    let mut compiled = Vec::new();
    for set in sets().into_iter().filter(|set| set.needs_feed) {
        compiled.push(set.name.clone());
        compile(Chosen::with_needs(&sets(), vec![feed.clone(), set]));
    }
    let expected = [
        "short-polling",
        "long-polling",
        "websockets protocol",
        "sse",
    ];
    assert_eq!(compiled, expected);
}

#[test]
#[ignore = "compiles the dependencies of each set once more; CI runs it"]
fn every_set_compiles_in_one_crate_with_the_others_and_with_the_examples_to_copy() {
    let examples = ["sse", "long-polling", "short-polling", "websockets"].map(AxumExample::of);
    let mut chosen = Chosen(sets());
    let crates = examples.iter().map(|example| crates_of(&example.text));
    chosen.0.extend(crates);
    let new = NewCrate::with(&chosen);
    fs::create_dir(new.0.join("src/bin")).expect("the disk takes it");
    let mut lib = chosen.lib();
    for example in &examples {
        lib += &format!("pub mod {};\n", example.name());
        new.write(&format!("src/{}.rs", example.name()), &example.module());
        new.write(&format!("src/bin/{}.rs", example.member), &example.main());
    }
    for (name, end) in OF_WEBHOOKS {
        lib += &format!("pub mod {name};\n");
        new.write(&format!("src/{name}.rs"), &example_of_webhooks(name, end));
    }
    new.write("src/lib.rs", &lib);
    new.is_right();
}

/// The examples of webhooks, and where the part to copy ends.
const OF_WEBHOOKS: [(&str, &str); 4] = [
    ("send", "\n/// With `--local`"),
    ("in_axum", "\n#[tokio::main]"),
    ("receive_in_axum", "\n#[allow(dead_code"),
    ("verify_in_axum", "\n#[tokio::main]"),
];

/// Changed as its head says.
fn example_of_webhooks(name: &str, end: &str) -> String {
    let path = Path::new(ROOT).join(format!("webhooks/examples/{name}.rs"));
    let text = fs::read_to_string(path).expect("webhooks has it");
    let (module, _) = text.split_once(end).expect("more follows");
    let send = "#[allow(dead_code, reason = \"it is also a program\")]\n#[path = \"send.rs\"]\npub mod send;";
    module
        .replace("use webhooks::", "use crate::")
        .replace("use common::", "use crate::feed::")
        .replace(send, "use crate::send;")
}

#[test]
#[ignore = "compiles the dependencies of each set once more; CI runs it"]
fn the_loop_and_the_access_example_compile_with_a_technique_and_the_package_common() {
    let common = Path::new(ROOT).canonicalize().expect("it exists");
    let common = common.join("common");
    let (sse, manifest) = (AxumExample::of("sse"), "Cargo.toml");
    let files = ["axum/serve.rs", "access/mod.rs", "access/login.rs"];
    let read = |file| fs::read_to_string(common.join("examples").join(file)).expect("it exists");
    let [serve, access, login] = files.map(read);
    let mut chosen = Chosen(sets());
    chosen.0.retain(|set| set.name == "sse");
    chosen
        .0
        .extend([&sse.text, &serve, &access].map(|text| crates_of(text)));
    let new = NewCrate::with(&chosen);
    let crates = fs::read_to_string(new.0.join(manifest)).expect("it is written");
    new.write(
        manifest,
        &format!("{crates}common = {{ path = {common:?} }}\n"),
    );
    fs::create_dir(new.0.join("src/access")).expect("the disk takes it");
    new.write("src/access/mod.rs", &access);
    new.write("src/access/login.rs", &login);
    new.write("src/access/page.html", &read("access/page.html"));
    new.write("src/serve.rs", &serve);
    new.write("src/sse_in_axum.rs", &sse.module());
    let modules = ["access", "event", "parse", "serve", "sse_in_axum", "stream"];
    let lib = modules.map(|name| format!("pub mod {name};\n")).concat();
    new.write("src/lib.rs", &lib);
    let names = "use common::{Data, Draft, Feed, Retention};\nuse copied::{serve, sse_in_axum};";
    let last = "    sse_in_axum::serve(listener, app, feed, shutdown).await;\n";
    let main = sse.main().replace("use copied::*;", names);
    new.write("src/main.rs", &main.replace(last, &code_of(&serve)));
    new.is_right();
}

/// A member's `examples/in_axum.rs`.
struct AxumExample {
    member: &'static str,
    text: String,
}

/// What its head does not name.
const MAIN: &str = "\
use axum::Router;
use copied::*;
use tokio::{net::TcpListener, signal::{ctrl_c, unix::{SignalKind, signal}}};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind(\"127.0.0.1:0\").await?;
    let feed = Feed::new(Retention::default());
    HEAD
    Ok(())
}
";

impl AxumExample {
    fn of(member: &'static str) -> Self {
        let path = Path::new(ROOT).join(member).join("examples/in_axum.rs");
        let text = fs::read_to_string(path).expect("every member of these has it");
        Self { member, text }
    }

    fn name(&self) -> String {
        format!("{}_in_axum", self.member.replace('-', "_"))
    }

    /// Changed as its head says.
    fn module(&self) -> String {
        let end = "\n#[path = \"../../common/examples/axum/publish.rs\"]\npub mod publish;";
        let (module, _) = self.text.split_once(end).expect("it publishes");
        let own = format!("use {}::", self.member.replace('-', "_"));
        assert!(module.contains(&own), "{own}");
        module.replace(&own, "use crate::")
    }

    /// With the code in its head.
    fn main(&self) -> String {
        MAIN.replace("    HEAD\n", &code_of(&self.text))
    }
}

/// The crates that the head of an example names, as if they were of a set.
fn crates_of(example: &str) -> CopySet {
    let (_, crates) = example.split_once("//! Crates: ").expect("its head");
    let (crates, _) = crates.split_once("\n\n").expect("it ends");
    let (crates, _) = crates.split_once("\n//!\n").unwrap_or((crates, ""));
    let quoted = crates.split('`').skip(1).step_by(2);
    let entries = quoted
        .filter(|text| text.contains(" = "))
        .map(str::to_owned);
    CopySet {
        name: "axum".to_owned(),
        files: Vec::new(),
        dependencies: entries.collect(),
        needs_feed: false,
        needs: Vec::new(),
    }
}

/// The code in the head of an example.
fn code_of(example: &str) -> String {
    let (_, code) = example.split_once("//! ```ignore\n").expect("its head");
    let (code, _) = code.split_once("//! ```\n").expect("its end");
    code.replace("//! ", "    ")
}

fn compile(chosen: Chosen) {
    NewCrate::with(&chosen).is_right();
}

/// A crate in a temporary folder. Dropped, it is gone.
struct NewCrate(PathBuf);

impl NewCrate {
    /// As the command says.
    fn with(chosen: &Chosen) -> Self {
        let sets: Vec<String> = chosen
            .0
            .iter()
            .map(|set| set.name.replace(' ', "-"))
            .collect();
        let name = format!("{}-{}", sets.join("-"), std::process::id());
        let new = Self(env::temp_dir().join(name));
        let src = new.0.join("src");
        chosen.copy_to(&src).expect("the folder is new");
        let manifest = format!(
            "[package]\nname = \"copied\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n\
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

    fn is_right(&self) {
        assert_eq!(self.check(), "", "{}", self.0.display());
        self.has_the_workspaces_versions();
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
        let new: Vec<_> = others
            .filter(|lines| !lines.contains("\"copied\""))
            .collect();
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
