//! The xml of the WebNLG challenges, which DART shares: `<benchmark><entries><entry>`, with triples and texts.

use std::path::Path;

use roxmltree::{Document, Node};

use super::{Entry, Meaning, Reference, Triple};
use crate::error::{Error, Result};
use crate::tsv;

/// An entry with what only the file says of it.
pub(super) struct XmlEntry {
    pub(super) entry: Entry,
    /// Line on which the entry begins, from 1.
    pub(super) line: usize,
    /// Lines of the references, in their order.
    pub(super) reference_lines: Vec<usize>,
    /// The shape of the tree of triples, which the 2020 edition gives.
    pub(super) shape: Option<String>,
}

/// What may stand in an entry. The last two link the English and Russian editions of 2020 and are no part of the task.
const CHILDREN: &[&str] = &["originaltripleset", "modifiedtripleset", "lex", "dbpedialinks", "links"];

/// All entries of a file in file order.
///
/// # Errors
/// [`Error::Malformed`] with the line of what is not well-formed or not laid out so.
pub(super) fn read(path: &Path) -> Result<Vec<XmlEntry>> {
    let text = tsv::read_text(path)?;
    let file = File {
        path,
        breaks: text.match_indices('\n').map(|(at, _)| at).collect(),
    };
    let document = Document::parse(&text).map_err(|error| Error::Malformed {
        path: path.to_path_buf(),
        line: match error {
            // The parser gives these no place; what is missing is missing at the end.
            roxmltree::Error::UnclosedRootNode | roxmltree::Error::UnexpectedEndOfStream => text.lines().count(),
            _ => error.pos().row as usize,
        },
        message: format!("not well-formed xml: {error}"),
    })?;
    let root = file.expect(document.root_element(), &["benchmark"])?;
    let mut entries = Vec::new();
    for group in elements(root) {
        for node in elements(file.expect(group, &["entries"])?) {
            entries.push(file.entry(file.expect(node, &["entry"])?)?);
        }
    }
    if entries.is_empty() {
        return Err(file.malformed(root, "no entry stands in the file".to_owned()));
    }
    Ok(entries)
}

struct File<'a> {
    path: &'a Path,
    /// Bytes of the line feeds, so that a line number is one search away.
    breaks: Vec<usize>,
}

impl File<'_> {
    fn line(&self, node: Node<'_, '_>) -> usize {
        self.breaks.partition_point(|&at| at < node.range().start) + 1
    }

    fn malformed(&self, node: Node<'_, '_>, message: String) -> Error {
        Error::Malformed {
            path: self.path.to_path_buf(),
            line: self.line(node),
            message,
        }
    }

    fn expect<'n, 'd>(&self, node: Node<'n, 'd>, names: &[&str]) -> Result<Node<'n, 'd>> {
        let name = node.tag_name().name();
        if names.contains(&name) {
            return Ok(node);
        }
        let names = names.join(">, <");
        Err(self.malformed(node, format!("<{name}> stands where <{names}> is expected")))
    }

    fn entry(&self, node: Node<'_, '_>) -> Result<XmlEntry> {
        let mut original = Vec::new();
        let mut modified = None;
        let mut references = Vec::new();
        let mut reference_lines = Vec::new();
        for child in elements(node) {
            match self.expect(child, CHILDREN)?.tag_name().name() {
                "originaltripleset" => original.push(self.triples(child, "otriple")?),
                "modifiedtripleset" => {
                    let repeated = modified.replace(self.triples(child, "mtriple")?).is_some();
                    if repeated {
                        return Err(self.malformed(child, "a second <modifiedtripleset> in one entry".to_owned()));
                    }
                }
                "lex" => {
                    reference_lines.push(self.line(child));
                    references.push(Reference {
                        text: self.text(child)?,
                        comment: child.attribute("comment").unwrap_or_default().to_owned(),
                    });
                }
                _ => {}
            }
        }
        let triples =
            modified.ok_or_else(|| self.malformed(node, "the entry has no <modifiedtripleset>".to_owned()))?;
        if triples.is_empty() {
            return Err(self.malformed(node, "the entry has no triples".to_owned()));
        }
        let entry = Entry {
            id: node.attribute("eid").unwrap_or_default().to_owned(),
            meaning: Meaning::Triples { triples, original },
            category: node.attribute("category").map(str::to_owned),
            references,
        };
        Ok(XmlEntry {
            entry,
            line: self.line(node),
            reference_lines,
            shape: node.attribute("shape").map(str::to_owned),
        })
    }

    fn triples(&self, set: Node<'_, '_>, name: &str) -> Result<Vec<Triple>> {
        elements(set)
            .map(|node| self.triple(self.expect(node, &[name])?))
            .collect()
    }

    /// `subject | property | object`.
    fn triple(&self, node: Node<'_, '_>) -> Result<Triple> {
        let text = self.text(node)?;
        let parts: Vec<&str> = text.trim().split(" | ").collect();
        match parts[..] {
            [subject, property, object] if parts.iter().all(|part| !part.trim().is_empty()) => Ok(Triple {
                subject: subject.to_owned(),
                property: property.to_owned(),
                object: object.to_owned(),
            }),
            _ => Err(self.malformed(node, format!("{:?} is not subject | property | object", text.trim()))),
        }
    }

    /// All text of an element that has nothing else in it.
    fn text(&self, node: Node<'_, '_>) -> Result<String> {
        if let Some(child) = elements(node).next() {
            let (name, parent) = (child.tag_name().name(), node.tag_name().name());
            return Err(self.malformed(
                child,
                format!("<{name}> stands inside <{parent}>, which holds text only"),
            ));
        }
        Ok(node
            .children()
            .filter_map(|child| child.text().filter(|_| child.is_text()))
            .collect())
    }
}

fn elements<'n, 'd>(node: Node<'n, 'd>) -> impl Iterator<Item = Node<'n, 'd>> {
    node.children().filter(Node::is_element)
}
