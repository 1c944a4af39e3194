//! What a reader sees first: for each table what is there, how it lies to the paper, and what is missing and why.

use super::sheet::Verdict;
use super::words::{counted, one_line};
use super::{Part, Report, Unrun};

/// How much of a table is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Complete,
    Part,
    Nothing,
}

impl State {
    /// For a class of the page.
    pub(super) fn class(self) -> &'static str {
        match self {
            State::Complete => "good",
            State::Part => "part",
            State::Nothing => "bad",
        }
    }

    pub(super) fn words(self) -> &'static str {
        match self {
            State::Complete => "complete",
            State::Part => "in part",
            State::Nothing => "nothing yet",
        }
    }

    pub(super) fn sign(self) -> &'static str {
        match self {
            State::Complete => "✓",
            State::Part => "◐",
            State::Nothing => "✗",
        }
    }
}

/// A table in a line.
pub(super) struct Summary {
    pub(super) title: String,
    pub(super) state: State,
    /// Numbers that are there, of how many.
    pub(super) numbers: (usize, usize),
    pub(super) runs: usize,
    /// Runs without a record: failed, and not run.
    pub(super) failed: usize,
    pub(super) not_run: usize,
    /// How the numbers lie to the paper's.
    pub(super) paper: Paper,
}

/// How a table's numbers lie to the paper's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paper {
    /// The paper has no such table.
    NoTable,
    /// No published number is known.
    Unknown,
    /// Other model, data or settings: what is published is shown and nothing is concluded.
    NotComparable,
    /// Numbers within the deviation, beyond it, and without one.
    Compared {
        within: usize,
        beyond: usize,
        unjudged: usize,
    },
}

impl Paper {
    pub(super) fn class(self) -> &'static str {
        match self {
            Paper::Compared { within, beyond: 0, .. } if within > 0 => "good",
            Paper::Compared { beyond, .. } if beyond > 0 => "bad",
            _ => "part",
        }
    }

    pub(super) fn words(self) -> String {
        match self {
            Paper::NoTable => "not in the paper".to_owned(),
            Paper::Unknown => "no published number known".to_owned(),
            Paper::NotComparable => "not comparable: another model or other data".to_owned(),
            Paper::Compared {
                within,
                beyond,
                unjudged,
            } => {
                let mut words = Vec::new();
                for (number, what) in [(within, "≈ within"), (beyond, "≠ beyond"), (unjudged, "? without")] {
                    if number > 0 {
                        words.push(format!("{number} {what}"));
                    }
                }
                format!("{} the deviation", words.join(", "))
            }
        }
    }
}

impl Summary {
    pub(super) fn of(part: &Part<'_>) -> Self {
        let verdicts: Vec<Verdict> = part
            .sheet
            .places()
            .filter_map(|(_, _, place)| place.verdict())
            .collect();
        let count = |verdict: Verdict| verdicts.iter().filter(|each| **each == verdict).count();
        let there = part.sheet.places().filter(|(_, _, place)| place.mean.is_some()).count();
        let of = part.sheet.places().count();
        let failed = part.missing.iter().filter(|unrun| unrun.failed).count();
        Summary {
            title: part.heading(),
            state: match there {
                0 => State::Nothing,
                there if there == of && part.missing.is_empty() => State::Complete,
                _ => State::Part,
            },
            numbers: (there, of),
            runs: part.table.runs.len(),
            failed,
            not_run: part.missing.len() - failed,
            paper: if part.table.papers().is_none() {
                Paper::NoTable
            } else if verdicts.is_empty() {
                Paper::Unknown
            } else if !part.table.is_comparable() {
                Paper::NotComparable
            } else {
                Paper::Compared {
                    within: count(Verdict::Within),
                    beyond: count(Verdict::Beyond),
                    unjudged: count(Verdict::Unjudged),
                }
            },
        }
    }

    /// `112 of 112 numbers`.
    pub(super) fn number_words(&self) -> String {
        format!("{} of {}", self.numbers.0, counted(self.numbers.1, "number"))
    }

    /// `12 runs, 2 failed, 4 not run`.
    pub(super) fn run_words(&self) -> String {
        let mut words = counted(self.runs, "run");
        for (number, what) in [(self.failed, "failed"), (self.not_run, "not run")] {
            if number > 0 {
                words.push_str(&format!(", {number} {what}"));
            }
        }
        words
    }
}

/// Runs that are missing for one reason.
pub(super) struct Lack<'a> {
    pub(super) why: String,
    pub(super) failed: bool,
    pub(super) runs: Vec<&'a Unrun>,
}

impl Lack<'_> {
    /// `failed (2)`, `not run (14)`: what is missing may be a run or a whole table.
    pub(super) fn words(&self) -> String {
        let what = if self.failed { "failed" } else { "not run" };
        format!("{what} ({})", self.runs.len())
    }
}

impl Report {
    /// What is missing, by its reason; what failed comes first.
    pub(super) fn lacks(&self) -> Vec<Lack<'_>> {
        let mut lacks: Vec<Lack<'_>> = Vec::new();
        for unrun in &self.unrun {
            let why = one_line(&unrun.why);
            match lacks
                .iter_mut()
                .find(|lack| lack.failed == unrun.failed && lack.why == why)
            {
                Some(lack) => lack.runs.push(unrun),
                None => lacks.push(Lack {
                    why,
                    failed: unrun.failed,
                    runs: vec![unrun],
                }),
            }
        }
        lacks.sort_by_key(|lack| !lack.failed);
        lacks
    }

    /// What every form says of the paper's numbers, once.
    pub(super) fn about_paper(&self) -> &'static str {
        let is_known = self.tables.iter().any(crate::table::Table::paper_is_known);
        if is_known {
            "In square brackets stands the paper's number, then the difference (measured minus published). ≈: the difference is no \
             larger than the standard deviation over our seeds; ≠: it is larger; ?: a single seed has no deviation. No sign: model, \
             data or settings are not the paper's, so nothing is concluded."
        } else {
            "The paper's numbers are not included yet: none of them is known to this program, so nothing here is compared with the \
             paper."
        }
    }
}
