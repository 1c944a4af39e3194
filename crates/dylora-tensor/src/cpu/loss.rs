//! Losses and their gradients in one pass: the gradient is for an upstream gradient of one.

use rayon::prelude::*;

use super::math::{CHUNK, max1, sum1, vectorised};
use crate::float::Float;

vectorised! {
    /// Largest element and `ln sum e^x`, minus that element.
    pub(crate) fn log_sum_exp(x: &'a [T]) -> (T, T) {
        // Starting from an element keeps a row of -inf or NaN what it is.
        let top = max1(x, x[0]);
        (top, sum1(x, |x| (x - top).exp()).ln())
    }
}

vectorised! {
    fn row_sum(x: &'a [T]) -> T {
        sum1(x, |x| x)
    }
}

vectorised! {
    /// `dx = weight (softmax(x) - share)`.
    fn softmax_gradient(x: &'a [T], top: T, rest: T, weight: T, share: T, dx: &'a mut [T]) {
        for (&x, dx) in x.iter().zip(dx) {
            *dx = weight * ((x - top - rest).exp() - share);
        }
    }
}

/// Loss and gradient of one row; `None` as target is an ignored row.
fn cross_entropy_row<T: Float>(
    x: &[T],
    target: Option<usize>,
    smoothing: f64,
    weight: f64,
    dx: Option<&mut [T]>,
) -> f64 {
    let Some(target) = target.filter(|&t| t < x.len()) else {
        if let Some(dx) = dx {
            dx.fill(T::ZERO);
        }
        return 0.0;
    };
    let (top, rest) = log_sum_exp(x);
    let share = smoothing / x.len() as f64;
    if let Some(dx) = dx {
        softmax_gradient(x, top, rest, T::from_f64(weight), T::from_f64(share), dx);
        dx[target] += T::from_f64(-weight * (1.0 - smoothing));
    }
    let normaliser = top.to_f64() + rest.to_f64();
    let mut loss = (1.0 - smoothing) * (normaliser - x[target].to_f64());
    if smoothing != 0.0 {
        loss += smoothing * normaliser - share * row_sum(x).to_f64();
    }
    weight * loss
}

/// `weight * sum over rows of (1 - smoothing) * -ln p[target] + smoothing * mean over classes of -ln p`.
///
/// `logits` is `[n, c]` with `n = targets.len()`; rows whose target is `ignore` count nothing. The formula of smoothing
/// is that of Szegedy et al., arXiv:1512.00567, section 7.
pub(crate) fn cross_entropy<T: Float>(
    logits: &[T],
    targets: &[i32],
    ignore: Option<i32>,
    smoothing: f64,
    weight: f64,
    dlogits: Option<&mut [T]>,
) -> T {
    if targets.is_empty() || logits.is_empty() {
        return T::ZERO;
    }
    let classes = logits.len() / targets.len();
    let rows = (CHUNK / classes).max(1);
    let row = |i: usize, dx: Option<&mut [T]>| {
        let target = if Some(targets[i]) == ignore {
            None
        } else {
            usize::try_from(targets[i]).ok()
        };
        cross_entropy_row(&logits[i * classes..][..classes], target, smoothing, weight, dx)
    };
    let parts: Vec<f64> = match dlogits {
        Some(dlogits) => {
            let tasks = dlogits.par_chunks_mut(rows * classes).enumerate();
            tasks
                .map(|(task, dx)| {
                    dx.chunks_mut(classes)
                        .enumerate()
                        .map(|(i, dx)| row(task * rows + i, Some(dx)))
                        .sum()
                })
                .collect()
        }
        None => {
            let tasks = (0..targets.len()).into_par_iter().step_by(rows);
            tasks
                .map(|first| (first..targets.len().min(first + rows)).map(|i| row(i, None)).sum())
                .collect()
        }
    };
    T::from_f64(parts.iter().sum())
}

/// `weight * sum (pred - target)^2`; the gradient is `2 weight (pred - target)`.
pub(crate) fn mse<T: Float>(pred: &[T], target: &[T], weight: f64, dpred: Option<&mut [T]>) -> T {
    if let Some(dpred) = dpred {
        let factor = T::from_f64(2.0 * weight);
        for ((&p, &t), dpred) in pred.iter().zip(target).zip(dpred) {
            *dpred = factor * (p - t);
        }
    }
    let squares = pred.iter().zip(target).map(|(&p, &t)| (p - t).to_f64().powi(2));
    T::from_f64(weight * squares.sum::<f64>())
}

#[cfg(test)]
mod tests {
    use super::super::math::testing::*;
    use super::*;

    #[test]
    fn cross_entropy_matches_the_formula_and_its_slope() {
        for (n, c) in [(1, 1), (3, 2), (40, 33), (7, 4000)] {
            let x = numbers(1, n * c, 5.0);
            let targets: Vec<i32> = (0..n).map(|i| if i == 1 { -100 } else { (i * 7 % c) as i32 }).collect();
            for smoothing in [0.0, 0.1] {
                let mut want = 0.0;
                for (row, &t) in x.chunks(c).zip(&targets).filter(|(_, t)| **t != -100) {
                    let sum: f64 = row.iter().map(|x| x.exp()).sum();
                    let loss = |j: usize| sum.ln() - row[j];
                    want += (1.0 - smoothing) * loss(t as usize);
                    want += smoothing * (0..c).map(loss).sum::<f64>() / c as f64;
                }
                let loss = |x: &[f64]| cross_entropy(x, &targets, Some(-100), smoothing, 0.25, None);
                assert!((loss(&x) - 0.25 * want).abs() < 1e-12 * (1.0 + want));
                let (mut dx, mut single) = (vec![9.0; n * c], vec![9f32; n * c]);
                let got = cross_entropy(&x, &targets, Some(-100), smoothing, 0.25, Some(&mut dx));
                assert_eq!(got, loss(&x));
                check_gradient(&x, &dx, loss);
                let x = to_f32(&x);
                let rough = cross_entropy(&x, &targets, Some(-100), smoothing, 0.25, Some(&mut single));
                assert!((rough as f64 - got).abs() < 1e-6 * (1.0 + got) && distance(&single, &dx) < 2e-6);
            }
        }
        assert!(cross_entropy(&[1e30f32, -1e30], &[0], None, 0.0, 1.0, None) == 0.0);
    }

    #[test]
    fn mse_matches_the_formula_and_its_slope() {
        let (p, t) = (numbers(1, 9, 2.0), numbers(2, 9, 2.0));
        let mut dp = vec![9.0; 9];
        let got = mse(&p, &t, 0.5, Some(&mut dp));
        assert!((got - (0..9).map(|i| 0.5 * (p[i] - t[i]).powi(2)).sum::<f64>()).abs() < 1e-14);
        check_gradient(&p, &dp, |p| mse(p, &t, 0.5, None));
    }

    #[test]
    fn results_do_not_depend_on_the_thread_count() {
        let x = to_f32(&numbers(1, 600 * 100, 5.0));
        let targets: Vec<i32> = (0..600).map(|i| i % 100).collect();
        same_for_any_thread_count(|| {
            let mut dx = vec![0.0; x.len()];
            let loss = cross_entropy(&x, &targets, None, 0.1, 1.0, Some(&mut dx));
            dx.push(loss);
            dx
        });
    }
}
