//! Products of few rows with a weight, y = x Wᵀ, where rows of x and of W lie along memory.
//!
//! With few rows the time is that of reading W once. The `gemm` crate copies it first into the order of its register tile,
//! across its rows; here W is read as it lies. A register tile is some rows of x times some rows of W, each of whose sums is
//! one vector: lane l adds the products l, l + L, l + 2L, .. of a row, and the lanes are added at the end. This order does
//! not depend on the tile, so no bit of a result depends on the number of threads or on what other rows are computed with it.
// Loops over places of arrays, see `Part::tile`.
#![allow(unsafe_code, clippy::needless_range_loop)]

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::gemm::{Mat, PARALLEL_FROM, Shared};
use crate::float::Float;

/// The most rows of x for which reading W as it lies is faster than packing it, where rows of W are long.
const ROWS: usize = 256;
/// Columns of a part are a multiple of this, so that none but the last ends inside a register tile.
const TILES: usize = 20;

/// Whether this product is faster than the packed one for n rows, m outputs and d inputs (docs/decisions.md has what was
/// measured): adding the lanes must be little beside filling them, and a few outputs leave the tile empty.
pub(super) fn suits(n: usize, m: usize, d: usize) -> bool {
    m >= TILES && n <= ROWS.min(d.saturating_sub(64) / 4)
}

/// The vectors of a float type.
pub trait Lanes: Copy {
    /// A vector register.
    type Vector<S: Simd>: Copy;
    #[doc(hidden)]
    fn zero<S: Simd>(simd: S) -> Self::Vector<S>;
    #[doc(hidden)]
    fn add_product<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>, onto: Self::Vector<S>) -> Self::Vector<S>;
    #[doc(hidden)]
    fn sum<S: Simd>(simd: S, a: Self::Vector<S>) -> Self;
}

macro_rules! lanes {
    ($type:ty, $vector:ident, $splat:ident, $mul_add:ident, $sum:ident) => {
        impl Lanes for $type {
            type Vector<S: Simd> = S::$vector;
            #[inline(always)]
            fn zero<S: Simd>(simd: S) -> S::$vector {
                simd.$splat(0.0)
            }
            #[inline(always)]
            fn add_product<S: Simd>(simd: S, a: S::$vector, b: S::$vector, onto: S::$vector) -> S::$vector {
                simd.$mul_add(a, b, onto)
            }
            #[inline(always)]
            fn sum<S: Simd>(simd: S, a: S::$vector) -> Self {
                simd.$sum(a)
            }
        }
    };
}

lanes!(f32, f32s, splat_f32s, mul_add_e_f32s, reduce_sum_f32s);
lanes!(f64, f64s, splat_f64s, mul_add_e_f64s, reduce_sum_f64s);

/// Elements of the longest vector register there is.
const MOST_LANES: usize = 64;

/// Asks for memory that is read soon, at the second level of the cache; any address may be asked for.
#[inline(always)]
fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction is part of every x86-64 processor, reads nothing and cannot fault.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Some columns of y, which are rows of W.
struct Part<'a, T> {
    x: Mat<'a, T>,
    w: Mat<'a, T>,
    /// The first of these columns.
    y: *mut T,
    /// Distance between rows of y.
    y_stride: usize,
    accumulate: bool,
    alpha: T,
}

