//! Hard-concrete gates and their penalty.

use dylora_tensor::ops::{self, HardConcrete, SparsityPenalty};
use dylora_tensor::{DType, Purpose, Result, Stream};

use crate::support::{Make, close, close_to, gpu, verdict};

#[test]
fn gates_and_penalty() -> Result<()> {
    let Some(device) = gpu() else { return Ok(()) };
    let mut make = Make::new(device, DType::F32);
    let form = HardConcrete::FLOP;
    for (n, k) in [(1, 1), (3, 7), (37, 64), (65, 100), (5, 768), (130, 257), (2, 3072)] {
        let (log_alpha, dz) = (make.weights(&[k])?, make.weights(&[k])?);
        let draw = Stream::new(3, Purpose::Dropout).draws(n as u32).next();
        let (gpu, cpu) = (
            ops::hard_concrete(&log_alpha.gpu, &form, draw)?,
            ops::hard_concrete(&log_alpha.cpu, &form, draw)?,
        );
        // The noise is a logarithm of a ratio with some roundings on both sides of it, times a slope of at most 0.3.
        let tol = make.tolerance(64, 0.0);
        close_to("hard_concrete", &gpu, &cpu, tol, 1.0);
        let (da, target) = (make.weights(&[k])?, make.weights(&[k])?);
        ops::hard_concrete_gradient(&log_alpha.gpu, &form, draw, &dz.gpu, &da.gpu)?;
        ops::hard_concrete_gradient(&log_alpha.cpu, &form, draw, &dz.cpu, &da.cpu)?;
        close_to("hard_concrete_gradient", &da.gpu, &da.cpu, tol, 1.0);

        let (x, dy, z) = (
            make.activations(&[n, k])?,
            make.activations(&[n, k])?,
            make.weights(&[k])?,
        );
        close("gate", &ops::gate(&x.gpu, &z.gpu)?, &ops::gate(&x.cpu, &z.cpu)?, tol);
        let (gpu, cpu) = (
            ops::gate_gradient(&x.gpu, &dy.gpu)?,
            ops::gate_gradient(&x.cpu, &dy.cpu)?,
        );
        close_to("gate_gradient", &gpu, &cpu, make.tolerance(n, 0.0), 1.0);

        let (shares, lambda, dlambda, one) = (
            make.weights(&[k])?,
            make.weights(&[2])?,
            make.weights(&[2])?,
            make.weights(&[1])?,
        );
        let args = |on_gpu: bool| SparsityPenalty {
            log_alpha: if on_gpu { &log_alpha.gpu } else { &log_alpha.cpu },
            shares: if on_gpu { &shares.gpu } else { &shares.cpu },
            lambda: if on_gpu { &lambda.gpu } else { &lambda.cpu },
            target: 0.3,
            distribution: form,
        };
        // Sums of k shares of either sign: their rounding is that of their sizes, not of what remains.
        let (tol, floor) = (make.tolerance(k, 0.0), (k as f64).sqrt());
        let (on_gpu, on_cpu) = (
            ops::sparsity_penalty(&args(true))?,
            ops::sparsity_penalty(&args(false))?,
        );
        close_to("excess", &on_gpu.1, &on_cpu.1, tol, floor);
        close_to("sparsity_penalty", &on_gpu.0, &on_cpu.0, tol, floor * floor);
        ops::sparsity_penalty_gradient(&args(true), &on_gpu.1, &one.gpu, &target.gpu, &dlambda.gpu)?;
        ops::sparsity_penalty_gradient(&args(false), &on_cpu.1, &one.cpu, &target.cpu, &dlambda.cpu)?;
        close_to("penalty to gates", &target.gpu, &target.cpu, tol, floor * floor);
        close_to("penalty to multipliers", &dlambda.gpu, &dlambda.cpu, tol, floor * floor);
    }
    verdict();
    Ok(())
}
