//! Replaces the parts of a README between markers.

use std::{fs, io, path::Path};

use crate::{Report, chart, markdown, table};

/// The marker of the table.
pub(crate) const TABLE: &str = "compare";
/// The marker of the few figures on the first screen.
const FEW: &str = "figures";

/// Where the charts are, from the README.
const CHARTS: &str = "common/compare/charts";

/// Writes the report into a README, and its charts into their folder.
///
/// # Errors
/// If there are no markers, or a file cannot be written.
pub fn write_into(path: &Path, report: &Report) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("")).join(CHARTS);
    let charts = chart::draw(report, &folder)?;
    let images = charts
        .iter()
        .map(|(name, title)| format!("![{title}]({CHARTS}/{name}.svg)\n"));
    let table = markdown(report) + "\n" + &images.collect::<String>();
    let readme = replaced(&fs::read_to_string(path)?, FEW, &table::few(report))?;
    fs::write(path, replaced(&readme, TABLE, &table)?)
}

/// The text between the markers of this name.
///
/// # Errors
/// If a marker is missing.
pub(crate) fn between<'a>(readme: &'a str, name: &str) -> io::Result<&'a str> {
    parts(readme, name).map(|[_, inside, _]| inside)
}

/// The README with another text between the markers.
///
/// # Errors
/// If a marker is missing.
pub(crate) fn replaced(readme: &str, name: &str, inside: &str) -> io::Result<String> {
    parts(readme, name).map(|[before, _, after]| [before, inside, after].concat())
}

/// The text before, between and after; the markers belong to the first and the last.
fn parts<'a>(readme: &'a str, name: &str) -> io::Result<[&'a str; 3]> {
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let bounds = readme.find(&begin).and_then(|at| {
        let from = at + begin.len();
        Some((from, from + readme[from..].find(&end)?))
    });
    let missing = || io::Error::other(format!("the README has no {begin:?} … {end:?}"));
    let (from, to) = bounds.ok_or_else(missing)?;
    Ok([&readme[..from], &readme[from..to], &readme[to..]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_between_the_markers_is_found_and_replaced() {
        let readme = "<!-- b -->\n<!-- /b -->\n<!-- a -->\nold\n<!-- /a -->\n";
        assert_eq!(between(readme, "a").unwrap(), "old\n");
        assert_eq!(between(readme, "b").unwrap(), "");
        let expected = "<!-- b -->\n<!-- /b -->\n<!-- a -->\nnew\n<!-- /a -->\n";
        assert_eq!(replaced(readme, "a", "new\n").unwrap(), expected);
        assert!(between("a", "a").is_err() && replaced("<!-- a -->\n", "a", "").is_err());
    }
}
