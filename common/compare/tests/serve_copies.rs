//! Each member has an accept loop of its own, so that it can be read and copied alone. Where two of
//! them say the same, they say it in the same words: items of the same name in `src/serve.rs` are
//! byte-identical, comments included. One that has to be different says so in its own comment, in a
//! sentence that begins with `Differs from the other members`, and that one has to be different indeed.

use std::{collections::BTreeMap, fs};

use regex::Regex;

const MEMBERS: [&str; 5] = [
    "short-polling",
    "long-polling",
    "sse",
    "websockets",
    "webhooks",
];

/// A function, a constant, a type, with the comments and attributes before it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Item {
    name: String,
    text: String,
}

impl Item {
    fn differs_on_purpose(&self) -> bool {
        let comments = self.text.lines().take_while(|line| is_lead(line));
        comments
            .into_iter()
            .any(|line| line.contains("Differs from the other members"))
    }

    /// Without the comments and attributes before it.
    fn code(&self) -> String {
        let code = self.text.lines().filter(|line| !is_lead(line));
        code.collect()
    }
}

#[test]
fn what_two_members_both_have_in_serve_rs_is_the_same() {
    let mut first: BTreeMap<String, (&str, Item)> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (member, item) in all().filter(|(_, item)| !item.differs_on_purpose()) {
        let name = item.name.clone();
        let (other, known) = first.entry(name).or_insert_with(|| (member, item.clone()));
        if known.text != item.text {
            wrong.push(format!("{} of {member} is not that of {other}", item.name));
        }
    }
    for (member, item) in all().filter(|(_, item)| item.differs_on_purpose()) {
        let copied = first.get(&item.name);
        if copied.is_none_or(|(_, copied)| copied.code() == item.code()) {
            wrong.push(format!("{} of {member} does not differ", item.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_source_is_split_into_its_items() {
    let source = "\
//! A file.

use std::{
    io,
};

/// One.
const ONE: usize = 1;
// Why.
#[inline]
pub(crate) async fn two(a: usize) -> usize {
    let b = { a };

    b
}
static THREE: &str =
    \"three\";

impl Four for Five {
    fn six() {}
}
";
    let items = items(source);
    let names: Vec<&str> = items.iter().map(|item| item.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "const ONE",
            "fn two",
            "static THREE",
            "impl Four for Five {"
        ]
    );
    assert_eq!(items[0].text, "/// One.\nconst ONE: usize = 1;\n");
    assert!(items[1].text.starts_with("// Why.\n#[inline]\npub(crate)"));
    assert!(items[1].text.ends_with("\n    b\n}\n"));
}

/// The items of all members.
fn all() -> impl Iterator<Item = (&'static str, Item)> {
    let of = |member| {
        items(&serve_rs(member))
            .into_iter()
            .map(move |item| (member, item))
    };
    MEMBERS.into_iter().flat_map(of)
}

fn serve_rs(member: &str) -> String {
    let path = format!("{}/../../{member}/src/serve.rs", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The top-level items of a source that rustfmt has formatted, without its imports.
fn items(source: &str) -> Vec<Item> {
    let named = Regex::new(r"\b(fn|const|static|struct|enum|trait|type|mod) (\w+)")
        .expect("the pattern is one");
    let mut items = Vec::new();
    let (mut text, mut header, mut depth) = (String::new(), None, 0);
    for line in source.lines().filter(|line| !line.starts_with("//!")) {
        if line.is_empty() && header.is_none() {
            text.clear();
            continue;
        }
        text.push_str(line);
        text.push('\n');
        if is_lead(line) && header.is_none() {
            continue;
        }
        let header_line = *header.get_or_insert(line);
        depth += depth_of(line);
        if depth > 0 || !line.ends_with([';', '}']) {
            continue;
        }
        let name = match named.captures(header_line) {
            Some(found) => format!("{} {}", &found[1], &found[2]),
            None => header_line.to_owned(),
        };
        let text = std::mem::take(&mut text);
        if !header_line.starts_with("use ") {
            items.push(Item { name, text });
        }
        header = None;
    }
    assert_eq!((depth, header), (0, None), "the last item has no end");
    items
}

fn is_lead(line: &str) -> bool {
    line.starts_with("//") || line.starts_with("#[")
}

/// How many brackets a line opens more than it closes. Those in comments and text are taken for
/// brackets too; they come in pairs.
fn depth_of(line: &str) -> isize {
    let step = |byte| match byte {
        b'{' | b'(' | b'[' => 1,
        b'}' | b')' | b']' => -1,
        _ => 0,
    };
    line.bytes().map(step).sum()
}
