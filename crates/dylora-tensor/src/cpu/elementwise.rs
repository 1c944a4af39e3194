//! Kernels that look at one element at a time, and column sums.

use rayon::prelude::*;

use super::math::{CHUNK, vectorised};
use crate::float::Float;
use crate::ops::Gelu;
use crate::rng::{Dropout, groups_per_row};

/// Runs `kernel` on equal chunks of `x` and `y`, in parallel when there is more than one.
#[inline]
fn zip2<T: Float>(x: &[T], y: &mut [T], kernel: impl Fn(&[T], &mut [T]) + Sync) {
    debug_assert_eq!(x.len(), y.len());
    if y.len() <= CHUNK {
        return kernel(x, y);
    }
    y.par_chunks_mut(CHUNK)
        .zip(x.par_chunks(CHUNK))
        .for_each(|(y, x)| kernel(x, y));
}

/// The same with two inputs.
#[inline]
fn zip3<T: Float>(a: &[T], b: &[T], y: &mut [T], kernel: impl Fn(&[T], &[T], &mut [T]) + Sync) {
    debug_assert!(a.len() == y.len() && b.len() == y.len());
    if y.len() <= CHUNK {
        return kernel(a, b, y);
    }
    let inputs = a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK));
    y.par_chunks_mut(CHUNK)
        .zip(inputs)
        .for_each(|(y, (a, b))| kernel(a, b, y));
}

/// `sqrt(2/pi)` and the cubic coefficient of the tanh form of GELU (Hendrycks & Gimpel, arXiv:1606.08415).
#[inline(always)]
fn tanh_form<T: Float>() -> (T, T) {
    (
        T::from_f64(std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2),
        T::from_f64(0.044715),
    )
}

vectorised! {
    fn gelu_forward_chunk(kind: Gelu, x: &'a [T], y: &'a mut [T]) {
        let half = T::from_f64(0.5);
        match kind {
            Gelu::Erf => {
                let root = T::from_f64(std::f64::consts::FRAC_1_SQRT_2);
                for (&x, y) in x.iter().zip(y) {
                    *y = half * x * (T::ONE + (x * root).erf());
                }
            }
            Gelu::Tanh => {
                let (root, cubic) = tanh_form::<T>();
                for (&x, y) in x.iter().zip(y) {
                    let inner = root * (cubic * x * x).mul_add(x, x);
                    *y = half * x * (T::ONE + inner.tanh());
                }
            }
        }
    }
}

/// `y = gelu(x)`; exact form `x Phi(x)`, tanh form `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.
pub(crate) fn gelu_forward<T: Float>(kind: Gelu, x: &[T], y: &mut [T]) {
    zip2(x, y, |x, y| gelu_forward_chunk(kind, x, y));
}

vectorised! {
    fn gelu_backward_chunk(kind: Gelu, x: &'a [T], dy: &'a [T], dx: &'a mut [T]) {
        let half = T::from_f64(0.5);
        match kind {
            Gelu::Erf => {
                let root = T::from_f64(std::f64::consts::FRAC_1_SQRT_2);
                // 1 / sqrt(2 pi)
                let density = T::from_f64(0.5 * std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2);
                for ((&x, &dy), dx) in x.iter().zip(dy).zip(dx) {
                    let below = half * (T::ONE + (x * root).erf());
                    let slope = (x * density).mul_add((-half * x * x).exp(), below);
                    *dx = dy * slope;
                }
            }
            Gelu::Tanh => {
                let (root, cubic) = tanh_form::<T>();
                let three = T::from_f64(3.0);
                for ((&x, &dy), dx) in x.iter().zip(dy).zip(dx) {
                    let square = cubic * x * x;
                    let t = (root * square.mul_add(x, x)).tanh();
                    let inner = root * square.mul_add(three, T::ONE);
                    let slope = half * (T::ONE + t) + half * x * (T::ONE - t * t) * inner;
                    *dx = dy * slope;
                }
            }
        }
    }
}

/// `dx = dy gelu'(x)`.
pub(crate) fn gelu_backward<T: Float>(kind: Gelu, x: &[T], dy: &[T], dx: &mut [T]) {
    zip3(x, dy, dx, |x, dy, dx| gelu_backward_chunk(kind, x, dy, dx));
}

vectorised! {
    fn tanh_chunk(x: &'a [T], y: &'a mut [T]) {
        x.iter().zip(y).for_each(|(&x, y)| *y = x.tanh());
    }
}

/// `y = tanh(x)`.
pub(crate) fn tanh_forward<T: Float>(x: &[T], y: &mut [T]) {
    zip2(x, y, |x, y| tanh_chunk(x, y));
}

vectorised! {
    fn tanh_backward_chunk(y: &'a [T], dy: &'a [T], dx: &'a mut [T]) {
        for ((&y, &dy), dx) in y.iter().zip(dy).zip(dx) {
            *dx = dy * (T::ONE - y * y);
        }
    }
}

