//! Files of hypotheses and references.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::tsv::{lines, read_text};

/// Hypotheses, one a line; an empty line is an empty hypothesis.
///
/// # Errors
/// A file that cannot be read, is empty or is not UTF-8.
pub fn read_hypotheses(path: &Path) -> Result<Vec<String>> {
    let text = read_text(path)?;
    Ok(lines(&text).map(|(_, line)| line.to_owned()).collect())
}

/// Groups of references, one for each of `hypotheses`.
///
/// One file that ends in `.json` holds a list of lists of texts. One other file that has empty lines holds groups with an empty
/// line between two, one reference a line, as the E2E challenge has it. In any other case line `i` of every file is a reference
/// of hypothesis `i`, and an empty line is none, as the DART and WebNLG scorers have it.
///
/// # Errors
/// No file; a file that cannot be read; another number of groups than hypotheses; a hypothesis without a reference.
pub fn read_references(paths: &[PathBuf], hypotheses: usize) -> Result<Vec<Vec<String>>> {
    let groups = match paths {
        [] => return Err(Error::argument("references", "there is no file")),
        [path] if path.extension().is_some_and(|extension| extension == "json") => from_json(path)?,
        [path] => {
            let text = read_text(path)?;
            let has_groups = lines(&text).any(|(_, line)| line.trim().is_empty());
            if has_groups {
                grouped(&text)
            } else {
                columns(std::slice::from_ref(path), hypotheses)?
            }
        }
        several => columns(several, hypotheses)?,
    };
    let path = &paths[0];
    if groups.len() != hypotheses {
        let found = groups.len();
        return Err(Error::file(
            path,
            format!("{found} groups of references for {hypotheses} hypotheses"),
        ));
    }
    match groups.iter().position(Vec::is_empty) {
        Some(index) => Err(Error::file(path, format!("hypothesis {} has no reference", index + 1))),
        None => Ok(groups),
    }
}

fn from_json(path: &Path) -> Result<Vec<Vec<String>>> {
    serde_json::from_str(&read_text(path)?).map_err(|error| Error::Malformed {
        path: path.to_owned(),
        line: error.line(),
        message: format!("not a list of lists of texts ({error})"),
    })
}

/// Runs of lines with empty lines between them; several empty lines count as one.
fn grouped(text: &str) -> Vec<Vec<String>> {
    let all: Vec<&str> = lines(text).map(|(_, line)| line).collect();
    all.split(|line| line.trim().is_empty())
        .filter(|group| !group.is_empty())
        .map(|group| group.iter().map(|line| (*line).to_owned()).collect())
        .collect()
}

/// One column of references a file.
fn columns(paths: &[PathBuf], hypotheses: usize) -> Result<Vec<Vec<String>>> {
    let mut groups = vec![Vec::new(); hypotheses];
    for path in paths {
        let text = read_text(path)?;
        let found = lines(&text).count();
        if found != hypotheses {
            return Err(Error::file(path, format!("{found} lines for {hypotheses} hypotheses")));
        }
        for (group, (_, line)) in groups.iter_mut().zip(lines(&text)) {
            if !line.is_empty() {
                group.push(line.to_owned());
            }
        }
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)], hypotheses: usize) -> std::result::Result<Vec<Vec<String>>, String> {
        let dir = tempfile::tempdir().unwrap();
        let write = |(name, text): &(&str, &str)| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let paths: Vec<PathBuf> = files.iter().map(write).collect();
        read_references(&paths, hypotheses).map_err(|error| error.to_string().rsplit('/').next().unwrap().to_owned())
    }

    fn groups(texts: &[&[&str]]) -> std::result::Result<Vec<Vec<String>>, String> {
        Ok(texts
            .iter()
            .map(|group| group.iter().map(|text| text.to_string()).collect())
            .collect())
    }

    #[test]
    fn the_three_layouts() {
        let expected = groups(&[&["a", "b"], &["c"]]);
        assert_eq!(read(&[("refs.txt", "a\r\nb\r\n\r\nc\r\n")], 2), expected);
        assert_eq!(read(&[("refs.txt", "a\nb\n\n\nc\n\n")], 2), expected);
        assert_eq!(read(&[("refs.json", r#"[["a", "b"], ["c"]]"#)], 2), expected);
        assert_eq!(read(&[("0", "a\nc\n"), ("1", "b\r\n\r\n")], 2), expected);
        assert_eq!(read(&[("refs.txt", "a\nb\n")], 2), groups(&[&["a"], &["b"]]));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let sentence = |files: &[(&str, &str)], hypotheses| read(files, hypotheses).unwrap_err();
        assert_eq!(
            sentence(&[("r", "a\n\nb\n")], 3),
            "r: 2 groups of references for 3 hypotheses"
        );
        assert_eq!(
            sentence(&[("0", "a\nb\n"), ("1", "a\n")], 2),
            "1: 1 lines for 2 hypotheses"
        );
        assert_eq!(
            sentence(&[("0", "a\n\n"), ("1", "a\n\n")], 2),
            "0: hypothesis 2 has no reference"
        );
        assert_eq!(
            read_references(&[], 1).unwrap_err().to_string(),
            "references: there is no file"
        );
        assert!(sentence(&[("r.json", "[[\n1]]")], 1).starts_with("r.json, line 2: not a list of lists of texts"));
    }
}
