//! Decoding: attention over listed rows of a cache, and the likeliest classes of each row.

use rayon::prelude::*;

use super::loss::log_sum_exp;
use super::math::{max1, sum1, sum2, vectorised};
use crate::float::Float;

/// Sizes of one call of [`attend_rows`]; rows of q, keys, values and out have `num_heads` heads side by side.
pub(crate) struct CacheShape<'a> {
    /// Queries of each text.
    pub(crate) queries: &'a [usize],
    /// Listed rows of each text, at least as many.
    pub(crate) keys: &'a [usize],
    /// The list.
    pub(crate) rows: &'a [i32],
    pub(crate) num_heads: usize,
    /// Factor on the scores.
    pub(crate) scale: f64,
}

vectorised! {
    /// `out = softmax(scale q k^T) v` over the listed rows, head by head; `scores [heads, rows]` is scratch.
    fn attend(
        q: &'a [T],
        keys: &'a [T],
        values: &'a [T],
        rows: &'a [i32],
        heads: usize,
        scale: T,
        scores: &'a mut [T],
        out: &'a mut [T],
    ) {
        let (width, seen) = (q.len(), rows.len());
        let dim = width / heads;
        for (j, row) in rows.iter().enumerate() {
            let key = &keys[*row as usize * width..][..width];
            for (head, (q, key)) in q.chunks_exact(dim).zip(key.chunks_exact(dim)).enumerate() {
                scores[head * seen + j] = scale * sum2(q, key, |a, b| a * b);
            }
        }
        for scores in scores.chunks_exact_mut(seen) {
            let top = max1(scores, scores[0]);
            scores.iter_mut().for_each(|x| *x = (*x - top).exp());
            let share = T::ONE / sum1(scores, |x| x);
            scores.iter_mut().for_each(|x| *x *= share);
        }
        out.fill(T::ZERO);
        for (j, row) in rows.iter().enumerate() {
            let value = &values[*row as usize * width..][..width];
            for (head, (out, value)) in out.chunks_exact_mut(dim).zip(value.chunks_exact(dim)).enumerate() {
                let p = scores[head * seen + j];
                out.iter_mut().zip(value).for_each(|(out, value)| *out += p * *value);
            }
        }
    }
}

/// Attention of each text's queries over its listed rows; query i of n sees those up to place i + listed - n. The rows are in
/// the cache. A task is a query: rows that texts share come from the processor's own caches.
pub(crate) fn attend_rows<T: Float>(shape: &CacheShape<'_>, q: &[T], keys: &[T], values: &[T], out: &mut [T]) {
    let count: usize = shape.queries.iter().sum();
    if count == 0 {
        return;
    }
    let (width, scale) = (q.len() / count, T::from_f64(shape.scale));
    let mut lists = Vec::with_capacity(count);
    let mut first = 0;
    for (&asking, &listed) in shape.queries.iter().zip(shape.keys) {
        lists.extend((0..asking).map(|i| &shape.rows[first..first + i + 1 + listed - asking]));
        first += listed;
    }
    let queries = q.par_chunks_exact(width).zip(out.par_chunks_exact_mut(width));
    queries.zip(lists).for_each_init(Vec::new, |scores, ((q, out), rows)| {
        scores.resize(shape.num_heads * rows.len(), T::ZERO);
        attend(q, keys, values, rows, shape.num_heads, scale, scores, out);
    });
}

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

/// Elements that are compared with the least of the best at once.
const PIECE: usize = 256;

vectorised! {
    /// Where the first piece from `at` on begins that has an element above `least`, or what is left of the row.
    fn first_above(row: &'a [T], at: usize, least: T) -> usize {
        let mut at = at;
        while at + PIECE <= row.len() && max1(&row[at..at + PIECE], least) <= least {
            at += PIECE;
        }
        at
    }
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
    let mut at = 0;
    while at < row.len() {
        let least = best.get(k - 1).map(|(least, _)| *least);
        if let Some(least) = least {
            at = first_above(row, at, least);
        }
        let end = row.len().min(at + PIECE);
        for (&x, class) in row[at..end].iter().zip(at as i32..) {
            // Banned classes are searched only for one that would enter.
            if best.get(k - 1).is_some_and(|(least, _)| x <= *least) || !open(&class) {
                continue;
            }
            let place = best.partition_point(|(other, _)| *other >= x);
            best.insert(place, (x, class));
            best.truncate(k);
        }
        at = end;
    }
    best
}

#[cfg(test)]
mod tests {
    use super::super::math::testing::*;
    use super::*;

    #[test]
    fn attention_over_listed_rows_is_the_plain_sum() {
        let (heads, dim, capacity) = (3, 5, 40);
        let width = heads * dim;
        let (keys, values) = (numbers(1, capacity * width, 1.0), numbers(2, capacity * width, 1.0));
        let (queries, listed) = ([1, 4, 1, 2], [1, 6, 9, 2]);
        let rows: Vec<i32> = (0..18).map(|i| (i * 7 + 3) % capacity as i32).collect();
        let q = numbers(3, 8 * width, 1.0);
        let shape = CacheShape {
            queries: &queries,
            keys: &listed,
            rows: &rows,
            num_heads: heads,
            scale: 0.7,
        };
        let mut out = vec![f64::NAN; 8 * width];
        attend_rows(&shape, &q, &keys, &values, &mut out);
        let (mut query, mut first) = (0, 0);
        for (&asking, &all) in queries.iter().zip(&listed) {
            for i in 0..asking {
                let seen = &rows[first..first + i + 1 + all - asking];
                for column in 0..width {
                    let head = column / dim * dim;
                    let score = |row: i32| {
                        let key = &keys[row as usize * width..];
                        let sum: f64 = (head..head + dim).map(|c| q[query * width + c] * key[c]).sum();
                        (0.7 * sum).exp()
                    };
                    let total: f64 = seen.iter().map(|row| score(*row)).sum();
                    let value = |row: &i32| score(*row) * values[*row as usize * width + column];
                    let expected = seen.iter().map(value).sum::<f64>() / total;
                    assert!((out[query * width + column] - expected).abs() < 1e-12);
                }
                query += 1;
            }
            first += all;
        }
    }

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
