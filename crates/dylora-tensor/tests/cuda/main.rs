//! CUDA against the CPU in f64, over shapes that are odd, empty, of length 1, and on both sides of every block size.
//!
//! Inputs are rounded to the device's type first, so only the arithmetic differs. Tolerances are norms of the error over
//! norms of the result: an f32 sum of k terms errs by about sqrt(k) u, u = 2^-24; a bf16 result is rounded once, u = 2^-8,
//! and attention also rounds probabilities and their gradients. Without a GPU every test says so and passes.
#![allow(clippy::print_stderr)]

mod decode;
mod pre_norm;
mod support;

use dylora_tensor::ops::{
    self, AdamWForm, AdamWHyper, AdamWItem, AdamWRow, AdamWState, Attended, Attention, CrossEntropy, Gelu, LowRank,
    LowRankGradients, NormGradients, Slab,
};
use dylora_tensor::{DType, Device, Dropout, Error, Result, Segments, Tensor};
use support::{Both, Make, close, close_if_some, close_to, dropout, gpu, norm, on_both_types, verdict};

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
fn attention_over_packed_sequences() -> Result<()> {
    let lengths: [&[usize]; 5] = [&[1], &[5, 1, 0, 33], &[64, 65, 1, 127], &[200, 3], &[512, 77]];
    on_both_types(|make| {
        for (heads, dim) in [(2, 64), (3, 32), (1, 128), (2, 8), (1, 100)] {
            for lengths in lengths {
                for (causal, few) in [(false, None), (true, None), (false, Some(1)), (true, Some(1))] {
                    for drop in [None, dropout(3)] {
                        attention_case(make, [heads, dim], lengths, few, causal, 3.0, drop)?;
                    }
                }
            }
        }
        Ok(())
    })
}

/// The head sizes that have kernels on tensor cores, around the sizes of their tiles: one pass over the keys or several,
/// blocks that share a head's keys (few heads) or not (many), sums of dq in shared memory or beside it.
#[test]
fn attention_on_tensor_cores() -> Result<()> {
    let Some(gpu) = gpu() else { return Ok(()) };
    let mut make = Make::new(gpu, DType::Bf16);
    let sizes = [[2, 64], [3, 32], [1, 128]];
    let edges = [1, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257];
    let long: [&[usize]; 5] = [&[511], &[512, 0], &[513, 2], &[1024], &[1000, 130, 300]];
    for size in sizes {
        for lengths in long.into_iter().chain([&edges[..], &edges[..7]]) {
            for causal in [false, true] {
                attention_case(&mut make, size, lengths, None, causal, 3.0, dropout(3))?;
            }
        }
        // More heads than the device has multiprocessors, so that each has a block of its own.
        let many = [16 * size[0], size[1]];
        let lengths: Vec<usize> = (0..18).map(|i| 500 - 23 * i).collect();
        attention_case(&mut make, many, &lengths, None, false, 3.0, dropout(1))?;
        attention_case(&mut make, many, &lengths, None, true, 3.0, None)?;
        let lengths: Vec<usize> = (0..12).map(|i| 650 - 40 * i).collect();
        attention_case(&mut make, many, &lengths, None, true, 3.0, dropout(1))?;
        let lengths: Vec<usize> = (0..20).map(|i| 20 + i * i % 150).collect();
        attention_case(&mut make, many, &lengths, None, false, 3.0, dropout(1))?;
        for scale in [-3.0, 0.0] {
            attention_case(&mut make, size, &[70, 3, 140], None, true, scale, dropout(2))?;
        }
    }
    let mut random = make.values(1000).into_iter().map(|v| ((v + 1.0) * 500.0) as usize);
    let mut below = |limit: usize| random.next().unwrap_or(0) * limit / 1000;
    for case in 0..60 {
        let lengths: Vec<usize> = (0..1 + below(6))
            .map(|_| if below(2) == 0 { edges[below(13)] } else { below(300) })
            .collect();
        let few = [None, Some(1), Some(1 + below(90))][case % 3];
        let drop = (below(3) > 0).then(|| dropout(2)).flatten();
        attention_case(&mut make, sizes[below(3)], &lengths, few, below(2) == 0, 3.0, drop)?;
    }
    verdict();
    Ok(())
}

