//! Gates on the rank-1 components of a factorised matrix: the hard-concrete distribution, and the penalty that asks for a
//! share of them to be closed.

use super::{by_float, expect_shape, matrix, same_shape};
use crate::cpu::{elementwise, gates};
use crate::cuda;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::float::Float;
use crate::rng::Draw;
use crate::tensor::Tensor;

/// The hard-concrete distribution of a gate with parameter log alpha (Louizos, Welling and Kingma 2018, equations 10 and 11):
/// s = sigmoid((ln u - ln(1 - u) + log alpha) / beta) for a uniform u, stretched to (low, high) and cut to 0..1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HardConcrete {
    /// Temperature.
    pub beta: f64,
    /// Where the stretched interval begins, below 0.
    pub low: f64,
    /// Where it ends, above 1.
    pub high: f64,
}

impl HardConcrete {
    /// The values of FLOP's released code: temperature 1 on -0.1 to 1.1.
    pub const FLOP: HardConcrete = HardConcrete {
        beta: 1.0,
        low: -0.1,
        high: 1.1,
    };

    /// What is added to log alpha before the sigmoid in [`HardConcrete::open`]: -beta ln(-low / high).
    pub fn shift(&self) -> f64 {
        -self.beta * (-self.low / self.high).ln()
    }

    /// The probability that a gate is not 0 (equation 12), the expectation of its L0 norm.
    pub fn open(&self, log_alpha: f64) -> f64 {
        gates::sigmoid(log_alpha + self.shift())
    }
}

/// A drawn gate for each of the parameters log alpha `[k]`; gate i has the i-th word of `draw`.
///
/// # Errors
/// If log alpha is neither f32 nor f64, or the draw is not the running pass' own.
pub fn hard_concrete(log_alpha: &Tensor, distribution: &HardConcrete, draw: Draw) -> Result<Tensor> {
    const OP: &str = "hard_concrete";
    let (step, site) = draw.place();
    log_alpha.device().steps().check_draw(OP, step, site)?;
    if let Device::Cuda(cuda) = log_alpha.device() {
        return cuda::hard_concrete(cuda, log_alpha, distribution, &draw);
    }
    by_float!(OP, log_alpha, T => {
        let values = log_alpha.read::<T>(OP)?;
        Tensor::make::<T>(OP, log_alpha.device(), log_alpha.shape(), |z| {
            gates::draw(distribution, &draw, &values, z);
            Ok(())
        })
    })
}

/// d log alpha += dz dz/dlog alpha for the gates that [`hard_concrete`] draws; a gate that was cut has no slope.
///
/// # Errors
/// As [`hard_concrete`]; if shapes or types differ.
pub fn hard_concrete_gradient(
    log_alpha: &Tensor,
    distribution: &HardConcrete,
    draw: Draw,
    dz: &Tensor,
    dlog_alpha: &Tensor,
) -> Result<()> {
    const OP: &str = "hard_concrete_gradient";
    same_shape(OP, dz, log_alpha)?;
    same_shape(OP, dlog_alpha, log_alpha)?;
    let (step, site) = draw.place();
    log_alpha.device().steps().check_draw(OP, step, site)?;
    if let Device::Cuda(cuda) = log_alpha.device() {
        return cuda::hard_concrete_gradient(cuda, log_alpha, distribution, &draw, dz, dlog_alpha);
    }
    by_float!(OP, log_alpha, T => {
        let (values, dz) = (log_alpha.read::<T>(OP)?, dz.read::<T>(OP)?);
        let mut target = dlog_alpha.write_guard::<T>(OP)?;
        gates::draw_gradient(distribution, &draw, &values, &dz, target.slice());
        Ok(())
    })
}

/// Every row of x `[n, k]` times z `[k]`, element by element.
///
/// # Errors
/// If shapes or types do not fit.
pub fn gate(x: &Tensor, z: &Tensor) -> Result<Tensor> {
    const OP: &str = "gate";
    expect_shape(OP, z, &[x.width()])?;
    if let Device::Cuda(cuda) = x.device() {
        return cuda::gate(cuda, x, z);
    }
    by_float!(OP, x, T => {
        let (xs, zs) = (x.read::<T>(OP)?, z.read::<T>(OP)?);
        Tensor::make::<T>(OP, x.device(), x.shape(), |y| {
            elementwise::scale_columns(&xs, &zs, y);
            Ok(())
        })
    })
}

