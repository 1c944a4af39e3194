//! Singular values and vectors, on the host in f64. The library runs on one thread, so no bit depends on their number.

use faer::MatRef;

/// The thin decomposition of an `[m, d]` matrix with k = min(m, d): left vectors `[m, k]`, singular values `[k]` from the
/// largest down, right vectors `[k, d]` as rows. `None` where the iteration does not converge, which needs a value that
/// is not a number.
pub(crate) fn svd(values: &[f64], m: usize, d: usize) -> Option<(Vec<f64>, Vec<f64>, Vec<f64>)> {
    let found = MatRef::from_row_major_slice(values, m, d).thin_svd().ok()?;
    let (u, s, v) = (found.U(), found.S().column_vector(), found.V());
    let k = m.min(d);
    let left = (0..m).flat_map(|i| (0..k).map(move |j| u[(i, j)])).collect();
    let right = (0..k).flat_map(|j| (0..d).map(move |i| v[(i, j)])).collect();
    Some((left, (0..k).map(|j| s[j]).collect(), right))
}
