//! Writes the report into the repository: two tables between markers in READMEs, and the charts.

use std::{fs, io, path::Path};

use crate::{Report, chart, table};

/// This package's folder, in the repository.
const COMPARE: &str = "common/compare";

/// Writes the tables into the READMEs of this repository, and the charts into their folder.
///
/// # Errors
/// If a README or its markers are missing, or a file cannot be written.
pub fn write_into(repository: &Path, report: &Report) -> io::Result<()> {
    let compare = repository.join(COMPARE);
    replace_in(
        &repository.join("README.md"),
        "figures",
        &table::choice(report),
    )?;
    replace_in(&compare.join("README.md"), "compare", &table::rest(report))?;
    chart::draw(report, &compare.join("charts"))
}

fn replace_in(path: &Path, name: &str, inside: &str) -> io::Result<()> {
    let readme = fs::read_to_string(path)?;
    fs::write(path, replaced(&readme, name, inside)?)
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
