//! The likeliest classes of each row, for decoding.

use std::cmp::Ordering;

use rayon::prelude::*;

use super::loss::log_sum_exp;
use crate::float::Float;

/// Up to so many are kept in order while a row is read; more are sorted at once.
const MOST_INSERTED: usize = 64;

/// The `k` largest logarithms of softmax(row) with their classes, largest first and equal ones by class; those in `banned`
/// come last, with -inf. `classes` and `scores` have k elements a row.
pub(crate) fn top_log_softmax<T: Float>(
    logits: &[T],
    width: usize,
    banned: &[Vec<i32>],
    k: usize,
    classes: &mut [i32],
    scores: &mut [f32],
) {
    let rows = logits.par_chunks_exact(width).zip(banned);
    let found = classes.par_chunks_exact_mut(k).zip(scores.par_chunks_exact_mut(k));
    rows.zip(found).for_each(|((row, banned), (classes, scores))| {
        let (top, rest) = log_sum_exp(row);
        let mut hidden = banned.clone();
        hidden.sort_unstable();
        hidden.dedup();
        let best = best_of(row, &hidden, k);
        let mut fill = hidden.iter().copied();
        for (i, (class, score)) in classes.iter_mut().zip(scores).enumerate() {
            match best.get(i) {
                Some((x, best)) => {
                    *class = *best;
                    *score = ((*x - top) - rest).to_f64() as f32;
                }
                None => {
                    *class = fill.next().unwrap_or(0);
                    *score = f32::NEG_INFINITY;
                }
            }
        }
    });
}

/// The k largest elements whose class is not in the sorted list, largest first and equal ones by class.
fn best_of<T: Float>(row: &[T], hidden: &[i32], k: usize) -> Vec<(T, i32)> {
    let falling = |a: &T, b: &T| b.to_f64().total_cmp(&a.to_f64());
    let all = || row.iter().copied().zip(0..);
    let open = |class: &i32| hidden.binary_search(class).is_err();
    if k > MOST_INSERTED {
        let mut sorted: Vec<(T, i32)> = all().filter(|(_, class)| open(class)).collect();
        sorted.sort_by(|a, b| falling(&a.0, &b.0));
        sorted.truncate(k);
        return sorted;
    }
    let mut best: Vec<(T, i32)> = Vec::with_capacity(k + 1);
    for (x, class) in all() {
        let worse = best.len() == k
            && best
                .last()
                .is_none_or(|(least, _)| falling(&x, least) != Ordering::Less);
        // Banned classes are searched only for one that would enter.
        if worse || !open(&class) {
            continue;
        }
        let place = best.partition_point(|(other, _)| *other >= x);
        best.insert(place, (x, class));
        best.truncate(k);
    }
    best
}

#[cfg(test)]
mod tests {
    use super::super::math::testing::*;
    use super::*;

    #[test]
    fn the_best_are_those_of_a_whole_sort() {
        for (n, width, k) in [(1, 1, 1), (3, 7, 7), (5, 200, 20), (2, 5000, 3), (3, 300, 299)] {
            let x = numbers(4, n * width, 4.0);
            let banned: Vec<Vec<i32>> = (0..n)
                .map(|i| (0..i).map(|j| (j * 3 % width) as i32).collect())
                .collect();
            let (mut classes, mut scores) = (vec![-1; n * k], vec![0f32; n * k]);
            top_log_softmax(&x, width, &banned, k, &mut classes, &mut scores);
            for i in 0..n {
                let row = &x[i * width..][..width];
                let sum: f64 = row.iter().map(|x| x.exp()).sum();
                let mut all: Vec<(f64, i32)> = (0..width as i32)
                    .map(|c| {
                        let hidden = banned[i].contains(&c);
                        (
                            if hidden {
                                f64::NEG_INFINITY
                            } else {
                                row[c as usize] - sum.ln()
                            },
                            c,
                        )
                    })
                    .collect();
                all.sort_by(|a, b| b.0.total_cmp(&a.0));
                for (place, (score, class)) in all.iter().take(k).enumerate() {
                    let found = (scores[i * k + place], classes[i * k + place]);
                    if score.is_finite() {
                        assert_eq!(found.1, *class, "row {i} place {place}");
                        assert!((f64::from(found.0) - score).abs() < 1e-6 * (1.0 + score.abs()));
                    } else {
                        assert!(found.0 == f32::NEG_INFINITY && banned[i].contains(&found.1));
                    }
                }
            }
        }
    }
}
