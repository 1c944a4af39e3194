//! Between the published layout of GPT-2's layers, `[inputs, outputs]`, and ours, `[outputs, inputs]`.
//!
//! The change is made once, when a model is read or written: no step pays for it, and every product is that of other models.

use dylora_autograd::tensor::{DType, Device, Elem, Tensor};

use crate::error::Result;

/// Rows and columns of a tile that stays in the cache while it is turned.
const TILE: usize = 32;

/// The transpose of row-major `[rows, columns]`.
fn transpose<T: Copy + Default>(values: &[T], rows: usize, columns: usize) -> Vec<T> {
    let mut turned = vec![T::default(); values.len()];
    for r0 in (0..rows).step_by(TILE) {
        for c0 in (0..columns).step_by(TILE) {
            for r in r0..rows.min(r0 + TILE) {
                for c in c0..columns.min(c0 + TILE) {
                    turned[c * rows + r] = values[r * columns + c];
                }
            }
        }
    }
    turned
}

/// The parts of a weight that is stored as `[d, parts * m]`, each `[m, d]`, on the host; or of a bias `[parts * m]`.
pub(crate) fn output_major(stored: &Tensor, parts: usize) -> Result<Vec<Tensor>> {
    fn split<T: Elem>(stored: &Tensor, parts: usize) -> Result<Vec<Tensor>> {
        let values = stored.to_vec::<T>()?;
        let (values, shape) = match *stored.shape() {
            [d, columns] => (transpose(&values, d, columns), vec![columns / parts, d]),
            _ => (values, vec![stored.len() / parts]),
        };
        let size = values.len() / parts;
        (0..parts)
            .map(|i| Ok(Tensor::from_slice(&Device::cpu(), &values[i * size..][..size], &shape)?))
            .collect()
    }
    match stored.dtype() {
        DType::F64 => split::<f64>(stored, parts),
        _ => split::<f32>(stored, parts),
    }
}

/// [`output_major`] undone: the parts of a weight or bias stacked as they are published, with their type and device.
pub(crate) fn input_major(parts: &[Tensor]) -> Result<Tensor> {
    let mut values = Vec::new();
    for part in parts {
        values.extend(part.to_f64_vec()?);
    }
    let Some(first) = parts.first() else {
        return Ok(Tensor::zeros(&Device::cpu(), DType::F32, &[0])?);
    };
    let (values, shape) = match *first.shape() {
        [m, d] => (transpose(&values, parts.len() * m, d), vec![d, parts.len() * m]),
        _ => {
            let len = values.len();
            (values, vec![len])
        }
    };
    // Every value was of this type: it is exact again.
    let stacked = Tensor::from_vec(&Device::cpu(), values, &shape)?.to_dtype(first.dtype())?;
    Ok(stacked.to_device(first.device())?)
}
