//! `dylora eval`.

use std::path::PathBuf;

use dylora_tasks::cost::{self, RankCost, Suggestion, Timing, Wish};
use dylora_tasks::evaluate::{TrainedModel, evaluate};
use dylora_tasks::progress::{Event, Observer as _};
use dylora_tasks::record::{RankName, RankScores};
use dylora_tasks::run_dir::RunDir;
use dylora_tasks::settings::{DataSource, Writing};
use dylora_tasks::task::Split;
use dylora_tasks::text2text::TrainedText;
use serde::Serialize;

use crate::args::{DeviceArgs, Ranks, WritingArgs, meteor, word};
use crate::failure::{Failure, print, print_json};
use crate::progress::Progress;

/// Flags of `dylora eval`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Directory of a finished run
    #[arg(long, value_name = "RUN")]
    run: PathBuf,
    /// Ranks, as 4, 1,2,8 or 1..8 [default: all of the run]
    #[arg(long, value_name = "RANKS", value_parser = word::<Ranks>)]
    ranks: Option<Ranks>,
    /// Split to evaluate on: train, dev, dev-mismatched [default: the task's development splits; test for e2e, dart, webnlg]
    #[arg(long, value_name = "SPLIT", value_parser = word::<Split>)]
    split: Option<Split>,
    /// A file with rows, in place of the data that the run was trained on
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Where the base model is now, if it has moved
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Suggest the smallest rank that is at most so many points (hundredths of the first metric) below the best
    #[arg(long, value_name = "POINTS", default_value_t = 0.5, allow_negative_numbers = true)]
    tolerance: f64,
    /// Suggest no rank whose adapter and head take more bytes
    #[arg(long, value_name = "N")]
    max_bytes: Option<usize>,
    /// Directory of METEOR's files, for a run of e2e, dart or webnlg [default: what `dylora data fetch meteor` got, if it is
    /// there]; without them METEOR is not computed
    #[arg(long, value_name = "DIR")]
    meteor_data: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    writing: WritingArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    task: &'a str,
    ranks: &'a [RankScores],
    costs: &'a [RankCost],
    suggestion: Option<&'a Suggestion>,
}

/// What is said of a run of a generation task.
#[derive(Serialize)]
struct TextReport<'a> {
    task: &'a str,
    ranks: &'a [RankScores],
    /// What a person must know to read the metrics.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    notes: &'a [String],
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    args.device.check()?;
    let settings = RunDir::open(&args.run)?.settings()?;
    match settings.data {
        DataSource::Generation { .. } => judge_texts(args),
        _ => evaluate_rows(args),
    }
}

/// A run of a generation task: writes a text for every prompt at each rank, and scores them.
fn judge_texts(args: &Args) -> Result<(), Failure> {
    let meteor = meteor(args.meteor_data.as_deref())?;
    let trained = TrainedText::open(&args.run, args.model.as_deref())?;
    let settings = &trained.settings;
    let mut writing = settings.writing.unwrap_or_else(Writing::paper);
    args.writing.apply(&mut writing);
    writing.split = args.split.unwrap_or(writing.split);
    let ranks = match &args.ranks {
        None => settings.ranks(),
        Some(ranks) => {
            let checked = ranks.0.iter().map(|rank| trained.rank(Some(*rank)).map(Some));
            checked.collect::<Result<_, _>>()?
        }
    };
    let corpus = trained.corpus(None, writing.split, None, args.file.as_deref())?;
    let prompts = trained.prompts(&corpus, &writing)?;
    let mut progress = Progress::new()?;
    progress.event(&Event::Evaluating {
        ranks: ranks.len(),
        rows: prompts.len(),
    });
    let generate = writing.generate(trained.codec().eos());
    let (mut scores, mut notes) = (Vec::with_capacity(ranks.len()), Vec::new());
    for rank in ranks {
        let written = trained.write_all(&prompts, rank, &generate, &mut progress)?;
        let texts = written.ok_or_else(|| Failure::Interrupted("stopped; nothing was evaluated".to_owned()))?;
        let judgement = prompts.judge(&texts, meteor.as_deref())?;
        let found = RankScores {
            rank: RankName::new(rank),
            scores: judgement.scores,
        };
        progress.event(&Event::Evaluated {
            rank: found.rank,
            scores: &found.scores,
        });
        scores.push(found);
        notes.extend(judgement.notes);
    }
    notes.sort();
    notes.dedup();
    progress.clear();
    if args.json {
        return print_json(&TextReport {
            task: &settings.task,
            ranks: &scores,
            notes: &notes,
        });
    }
    for note in &notes {
        anstream::eprintln!("note: {note}");
    }
    print(&as_text(&scores))
}