/// `few` is the most queries that a sequence asks with: one in the last block of a classifier. Scores reach about `scale`.
fn attention_case(
    make: &mut Make<'_>,
    [num_heads, dim]: [usize; 2],
    lengths: &[usize],
    few: Option<usize>,
    causal: bool,
    scale: f64,
    dropout: Option<Dropout>,
) -> Result<()> {
    let asking: Vec<usize> = lengths.iter().map(|&n| n.min(few.unwrap_or(n))).collect();
    let (n, tokens, width) = (asking.iter().sum(), lengths.iter().sum(), num_heads * dim);
    let (q, dout) = (make.activations(&[n, width])?, make.activations(&[n, width])?);
    let (k, v) = (make.activations(&[tokens, width])?, make.activations(&[tokens, width])?);
    let sequences =
        |device: &Device| -> Result<_> { Ok((Segments::new(device, &asking)?, Segments::new(device, lengths)?)) };
    let (gpu_segments, cpu_segments) = (sequences(make.gpu)?, sequences(&make.cpu)?);
    let settings = |(queries, keys)| Attention {
        queries,
        keys,
        num_heads,
        scale: scale / (dim as f64).sqrt(),
        causal,
        dropout,
    };
    let on_gpu = settings((&gpu_segments.0, &gpu_segments.1));
    let on_cpu = settings((&cpu_segments.0, &cpu_segments.1));
    let (go, gl) = ops::attention(&q.gpu, &k.gpu, &v.gpu, &on_gpu)?;
    let (co, cl) = ops::attention(&q.cpu, &k.cpu, &v.cpu, &on_cpu)?;
    let what = format!(
        "{num_heads} x {dim}, {asking:?} of {lengths:?}, causal {causal}, scale {scale}, {}",
        dropout.is_some()
    );
    // Scores reach about 3: an error of a score is one of the same size in its probability.
    let tol = 4.0 * make.tolerance(tokens + dim, 1.0);
    close(&format!("attention {what}"), &go, &co, tol);
    close_to(&format!("log-sum-exp {what}"), &gl, &cl, tol, (gl.len() as f64).sqrt());
    let at = |q, k, v, out, lse| Attended { q, k, v, out, lse };
    let of_gpu = |want| {
        let at = at(&q.gpu, &k.gpu, &v.gpu, &go, &gl);
        ops::attention_gradient(&dout.gpu, &at, &on_gpu, want)
    };
    let gpu = of_gpu([true; 3])?;
    let cpu = ops::attention_gradient(&dout.cpu, &at(&q.cpu, &k.cpu, &v.cpu, &co, &cl), &on_cpu, [true; 3])?;
    // One key leaves nothing to learn for queries and keys: their errors are held against the size of dv.
    let floor = cpu[2]
        .as_ref()
        .map_or(Ok(0.0), |dv| dv.to_f64_vec().map(|dv| norm(&dv)))?;
    for ((name, gpu), cpu) in ["dq", "dk", "dv"].iter().zip(&gpu).zip(&cpu) {
        let (Some(gpu), Some(cpu)) = (gpu, cpu) else {
            return Err(Error::invalid("test", "a gradient is missing"));
        };
        close_to(&format!("{name} {what}"), gpu, cpu, 2.0 * tol, 0.5 * floor);
    }
    let bits = |t: &Tensor| -> Result<Vec<u64>> { Ok(t.to_f64_vec()?.into_iter().map(f64::to_bits).collect()) };
    let (again, statistics) = ops::attention(&q.gpu, &k.gpu, &v.gpu, &on_gpu)?;
    assert_eq!(bits(&again)?, bits(&go)?, "attention again, {what}");
    assert_eq!(bits(&statistics)?, bits(&gl)?, "log-sum-exp again, {what}");
    for want in [
        [true; 3],
        [true, false, false],
        [false, true, false],
        [false, false, true],
    ] {
        for ((new, old), wanted) in of_gpu(want)?.iter().zip(&gpu).zip(want) {
            assert_eq!(new.is_some(), wanted, "{what}");
            if let (Some(new), Some(old)) = (new, old) {
                assert_eq!(bits(new)?, bits(old)?, "a gradient again, {what}, {want:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn low_rank_paths() -> Result<()> {
    on_both_types(|make| {
        for [n, d, m, r] in [
            [1usize, 1, 1, 1],
            [5, 7, 3, 2],
            [33, 64, 65, 8],
            [100, 768, 96, 8],
            [70, 300, 256, 11],
        ] {
            for b in [1, r.div_ceil(2), r] {
                for (with_base, write) in [(true, 0..b), (true, b - 1..b), (false, 0..b)] {
                    low_rank_case(make, [n, d, m, r], b, with_base, write)?;
                }
            }
        }
        Ok(())
    })
}

fn low_rank_case(
    make: &mut Make<'_>,
    [n, d, m, r]: [usize; 4],
    rank: usize,
    with_base: bool,
    write: std::ops::Range<usize>,
) -> Result<()> {
    let (x, dy) = (make.activations(&[n, d])?, make.activations(&[n, m])?);
    let (w, bias) = (make.activations(&[m, d])?, make.weights(&[m])?);
    let (a, b) = (make.weights(&[r, d])?, make.weights(&[m, r])?);
    let (da, db) = (make.weights(&[r, d])?, make.weights(&[m, r])?);
    let before = (da.gpu.to_f64_vec()?, db.gpu.to_f64_vec()?);
    let low = |a, b| LowRank {
        a,
        b,
        rank,
        scale: 16.0 / rank as f64,
    };
    let (ours, theirs) = (low(&a.gpu, &b.gpu), low(&a.cpu, &b.cpu));
    let (gy, gh) = ops::lora_linear(&x.gpu, with_base.then_some((&w.gpu, Some(&bias.gpu))), &ours)?;
    let (cy, ch) = ops::lora_linear(&x.cpu, with_base.then_some((&w.cpu, Some(&bias.cpu))), &theirs)?;
    let tol = make.tolerance(d + m + r, 2.0);
    // Where the two paths cancel, what was rounded on the way is larger than the sum.
    let low_path = ops::lora_linear(&x.cpu, None, &theirs)?.0;
    let base_path = ops::linear(&x.cpu, &w.cpu, Some(&bias.cpu))?;
    let parts = norm(&low_path.to_f64_vec()?) + norm(&base_path.to_f64_vec()?);
    close_to("lora_linear", &gy, &cy, tol, parts);
    let into = |da, db| LowRankGradients {
        da: Some(da),
        db: Some(db),
        write: write.clone(),
        dx: Some(None),
    };
    let (gw, cw) = (with_base.then_some(&w.gpu), with_base.then_some(&w.cpu));
    let gpu = ops::lora_linear_gradient(&dy.gpu, &x.gpu, &gh, gw, &ours, into(&da.gpu, &db.gpu))?;
    let cpu = ops::lora_linear_gradient(&dy.cpu, &x.cpu, &ch, cw, &theirs, into(&da.cpu, &db.cpu))?;
    close_if_some("lora dx", &gpu, &cpu, 2.0 * tol);
    // On tensor cores an f32 factor is two bf16 numbers in a product: 2^-17 beside what the sum itself loses.
    let split = if make.dtype == DType::Bf16 { 2f64.powi(-15) } else { 0.0 };
    close("dA", &da.gpu, &da.cpu, 4.0 * make.tolerance(n + m, 0.0) + split);
    close("dB", &db.gpu, &db.cpu, 4.0 * make.tolerance(n + d, 0.0) + split);
    for (i, (new, old)) in da.gpu.to_f64_vec()?.iter().zip(&before.0).enumerate() {
        assert!(write.contains(&(i / d)) || new == old, "row {} of dA moved", i / d);
    }
    for (i, (new, old)) in db.gpu.to_f64_vec()?.iter().zip(&before.1).enumerate() {
        assert!(write.contains(&(i % r)) || new == old, "column {} of dB moved", i % r);
    }
    Ok(())
}

#[test]
fn projections_side_by_side() -> Result<()> {
    let Some(gpu) = gpu() else { return Ok(()) };
    let mut make = Make::new(gpu, DType::Bf16);
    let mut seed = 0;
    for ([n, d, r], columns) in [
        ([1, 32, 1], &[0usize][..]),
        ([17, 64, 3], &[0, 2]),
        ([100, 768, 8], &[0, 2]),
        ([333, 384, 8], &[1]),
        ([65, 1024, 5], &[1, 0]),
        ([5000, 128, 8], &[0, 2]),
        // More tiles than multiprocessors, and a last tile of one row.
        ([4353, 768, 8], &[0, 2]),
        ([2561, 1024, 7], &[0, 2]),
        ([2200, 768, 4], &[0]),
    ] {
        for rank in [1, r] {
            seed += 1;
            let write = if seed % 2 == 0 { 0..rank } else { rank - 1..rank };
            stacked_case(&mut make, [n, d, r], columns, rank, write.clone(), [None; 2])?;
            stacked_case(
                &mut make,
                [n, d, r],
                columns,
                rank,
                write.clone(),
                [dropout(1), dropout(2)],
            )?;
            stacked_case(&mut make, [n, d, r], columns, rank, write, [dropout(1), None])?;
        }
    }
    let tol = make.tolerance(64, 4.0);
    for (heads, dim, lengths) in [
        (2, 32, &[5usize, 0, 70, 1][..]),
        (3, 64, &[64, 129]),
        (1, 128, &[33, 200]),
    ] {
        let width = heads * dim;
        for apart in [false, true] {
            let asking: Vec<usize> = lengths.iter().map(|&n| if apart { n.min(1) } else { n }).collect();
            let (n, tokens) = (asking.iter().sum(), lengths.iter().sum());
            let stacked = make.activations(&[tokens, if apart { 2 } else { 3 } * width])?;
            let (q, dout) = (make.activations(&[n, width])?, make.activations(&[n, width])?);
            let sides = [(make.gpu.clone(), true), (make.cpu.clone(), false)].map(|(device, on_gpu)| {
                let of = |both: &Both| if on_gpu { both.gpu.clone() } else { both.cpu.clone() };
                let (queries, keys) = (Segments::new(&device, &asking)?, Segments::new(&device, lengths)?);
                let settings = Attention {
                    queries: &queries,
                    keys: &keys,
                    num_heads: heads,
                    scale: 1.0 / (dim as f64).sqrt(),
                    causal: false,
                    dropout: dropout(3),
                };
                let (q, stacked, dout) = (apart.then(|| of(&q)), of(&stacked), of(&dout));
                let (out, lse) = ops::stacked_attention(q.as_ref(), &stacked, &settings)?;
                let gradients = ops::stacked_attention_gradient(&dout, q.as_ref(), &stacked, &out, &lse, &settings)?;
                Ok::<_, Error>((out, gradients))
            });
            let [ours, theirs] = sides;
            let ((gpu, (gq, gs)), (cpu, (cq, cs))) = (ours?, theirs?);
            close("stacked attention", &gpu, &cpu, tol);
            close_if_some("its dq", &gq, &cq, 2.0 * tol);
            close("its gradient", &gs, &cs, 2.0 * tol);
        }
    }
    verdict();
    Ok(())
}

fn stacked_case(
    make: &mut Make<'_>,
    [n, d, r]: [usize; 3],
    columns: &[usize],
    rank: usize,
    write: std::ops::Range<usize>,
    dropouts: [Option<Dropout>; 2],
) -> Result<()> {
    let (x, w, bias) = (
        make.activations(&[n, d])?,
        make.activations(&[3 * d, d])?,
        make.weights(&[3 * d])?,
    );
    let (dy, onto) = (make.activations(&[n, 3 * d])?, make.activations(&[n, d])?);
    let mut factors = Vec::new();
    for _ in columns {
        factors.push([
            make.weights(&[r, d])?,
            make.weights(&[d, r])?,
            make.weights(&[r, d])?,
            make.weights(&[d, r])?,
        ]);
    }
    let paths = |on_gpu: bool| -> Vec<ops::StackedPath<'_>> {
        factors
            .iter()
            .zip(columns)
            .zip(dropouts)
            .map(|(([a, b, ..], column), dropout)| ops::StackedPath {
                low: LowRank {
                    a: if on_gpu { &a.gpu } else { &a.cpu },
                    b: if on_gpu { &b.gpu } else { &b.cpu },
                    rank,
                    scale: 2.0 / rank as f64,
                },
                column: column * d,
                dropout,
            })
            .collect()
    };
    let tol = make.tolerance(2 * d + r, 2.0);
    let (gy, gh) = ops::stacked_linear(&x.gpu, &w.gpu, &bias.gpu, &paths(true))?;
    let (cy, ch) = ops::stacked_linear(&x.cpu, &w.cpu, &bias.cpu, &paths(false))?;
    close("stacked linear", &gy, &cy, tol);
    let ours: Vec<_> = factors.iter().map(|[.., da, db]| (&da.gpu, &db.gpu)).collect();
    let theirs: Vec<_> = factors.iter().map(|[.., da, db]| (&da.cpu, &db.cpu)).collect();
    let (gonto, conto) = (onto.gpu.clone(), onto.cpu.clone());
    let gpu = ops::stacked_linear_gradient(
        &dy.gpu,
        [&x.gpu, &gh],
        &w.gpu,
        &paths(true),
        &ours,
        write.clone(),
        Some(Some(gonto)),
    )?;
    let cpu = ops::stacked_linear_gradient(
        &dy.cpu,
        [&x.cpu, &ch],
        &w.cpu,
        &paths(false),
        &theirs,
        write.clone(),
        Some(Some(conto)),
    )?;
    close_if_some("stacked dx", &gpu, &cpu, 2.0 * tol);
    // The same inputs give the same bytes.
    let mut twice = Vec::new();
    for _ in 0..2 {
        let fresh: Vec<[Tensor; 2]> = columns
            .iter()
            .map(|_| {
                Ok([
                    Tensor::zeros(make.gpu, DType::F32, &[r, d])?,
                    Tensor::zeros(make.gpu, DType::F32, &[d, r])?,
                ])
            })
            .collect::<Result<_>>()?;
        let into: Vec<_> = fresh.iter().map(|[da, db]| (da, db)).collect();
        let (on_gpu, inputs) = (paths(true), [&x.gpu, &gh]);
        ops::stacked_linear_gradient(&dy.gpu, inputs, &w.gpu, &on_gpu, &into, write.clone(), Some(None))?;
        let values: Vec<Vec<f32>> = fresh
            .iter()
            .flatten()
            .map(Tensor::to_vec::<f32>)
            .collect::<Result<_>>()?;
        twice.push(values);
    }
    assert_eq!(twice[0], twice[1]);
    for [.., da, db] in &factors {
        // An f32 factor is two bf16 numbers in a product: 2^-17 beside what the sum itself loses.
        close(
            "stacked dA",
            &da.gpu,
            &da.cpu,
            4.0 * make.tolerance(n + d, 0.0) + 2f64.powi(-15),
        );
        close(
            "stacked dB",
            &db.gpu,
            &db.cpu,
            4.0 * make.tolerance(n + d, 0.0) + 2f64.powi(-15),
        );
    }
    Ok(())
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
