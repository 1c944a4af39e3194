//! Parquet files of the data set to the tab-separated files of the official layout.
//!
//! Columns have the official names; those that the data set does not have (MNLI's parses, QQP's question numbers) are left
//! out. Labels become the words of the official files. A score is written with the fewest digits that give back the data
//! set's 32-bit number, so 3.8 stays 3.8. A tab-separated file has no way to write a tab or a line break inside a text:
//! each becomes a blank, and the report counts such texts (the official files cannot hold any either).

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use dylora_tasks::glue::GlueTask;
use dylora_tasks::task::{Head, Split};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};

use super::Event;
use super::error::{Error, Result};
use super::sources::{Part, Source};

/// Writes all files of a task into its folder under `dir`: into a folder with another name first, so that the task's folder
/// is whole whenever it is there.
pub(super) fn convert(
    task: &GlueTask,
    source: &Source,
    snapshot: &Path,
    dir: &Path,
    report: &mut dyn FnMut(Event<'_>),
) -> Result<()> {
    fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    let folder = dir.join(task.folder);
    let unfinished = dir.join(format!(".{}.{}.tmp", task.folder, std::process::id()));
    let written = fs::create_dir_all(&unfinished)
        .map_err(Error::io("create", &unfinished))
        .and_then(|()| {
            source
                .parts
                .iter()
                .try_for_each(|part| convert_part(task, source, part, snapshot, &unfinished, report))
        })
        .and_then(|()| replace(&unfinished, &folder));
    if written.is_err() {
        // The error above is the one to tell; a folder that stays behind does no harm.
        let _ = fs::remove_dir_all(&unfinished);
    }
    written
}

/// Renames a folder, in place of one that lacks files.
fn replace(unfinished: &Path, folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(Error::io("remove", folder))?;
    }
    fs::rename(unfinished, folder).map_err(Error::io("write", folder))
}

fn convert_part(
    task: &GlueTask,
    source: &Source,
    part: &Part,
    snapshot: &Path,
    dir: &Path,
    report: &mut dyn FnMut(Event<'_>),
) -> Result<()> {
    let from = snapshot.join(source.file(part));
    let to = dir.join(part.file);
    let file = File::open(&from).map_err(Error::io("read", &from))?;
    let damaged =
        |error: parquet::errors::ParquetError| Error::data(&from, format!("no readable parquet file: {error}"));
    let reader = SerializedFileReader::new(file).map_err(damaged)?;
    let layout = Layout::new(task, part.split);
    let columns = Columns::find(task, source, part.split, &reader, &from)?;
    let out = File::create(&to).map_err(Error::io("write", &to))?;
    let mut out = BufWriter::new(out);
    let (mut rows, mut blanked) = (0, 0);
    let write = |line: io::Result<()>| line.map_err(Error::io("write", &to));
    write(layout.header(&mut out))?;
    for row in reader.get_row_iter(None).map_err(damaged)? {
        let row = row.map_err(damaged)?;
        let values = columns
            .read(task, &row)
            .map_err(|reason| Error::data(&from, format!("row {rows} {reason}")))?;
        write(layout.row(&mut out, rows, &values, &mut blanked))?;
        rows += 1;
    }
    write(out.flush())?;
    if rows != part.rows {
        return Err(Error::data(
            &from,
            format!("{rows} rows, but GLUE's {} {} has {}", task.name, part.name, part.rows),
        ));
    }
    if blanked > 0 {
        report(Event::Blanked {
            file: &format!("{}/{}", task.folder, part.file),
            texts: blanked,
        });
    }
    Ok(())
}

/// What is taken from a row.
struct Values<'r> {
    text_a: &'r str,
    text_b: &'r str,
    /// As the official files write it.
    label: String,
}

/// Positions of the columns in the parquet file.
struct Columns {
    text_a: usize,
    text_b: Option<usize>,
    label: Option<usize>,
}

