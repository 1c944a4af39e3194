//! The official chains: which metrics a task's paper table has, and what stands in front of each.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::meteor::{Data, Meteor, Stage};
use super::{Corpus, bleu, check_pairs, cider, nist, rouge, ter, tokenise};
use crate::error::{Error, Result};
use crate::generation::GenerationTask;

/// Most references of a segment that the WebNLG and DART scorer is given.
const MAX_REFERENCES: usize = 6;

/// A task of generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Chain {
    /// The E2E challenge's `measure_scores.py -p`.
    E2e,
    /// WebNLG 2017 as the LoRA paper has it: its preprocessing, then GenerationEval with six references.
    Webnlg,
    /// DART, the same way.
    Dart,
}

impl Chain {
    /// All chains.
    pub const ALL: [Chain; 3] = [Chain::E2e, Chain::Webnlg, Chain::Dart];

    /// The chain of a task.
    pub fn of(task: GenerationTask) -> Self {
        match task {
            GenerationTask::E2e => Chain::E2e,
            GenerationTask::Dart => Chain::Dart,
            GenerationTask::WebNlg => Chain::Webnlg,
        }
    }

    /// The metrics in the official order.
    pub fn metrics(self) -> &'static [TextMetric] {
        match self {
            Chain::E2e => &E2E_METRICS,
            Chain::Webnlg | Chain::Dart => &EVAL_METRICS,
        }
    }

    /// `e2e`, `webnlg` or `dart`.
    pub fn name(self) -> &'static str {
        match self {
            Chain::E2e => "e2e",
            Chain::Webnlg => "webnlg",
            Chain::Dart => "dart",
        }
    }

    /// Every metric of the chain. METEOR needs `data`; without it, it is not computed and the report says so.
    ///
    /// # Errors
    /// What [`Corpus::new`] refuses; a metric that is not defined; a METEOR table that cannot be read.
    pub fn score<H: AsRef<str>, R: AsRef<str>>(
        self,
        hypotheses: &[H],
        references: &[Vec<R>],
        data: Option<&Data>,
    ) -> Result<Report> {
        let mut report = self.judge(hypotheses, references, data)?;
        match report.undefined.pop() {
            None => Ok(report),
            Some(error) => Err(error),
        }
    }

    /// As [`Chain::score`], but a metric that is not defined is not a number, and [`Report::undefined`] says why: what a badly
    /// trained model writes may be without a word.
    ///
    /// # Errors
    /// As [`Chain::score`], but for metrics that are not defined.
    pub fn judge<H: AsRef<str>, R: AsRef<str>>(
        self,
        hypotheses: &[H],
        references: &[Vec<R>],
        data: Option<&Data>,
    ) -> Result<Report> {
        check_pairs(hypotheses.len(), references)?;
        match self {
            Chain::E2e => e2e(hypotheses, references, data),
            Chain::Webnlg | Chain::Dart => generation_eval(self, hypotheses, references, data),
        }
    }
}

impl FromStr for Chain {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let chain = Chain::ALL.into_iter().find(|chain| chain.name() == name);
        chain.ok_or_else(|| Error::UnknownTask {
            name: name.to_owned(),
            known: Chain::ALL.map(Chain::name).join(", "),
        })
    }
}

/// A metric of a chain.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TextMetric {
    /// Its official name.
    pub name: &'static str,
    /// The official value times this is what tables print.
    pub scale: f64,
    /// Digits after the point in tables.
    pub decimals: usize,
    /// Whether less is better.
    pub is_error: bool,
}

const fn metric(name: &'static str, scale: f64, decimals: usize) -> TextMetric {
    TextMetric {
        name,
        scale,
        decimals,
        is_error: false,
    }
}

const E2E_METRICS: [TextMetric; 5] = [
    metric("BLEU", 100.0, 2),
    metric("NIST", 1.0, 2),
    metric("METEOR", 100.0, 2),
    metric("ROUGE_L", 100.0, 2),
    metric("CIDEr", 1.0, 2),
];

/// The scorer gives BLEU in percent and the others as shares.
const EVAL_METRICS: [TextMetric; 3] = [
    metric("BLEU", 1.0, 2),
    metric("METEOR", 1.0, 3),
    TextMetric {
        is_error: true,
        ..metric("TER", 1.0, 3)
    },
];

/// What a chain gives.
#[derive(Debug)]
pub struct Report {
    /// The chain.
    pub chain: Chain,
    /// Hypotheses scored.
    pub segments: usize,
    /// Metrics in the official order, in the official units; `None` for METEOR without its data.
    pub values: Vec<(&'static str, Option<f64>)>,
    /// The stages of METEOR that ran.
    pub meteor_stages: Vec<Stage>,
    /// The stages that did not, each with the file that it lacks.
    pub meteor_missing: Vec<(Stage, String)>,
    /// Why a metric is not a number.
    pub undefined: Vec<Error>,
}

impl Report {
    /// A metric's value by its official name, unless it was not computed.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.values.iter().find(|(other, _)| *other == name)?.1
    }

