//! CUDA against the CPU in f64, over shapes that are odd, empty, of length 1, and on both sides of every block size.
//!
//! Inputs are rounded to the device's type first, so only the arithmetic differs. Tolerances are norms of the error over
//! norms of the result: an f32 sum of k terms errs by about sqrt(k) u, u = 2^-24; a bf16 result is rounded once, u = 2^-8,
//! and attention also rounds probabilities and their gradients. Without a GPU every test says so and passes.
#![allow(clippy::print_stderr)]

mod attention;
mod decode;
mod gates;
mod low_rank;
mod pre_norm;
mod support;

use dylora_tensor::ops::{
    self, AdamWForm, AdamWHyper, AdamWItem, AdamWRow, AdamWState, CrossEntropy, Gelu, NormGradients, Slab,
};
use dylora_tensor::{DType, Device, Dropout, Error, Result, Tensor};
use support::{Make, close, close_if_some, dropout, gpu, on_both_types, verdict};

#[test]
fn elementwise_operations() -> Result<()> {
    on_both_types(|make| {
        for shape in [
            [1, 1],
            [3, 7],
            [37, 64],
            [65, 100],
            [5, 768],
            [130, 257],
            [9, 1024],
            [2, 3072],
        ] {
            let (x, y) = (make.activations(&shape)?, make.activations(&shape)?);
            let tol = make.tolerance(16, 1.0);
            for kind in [Gelu::Erf, Gelu::Tanh] {
                close("gelu", &ops::gelu(kind, &x.gpu)?, &ops::gelu(kind, &x.cpu)?, tol);
                let gpu = ops::gelu_gradient(kind, &x.gpu, &y.gpu)?;
                close("gelu_gradient", &gpu, &ops::gelu_gradient(kind, &x.cpu, &y.cpu)?, tol);
            }
            let bias = make.weights(&[shape[1]])?;
            for kind in [Gelu::Erf, Gelu::Tanh] {
                let (gpu, cpu) = (
                    ops::bias_gelu(kind, &x.gpu, &bias.gpu)?,
                    ops::bias_gelu(kind, &x.cpu, &bias.cpu)?,
                );
                close("bias_gelu", &gpu, &cpu, tol);
                let gpu = ops::bias_gelu_gradient(kind, &x.gpu, &bias.gpu, &y.gpu)?;
                let cpu = ops::bias_gelu_gradient(kind, &x.cpu, &bias.cpu, &y.cpu)?;
                close("bias_gelu_gradient", &gpu, &cpu, tol);
            }
            close("tanh", &ops::tanh(&x.gpu)?, &ops::tanh(&x.cpu)?, tol);
            let gpu = ops::tanh_gradient(&x.gpu, &y.gpu)?;
            close("tanh_gradient", &gpu, &ops::tanh_gradient(&x.cpu, &y.cpu)?, tol);
            close("add", &ops::add(&x.gpu, &y.gpu)?, &ops::add(&x.cpu, &y.cpu)?, tol);
            let (z, factor) = (make.weights(&shape)?, make.weights(&[1])?);
            ops::add_into(&x.gpu, &z.gpu)?;
            ops::add_into(&x.cpu, &z.cpu)?;
            close("add_into", &z.gpu, &z.cpu, make.tolerance(1, 0.0));
            let gpu = ops::scale_by(&x.gpu, &factor.gpu)?;
            close("scale_by", &gpu, &ops::scale_by(&x.cpu, &factor.cpu)?, tol);
            let drop = dropout(2).ok_or(Error::invalid("test", "no dropout"))?;
            close(
                "dropout",
                &ops::dropout(&x.gpu, drop)?,
                &ops::dropout(&x.cpu, drop)?,
                tol,
            );
            ops::zero_many(&[&z.gpu])?;
            assert!(z.gpu.to_f64_vec()?.iter().all(|v| *v == 0.0));
        }
        Ok(())
    })
}

/// GELU and its slope in f64, without the cancellation of 1 + erf(x) below zero.
fn exact_gelu(kind: Gelu, x: f64) -> (f64, f64) {
    match kind {
        Gelu::Erf => {
            let phi = 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
            let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
            (x * phi, phi + x * density)
        }
        Gelu::Tanh => {
            let (root, cubic) = ((2.0 / std::f64::consts::PI).sqrt(), 0.044715);
            let phi = 1.0 / (1.0 + (-2.0 * root * x * (1.0 + cubic * x * x)).exp());
            let inner = 2.0 * root * (1.0 + 3.0 * cubic * x * x);
            (x * phi, phi + x * phi * (1.0 - phi) * inner)
        }
    }
}

