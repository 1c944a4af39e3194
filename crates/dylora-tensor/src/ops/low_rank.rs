//! A low-rank path beside a linear layer, and its gradients.

use super::{by_float, expect_shape, linear_input_gradient, matrix, with_width};
use crate::cpu::gemm::{Mat, product};
use crate::cpu::lora::{self, LoraShape};
use crate::cuda;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::float::Float;
use crate::tensor::Tensor;
use std::ops::Range;

/// A low-rank path beside a linear layer: A `[r, d]`, B `[m, r]`, of which ranks `1..=rank` are used.
#[derive(Clone, Copy, Debug)]
pub struct LowRank<'a> {
    /// A, `[r, d]`.
    pub a: &'a Tensor,
    /// B, `[m, r]`.
    pub b: &'a Tensor,
    /// Ranks used, from 1 to r.
    pub rank: usize,
    /// Factor on the product.
    pub scale: f64,
}

impl LowRank<'_> {
    fn shape(&self, op: &'static str, n: usize) -> Result<LoraShape> {
        let ((r, d), (m, rb)) = (matrix(op, self.a)?, matrix(op, self.b)?);
        if r != rb {
            return Err(Error::shape(op, self.a.shape(), self.b.shape()));
        }
        if self.rank == 0 || self.rank > r {
            return Err(Error::invalid(op, format!("rank {} is not in 1..={r}", self.rank)));
        }
        Ok(LoraShape {
            n,
            d,
            m,
            r,
            b: self.rank,
        })
    }
}

/// y = x Wᵀ + bias + scale (x A[..b]ᵀ) B[:, ..b]ᵀ and h = x A[..b]ᵀ.
///
/// `base` is W `[m, d]` and bias `[m]`; without it y is the low-rank product alone. Shapes: x `[n, d]`, y `[n, m]`,
/// h `[n, b]` (on a GPU `[n, r]` in f32, zero beyond b, so that no size depends on the rank).
///
/// # Errors
/// If shapes or types do not fit, or the rank is not in 1..=r.
pub fn lora_linear(
    x: &Tensor,
    base: Option<(&Tensor, Option<&Tensor>)>,
    low: &LowRank<'_>,
) -> Result<(Tensor, Tensor)> {
    const OP: &str = "lora_linear";
    let s = low.shape(OP, x.num_rows())?;
    if x.width() != s.d {
        return Err(Error::shape(OP, x.shape(), low.a.shape()));
    }
    if let Some((weight, bias)) = base {
        expect_shape(OP, weight, &[s.m, s.d])?;
        if let Some(bias) = bias {
            expect_shape(OP, bias, &[s.m])?;
        }
    }
    x.device().steps().check_ranks(OP, low.rank, low.scale)?;
    if let Device::Cuda(cuda) = x.device() {
        return cuda::lora_linear(cuda, x, base, low, &with_width(x, s.m));
    }
    by_float!(OP, x, T => {
        let xs = x.read::<T>(OP)?;
        let (a, b) = (low.a.read::<T>(OP)?, low.b.read::<T>(OP)?);
        let h = Tensor::make::<T>(OP, x.device(), &[s.n, s.b], |h| {
            lora::down(s, &xs, &a, h);
            Ok(())
        })?;
        let hs = h.read::<T>(OP)?;
        let weight = base.map(|(w, _)| w.read::<T>(OP)).transpose()?;
        let bias = base.and_then(|(_, b)| b).map(|b| b.read::<T>(OP)).transpose()?;
        let y = Tensor::make::<T>(OP, x.device(), &with_width(x, s.m), |y| {
            if let Some(weight) = &weight {
                product(y, false, Mat::new(&xs, s.n, s.d), Mat::new(weight, s.m, s.d).t(), 1.0);
            }
            lora::up(s, &hs, &b, bias.as_deref(), T::from_f64(low.scale), weight.is_some(), y);
            Ok(())
        })?;
        drop(hs);
        Ok((y, h))
    })
}

/// Where the gradients of a low-rank path go.
#[derive(Debug, Default)]
pub struct LowRankGradients<'a> {
    /// dA `[r, d]`, of which rows in `write` are added to.
    pub da: Option<&'a Tensor>,
    /// dB `[m, r]`, of which columns in `write` are added to.
    pub db: Option<&'a Tensor>,
    /// The ranks (from 0) that learn.
    pub write: Range<usize>,
    /// Whether dx is wanted, and what it is added to.
    pub dx: Option<Option<Tensor>>,
}

/// The gradients of [`lora_linear`] but those of W and bias: dx uses all ranks that were read; dA and dB only change
/// for the ranks in `write`.
///
/// # Errors
/// If shapes or types do not fit.
pub fn lora_linear_gradient(
    dy: &Tensor,
    x: &Tensor,
    h: &Tensor,
    weight: Option<&Tensor>,
    low: &LowRank<'_>,
    into: LowRankGradients<'_>,
) -> Result<Option<Tensor>> {
    const OP: &str = "lora_linear_gradient";
    let s = low.shape(OP, x.num_rows())?;
    let write = into.write.start.min(s.b)..into.write.end.min(s.b);
    if dy.num_rows() != s.n || dy.width() != s.m || x.width() != s.d {
        return Err(Error::shape(OP, dy.shape(), x.shape()));
    }
    dy.device().steps().check_writes(OP, low.rank, &write, low.scale)?;
    if let Device::Cuda(cuda) = dy.device() {
        expect_shape(OP, h, &[s.n, s.r])?;
        for (gradient, factor) in [(into.da, low.a), (into.db, low.b)] {
            gradient.map_or(Ok(()), |g| expect_shape(OP, g, factor.shape()))?;
        }
        return cuda::lora_linear_gradient(cuda, dy, x, h, weight, low, &write, into);
    }
    expect_shape(OP, h, &[s.n, s.b])?;
    by_float!(OP, dy, T => {
        let (dys, scale) = (dy.read::<T>(OP)?, T::from_f64(low.scale));
        if let (Some(db), false) = (into.db, write.is_empty()) {
            expect_shape(OP, db, low.b.shape())?;
            let hs = h.read::<T>(OP)?;
            lora::b_gradient(s, &dys, &hs, &write, scale, db.write_guard::<T>(OP)?.slice());
        }
        if into.da.is_none() && into.dx.is_none() {
            return Ok(None);
        }
        let b = low.b.read::<T>(OP)?;
        let dh = Tensor::make::<T>(OP, dy.device(), &[s.n, s.b], |dh| {
            lora::down_gradient(s, &dys, &b, scale, dh);
            Ok(())
        })?;
        let dhs = dh.read::<T>(OP)?;
        if let (Some(da), false) = (into.da, write.is_empty()) {
            expect_shape(OP, da, low.a.shape())?;
            let xs = x.read::<T>(OP)?;
            lora::a_gradient(s, &dhs, &xs, &write, da.write_guard::<T>(OP)?.slice());
        }
        let Some(onto) = into.dx else { return Ok(None) };
        let dx = match weight {
            Some(weight) => linear_input_gradient(dy, weight, onto)?,
            None => {
                let (dx, accumulate) = Tensor::target::<T>(OP, onto, dy.device(), x.shape())?;
                if !accumulate {
                    dx.fill_zero()?;
                }
                dx
            }
        };
        let a = low.a.read::<T>(OP)?;
        lora::input_gradient(s, &dhs, &a, dx.write_guard::<T>(OP)?.slice());
        Ok(Some(dx))
    })
}
