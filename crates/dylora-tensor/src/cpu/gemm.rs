//! Matrix products: the `gemm` crate, one single-threaded call per core, or [`few`] where one matrix is a weight and the
//! other has few rows.
//!
//! How the result is cut into parts depends on the sizes alone, because the crate chooses the order of its sums by the
//! shape of a part: so no bit depends on the number of threads. `ndarray`'s product is the plain oracle.
#![allow(unsafe_code)]

use rayon::prelude::*;

use super::few;
use crate::float::Float;

/// A matrix in memory: elements and the distance between rows and between columns.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a, T> {
    pub(super) data: &'a [T],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
}

impl<'a, T: Float> Mat<'a, T> {
    /// A row-major matrix.
    pub(crate) fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        Self::part(data, rows, cols, cols)
    }

    /// The first `cols` columns of a row-major matrix whose rows are `row_stride` apart.
    pub(crate) fn part(data: &'a [T], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(rows == 0 || cols == 0 || (rows - 1) * row_stride + cols <= data.len());
        Mat {
            data,
            rows,
            cols,
            row_stride,
            col_stride: 1,
        }
    }

    /// The transpose; no element moves.
    pub(crate) fn t(self) -> Self {
        Mat {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// c = (c if `accumulate`, else 0) + alpha a b, single-threaded, any strides.
///
/// # Safety
/// All elements that the sizes and strides address must be valid, and c must not overlap a or b.
#[allow(clippy::too_many_arguments)]
#[inline]
pub(crate) unsafe fn gemm_strided<T: Float>(
    m: usize,
    n: usize,
    k: usize,
    c: *mut T,
    c_rs: isize,
    c_cs: isize,
    accumulate: bool,
    a: *const T,
    a_rs: isize,
    a_cs: isize,
    b: *const T,
    b_rs: isize,
    b_cs: isize,
    alpha: T,
) {
    if m == 0 || n == 0 {
        return;
    }
    // SAFETY: the caller's; argument order of the crate: columns before rows, and dst = alpha dst + beta a b.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c,
            c_cs,
            c_rs,
            accumulate,
            a,
            a_cs,
            a_rs,
            b,
            b_cs,
            b_rs,
            T::ONE,
            alpha,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// A raw pointer that tasks may share because they write disjoint parts.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T>(*mut T);

// SAFETY: only used to hand disjoint parts of one slice to tasks.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(crate) fn new(slice: &mut [T]) -> Self {
        Shared(slice.as_mut_ptr())
    }

    pub(crate) fn get(self) -> *mut T {
        self.0
    }
}

/// Below this many multiplications a product is not worth a second thread.
pub(super) const PARALLEL_FROM: usize = 1 << 18;
/// Parts of a cut are a multiple of this, so that none but the last ends inside a register tile.
const TILE: usize = 48;
/// Columns of two parts together. Cutting columns is best where there are enough of them: each core then packs its own
/// share of the weights, and all of the shorter operand (measured: 2 to 20 % over cutting rows at 1024 rows).
const PAIR_OF_COLUMNS: usize = 1536;
/// From this many columns on it is the columns that are cut.
const CUT_COLUMNS_FROM: usize = 2 * TILE;
/// Rows of two parts together, where there are too few columns to cut.
const PAIR_OF_ROWS: usize = 1024;
/// Rows are cut as well beyond this many, for machines with more cores.
const ROWS: usize = 2048;

/// Cuts `0..len` into about `parts` ranges of nearly equal size; what it gives depends on the arguments alone.
fn cut(len: usize, parts: usize) -> Vec<(usize, usize)> {
    let size = len.div_ceil(parts).next_multiple_of(TILE);
    (0..len.div_ceil(size))
        .map(|i| (i * size, len.min((i + 1) * size)))
        .collect()
}

/// The parts of a result of m rows and n columns, in pairs because two is the least number of cores. They depend on the
/// sizes alone, never on the number of threads.
fn parts(m: usize, n: usize) -> Vec<((usize, usize), (usize, usize))> {
    if n < CUT_COLUMNS_FROM {
        let rows = cut(m, 2 * m.div_ceil(PAIR_OF_ROWS));
        return rows.into_iter().map(|rows| (rows, (0, n))).collect();
    }
    let columns = cut(n, 2 * n.div_ceil(PAIR_OF_COLUMNS));
    let rows = cut(m, m.div_ceil(ROWS));
    rows.into_iter()
        .flat_map(|rows| columns.iter().map(move |columns| (rows, *columns)))
        .collect()
}

/// c = (c if `accumulate`, else 0) + alpha a b, for row-major contiguous c `[a.rows, b.cols]`, on all threads.
pub(crate) fn product<T: Float>(c: &mut [T], accumulate: bool, a: Mat<T>, b: Mat<T>, alpha: T) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    assert!(b.rows == k && c.len() == m * n);
    if m == 0 || n == 0 {
        return;
    }
    if a.col_stride == 1 && b.row_stride == 1 && few::suits(m, n, k) {
        return few::product(c, accumulate, a, b.t(), alpha);
    }
    let target = Shared::new(c);
    let block = |(r0, r1): (usize, usize), (c0, c1): (usize, usize)| {
        // SAFETY: blocks are disjoint parts of c; a and b are checked to hold all addressed elements.
        unsafe {
            gemm_strided(
                r1 - r0,
                c1 - c0,
                k,
                target.get().add(r0 * n + c0),
                n as isize,
                1,
                accumulate,
                a.data.as_ptr().add(r0 * a.row_stride),
                a.row_stride as isize,
                a.col_stride as isize,
                b.data.as_ptr().add(c0 * b.col_stride),
                b.row_stride as isize,
                b.col_stride as isize,
                alpha,
            );
        }
    };
    if m.saturating_mul(n).saturating_mul(k) < PARALLEL_FROM {
        block((0, m), (0, n));
    } else {
        parts(m, n)
            .into_par_iter()
            .for_each(|(rows, columns)| block(rows, columns));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, Stream};
    use ndarray::ArrayView2;
    use rand_distr::{Distribution, StandardNormal};

    fn random(len: usize, step: u32) -> Vec<f64> {
        let mut rng = Stream::new(11, Purpose::Init).at(step);
        (0..len).map(|_| StandardNormal.sample(&mut rng)).collect()
    }

    /// Sizes on both sides of the register tile and of the parallel threshold, with 0 and 1.
    const SHAPES: [(usize, usize, usize); 10] = [
        (0, 5, 3),
        (1, 1, 1),
        (1, 70, 33),
        (70, 1, 33),
        (47, 49, 8),
        (96, 97, 64),
        (97, 200, 130),
        (16, 300, 700),
        (193, 64, 1025),
        (2100, 100, 40),
    ];

    #[test]
    fn all_transposes_equal_ndarray() {
        for (m, n, k) in SHAPES {
            let (a, b) = (random(m * k, 0), random(k * n, 1));
            let start = random(m * n, 2);
            let (Ok(va), Ok(vb)) = (ArrayView2::from_shape((m, k), &a), ArrayView2::from_shape((k, n), &b)) else {
                panic!("shape");
            };
            let plain = va.dot(&vb);
            let at: Vec<f64> = va.t().iter().copied().collect();
            let bt: Vec<f64> = vb.t().iter().copied().collect();
            let pairs = [
                (Mat::new(&a, m, k), Mat::new(&b, k, n)),
                (Mat::new(&a, m, k), Mat::new(&bt, n, k).t()),
                (Mat::new(&at, k, m).t(), Mat::new(&b, k, n)),
            ];
            for (x, y) in pairs {
                for accumulate in [false, true] {
                    let mut c = start.clone();
                    product(&mut c, accumulate, x, y, 0.5);
                    for ((c, s), p) in c.iter().zip(&start).zip(plain.iter()) {
                        let expected = 0.5 * p + if accumulate { *s } else { 0.0 };
                        // k products of size about 1, each rounded once, in either order.
                        assert!((c - expected).abs() <= 1e-15 * (k as f64 + 4.0) * 4.0);
                    }
                }
            }
        }
    }

    #[test]
    fn bits_do_not_depend_on_the_number_of_threads() {
        for (m, n, k) in SHAPES {
            let a: Vec<f32> = random(m * k, 3).iter().map(|v| *v as f32).collect();
            let b: Vec<f32> = random(k * n, 4).iter().map(|v| *v as f32).collect();
            let run = |threads: usize| {
                let mut c = vec![0f32; m * n];
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                if let Ok(pool) = pool {
                    pool.install(|| {
                        product(&mut c, false, Mat::new(&a, m, k), Mat::new(&b, n, k).t(), 1.0);
                    });
                }
                c
            };
            let one = run(1);
            assert!(m * n == 0 || one.iter().any(|v| *v != 0.0));
            for threads in [2, 3, 7] {
                assert!(one == run(threads), "{m}x{n}x{k} on {threads} threads");
            }
        }
    }
}