/// GELU of every bf16 number up to 13 in size. Rounding the result loses 2^-8 of it, the approximation 2^-14; a slope is a sum
/// of terms of size 1, so what it loses is held against 1. A tail below the least normal number, 2^-126, counts as zero: up to
/// 13 times that.
#[test]
fn gelu_of_every_bf16_number() -> Result<()> {
    let Some(gpu) = gpu() else { return Ok(()) };
    let mut values: Vec<f32> = (0..=u16::MAX)
        .map(|bits| f32::from_bits(u32::from(bits) << 16))
        .collect();
    values.retain(|v| v.abs() <= 13.0);
    values.truncate(values.len() / 8 * 8);
    let shape = [values.len() / 8, 8];
    let on_gpu = |values: &[f32]| {
        let host = Tensor::from_slice(&Device::cpu(), values, &shape)?;
        host.to_dtype(DType::Bf16)?.to_device(gpu)
    };
    let (x, one) = (on_gpu(&values)?, on_gpu(&vec![1.0; values.len()])?);
    let zero = Tensor::zeros(gpu, DType::F32, &[8])?;
    let (round, approximate, least) = (2f64.powi(-8), 2f64.powi(-14), 2f64.powi(-122));
    for kind in [Gelu::Erf, Gelu::Tanh] {
        let results = [ops::gelu(kind, &x)?, ops::bias_gelu(kind, &x, &zero)?];
        let slopes = [
            ops::gelu_gradient(kind, &x, &one)?,
            ops::bias_gelu_gradient(kind, &x, &zero, &one)?,
        ];
        for (result, slope) in results.iter().zip(&slopes) {
            let pairs = result.to_f64_vec()?.into_iter().zip(slope.to_f64_vec()?);
            for (at, (result, slope)) in values.iter().zip(pairs) {
                let (value, steepness) = exact_gelu(kind, f64::from(*at));
                let allowed = (round + approximate) * value.abs() + least;
                assert!(
                    (result - value).abs() <= allowed,
                    "{kind:?} of {at}: {result} for {value}"
                );
                let allowed = round * steepness.abs() + approximate;
                assert!(
                    (slope - steepness).abs() <= allowed,
                    "{kind:?}' of {at}: {slope} for {steepness}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn linear_layers() -> Result<()> {
    on_both_types(|make| {
        for [n, d, m] in [[1, 1, 1], [5, 7, 3], [33, 64, 65], [130, 768, 96], [64, 384, 1536]] {
            let (x, dy) = (make.activations(&[n, d])?, make.activations(&[n, m])?);
            for learns in [false, true] {
                let dtype = if learns { DType::F32 } else { make.dtype };
                let (w, bias) = (make.tensor(&[m, d], dtype)?, make.weights(&[m])?);
                // A weight that learns is f32, and rounded to the activations' type for the product.
                let tol = make.tolerance(d.max(m).max(n), if learns { 3.0 } else { 2.0 });
                let gpu = ops::linear(&x.gpu, &w.gpu, Some(&bias.gpu))?;
                close("linear", &gpu, &ops::linear(&x.cpu, &w.cpu, Some(&bias.cpu))?, tol);
                let gpu = ops::linear_input_gradient(&dy.gpu, &w.gpu, None)?;
                let cpu = ops::linear_input_gradient(&dy.cpu, &w.cpu, None)?;
                close("linear_input_gradient", &gpu, &cpu, tol);
                let gpu = ops::linear_input_gradient(&dy.gpu, &w.gpu, Some(gpu))?;
                let cpu = ops::linear_input_gradient(&dy.cpu, &w.cpu, Some(cpu))?;
                close("linear_input_gradient onto", &gpu, &cpu, 2.0 * tol);
            }
            let (dw, db) = (make.weights(&[m, d])?, make.weights(&[m])?);
            ops::linear_weight_gradient(&dy.gpu, &x.gpu, &dw.gpu)?;
            ops::linear_weight_gradient(&dy.cpu, &x.cpu, &dw.cpu)?;
            close("linear_weight_gradient", &dw.gpu, &dw.cpu, make.tolerance(n, 0.0));
            ops::column_sum_into(&dy.gpu, &db.gpu)?;
            ops::column_sum_into(&dy.cpu, &db.cpu)?;
            close("column_sum", &db.gpu, &db.cpu, make.tolerance(n, 0.0));
        }
        Ok(())
    })
}

#[test]
fn layer_normalisation() -> Result<()> {
    on_both_types(|make| {
        for [n, d] in [
            [1, 8],
            [3, 7],
            [37, 32],
            [65, 100],
            [5, 768],
            [9, 1024],
            [3, 1100],
            [70, 384],
            [70, 768],
            // More rows than run at a time.
            [4500, 768],
            [4300, 1024],
        ] {
            for (residual, drop) in [(false, None), (true, None), (false, dropout(1)), (true, dropout(1))] {
                norm_case(make, [n, d], residual, drop)?;
            }
        }
        Ok(())
    })
}

fn norm_case(make: &mut Make<'_>, shape: [usize; 2], residual: bool, drop: Option<Dropout>) -> Result<()> {
    let [n, d] = shape;
    let (x, r, dy) = (
        make.activations(&shape)?,
        make.activations(&shape)?,
        make.activations(&shape)?,
    );
    let (gamma, beta) = (make.weights(&[d])?, make.weights(&[d])?);
    let (dgamma, dbeta) = (make.weights(&[d])?, make.weights(&[d])?);
    let tol = make.tolerance(d, 3.0);
    let g = ops::layer_norm(&x.gpu, residual.then_some(&r.gpu), drop, &gamma.gpu, &beta.gpu, 1e-5)?;
    let c = ops::layer_norm(&x.cpu, residual.then_some(&r.cpu), drop, &gamma.cpu, &beta.cpu, 1e-5)?;
    close("sum", &g.sum, &c.sum, tol);
    close("norm", &g.y, &c.y, tol);
    close("mean", &g.mean, &c.mean, 20.0 * tol);
    close("rstd", &g.rstd, &c.rstd, tol);
    let into = |gamma, beta| NormGradients {
        residual,
        x: true,
        dgamma: Some(gamma),
        dbeta: Some(beta),
    };
    // The gradient starts from the GPU's own sum and statistics on both sides, so that their rounding counts once.
    let bias = make.weights(&[d])?;
    let weights = ([&gamma.gpu, &beta.gpu], [&gamma.cpu, &beta.cpu]);
    let gpu = ops::bias_layer_norm(&x.gpu, &bias.gpu, residual.then_some(&r.gpu), drop, weights.0, 1e-5)?;
    let cpu = ops::bias_layer_norm(&x.cpu, &bias.cpu, residual.then_some(&r.cpu), drop, weights.1, 1e-5)?;
    close("norm behind a bias", &gpu.y, &cpu.y, tol);
    close("its sum", &gpu.sum, &cpu.sum, tol);
    let wide = |t: &Tensor| t.to_device(&make.cpu)?.to_dtype(DType::F64);
    let (sum, mean, rstd) = (wide(&g.sum)?, wide(&g.mean)?, wide(&g.rstd)?);
    let ours = into(&dgamma.gpu, &dbeta.gpu);
    let gpu = ops::layer_norm_gradient(&dy.gpu, &g.sum, &g.mean, &g.rstd, &gamma.gpu, drop, ours)?;
    let theirs = into(&dgamma.cpu, &dbeta.cpu);
    let cpu = ops::layer_norm_gradient(&dy.cpu, &sum, &mean, &rstd, &gamma.cpu, drop, theirs)?;
    close_if_some("dresidual", &gpu.0, &cpu.0, tol);
    close_if_some("dx", &gpu.1, &cpu.1, tol);
    close("dgamma", &dgamma.gpu, &dgamma.cpu, make.tolerance(n + d, 0.0));
    close("dbeta", &dbeta.gpu, &dbeta.cpu, make.tolerance(n, 0.0));
    Ok(())
}

#[test]
fn rows_of_tables_and_activations() -> Result<()> {
    on_both_types(|make| {
        for d in [1, 7, 64, 300, 768] {
            let ids: Vec<i32> = (0..100).map(|i| (i * i + 3) % 41).collect();
            let (ids, kinds) = (make.integers(&ids)?, make.integers(&[0; 100])?);
            let (words, types) = (make.activations(&[41, d])?, make.activations(&[1, d])?);
            let tol = make.tolerance(3, 1.0);
            let gpu = ops::embed(&[(&ids.gpu, &words.gpu), (&kinds.gpu, &types.gpu)])?;
            let cpu = ops::embed(&[(&ids.cpu, &words.cpu), (&kinds.cpu, &types.cpu)])?;
            close("embed", &gpu, &cpu, tol);
            let (dy, table) = (make.activations(&[100, d])?, make.weights(&[41, d])?);
            ops::embed_gradient(&ids.gpu, &dy.gpu, &table.gpu)?;
            ops::embed_gradient(&ids.cpu, &dy.cpu, &table.cpu)?;
            close("embed_gradient", &table.gpu, &table.cpu, make.tolerance(8, 0.0));
            let rows = make.integers(&[0, 5, 99, 5, 40])?;
            let gpu = ops::gather_rows(&dy.gpu, &rows.gpu)?;
            close("gather", &gpu, &ops::gather_rows(&dy.cpu, &rows.cpu)?, 0.0);
            let few = make.activations(&[5, d])?;
            let gpu = ops::scatter_rows(&few.gpu, &rows.gpu, 100, None)?;
            let cpu = ops::scatter_rows(&few.cpu, &rows.cpu, 100, None)?;
            close("scatter", &gpu, &cpu, tol);
            let gpu = ops::scatter_rows(&few.gpu, &rows.gpu, 100, Some(gpu))?;
            let cpu = ops::scatter_rows(&few.cpu, &rows.cpu, 100, Some(cpu))?;
            close("scatter onto", &gpu, &cpu, 2.0 * tol);
            let wrong = make.integers(&[2, 41])?;
            let index = Error::Index {
                op: "embed",
                index: 41,
                position: 1,
                limit: 41,
            };
            assert_eq!(ops::embed(&[(&wrong.gpu, &words.gpu)]).map(drop), Err(index));
        }
        Ok(())
    })
}

#[test]
fn losses() -> Result<()> {
    on_both_types(|make| {
        for [n, c] in [[1, 2], [32, 3], [7, 64], [65, 1000], [3, 50265]] {
            let logits = make.activations(&[n, c])?;
            let target = |i: usize| if i % 5 == 3 { -100 } else { (i * 7 % c) as i32 };
            let targets = make.integers(&(0..n).map(target).collect::<Vec<_>>())?;
            for smoothing in [0.0, 0.1] {
                let settings = CrossEntropy {
                    smoothing,
                    ignore: Some(-100),
                    weight: 1.0 / n as f64,
                };
                let gpu = ops::cross_entropy(&logits.gpu, &targets.gpu, &settings, true)?;
                let cpu = ops::cross_entropy(&logits.cpu, &targets.cpu, &settings, true)?;
                close("cross-entropy", &gpu.0, &cpu.0, 2f64.powi(-20));
                close_if_some("its gradient", &gpu.1, &cpu.1, make.tolerance(c, 1.0));
            }
            let (p, t) = (make.activations(&[n, 1])?, make.weights(&[n])?);
            let gpu = ops::mse(&p.gpu, &t.gpu, 0.25, true)?;
            let cpu = ops::mse(&p.cpu, &t.cpu, 0.25, true)?;
            close("mse", &gpu.0, &cpu.0, 2f64.powi(-20));
            close_if_some("its gradient", &gpu.1, &cpu.1, make.tolerance(4, 1.0));
        }
        Ok(())
    })
}

/// Value, gradient and moments of a parameter on the GPU and on the CPU, f32 in both places.
type Twin = [(Tensor, Tensor); 4];

fn items(twins: &[Twin], on_gpu: bool, form: AdamWForm) -> Vec<AdamWItem<'_>> {
    let row = |t: i32| AdamWRow {
        lr: 1e-3,
        bias1: 1.0 - 0.9f64.powi(t + 1),
        bias2: 1.0 - 0.999f64.powi(t + 1),
    };
    let item = |(i, twin): (usize, &'_ Twin)| -> (usize, std::ops::Range<usize>, usize) {
        let axis = i % 2;
        let extent = twin[0].0.shape()[axis];
        let range = i % 3 % extent..extent;
        let count = if i % 4 == 0 { range.len() } else { 1 };
        (axis, range, count)
    };
    let mut list = Vec::new();
    for (i, twin) in twins.iter().enumerate() {
        let (axis, range, count) = item((i, twin));
        let get = |j: usize| if on_gpu { &twin[j].0 } else { &twin[j].1 };
        list.push(AdamWItem {
            state: AdamWState {
                value: get(0),
                grad: get(1),
                m: get(2),
                v: get(3),
            },
            slab: Slab { axis, range },
            rows: (0..count as i32).map(row).collect(),
            hyper: AdamWHyper {
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
                decay: 0.1,
                form,
            },
        });
    }
    list
}

/// AdamW does on the GPU what it does on the CPU in f32, bit for bit, and the clipping factor agrees.
#[test]
fn optimizer() -> Result<()> {
    let Some(gpu) = gpu() else { return Ok(()) };
    let (mut make, cpu) = (Make::new(gpu, DType::F32), Device::cpu());
    for form in [AdamWForm::Torch, AdamWForm::HuggingFace4] {
        let mut twins: Vec<Twin> = Vec::new();
        // More parameters than one launch holds.
        for i in 0..70 {
            let shape = [1 + i % 9, 1 + i * 37 % 300];
            let mut tensor = |squared: bool| -> Result<_> {
                let values = make.values(shape[0] * shape[1]);
                let values = values.iter().map(|v| if squared { v * v } else { *v }).collect();
                let host = Tensor::from_vec(&cpu, values, &shape)?;
                Ok((host.to_device(gpu)?, host))
            };
            twins.push([tensor(false)?, tensor(false)?, tensor(false)?, tensor(true)?]);
        }
        let clips = (
            Tensor::zeros(gpu, DType::F32, &[2])?,
            Tensor::zeros(&cpu, DType::F32, &[2])?,
        );
        let gradients: (Vec<&Tensor>, Vec<&Tensor>) = twins.iter().map(|t| (&t[1].0, &t[1].1)).unzip();
        ops::clip_factor(&gradients.0, Some(1.0), &clips.0)?;
        ops::clip_factor(&gradients.1, Some(1.0), &clips.1)?;
        close("clip", &clips.0, &clips.1, 2f64.powi(-23));
        clips.1.copy_from(&clips.0.to_device(&cpu)?)?;
        for _ in 0..3 {
            ops::adamw_many(&items(&twins, true, form), Some(&clips.0))?;
            ops::adamw_many(&items(&twins, false, form), Some(&clips.1))?;
        }
        for (i, twin) in twins.iter().enumerate() {
            for (j, (gpu, cpu)) in twin.iter().enumerate() {
                assert_eq!(
                    gpu.to_vec::<f32>()?,
                    cpu.to_vec::<f32>()?,
                    "{form:?}, parameter {i}, tensor {j}"
                );
            }
        }
    }
    verdict();
    Ok(())
}

#[test]
fn tensors_move_and_are_checked() -> Result<()> {
    let Some(gpu) = gpu() else { return Ok(()) };
    let cpu = Device::cpu();
    let t = Tensor::from_slice(gpu, &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], &[3, 2])?;
    assert_eq!(t.rows(1..3)?.to_vec::<f32>()?, [3.0, 4.0, 5.0, 6.0]);
    t.rows(1..2)?.write(&[7.0f32, 8.0])?;
    assert_eq!(t.to_vec::<f32>()?, [1.0, 2.0, 7.0, 8.0, 5.0, 6.0]);
    assert_eq!(t.to_device(&cpu)?.to_vec::<f32>()?, t.to_vec::<f32>()?);
    assert_eq!(t.to_dtype(DType::Bf16)?.to_f64_vec()?, [1.0, 2.0, 7.0, 8.0, 5.0, 6.0]);
    let host = Tensor::zeros(&cpu, DType::F32, &[3, 2])?;
    assert_eq!(ops::add(&t, &host).map(drop), Err(Error::Device { op: "add" }));
    assert!(Tensor::zeros(gpu, DType::F64, &[1]).is_err());
    assert_eq!(t.copy_from(&t), Err(Error::Aliased { op: "copy_from" }));
    Ok(())
}