/// `dx = dy (1 - y^2)` with the forward's result `y`.
pub(crate) fn tanh_backward<T: Float>(y: &[T], dy: &[T], dx: &mut [T]) {
    zip3(y, dy, dx, |y, dy, dx| tanh_backward_chunk(y, dy, dx));
}

vectorised! {
    /// The dropout factors of row `row`; every row of a mask starts a new group of random bits.
    pub(crate) fn draw_mask_row(dropout: &'a Dropout, row: u64, mask: &'a mut [T]) {
        dropout.fill_scale(row * groups_per_row(mask.len()), mask);
    }
}

vectorised! {
    fn dropout_rows(dropout: &'a Dropout, first_row: usize, x: &'a [T], width: usize, y: &'a mut [T]) {
        let groups = groups_per_row(width);
        for (i, (y, x)) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)).enumerate() {
            dropout.fill_scale((first_row + i) as u64 * groups, y);
            y.iter_mut().zip(x).for_each(|(y, &x)| *y *= x);
        }
    }
}

/// `y = x * mask`, mask in {0, 1/(1-p)}; its own backward. The mask is that of rows of `width` elements.
pub(crate) fn dropout_apply<T: Float>(dropout: &Dropout, x: &[T], width: usize, y: &mut [T]) {
    debug_assert_eq!(x.len(), y.len());
    if width == 0 {
        return;
    }
    let rows = (CHUNK / width).max(1);
    let chunks = y.par_chunks_mut(rows * width).zip(x.par_chunks(rows * width));
    chunks
        .enumerate()
        .for_each(|(chunk, (y, x))| dropout_rows(dropout, chunk * rows, x, width, y));
}

vectorised! {
    fn add_chunk(a: &'a [T], b: &'a [T], y: &'a mut [T]) {
        a.iter().zip(b).zip(y).for_each(|((&a, &b), y)| *y = a + b);
    }
}

/// `y = a + b`.
pub(crate) fn add<T: Float>(a: &[T], b: &[T], y: &mut [T]) {
    zip3(a, b, y, |a, b, y| add_chunk(a, b, y));
}

vectorised! {
    fn add_into_chunk(src: &'a [T], dst: &'a mut [T]) {
        src.iter().zip(dst).for_each(|(&src, dst)| *dst += src);
    }
}

/// `dst += src`.
pub(crate) fn add_into<T: Float>(src: &[T], dst: &mut [T]) {
    zip2(src, dst, |src, dst| add_into_chunk(src, dst));
}

vectorised! {
    fn bias_add_chunk(bias: &'a [T], dst: &'a mut [T]) {
        for row in dst.chunks_exact_mut(bias.len()) {
            row.iter_mut().zip(bias).for_each(|(y, &b)| *y += b);
        }
    }
}

/// Adds `bias` to every row of `dst`, rows of the bias's length.
pub(crate) fn bias_add<T: Float>(bias: &[T], dst: &mut [T]) {
    if bias.is_empty() {
        return;
    }
    let rows = (CHUNK / bias.len()).max(1);
    dst.par_chunks_mut(rows * bias.len())
        .for_each(|dst| bias_add_chunk(bias, dst));
}

/// Columns of one strip of a column sum: wide enough for whole cache lines, narrow enough to share the work.
const STRIP: usize = 128;

vectorised! {
    fn column_sum_strip(dy: &'a [T], width: usize, first: usize, db: &'a mut [T]) {
        // Sums of 64 rows are added to the total: the error grows with n/64 + 64 instead of n.
        for block in dy.chunks(64 * width) {
            let mut acc = [T::ZERO; STRIP];
            for row in block.chunks_exact(width) {
                let row = &row[first..first + db.len()];
                match <&[T; STRIP]>::try_from(row) {
                    Ok(row) => (0..STRIP).for_each(|i| acc[i] += row[i]),
                    Err(_) => row.iter().zip(&mut acc).for_each(|(&x, acc)| *acc += x),
                }
            }
            db.iter_mut().zip(&acc).for_each(|(db, &acc)| *db += acc);
        }
    }
}

/// `y[i, j] = x[i, j] z[j]`: rows in parallel.
pub(crate) fn scale_columns<T: Float>(x: &[T], z: &[T], y: &mut [T]) {
    if z.is_empty() {
        return;
    }
    let rows = y.par_chunks_mut(z.len()).zip(x.par_chunks(z.len())).with_min_len(16);
    rows.for_each(|(y, x)| y.iter_mut().zip(x).zip(z).for_each(|((y, x), z)| *y = *x * *z));
}

/// `y = a b`, element by element.
pub(crate) fn multiply<T: Float>(a: &[T], b: &[T], y: &mut [T]) {
    zip3(a, b, y, |a, b, y| {
        y.iter_mut().zip(a).zip(b).for_each(|((y, a), b)| *y = *a * *b)
    });
}