impl Columns {
    fn find(
        task: &GlueTask,
        source: &Source,
        split: Split,
        reader: &SerializedFileReader<File>,
        path: &Path,
    ) -> Result<Self> {
        let schema = reader.metadata().file_metadata().schema();
        let names: Vec<_> = schema.get_fields().iter().map(|field| field.name()).collect();
        let column = |name: &str| {
            names.iter().position(|known| *known == name).ok_or_else(|| {
                let reason = format!("no column {name} for {}; there are {}", task.name, names.join(", "));
                Error::data(path, reason)
            })
        };
        Ok(Columns {
            text_a: column(source.text_a)?,
            text_b: source.text_b.map(column).transpose()?,
            // Labels of the test split are -1, where they are anything, and have no column in the official files.
            label: (split != Split::Test).then(|| column("label")).transpose()?,
        })
    }

    /// The error is the rest of a sentence that begins with the row.
    fn read<'r>(&self, task: &GlueTask, row: &'r Row) -> std::result::Result<Values<'r>, String> {
        let field = |column: usize| row.get_column_iter().nth(column);
        let text = |column: usize| match field(column) {
            Some((_, Field::Str(text))) => Ok(text.as_str()),
            Some((name, other)) => Err(format!("has {other} in column {name}, which is no text")),
            None => Err("is too short".to_owned()),
        };
        let label = |column: usize| {
            let Some((_, field)) = field(column) else {
                return Err("is too short".to_owned());
            };
            label(task, field).ok_or_else(|| format!("has the label {field}, which {} does not have", task.name))
        };
        Ok(Values {
            text_a: text(self.text_a)?,
            text_b: self.text_b.map_or(Ok(""), text)?,
            label: self.label.map_or(Ok(String::new()), label)?,
        })
    }
}

/// A label as the official files write it.
fn label(task: &GlueTask, field: &Field) -> Option<String> {
    match (task.head(), field) {
        (Head::Classify(_), Field::Long(class)) => {
            let class = usize::try_from(*class).ok()?;
            task.labels.get(class).map(|&name| name.to_owned())
        }
        (Head::Regress, Field::Float(score)) => Some(score.to_string()),
        (Head::Regress, Field::Double(score)) => Some(score.to_string()),
        _ => None,
    }
}

/// The columns of a file of the official layout.
struct Layout<'t> {
    task: &'t GlueTask,
    columns: Vec<&'t str>,
    header: bool,
}

impl<'t> Layout<'t> {
    fn new(task: &'t GlueTask, split: Split) -> Self {
        let headerless = task.headerless.filter(|_| split != Split::Test);
        let columns = match headerless {
            Some(columns) => columns.to_vec(),
            None => {
                let label = (split != Split::Test).then_some(task.label);
                let named = [Some("index"), Some(task.text_a), task.text_b, label];
                named.into_iter().flatten().collect()
            }
        };
        Layout {
            task,
            columns,
            header: headerless.is_none(),
        }
    }

    fn header(&self, out: &mut impl Write) -> io::Result<()> {
        if self.header {
            writeln!(out, "{}", self.columns.join("\t"))?;
        }
        Ok(())
    }

    fn row(&self, out: &mut impl Write, number: usize, values: &Values<'_>, blanked: &mut usize) -> io::Result<()> {
        for (position, &column) in self.columns.iter().enumerate() {
            let last = position + 1 == self.columns.len();
            if column == self.task.text_a || Some(column) == self.task.text_b {
                let is_a = column == self.task.text_a;
                let text = if is_a { values.text_a } else { values.text_b };
                let field = one_field(text, last);
                *blanked += usize::from(matches!(field, Cow::Owned(_)));
                out.write_all(field.as_bytes())?;
            } else if column == self.task.label {
                out.write_all(values.label.as_bytes())?;
            } else if column == "mark" {
                // CoLA's files mark a sentence that is not acceptable a second time.
                out.write_all(if values.label == "0" { b"*" } else { b"" })?;
            } else {
                write!(out, "{number}")?;
            }
            out.write_all(if last { b"\n" } else { b"\t" })?;
        }
        Ok(())
    }
}

/// The text as a field: without what would end it. A carriage return ends a line where the line break follows.
fn one_field(text: &str, last: bool) -> Cow<'_, str> {
    let returns = last && text.ends_with('\r');
    if !returns && !text.contains(['\t', '\n']) {
        return Cow::Borrowed(text);
    }
    let mut field = text.replace(['\t', '\n'], " ");
    if returns {
        field.pop();
        field.push(' ');
    }
    Cow::Owned(field)
}