/// A run of a classifier.
fn evaluate_rows(args: &Args) -> Result<(), Failure> {
    if args.meteor_data.is_some() {
        return Err(Failure::Message(
            "--meteor-data is for runs of e2e, dart and webnlg".to_owned(),
        ));
    }
    if args.tolerance.is_nan() || args.tolerance < 0.0 {
        return Err(Failure::Message(format!(
            "--tolerance {} is not a number of 0 or more",
            args.tolerance
        )));
    }
    let mut progress = Progress::new()?;
    let model = TrainedModel::open(&args.run, args.model.as_deref())?;
    let ranks = model.ranks(args.ranks.as_ref().map_or(&[][..], |ranks| &ranks.0))?;
    let splits = match (args.split, &args.file) {
        (Some(split), _) => vec![split],
        (None, Some(_)) => vec![Split::Dev],
        (None, None) => model.task.eval_splits.clone(),
    };
    let mut prepared = Vec::new();
    for split in splits {
        let rows = model.rows(split, args.file.as_deref())?;
        prepared.push((split, model.prepare(&rows)?));
    }
    let scores = evaluate(
        &model.classifier,
        &model.task,
        &prepared,
        &ranks,
        model.settings.token_budget,
        &mut progress,
    )?;
    let rows = prepared
        .first()
        .map(|(_, rows)| rows)
        .ok_or_else(|| Failure::Message("no rows".to_owned()))?;
    let timing = Timing {
        batches: 0,
        ..Timing::default()
    };
    let costs = cost::costs(&model, rows, &ranks, timing)?;
    let wish = Wish {
        tolerance: args.tolerance,
        max_bytes: args.max_bytes,
    };
    let suggestion = cost::suggest(&scores, &costs, wish);
    progress.clear();
    if args.json {
        print_json(&Report {
            task: &model.task.name,
            ranks: &scores,
            costs: &costs,
            suggestion: suggestion.as_ref(),
        })
    } else {
        let mut lines: Vec<String> = as_text(&scores)
            .lines()
            .zip(&costs)
            .map(|(line, cost)| format!("{line}  {}", priced(cost)))
            .collect();
        lines.extend(chart(&scores));
        lines.push(advice(suggestion.as_ref(), wish));
        print(&lines.join("\n"))
    }
}

/// One line per rank.
pub(crate) fn as_text(ranks: &[RankScores]) -> String {
    let line = |row: &RankScores| {
        let scores: Vec<_> = row
            .scores
            .0
            .iter()
            .map(|(name, value)| format!("{name} {value:.4}"))
            .collect();
        format!("rank {:<5} {}", row.rank.to_string(), scores.join("  "))
    };
    ranks.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// What a rank costs, in words.
fn priced(cost: &RankCost) -> String {
    let merged = cost.merged_latency_ms.map(|time| format!(", {time:.2} merged"));
    format!(
        "{} parameters  {} bytes  {:.2} ms a row{}",
        cost.parameters,
        cost.adapter_bytes,
        cost.latency_ms,
        merged.unwrap_or_default()
    )
}

/// Characters of the longest bar.
const BAR: usize = 40;

/// The first metric as bars from the worst rank to the best; nothing for a single rank.
fn chart(scores: &[RankScores]) -> Vec<String> {
    let Some((metric, _)) = scores.first().and_then(|row| row.scores.0.first()) else {
        return Vec::new();
    };
    let values: Vec<f64> = scores.iter().filter_map(|row| row.scores.get(metric)).collect();
    let known = values.iter().copied().filter(|value| value.is_finite());
    let (low, high) = known.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    if scores.len() < 2 || low > high {
        return Vec::new();
    }
    let mut lines = vec![String::new(), format!("{metric} from {low:.4} to {high:.4}")];
    for (row, value) in scores.iter().zip(values) {
        let share = if high > low { (value - low) / (high - low) } else { 1.0 };
        // A bar of one character stands for the worst; none for what is not a number.
        let length = if value.is_finite() {
            1 + (share * (BAR - 1) as f64).round() as usize
        } else {
            0
        };
        lines.push(format!(
            "{:>5} {:<BAR$} {value:.4}",
            row.rank.to_string(),
            "#".repeat(length)
        ));
    }
    lines
}

/// The sentence about the rank to take.
fn advice(suggestion: Option<&Suggestion>, wish: Wish) -> String {
    let Some(found) = suggestion else {
        return "\nno rank to suggest: none is small enough or has a number".to_owned();
    };
    let within = wish
        .max_bytes
        .map(|most| format!(" of those within {most} bytes"))
        .unwrap_or_default();
    format!(
        "\nsuggested rank: {} ({} {:.4}, at most {} points below the best{within}, {:.4} at rank {}; {} bytes)",
        found.rank, found.metric, found.value, wish.tolerance, found.best_value, found.best, found.adapter_bytes
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use dylora_tasks::record::{RankName, Scores};

    fn rows(values: &[f64]) -> Vec<RankScores> {
        let row = |(index, value): (usize, &f64)| RankScores {
            rank: RankName::At(index + 1),
            scores: Scores(vec![("accuracy".to_owned(), *value)]),
        };
        values.iter().enumerate().map(row).collect()
    }

    #[test]
    fn bars_run_from_the_worst_rank_to_the_best() {
        let lines = chart(&rows(&[0.5, 0.75, 1.0, f64::NAN]));
        assert_eq!(lines[1], "accuracy from 0.5000 to 1.0000");
        let lengths: Vec<usize> = lines[2..].iter().map(|line| line.matches('#').count()).collect();
        assert_eq!(lengths, [1, 21, BAR, 0]);
        assert_eq!(chart(&rows(&[0.5, 0.5]))[2].matches('#').count(), BAR);
        assert!(chart(&rows(&[0.5])).is_empty() && chart(&rows(&[f64::NAN; 2])).is_empty());
    }
}
