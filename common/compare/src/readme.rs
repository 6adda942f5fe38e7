//! Replaces the parts of a README between markers.

use std::{fs, io, path::Path};

use crate::{Report, chart, markdown, table};

/// Where the charts are, from the README.
const CHARTS: &str = "common/compare/charts";

/// Writes a README with the report in it, and the charts into their folder.
///
/// # Errors
/// If there are no markers, or a file cannot be written.
pub fn write_into(path: &Path, readme: &str, report: &Report) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("")).join(CHARTS);
    chart::draw(report, &folder)?;
    let readme = replaced(readme, "figures", &table::few(report))?;
    fs::write(path, replaced(&readme, "compare", &markdown(report))?)
}

/// The README with another text between the markers of this name.
///
/// # Errors
/// If a marker is missing.
fn replaced(readme: &str, name: &str, inside: &str) -> io::Result<String> {
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let outside = readme.split_once(&begin).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(&end)?;
        Some((before, after))
    });
    match outside {
        Some((before, after)) => Ok([before, &begin, inside, &end, after].concat()),
        None => Err(io::Error::other(format!(
            "the README has no {begin:?} … {end:?}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_between_the_markers_is_replaced() {
        let readme = "<!-- b -->\n<!-- /b -->\n<!-- a -->\nold\n<!-- /a -->\n";
        let expected = "<!-- b -->\n<!-- /b -->\n<!-- a -->\nnew\n<!-- /a -->\n";
        assert_eq!(replaced(readme, "a", "new\n").unwrap(), expected);
        assert!(replaced("a", "a", "").is_err() && replaced("<!-- a -->\n", "a", "").is_err());
    }
}