/// `db[j] += sum_i dy[i, j]`: rows in order, strips of columns in parallel.
pub(crate) fn column_sum<T: Float>(dy: &[T], db: &mut [T]) {
    let width = db.len();
    if width == 0 {
        return;
    }
    let strips = db.par_chunks_mut(STRIP).enumerate();
    strips.for_each(|(strip, db)| column_sum_strip(dy, width, strip * STRIP, db));
}

vectorised! {
    fn sum_squares_chunk(x: &'a [T]) -> f64 {
        let mut acc = [0f64; 32];
        let (body, tail) = x.as_chunks::<32>();
        for x in body {
            for lane in 0..32 {
                let x = x[lane].to_f64();
                acc[lane] += x * x;
            }
        }
        tail.iter().zip(&mut acc).for_each(|(&x, acc)| *acc += x.to_f64() * x.to_f64());
        acc.iter().sum()
    }
}

/// Sum of squares in f64, chunk by chunk in order.
pub(crate) fn sum_squares<T: Float>(x: &[T]) -> f64 {
    if x.len() <= CHUNK {
        return sum_squares_chunk(x);
    }
    let parts: Vec<f64> = x.par_chunks(CHUNK).map(|x| sum_squares_chunk(x)).collect();
    parts.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::super::math::testing::*;
    use super::*;

    const U: f64 = f32::EPSILON as f64 / 2.0;

    fn out<T: Float>(n: usize, f: impl FnOnce(&mut [T])) -> Vec<T> {
        let mut y = vec![T::from_f64(7.0); n];
        f(&mut y);
        y
    }

    #[test]
    fn gelu_and_tanh_match_their_formulas_and_slopes() {
        let n = 1003;
        let (x, dy) = (numbers(1, n, 6.0), numbers(2, n, 1.0));
        let (x32, dy32) = (to_f32(&x), to_f32(&dy));
        let erf = |x: f64| 0.5 * x * (1.0 + libm::erf(x / 2f64.sqrt()));
        let tanh = |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh());
        let value = |kind, x: &[f64]| out(x.len(), |y| gelu_forward(kind, x, y));
        for kind in [Gelu::Erf, Gelu::Tanh] {
            let want: Vec<f64> = x
                .iter()
                .map(|&x| if kind == Gelu::Erf { erf(x) } else { tanh(x) })
                .collect();
            assert!(distance(&value(kind, &x), &want) < 1e-15);
            assert!(distance(&out(n, |y: &mut [f32]| gelu_forward(kind, &x32, y)), &want) < 8.0 * U);
            let dx = out(n, |dx| gelu_backward(kind, &x, &dy, dx));
            check_gradient(&x, &dx, |x| dot(&value(kind, x), &dy));
            assert!(distance(&out(n, |d: &mut [f32]| gelu_backward(kind, &x32, &dy32, d)), &dx) < 16.0 * U);
        }
        let value = |x: &[f64]| out(x.len(), |y| tanh_forward(x, y));
        let dx = out(n, |dx| tanh_backward(&value(&x), &dy, dx));
        check_gradient(&x, &dx, |x| dot(&value(x), &dy));
    }

    #[test]
    fn sums_match_plain_loops() {
        for (n, width) in [(0, 5), (1, 1), (3, 8), (70, 128), (131, 257), (65, 300)] {
            let (x, start) = (numbers(3, n * width, 1.0), numbers(4, width, 1.0));
            let mut want = start.clone();
            (0..n * width).for_each(|i| want[i % width] += x[i]);
            let mut got = start.clone();
            column_sum(&x, &mut got);
            assert!(distance(&got, &want) < 1e-13);
            let mut got = to_f32(&start);
            column_sum(&to_f32(&x), &mut got);
            assert!(distance(&got, &want) < (64 + n / 64) as f64 * U);
            let mut rows = x.clone();
            bias_add(&start, &mut rows);
            assert!((0..n * width).all(|i| rows[i] == x[i] + start[i % width]));
            assert!((sum_squares(&x) - dot(&x, &x)).abs() < 1e-12 * (1.0 + dot(&x, &x)));
        }
        let n = 2 * CHUNK + 7;
        let (a, b) = (numbers(5, n, 1.0), numbers(6, n, 1.0));
        let want: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
        assert_eq!(out(n, |y| add(&a, &b, y)), want);
        let mut sum = b.clone();
        add_into(&a, &mut sum);
        assert_eq!(sum, want);
        assert!((sum_squares(&a) - dot(&a, &a)).abs() < 1e-9);
    }

    #[test]
    fn results_do_not_depend_on_the_thread_count() {
        let (n, width) = (300, 200);
        let x = to_f32(&numbers(7, n * width, 1.0));
        same_for_any_thread_count(|| {
            let mut all = out(n * width, |y| gelu_forward(Gelu::Erf, &x, y));
            let mut db = vec![0.5; width];
            column_sum(&x, &mut db);
            all.extend(db);
            all.push(sum_squares(&x) as f32);
            all
        });
    }
}
