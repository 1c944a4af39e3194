//! Rows as they come: from a pipe, one after the other, without waiting for its end.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::error::{Error, Result};
use crate::glue;
use crate::settings::{DataSource, TrainSettings};
use crate::tabular::{self, Columns, Format};
use crate::task::{Example, Split, Task};

/// Rows that wait to be taken.
const WAITING: usize = 4096;
/// What stands for the file in errors.
const NAME: &str = "<stdin>";

/// Rows of a run's task from a stream, laid out as the split's files are: for a user's own data in the format of the task
/// (`csv`, `tsv`, `jsonl`), with a header where the format has one. A [`Split::Test`] has no labels.
///
/// A thread reads ahead, so that [`RowStream::next_rows`] gives what is there.
#[derive(Debug)]
pub struct RowStream {
    rows: Receiver<Result<Example>>,
    failed: Option<Error>,
}

impl RowStream {
    /// Begins to read.
    ///
    /// # Errors
    /// If the task's rows cannot be read from a stream (parquet files, and texts without labels).
    pub fn new(settings: &TrainSettings, task: &Task, split: Split, input: Box<dyn Read + Send>) -> Result<Self> {
        let (sender, rows) = sync_channel(WAITING);
        let task = task.clone();
        let columns = match &settings.data {
            DataSource::Glue { .. } => None,
            DataSource::Files { columns, .. } => Some(Columns {
                label: columns.label.clone().filter(|_| split != Split::Test),
                ..columns.clone()
            }),
            _ => return Err(Error::argument("--file", "a run without labels reads no rows")),
        };
        let format = match &columns {
            Some(_) => Format::named(&task.name)?,
            None => Format::Tsv,
        };
        if format == Format::Parquet {
            return Err(Error::argument(
                "--file",
                "parquet is read from its end and cannot come from a pipe; give a file",
            ));
        }
        std::thread::spawn(move || {
            let reading = Reading {
                task,
                split,
                columns,
                sender,
            };
            if let Err(error) = reading.read(format, input) {
                // Nobody listens any more: there is nobody to tell.
                let _ = reading.sender.send(Err(error));
            }
        });
        Ok(RowStream { rows, failed: None })
    }

    /// At least one row and at most `most` of those that are there; none at the end. Waits only for the first.
    ///
    /// # Errors
    /// The first thing wrong with a row, with its line, after the rows before it.
    pub fn next_rows(&mut self, most: usize) -> Result<Vec<Example>> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let mut rows = Vec::new();
        match self.rows.recv() {
            Ok(row) => rows.push(row?),
            Err(_) => return Ok(rows),
        }
        while rows.len() < most {
            match self.rows.try_recv() {
                Ok(Ok(row)) => rows.push(row),
                Ok(Err(error)) => {
                    self.failed = Some(error);
                    break;
                }
                Err(_) => break,
            }
        }
        Ok(rows)
    }
}

struct Reading {
    task: Task,
    split: Split,
    columns: Option<Columns>,
    sender: SyncSender<Result<Example>>,
}

impl Reading {
    fn read(&self, format: Format, input: Box<dyn Read + Send>) -> Result<()> {
        let path = Path::new(NAME);
        match &self.columns {
            Some(columns) if format == Format::Csv => tabular::csv_records(path, input, columns, |row| {
                let rows = tabular::examples(path, columns, &self.task, self.split, vec![row])?;
                Ok(self.give(rows))
            }),
            Some(columns) => self.lines(path, input, format == Format::Tsv, |text| {
                let rows = tabular::parse(path, format, text, columns)?;
                tabular::examples(path, columns, &self.task, self.split, rows)
            }),
            None => {
                let task = glue::find(&self.task.name)?;
                let header = task.has_header(self.split);
                self.lines(path, input, header, |text| task.parse(path, text, self.split))
            }
        }
    }

    /// Whether somebody still wants rows.
    fn give(&self, rows: Vec<Example>) -> bool {
        rows.into_iter().all(|row| self.sender.send(Ok(row)).is_ok())
    }

    /// Gives the rows of every line to `parse`, below the header if there is one.
    fn lines(
        &self,
        path: &Path,
        input: Box<dyn Read + Send>,
        has_header: bool,
        parse: impl Fn(&str) -> Result<Vec<Example>>,
    ) -> Result<()> {
        let mut input = BufReader::new(input);
        let (mut header, mut bytes) = (None, Vec::new());
        let mut rows = 0usize;
        for number in 1.. {
            bytes.clear();
            if input.read_until(b'\n', &mut bytes).map_err(Error::io("read", path))? == 0 {
                break;
            }
            let line = std::str::from_utf8(&bytes).map_err(|_| Error::NotUtf8 {
                path: path.to_path_buf(),
                line: number,
            })?;
            let line = line.strip_suffix('\n').unwrap_or(line);
            let line = if number == 1 {
                line.strip_prefix('\u{feff}').unwrap_or(line)
            } else {
                line
            };
            if has_header && header.is_none() {
                header = Some(line.to_owned());
                continue;
            }
            let text = match &header {
                Some(header) => format!("{header}\n{line}\n"),
                None if line.trim().is_empty() => continue,
                None => format!("{line}\n"),
            };
            let own = if has_header { 2 } else { 1 };
            let found = parse(&text).map_err(|error| error.moved(own, number))?;
            rows += found.len();
            if !self.give(found) {
                return Ok(());
            }
        }
        match (rows, header) {
            (0, Some(_)) => Err(Error::HeaderOnly {
                path: path.to_path_buf(),
            }),
            (0, None) => Err(Error::EmptyFile {
                path: path.to_path_buf(),
            }),
            _ => Ok(()),
        }
    }
}
