//! Which parquet file of the data set `nyu-mll/glue` becomes which file of the official layout.
//!
//! Rows are those of the data set's card; a file with other rows is another data set.

use std::path::Path;

use dylora_tasks::glue::GlueTask;
use dylora_tasks::task::Split;

use super::error::{Error, Result};

/// A task's folder of the data set.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// The folder.
    pub(super) config: &'static str,
    /// Column of the first text.
    pub(super) text_a: &'static str,
    /// Column of the second text.
    pub(super) text_b: Option<&'static str>,
    pub(super) parts: &'static [Part],
}

/// One file of a task.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// What the file's name begins with.
    pub(super) name: &'static str,
    /// How the file that is made from it is laid out.
    pub(super) split: Split,
    /// That file.
    pub(super) file: &'static str,
    pub(super) rows: usize,
}

const fn part(name: &'static str, split: Split, file: &'static str, rows: usize) -> Part {
    Part {
        name,
        split,
        file,
        rows,
    }
}

macro_rules! parts {
    ($train:expr, $dev:expr, $test:expr) => {
        &[
            part("train", Split::Train, "train.tsv", $train),
            part("validation", Split::Dev, "dev.tsv", $dev),
            part("test", Split::Test, "test.tsv", $test),
        ]
    };
}

const MNLI: &[Part] = &[
    part("train", Split::Train, "train.tsv", 392_702),
    part("validation_matched", Split::Dev, "dev_matched.tsv", 9815),
    part(
        "validation_mismatched",
        Split::DevMismatched,
        "dev_mismatched.tsv",
        9832,
    ),
    part("test_matched", Split::Test, "test_matched.tsv", 9796),
    part("test_mismatched", Split::Test, "test_mismatched.tsv", 9847),
];

/// Name of the task, then its source.
const SOURCES: &[(&str, Source)] = &[
    ("mnli", source("mnli", "premise", Some("hypothesis"), MNLI)),
    ("sst-2", source("sst2", "sentence", None, parts!(67_349, 872, 1821))),
    (
        "mrpc",
        source("mrpc", "sentence1", Some("sentence2"), parts!(3668, 408, 1725)),
    ),
    ("cola", source("cola", "sentence", None, parts!(8551, 1043, 1063))),
    (
        "qnli",
        source("qnli", "question", Some("sentence"), parts!(104_743, 5463, 5463)),
    ),
    (
        "qqp",
        source("qqp", "question1", Some("question2"), parts!(363_846, 40_430, 390_965)),
    ),
    (
        "rte",
        source("rte", "sentence1", Some("sentence2"), parts!(2490, 277, 3000)),
    ),
    (
        "sts-b",
        source("stsb", "sentence1", Some("sentence2"), parts!(5749, 1500, 1379)),
    ),
];

const fn source(
    config: &'static str,
    text_a: &'static str,
    text_b: Option<&'static str>,
    parts: &'static [Part],
) -> Source {
    Source {
        config,
        text_a,
        text_b,
        parts,
    }
}

impl Source {
    /// The source of a task.
    ///
    /// # Errors
    /// If it is not in the list.
    pub(super) fn of(task: &GlueTask) -> Result<&'static Source> {
        let known = SOURCES.iter().find(|(name, _)| *name == task.name);
        known
            .map(|(_, source)| source)
            .ok_or_else(|| Error::data(Path::new(task.name), "no file of nyu-mll/glue is known for this task"))
    }

    /// A part's file in the data set.
    pub(super) fn file(&self, part: &Part) -> String {
        format!("{}/{}-00000-of-00001.parquet", self.config, part.name)
    }

    /// Whether all parts are in a snapshot.
    pub(super) fn is_in(&self, snapshot: &Path) -> bool {
        self.parts.iter().all(|part| snapshot.join(self.file(part)).is_file())
    }
}
