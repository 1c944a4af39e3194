//! What each rank of a run costs, and which one to take.

mod file;

use std::time::Instant;

use serde::{Deserialize, Serialize, Serializer};

use crate::classifier::Classifier;
use crate::error::{Error, Result};
use crate::evaluate::TrainedModel;
use crate::prepare::Prepared;
use crate::record::{RankName, RankScores};

pub use file::{CostOptions, Costs, costs_of};

/// Passes over one row before those that are timed.
const WARM_UP: usize = 2;
/// Ranks whose merged weights are in memory at the same time.
const TOGETHER: usize = 8;

/// How much is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Rows that are timed, one at a time; fewer where there are not so many.
    pub rows: usize,
    /// Batches that are timed; none for 0.
    pub batches: usize,
    /// Rows of a batch, which are one pass; fewer where there are not so many.
    pub batch_rows: usize,
}

impl Default for Timing {
    /// 24 rows, and 5 batches of 32.
    fn default() -> Self {
        Timing {
            rows: 24,
            batches: 5,
            batch_rows: 32,
        }
    }
}

/// What the model takes at one rank.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RankCost {
    /// The rank.
    pub rank: RankName,
    /// Trained numbers in use, head included.
    pub parameters: usize,
    /// Bytes of those numbers in a file.
    pub adapter_bytes: usize,
    /// Median time of a pass over one row, in milliseconds, with the adapters beside the frozen weights.
    pub latency_ms: f64,
    /// The same with the adapters added to the frozen weights; none without adapters.
    pub merged_latency_ms: Option<f64>,
    /// Rows a second in batches, median over the batches; none where none was timed.
    pub rows_per_second: Option<f64>,
    /// The same with the adapters added to the frozen weights.
    pub merged_rows_per_second: Option<f64>,
}

/// Parameters, bytes and speed at each rank, merged and not. Every rank and form passes over a row before the next row comes,
/// in turns of either order, so that a machine that slows down slows all of them. Tokenisation is not timed; what comes back
/// to the host is.
///
/// # Errors
/// If there are no rows, or a row does not fit the model.
pub fn costs(model: &TrainedModel, rows: &Prepared, ranks: &[Option<usize>], timing: Timing) -> Result<Vec<RankCost>> {
    if rows.is_empty() || timing.rows == 0 {
        return Err(Error::argument("rows", "there are none to measure"));
    }
    let bytes = match model.settings.precision.dtype() {
        dylora_nn::tensor::DType::F64 => 8,
        _ => 4,
    };
    let mut all = Vec::with_capacity(ranks.len());
    for ranks in ranks.chunks(TOGETHER) {
        let merged = ranks
            .iter()
            .map(|rank| rank.map(|rank| model.classifier.merged(rank)).transpose())
            .collect::<Result<Vec<_>>>()?;
        let forms: Vec<Form<'_>> = ranks
            .iter()
            .zip(&merged)
            .flat_map(|(rank, merged)| {
                let beside = Some((&model.classifier, *rank));
                [beside, merged.as_ref().map(|merged| (merged, None))]
            })
            .collect();
        let count = timing.rows.min(rows.len());
        let single = |pass: usize| part(rows, pass.saturating_sub(WARM_UP) * rows.len() / count, 1);
        let latencies = medians(&forms, count, WARM_UP, single)?;
        let batch = timing.batch_rows.clamp(1, rows.len());
        let many = |pass: usize| part(rows, pass.saturating_sub(1) * batch, batch);
        let seconds = medians(&forms, timing.batches, 1, many)?;
        for (index, rank) in ranks.iter().enumerate() {
            let parameters = model.classifier.model.num_remaining(rank.unwrap_or(0))?;
            let milliseconds = |form: usize| latencies[form].map(|seconds| seconds * 1e3);
            let speed = |form: usize| seconds[form].map(|seconds| batch as f64 / seconds);
            let (beside, merged) = (2 * index, 2 * index + 1);
            all.push(RankCost {
                rank: RankName::new(*rank),
                parameters,
                adapter_bytes: parameters * bytes,
                latency_ms: milliseconds(beside).unwrap_or(f64::NAN),
                merged_latency_ms: milliseconds(merged),
                rows_per_second: speed(beside),
                merged_rows_per_second: speed(merged),
            });
        }
    }
    Ok(all)
}

/// A model at a rank, or as it is; none where a rank has no such form.
type Form<'a> = Option<(&'a Classifier, Option<usize>)>;

/// Median seconds of a pass of each form over `rows(pass)`; those of the first `warm_up` passes are not counted.
fn medians(
    forms: &[Form<'_>],
    passes: usize,
    warm_up: usize,
    rows: impl Fn(usize) -> Prepared,
) -> Result<Vec<Option<f64>>> {
    let mut seconds = vec![Vec::with_capacity(passes); forms.len()];
    let passes = if passes == 0 { 0 } else { passes + warm_up };
    for pass in 0..passes {
        let rows = rows(pass);
        let mut order: Vec<usize> = (0..forms.len()).collect();
        // What went first is what the caches have forgotten.
        if pass % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let Some((classifier, rank)) = forms[index] else {
                continue;
            };
            let started = Instant::now();
            classifier.logits(&rows, rank, rows.tokens(), |_| ())?;
            if pass >= warm_up {
                seconds[index].push(started.elapsed().as_secs_f64());
            }
        }
    }
    Ok(seconds.into_iter().map(median).collect())
}