/// The gradient of [`gate`] for z: the column sums of x dy, `[k]`.
///
/// # Errors
/// If shapes or types differ.
pub fn gate_gradient(x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    const OP: &str = "gate_gradient";
    same_shape(OP, x, dy)?;
    let (_, k) = matrix(OP, x)?;
    let product = if let Device::Cuda(cuda) = x.device() {
        cuda::multiply(cuda, x, dy)?
    } else {
        by_float!(OP, x, T => {
            let (xs, dys) = (x.read::<T>(OP)?, dy.read::<T>(OP)?);
            Tensor::make::<T>(OP, x.device(), x.shape(), |out| {
                elementwise::multiply(&xs, &dys, out);
                Ok(())
            })
        })?
    };
    let sums = Tensor::zeros(x.device(), x.dtype(), &[k])?;
    super::column_sum_into(&product, &sums)?;
    Ok(sums)
}

/// What [`sparsity_penalty`] is asked for.
#[derive(Clone, Copy, Debug)]
pub struct SparsityPenalty<'a> {
    /// Parameters of all gates, `[k]`.
    pub log_alpha: &'a Tensor,
    /// The share of all prunable numbers that each gate's component has, `[k]`; they add up to 1.
    pub shares: &'a Tensor,
    /// Multipliers of the difference and of its square, `[2]`.
    pub lambda: &'a Tensor,
    /// The expected sparsity that is asked for.
    pub target: f64,
    /// The gates' distribution.
    pub distribution: HardConcrete,
}

impl SparsityPenalty<'_> {
    fn check(&self, op: &'static str) -> Result<()> {
        same_shape(op, self.shares, self.log_alpha)?;
        expect_shape(op, self.lambda, &[2])?;
        // A recorded pass would keep the target of its first run.
        self.log_alpha.device().steps().check_no_pass(op)
    }
}

/// The augmented Lagrangian lambda_1 (s - t) + lambda_2 (s - t)² of FLOP's released code for the expected sparsity
/// s = 1 - sum of share times P(gate is not 0), and a target t; and s - t, which its gradient needs. Both `[1]`.
///
/// # Errors
/// If shapes or types differ, or inside a pass of a step, whose target would be that of the pass' first run.
pub fn sparsity_penalty(args: &SparsityPenalty<'_>) -> Result<(Tensor, Tensor)> {
    const OP: &str = "sparsity_penalty";
    args.check(OP)?;
    let log_alpha = args.log_alpha;
    if let Device::Cuda(cuda) = log_alpha.device() {
        return cuda::sparsity_penalty(cuda, args);
    }
    by_float!(OP, log_alpha, T => {
        let (values, shares) = (log_alpha.read::<T>(OP)?, args.shares.read::<T>(OP)?);
        let lambda = args.lambda.read::<T>(OP)?;
        let excess = 1.0 - gates::expected(&args.distribution, &values, &shares) - args.target;
        let penalty = excess * (lambda[0].to_f64() + lambda[1].to_f64() * excess);
        let scalar = |value| Tensor::from_vec(log_alpha.device(), vec![T::from_f64(value)], &[1]);
        Ok((scalar(penalty)?, scalar(excess)?))
    })
}

/// Adds the gradients of [`sparsity_penalty`], times dy `[1]`, to those of log alpha `[k]` and lambda `[2]`; `excess` is s - t.
///
/// # Errors
/// As [`sparsity_penalty`].
pub fn sparsity_penalty_gradient(
    args: &SparsityPenalty<'_>,
    excess: &Tensor,
    dy: &Tensor,
    dlog_alpha: &Tensor,
    dlambda: &Tensor,
) -> Result<()> {
    const OP: &str = "sparsity_penalty_gradient";
    args.check(OP)?;
    same_shape(OP, dlog_alpha, args.log_alpha)?;
    expect_shape(OP, dlambda, &[2])?;
    expect_shape(OP, excess, &[1])?;
    expect_shape(OP, dy, &[1])?;
    if let Device::Cuda(cuda) = args.log_alpha.device() {
        return cuda::sparsity_penalty_gradient(cuda, args, [excess, dy, dlog_alpha, dlambda]);
    }
    by_float!(OP, args.log_alpha, T => {
        let (values, shares) = (args.log_alpha.read::<T>(OP)?, args.shares.read::<T>(OP)?);
        let lambda = args.lambda.read::<T>(OP)?;
        let (excess, dy) = (excess.read::<T>(OP)?[0].to_f64(), dy.read::<T>(OP)?[0].to_f64());
        let slope = dy * (lambda[0].to_f64() + 2.0 * lambda[1].to_f64() * excess);
        let mut target = dlog_alpha.write_guard::<T>(OP)?;
        gates::expected_gradient(&args.distribution, &values, &shares, -slope, target.slice());
        let mut target = dlambda.write_guard::<T>(OP)?;
        for (d, g) in target.slice().iter_mut().zip([dy * excess, dy * excess * excess]) {
            *d += T::from_f64(g);
        }
        Ok(())
    })
}

