//! How long a technique's source is: its lines of code, and those of the modules of `common` that its
//! default build reaches. Blank lines, comments and tests are not counted, nor is what a member has
//! besides its server.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use crate::Technique;

/// The sources as they were when this was built; elsewhere there is no figure.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Lines of code of a technique: the member's own, and with what it reaches.
pub(super) fn of(technique: Technique) -> Option<[usize; 2]> {
    let root = Path::new(ROOT);
    let member = sources(&root.join(technique.to_string()).join("src"));
    let common = sources(&root.join("common/src"));
    let exports = exports(common.get("lib")?);
    let absent = absent(common.get("lib")?, features(technique));
    let mut reached = BTreeSet::new();
    let mut next: Vec<(&str, &String)> =
        member.values().map(|source| ("common::", source)).collect();
    while let Some((root, source)) = next.pop() {
        for name in names(source, root) {
            let module = exports.get(name.as_str()).unwrap_or(&name);
            if let Some(source) = common.get(module)
                && module != "lib"
                && !absent.contains(module.as_str())
                && reached.insert(module.clone())
            {
                next.push(("crate::", source));
            }
        }
    }
    let own: usize = member.values().map(|source| lines(source)).sum();
    let shared: usize = reached.iter().map(|module| lines(&common[module])).sum();
    Some([own, own + shared]).filter(|_| !member.is_empty())
}

/// What a member's default build has of `common`.
fn features(technique: Technique) -> &'static [&'static str] {
    match technique {
        Technique::Webhooks => &["file"],
        _ => &[],
    }
}

/// The modules that `lib.rs` leaves out without a feature that is not among these.
fn absent<'a>(lib: &'a str, features: &[&str]) -> BTreeSet<&'a str> {
    let mut absent = BTreeSet::new();
    for condition in lib.split("feature = \"").skip(1) {
        let (feature, rest) = condition.split_once('"').unwrap_or((condition, ""));
        let line = rest.lines().nth(1).unwrap_or_default();
        if let Some((_, module)) = line.split_once("mod ")
            && !features.contains(&feature)
        {
            absent.insert(module.trim_end_matches(';'));
        }
    }
    absent
}

/// The modules of a crate by their names, all levels alike.
fn sources(folder: &Path) -> BTreeMap<String, String> {
    let mut sources = BTreeMap::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        if path.is_dir() && name != "harness" {
            let below = self::sources(&path).into_iter();
            sources.extend(below.map(|(below, source)| (format!("{name}/{below}"), source)));
        } else if path.extension().is_some_and(|rs| rs == "rs") && name != "tests" {
            let source = fs::read_to_string(&path).unwrap_or_default();
            sources.insert(name.into_owned(), source);
        }
    }
    sources
}

/// Which module each name that `lib.rs` exports is from.
fn exports(lib: &str) -> BTreeMap<&str, String> {
    let mut exports = BTreeMap::new();
    for export in lib.split("pub use ").skip(1) {
        let Some((export, _)) = export.split_once(';') else {
            continue;
        };
        let (module, names) = export.split_once("::").unwrap_or((export, ""));
        for name in words(names) {
            exports.insert(name, module.to_owned());
        }
    }
    exports
}

/// The names that a source takes from a crate: from `common::`, or within it from `crate::`.
fn names(source: &str, root: &str) -> BTreeSet<String> {
    let code = code(source).collect::<Vec<_>>().join("\n");
    let mut names = BTreeSet::new();
    for used in code.split(root).skip(1) {
        let end = match used.starts_with('{') {
            true => used.find(';'),
            false => used.find([';', '(', ' ', ')', ',', '>']),
        };
        let used = &used[..end.unwrap_or(used.len())];
        names.extend(words(used).map(str::to_owned));
    }
    names
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|byte: char| !byte.is_ascii_alphanumeric() && byte != '_');
    words.filter(|word| !word.is_empty())
}

fn lines(source: &str) -> usize {
    code(source).count()
}

/// Lines that are not blank, not comments, and not in the tests at the end.
fn code(source: &str) -> impl Iterator<Item = &str> {
    let before_tests = source.split("#[cfg(test)]\nmod ").next().unwrap_or(source);
    let lines = before_tests.lines().map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with("//"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_blank_lines_and_tests_do_not_count() {
        let source = "//! A file.\n\nuse a;\n\n/// Why.\nfn b() {}\n\n#[cfg(test)]\nmod tests {\n    fn c() {}\n}\n";
        assert_eq!(lines(source), 2);
    }

    #[test]
    fn names_lead_to_the_modules_that_export_them() {
        let lib = "pub use feed::{Counts, Feed};\npub use query::Query;\n";
        let exports = exports(lib);
        assert_eq!(exports["Feed"], "feed");
        assert_eq!(exports["Query"], "query");
        let source =
            "use common::{Feed, Page};\nfn a() { common::listen(b); crate::log::Log::new() }";
        let expected = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let common: BTreeSet<String> = expected(&["Feed", "Page", "listen"]);
        assert_eq!(names(source, "common::"), common);
        let own: BTreeSet<String> = expected(&["Log", "log", "new"]);
        assert_eq!(names(source, "crate::"), own);
    }

    #[test]
    fn modules_of_features_that_are_off_are_absent() {
        let lib = "mod a;\n#[cfg(feature = \"x\")]\npub mod b;\n#[cfg_attr(not(feature = \"y\"), path = \"no_c.rs\")]\nmod c;\nmod d;\n";
        assert_eq!(absent(lib, &[]), BTreeSet::from(["b", "c"]));
        assert_eq!(absent(lib, &["x"]), BTreeSet::from(["c"]));
    }

    #[test]
    fn every_technique_reaches_the_feed_and_none_the_harness() {
        for technique in Technique::ALL {
            let [own, all] = of(technique).expect("the sources are there");
            assert!((100..10_000).contains(&own), "{technique}: {own}");
            assert!((1_000..10_000).contains(&(all - own)), "{technique}: {all}");
        }
    }
}
