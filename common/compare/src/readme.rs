//! The part of a README between its markers.

use std::{fs, io, path::Path};

use crate::{Report, chart, markdown};

const BEGIN: &str = "<!-- compare -->\n";
const END: &str = "<!-- /compare -->";

/// Where the charts are, seen from the README.
const CHARTS: &str = "common/compare/charts";

/// Writes the report into a README, and its charts beside it.
///
/// # Errors
/// If there are no markers, or a file cannot be written.
pub fn write_into(path: &Path, report: &Report) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("")).join(CHARTS);
    let charts = chart::draw(report, &folder)?;
    let charts = charts
        .iter()
        .map(|(name, title)| format!("![{title}]({CHARTS}/{name}.svg)\n"));
    let inside = markdown(report) + "\n" + &charts.collect::<String>();
    fs::write(path, replaced(&fs::read_to_string(path)?, &inside)?)
}

/// What stands between the markers.
///
/// # Errors
/// If there are none.
pub(crate) fn between(readme: &str) -> io::Result<&str> {
    let (_, rest) = readme.split_once(BEGIN).ok_or_else(missing)?;
    let (inside, _) = rest.split_once(END).ok_or_else(missing)?;
    Ok(inside)
}

/// The README with something else between them.
///
/// # Errors
/// If there are none.
pub(crate) fn replaced(readme: &str, inside: &str) -> io::Result<String> {
    let (before, rest) = readme.split_once(BEGIN).ok_or_else(missing)?;
    let (_, after) = rest.split_once(END).ok_or_else(missing)?;
    Ok([before, BEGIN, inside, END, after].concat())
}

fn missing() -> io::Error {
    io::Error::other(format!("the README has no {BEGIN:?} … {END:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_between_the_markers_is_found_and_replaced() {
        let readme = "a\n<!-- compare -->\nold\n<!-- /compare -->\nb\n";
        assert_eq!(between(readme).unwrap(), "old\n");
        let expected = "a\n<!-- compare -->\nnew\n<!-- /compare -->\nb\n";
        assert_eq!(replaced(readme, "new\n").unwrap(), expected);
        assert!(between("a").is_err() && replaced("<!-- compare -->\n", "").is_err());
    }
}