/// Left singular vectors `[m, k]`, singular values `[k]` from the largest down, and right singular vectors `[k, d]` of a
/// matrix `[m, d]`, k = min(m, d): f64 on the host, from a matrix of any floating-point type on any device.
///
/// # Errors
/// If there is no such matrix, it holds something that is not a number, or inside a step.
pub fn svd(matrix: &Tensor) -> Result<[Tensor; 3]> {
    const OP: &str = "svd";
    let (m, d) = self::matrix(OP, matrix)?;
    let values = matrix.to_f64_vec()?;
    let wrong = || Error::invalid(OP, "the matrix holds something that is not a number");
    if values.iter().any(|value| !value.is_finite()) {
        return Err(wrong());
    }
    let (left, singular, right) = crate::cpu::svd::svd(&values, m, d).ok_or_else(wrong)?;
    let (host, k) = (Device::cpu(), m.min(d));
    Ok([
        Tensor::from_vec(&host, left, &[m, k])?,
        Tensor::from_vec(&host, singular, &[k])?,
        Tensor::from_vec(&host, right, &[k, d])?,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Purpose, Stream};

    /// Frequencies of drawn gates against the closed forms, within four standard errors of 2^17 draws.
    #[test]
    fn drawn_gates_have_the_published_frequencies() -> Result<()> {
        const N: usize = 1 << 17;
        let device = Device::cpu();
        let forms = [
            HardConcrete::FLOP,
            HardConcrete {
                beta: 2.0 / 3.0,
                ..HardConcrete::FLOP
            },
        ];
        for (index, form) in forms.into_iter().enumerate() {
            for log_alpha in [-3.0, -0.5, 0.0, 2.9] {
                let alphas = Tensor::from_vec(&device, vec![log_alpha; N], &[N])?;
                let draw = Stream::new(11, Purpose::Dropout).draws(index as u32).next();
                let z = hard_concrete(&alphas, &form, draw)?.to_vec::<f64>()?;
                assert!(z.iter().all(|z| (0.0..=1.0).contains(z)));
                let share = |of: &dyn Fn(f64) -> bool| z.iter().filter(|z| of(**z)).count() as f64 / N as f64;
                // P(z = 0) and P(z = 1): the stretched value is below 0 or above 1.
                let zero = 1.0 - form.open(log_alpha);
                let cut = form.beta * ((1.0 - form.low) / (form.high - 1.0)).ln() - log_alpha;
                let one = 1.0 - 1.0 / (1.0 + (-cut).exp());
                for (found, wanted) in [(share(&|z| z == 0.0), zero), (share(&|z| z == 1.0), one)] {
                    let error = (wanted * (1.0 - wanted) / N as f64).sqrt();
                    assert!(
                        (found - wanted).abs() < 4.0 * error,
                        "{log_alpha} {form:?}: {found} for {wanted}"
                    );
                }
            }
        }
        Ok(())
    }

    #[test]
    fn svd_gives_orthogonal_vectors_whose_product_is_the_matrix() -> Result<()> {
        let device = Device::cpu();
        let draw = Stream::new(3, Purpose::Head).draws(0).next();
        for (m, d) in [(1, 1), (5, 5), (7, 3), (3, 7), (40, 96)] {
            let values: Vec<f64> = (0..(m * d) as u32)
                .map(|i| f64::from(draw.word(i)) / f64::from(u32::MAX) - 0.5)
                .collect();
            let [u, s, v] = svd(&Tensor::from_slice(&device, &values, &[m, d])?)?;
            let (u, s, v, k) = (u.to_vec::<f64>()?, s.to_vec::<f64>()?, v.to_vec::<f64>()?, m.min(d));
            assert!(s.is_sorted_by(|a, b| a >= b) && s[k - 1] >= 0.0);
            // Rounding of sums of at most 96 products of numbers of size 1.
            let close = |a: f64, b: f64| (a - b).abs() < 1e-13;
            for i in 0..m {
                for j in 0..d {
                    let sum: f64 = (0..k).map(|c| u[i * k + c] * s[c] * v[c * d + j]).sum();
                    assert!(close(sum, values[i * d + j]), "{m} x {d}");
                }
            }
            for a in 0..k {
                for b in 0..k {
                    let left: f64 = (0..m).map(|i| u[i * k + a] * u[i * k + b]).sum();
                    let right: f64 = (0..d).map(|j| v[a * d + j] * v[b * d + j]).sum();
                    let one = f64::from(u8::from(a == b));
                    assert!(close(left, one) && close(right, one), "{m} x {d}");
                }
            }
        }
        let bad = Tensor::from_slice(&device, &[1.0, f64::NAN], &[1, 2])?;
        assert!(svd(&bad).is_err());
        Ok(())
    }
}