    /// In a sentence what METEOR lacks; `None` if it is whole.
    pub fn meteor_note(&self) -> Option<String> {
        if self.meteor_stages.is_empty() {
            return Some("METEOR is not computed, because its data was not given (--meteor-data)".to_owned());
        }
        let list = |stages: Vec<String>| stages.join(", ");
        if self.meteor_missing.is_empty() {
            return None;
        }
        let ran = list(self.meteor_stages.iter().map(Stage::to_string).collect());
        let lacks = self.meteor_missing.iter();
        let lacks = list(lacks.map(|(stage, file)| format!("{stage} needs {file}")).collect());
        Some(format!(
            "METEOR ran with {ran} only, so it is not the official number: {lacks}"
        ))
    }
}

impl fmt::Display for Report {
    /// One line a metric, with as many decimals as the official script prints.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = match self.chain {
            Chain::E2e => 4,
            Chain::Webnlg | Chain::Dart => 2,
        };
        if self.chain == Chain::E2e {
            f.write_str("SCORES:\n==============\n")?;
        }
        for (index, (name, value)) in self.values.iter().enumerate() {
            let end = if index + 1 < self.values.len() { "\n" } else { "" };
            match value {
                Some(value) => write!(f, "{name}: {value:.decimals$}{end}")?,
                None => write!(f, "{name}: not computed{end}")?,
            }
        }
        Ok(())
    }
}

/// METEOR, with what ran and what did not.
#[derive(Default)]
struct WithStages {
    value: Option<f64>,
    stages: Vec<Stage>,
    missing: Vec<(Stage, String)>,
}

/// METEOR of texts that the chain has prepared.
fn meteor(hypotheses: &[String], references: &[Vec<String>], data: Option<&Data>) -> Result<WithStages> {
    let Some(data) = data else {
        return Ok(WithStages::default());
    };
    let corpus = Corpus::new(hypotheses, references, |text| data.normaliser().words(text))?;
    let meteor = Meteor::new(&corpus, data, &Stage::ALL)?;
    Ok(WithStages {
        value: Some(meteor.score()),
        stages: meteor.stages().to_vec(),
        missing: data.missing().to_vec(),
    })
}

fn e2e<H: AsRef<str>, R: AsRef<str>>(hypotheses: &[H], references: &[Vec<R>], data: Option<&Data>) -> Result<Report> {
    let mteval = Corpus::new(hypotheses, references, tokenise::mteval)?;
    let (words, reference_words) = prepare(hypotheses, references, |text| tokenise::ptb(text).join(" "));
    let ptb = Corpus::new(&words, &reference_words, tokenise::ascii_words)?;
    let meteor = meteor(&words, &reference_words, data)?;
    let mut undefined = Vec::new();
    Ok(Report {
        chain: Chain::E2e,
        segments: hypotheses.len(),
        values: vec![
            ("BLEU", Some(bleu::corpus_counts(&mteval).mteval(0.0))),
            ("NIST", Some(or_nan(nist::nist(&mteval), &mut undefined)?)),
            ("METEOR", meteor.value),
            ("ROUGE_L", Some(rouge::rouge_l(&ptb))),
            ("CIDEr", Some(cider::cider(&ptb))),
        ],
        meteor_stages: meteor.stages,
        meteor_missing: meteor.missing,
        undefined,
    })
}

fn generation_eval<H: AsRef<str>, R: AsRef<str>>(
    chain: Chain,
    hypotheses: &[H],
    references: &[Vec<R>],
    data: Option<&Data>,
) -> Result<Report> {
    // LoRA's script fills up to six with copies of the first; a copy changes none of these metrics.
    let first: Vec<Vec<&str>> = references
        .iter()
        .map(|group| group.iter().take(MAX_REFERENCES).map(AsRef::as_ref).collect())
        .collect();
    let (lines, reference_lines) = prepare(hypotheses, &first, tokenise::lora);
    let detok = Corpus::new(&lines, &reference_lines, tokenise::multi_bleu_detok)?;
    let (words, reference_words) = prepare(&lines, &reference_lines, tokenise::treebank);
    let plain = Corpus::new(&words, &reference_words, tokenise::python_words)?;
    let meteor = meteor(&words, &reference_words, data)?;
    let mut undefined = Vec::new();
    let bleu = bleu::corpus_counts(&detok).multi_bleu().map(|found| found.bleu);
    Ok(Report {
        chain,
        segments: hypotheses.len(),
        values: vec![
            ("BLEU", Some(or_nan(bleu, &mut undefined)?)),
            ("METEOR", meteor.value),
            ("TER", Some(ter::ter(&plain))),
        ],
        meteor_stages: meteor.stages,
        meteor_missing: meteor.missing,
        undefined,
    })
}

/// A number, or what is not one with the reason kept.
fn or_nan(value: Result<f64>, undefined: &mut Vec<Error>) -> Result<f64> {
    match value {
        Err(error @ Error::Undefined { .. }) => {
            undefined.push(error);
            Ok(f64::NAN)
        }
        other => other,
    }
}

/// All texts through one function.
fn prepare<H: AsRef<str>, R: AsRef<str>>(
    hypotheses: &[H],
    references: &[Vec<R>],
    prepare: impl Fn(&str) -> String,
) -> (Vec<String>, Vec<Vec<String>>) {
    let group = |group: &Vec<R>| group.iter().map(|text| prepare(text.as_ref())).collect();
    (
        hypotheses.iter().map(|text| prepare(text.as_ref())).collect(),
        references.iter().map(group).collect(),
    )
}