impl<T: Float> Part<'_, T> {
    /// R rows of y from `row` on, C of its columns from `column` on. Where `ahead`, the next C rows of W are asked for
    /// while these are computed with.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const C: usize>(&self, simd: S, row: usize, column: usize, ahead: bool) {
        let (d, lanes) = (self.x.cols, size_of::<T::Vector<S>>() / size_of::<T>());
        debug_assert!(row + R <= self.x.rows && column + C <= self.w.rows && self.w.cols == d);
        let (xs, ws) = (self.x.row_stride, self.w.row_stride);
        // SAFETY: `Mat` holds all elements of its rows, and these rows exist.
        let (x, w) = unsafe {
            let x = self.x.data.as_ptr().add(row * xs);
            (x, self.w.data.as_ptr().add(column * ws))
        };
        // Loops over arrays, because a closure would not be compiled for the vector registers in use.
        let mut sums = [[T::zero(simd); R]; C];
        let mut parts = [T::zero(simd); R];
        let mut k = 0;
        while k + lanes <= d {
            for r in 0..R {
                // SAFETY: elements k to k + lanes of a row of d.
                parts[r] = unsafe { x.add(r * xs + k).cast::<T::Vector<S>>().read_unaligned() };
            }
            for c in 0..C {
                if ahead {
                    prefetch(w.wrapping_add((C + c) * ws + k));
                }
                // SAFETY: as above.
                let weight = unsafe { w.add(c * ws + k).cast::<T::Vector<S>>().read_unaligned() };
                for r in 0..R {
                    sums[c][r] = T::add_product(simd, parts[r], weight, sums[c][r]);
                }
            }
            k += lanes;
        }
        if k < d {
            let rest = |row: *const T| {
                let mut padded = [T::ZERO; MOST_LANES];
                // SAFETY: the last d - k elements of a row, fewer than the lanes; a vector is no longer than the array.
                unsafe {
                    std::ptr::copy_nonoverlapping(row.add(k), padded.as_mut_ptr(), d - k);
                    padded.as_ptr().cast::<T::Vector<S>>().read_unaligned()
                }
            };
            for r in 0..R {
                parts[r] = rest(x.wrapping_add(r * xs));
            }
            for c in 0..C {
                let weight = rest(w.wrapping_add(c * ws));
                for r in 0..R {
                    sums[c][r] = T::add_product(simd, parts[r], weight, sums[c][r]);
                }
            }
        }
        for r in 0..R {
            for c in 0..C {
                let sum = self.alpha * T::sum(simd, sums[c][r]);
                // SAFETY: y has a place for every row of x and of W of this part, which nobody else uses.
                unsafe {
                    let y = self.y.add((row + r) * self.y_stride + column + c);
                    *y = if self.accumulate { *y + sum } else { sum };
                }
            }
        }
    }

    /// All rows of C columns, R (from 3 to 5) at a time.
    #[inline(always)]
    fn columns<S: Simd, const R: usize, const C: usize>(&self, simd: S, column: usize) {
        let (n, mut row) = (self.x.rows, 0);
        while row + R <= n {
            self.tile::<S, R, C>(simd, row, column, row == 0);
            row += R;
        }
        match n - row {
            0 => {}
            1 => self.tile::<S, 1, C>(simd, row, column, row == 0),
            2 => self.tile::<S, 2, C>(simd, row, column, row == 0),
            3 => self.tile::<S, 3, C>(simd, row, column, row == 0),
            _ => self.tile::<S, 4, C>(simd, row, column, row == 0),
        }
    }

    #[inline(always)]
    fn all<S: Simd, const R: usize, const C: usize>(&self, simd: S) {
        let (m, mut column) = (self.w.rows, 0);
        while column + C <= m {
            self.columns::<S, R, C>(simd, column);
            column += C;
        }
        while column < m {
            self.columns::<S, R, 1>(simd, column);
            column += 1;
        }
    }
}

impl<T: Float> WithSimd for Part<'_, T> {
    type Output = ();

    /// A tile's sums, a column of x and one vector of W fill the registers.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if S::REGISTER_COUNT >= 32 {
            self.all::<S, 5, 5>(simd);
        } else {
            self.all::<S, 3, 4>(simd);
        }
    }
}

/// Bytes of W of two parts together, which are what two cores take.
const PAIR_OF_BYTES: usize = 1 << 20;

/// y = (y if `accumulate`, else 0) + alpha x Wᵀ for y `[x.rows, w.rows]`, on all threads; rows of x and W lie along memory.
pub(super) fn product<T: Float>(y: &mut [T], accumulate: bool, x: Mat<T>, w: Mat<T>, alpha: T) {
    let (n, m, d) = (x.rows, w.rows, x.cols);
    assert!(w.cols == d && y.len() == n * m && x.col_stride == 1 && w.col_stride == 1);
    let target = Shared::new(y);
    let part = |first: usize, end: usize| {
        let w = Mat {
            data: &w.data[first * w.row_stride..],
            rows: end - first,
            ..w
        };
        // SAFETY: column `first` of the first row; parts are disjoint columns.
        let y = unsafe { target.get().add(first) };
        pulp::Arch::new().dispatch(Part {
            x,
            w,
            y,
            y_stride: m,
            accumulate,
            alpha,
        });
    };
    if n.saturating_mul(m).saturating_mul(d) < PARALLEL_FROM {
        part(0, m);
    } else {
        let parts = 2 * (m * d * size_of::<T>()).div_ceil(PAIR_OF_BYTES);
        let size = m.div_ceil(parts).next_multiple_of(TILES);
        let all = (0..m.div_ceil(size)).into_par_iter();
        all.for_each(|i| part(i * size, m.min((i + 1) * size)));
    }
}