/// `count` rows from `first` on; after the last comes the first.
fn part(rows: &Prepared, first: usize, count: usize) -> Prepared {
    let places = (first..first + count).map(|place| place % rows.len());
    Prepared {
        encoded: places.clone().map(|place| rows.encoded[place].clone()).collect(),
        labels: places.map(|place| rows.labels[place]).collect(),
    }
}

/// The middle value; none of none.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// What is asked of the rank to take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wish {
    /// How many points (hundredths of the metric) below the best rank may be.
    pub tolerance: f64,
    /// The most bytes of an adapter.
    pub max_bytes: Option<usize>,
}

/// A rank to take.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Suggestion {
    /// The rank.
    pub rank: RankName,
    /// The metric that decided: the first of the task.
    pub metric: String,
    /// Its value at this rank.
    #[serde(serialize_with = "json_number")]
    pub value: f64,
    /// The best rank, of those that are small enough.
    pub best: RankName,
    /// The metric there.
    #[serde(serialize_with = "json_number")]
    pub best_value: f64,
    /// Bytes of the adapter at the suggested rank.
    pub adapter_bytes: usize,
}

fn json_number<S: Serializer>(value: &f64, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    crate::record::json_number(*value).serialize(serializer)
}

/// The smallest rank that is at most `tolerance` points below the best of those that are within `max_bytes`. `None` if no
/// rank is, or the metric is nowhere a number.
///
/// Every metric of a classifier is better the larger it is.
pub fn suggest(scores: &[RankScores], costs: &[RankCost], wish: Wish) -> Option<Suggestion> {
    let metric = scores.first()?.scores.0.first()?.0.clone();
    let candidates: Vec<(&RankCost, f64)> = scores
        .iter()
        .zip(costs)
        .filter(|(_, cost)| wish.max_bytes.is_none_or(|most| cost.adapter_bytes <= most))
        .filter_map(|(row, cost)| Some((cost, row.scores.get(&metric).filter(|value| !value.is_nan())?)))
        .collect();
    // The first of equal ones: the smallest.
    let (best, best_value) = candidates
        .iter()
        .copied()
        .reduce(|best, next| if next.1 > best.1 { next } else { best })?;
    // In hundredths, so that 0.5 points below 0.86 is 0.855 and not a rounding away from it.
    let near = |value: f64| (best_value - value) * 100.0 <= wish.tolerance + 1e-9;
    let (cost, value) = candidates
        .iter()
        .copied()
        .filter(|(_, value)| near(*value))
        .min_by_key(|(cost, _)| cost.adapter_bytes)?;
    Some(Suggestion {
        rank: cost.rank,
        metric,
        value,
        best: best.rank,
        best_value,
        adapter_bytes: cost.adapter_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Scores;
    use crate::task::Label;
    use crate::tokens::Encoded;

    fn rows(values: &[f64]) -> (Vec<RankScores>, Vec<RankCost>) {
        let row = |(index, value): (usize, &f64)| {
            let rank = RankName::At(index + 1);
            (
                RankScores {
                    rank,
                    scores: Scores(vec![("accuracy".into(), *value), ("f1".into(), 0.0)]),
                },
                RankCost {
                    rank,
                    parameters: 10 * (index + 1),
                    adapter_bytes: 40 * (index + 1),
                    latency_ms: 1.0,
                    merged_latency_ms: None,
                    rows_per_second: None,
                    merged_rows_per_second: None,
                },
            )
        };
        values.iter().enumerate().map(row).unzip()
    }

    fn rank(values: &[f64], tolerance: f64, max_bytes: Option<usize>) -> Option<RankName> {
        let (scores, costs) = rows(values);
        suggest(&scores, &costs, Wish { tolerance, max_bytes }).map(|found| found.rank)
    }

    #[test]
    fn the_smallest_rank_near_the_best_is_suggested() {
        let values = [0.80, 0.855, 0.86, 0.86];
        assert_eq!(rank(&values, 0.5, None), Some(RankName::At(2)));
        assert_eq!(rank(&values, 0.4, None), Some(RankName::At(3)));
        assert_eq!(rank(&values, 10.0, None), Some(RankName::At(1)));
        assert_eq!(rank(&values, 0.0, None), Some(RankName::At(3)));
    }

    #[test]
    fn bytes_limit_what_is_looked_at() {
        let values = [0.80, 0.82, 0.9];
        assert_eq!(rank(&values, 0.5, Some(80)), Some(RankName::At(2)));
        assert_eq!(rank(&values, 0.5, Some(79)), Some(RankName::At(1)));
        assert_eq!(rank(&values, 0.5, Some(39)), None);
        assert_eq!(rank(&[f64::NAN, 0.1], 50.0, None), Some(RankName::At(2)));
        assert_eq!(rank(&[f64::NAN], 50.0, None), None);
    }

    #[test]
    fn a_part_goes_on_at_the_first_row() {
        let rows = Prepared {
            encoded: (0..3)
                .map(|id| Encoded {
                    ids: vec![id],
                    token_types: vec![0],
                })
                .collect(),
            labels: (0..3).map(Label::Class).collect(),
        };
        let ids: Vec<u32> = part(&rows, 4, 3).encoded.iter().map(|row| row.ids[0]).collect();
        assert_eq!(ids, [1, 2, 0]);
        assert_eq!(part(&rows, 2, 2).labels, [Label::Class(2), Label::Class(0)]);
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
    }
}
