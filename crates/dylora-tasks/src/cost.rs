//! What each rank of a run costs, and which one to take.

use std::time::Instant;

use serde::{Serialize, Serializer};

use crate::error::{Error, Result};
use crate::evaluate::TrainedModel;
use crate::prepare::Prepared;
use crate::record::{RankName, RankScores};

/// Rows that are timed, one at a time.
const TIMED: usize = 24;
/// Passes before those.
const WARM_UP: usize = 2;

/// What the model takes at one rank.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RankCost {
    /// The rank.
    pub rank: RankName,
    /// Trained numbers in use, head included.
    pub parameters: usize,
    /// Bytes of those numbers in a file.
    pub adapter_bytes: usize,
    /// Median time of a pass over one row, in milliseconds.
    pub latency_ms: f64,
}

/// Parameters, bytes and latency at each rank. Latency is measured on rows of `rows`, one row a pass, every rank on each row
/// before the next, so that a machine that slows down slows all of them.
///
/// # Errors
/// If there are no rows, or a row does not fit the model.
pub fn costs(model: &TrainedModel, rows: &Prepared, ranks: &[Option<usize>]) -> Result<Vec<RankCost>> {
    if rows.is_empty() {
        return Err(Error::argument("rows", "there are none to measure"));
    }
    let timed = rows.len().min(TIMED);
    let mut seconds = vec![Vec::with_capacity(timed); ranks.len()];
    for pass in 0..timed + WARM_UP {
        let row = pass.saturating_sub(WARM_UP) * rows.len() / timed;
        let one = Prepared {
            encoded: vec![rows.encoded[row].clone()],
            labels: vec![rows.labels[row]],
        };
        for (rank, seconds) in ranks.iter().zip(&mut seconds) {
            let started = Instant::now();
            model
                .classifier
                .logits(&one, *rank, model.settings.token_budget, |_| ())?;
            if pass >= WARM_UP {
                seconds.push(started.elapsed().as_secs_f64());
            }
        }
    }
    let bytes = match model.settings.precision.dtype() {
        dylora_nn::tensor::DType::F64 => 8,
        _ => 4,
    };
    let cost = |(rank, seconds): (&Option<usize>, Vec<f64>)| {
        let parameters = model.classifier.model.num_trainable(rank.unwrap_or(0));
        RankCost {
            rank: RankName::new(*rank),
            parameters,
            adapter_bytes: parameters * bytes,
            latency_ms: median(seconds) * 1e3,
        }
    };
    Ok(ranks.iter().zip(seconds).map(cost).collect())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
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
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