#[cfg(test)]
mod tests {
    use super::super::math::testing::numbers;
    use super::*;

    /// Rows, outputs and inputs on both sides of tiles, vectors and the parallel threshold.
    const SHAPES: [(usize, usize, usize); 14] = [
        (1, 1, 1),
        (1, 4, 768),
        (2, 3, 7),
        (3, 50, 16),
        (4, 6, 15),
        (5, 5, 17),
        (7, 101, 129),
        (10, 768, 64),
        (11, 23, 1000),
        (40, 303, 96),
        (64, 1025, 33),
        (9, 2000, 100),
        (128, 20, 31),
        (6, 7, 0),
    ];

    fn check<T: Float>(n: usize, m: usize, d: usize) {
        let narrow = |values: Vec<f64>| values.into_iter().map(T::from_f64).collect::<Vec<T>>();
        // Rows of W are longer than what is read of them, as those of a part of B are.
        let stride = d + 3;
        let (x, w) = (narrow(numbers(1, n * d, 1.0)), narrow(numbers(2, m * stride, 1.0)));
        let start = narrow(numbers(3, n * m, 1.0));
        for accumulate in [false, true] {
            let mut y = start.clone();
            let weight = Mat::part(&w, m, d, stride);
            product(&mut y, accumulate, Mat::new(&x, n, d), weight, T::from_f64(0.5));
            for row in 0..n {
                for column in 0..m {
                    let terms = x[row * d..][..d].iter().zip(&w[column * stride..][..d]);
                    let terms = terms.map(|(x, w)| x.to_f64() * w.to_f64());
                    let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), t| (sum + t, size + t.abs()));
                    let own = if accumulate {
                        start[row * m + column].to_f64()
                    } else {
                        0.0
                    };
                    // Each product is rounded at most twice for every addition it takes part in, of which there are at most d;
                    // then alpha and the sum with what was there are rounded once each.
                    let bound = T::ROUNDOFF * ((d + 2) as f64 * size + own.abs());
                    let error = (y[row * m + column].to_f64() - own - 0.5 * sum).abs();
                    assert!(
                        error <= bound,
                        "{n}x{m}x{d} at {row}, {column}: {error:e} above {bound:e}"
                    );
                }
            }
        }
    }

    #[test]
    fn odd_shapes_equal_plain_sums_in_both_types() {
        for (n, m, d) in SHAPES {
            check::<f32>(n, m, d);
            check::<f64>(n, m, d);
        }
    }

    #[test]
    fn no_bit_depends_on_threads_or_on_the_other_rows_and_outputs() {
        for (n, m, d) in SHAPES {
            let (x, w) = (numbers(4, n * d, 1.0), numbers(5, m * d, 1.0));
            let of = |x: &[f64], n: usize, w: &[f64], m: usize, threads: usize| {
                let mut y = vec![f64::NAN; n * m];
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                if let Ok(pool) = pool {
                    pool.install(|| product(&mut y, false, Mat::new(x, n, d), Mat::new(w, m, d), 1.0));
                }
                y
            };
            let all = of(&x, n, &w, m, 1);
            for threads in [2, 3] {
                assert_eq!(all, of(&x, n, &w, m, threads), "{n}x{m}x{d} on {threads} threads");
            }
            let row = n / 2;
            assert_eq!(all[row * m..][..m], of(&x[row * d..][..d], 1, &w, m, 1), "{n}x{m}x{d}");
            let one = of(&x, n, &w[(m - 1) * d..], 1, 1);
            let last: Vec<f64> = all.chunks_exact(m).map(|row| row[m - 1]).collect();
            assert_eq!(last, one, "{n}x{m}x{d}");
        }
    }
}
