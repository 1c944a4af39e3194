//! The kernels of a bf16 training step on a GPU that memory limits: GELU behind a bias, layer normalisation, low-rank paths.
//! For each: microseconds of a call from the host's side (products by cuBLAS included where the operation has one) beside what
//! its bytes take at 4.3 TB/s. Inputs take turns so that none is found in the second-level cache. Under `ncu` with
//! `--metrics gpu__time_duration.sum` every kernel is listed by itself.
//! `cargo bench -p dylora-tensor --bench memory_bound [-- CALLS]`; without a GPU it says so.
#![allow(missing_docs, clippy::print_stdout)]

use std::time::Instant;

use dylora_tensor::ops::{self, Gelu, LowRank, NormGradients, StackedPath};
use dylora_tensor::{DType, Device, Dropout, Purpose, Result, Stream, Tensor};

const WIDTH: usize = 768;
const HIDDEN: usize = 3072;
const RANK: usize = 8;
/// Bytes that an H200 moves per microsecond, measured.
const BYTES: f64 = 4.3e6;
/// What the inputs of an operation occupy together, at least.
const SPREAD: usize = 160 << 20;

fn random(device: &Device, dtype: DType, shape: &[usize], id: u32) -> Result<Tensor> {
    let draw = Stream::new(1, Purpose::Head).draws(id).next();
    let values: Vec<f32> = (0..shape.iter().product::<usize>() as u32)
        .map(|i| draw.word(i) as f32 / u32::MAX as f32 * 2.0 - 1.0)
        .collect();
    let host = Tensor::from_vec(&Device::cpu(), values, shape)?;
    host.to_dtype(dtype)?.to_device(device)
}

/// As many copies of a tensor as spread over the cache.
fn copies(tensor: &Tensor) -> Result<Vec<Tensor>> {
    let host = tensor.to_device(&Device::cpu())?;
    (0..SPREAD.div_ceil(2 * tensor.len()))
        .map(|_| host.to_device(tensor.device()))
        .collect()
}

fn time(
    device: &Device,
    name: &str,
    bytes: usize,
    calls: usize,
    mut run: impl FnMut(usize) -> Result<()>,
) -> Result<()> {
    let Device::Cuda(cuda) = device else { return Ok(()) };
    for i in 0..calls.min(3) {
        run(i)?;
    }
    cuda.synchronise()?;
    let start = Instant::now();
    for i in 0..calls {
        run(i)?;
    }
    cuda.synchronise()?;
    let micros = start.elapsed().as_secs_f64() * 1e6 / calls as f64;
    println!("{name:34} {micros:9.1} us, bytes alone {:7.1} us", bytes as f64 / BYTES);
    Ok(())
}

fn main() -> Result<()> {
    if Device::count_cuda() == 0 {
        println!("not run: no CUDA device");
        return Ok(());
    }
    let calls = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(100);
    let device = &Device::cuda(0, None)?;
    let f32s = |shape: &[usize], id| random(device, DType::F32, shape, id);
    let bf16s = |shape: &[usize], id| random(device, DType::Bf16, shape, id);
    let drop = Dropout::new(0.1, Stream::new(1, Purpose::Dropout).draws(0).next())?;
    let (shift, wide_shift, gamma, beta) = (
        f32s(&[WIDTH], 1)?,
        f32s(&[HIDDEN], 2)?,
        f32s(&[WIDTH], 3)?,
        f32s(&[WIDTH], 4)?,
    );
    let (stacked, stacked_shift) = (bf16s(&[3 * WIDTH, WIDTH], 5)?, f32s(&[3 * WIDTH], 6)?);
    let (a, b) = (f32s(&[RANK, WIDTH], 7)?, f32s(&[WIDTH, RANK], 8)?);
    let (da, db) = (f32s(&[RANK, WIDTH], 9)?, f32s(&[WIDTH, RANK], 10)?);
    for n in [2048, 4096, 16384] {
        println!("{n} tokens");
        let (narrow, wide) = (2 * n * WIDTH, 2 * n * HIDDEN);
        let xs = copies(&bf16s(&[n, HIDDEN], 11)?)?;
        let at = |i: usize| &xs[i % xs.len()];
        for (name, kind) in [("erf", Gelu::Erf), ("tanh", Gelu::Tanh)] {
            time(device, &format!("bias, GELU ({name})"), 2 * wide, calls, |i| {
                ops::bias_gelu(kind, at(i), &wide_shift).map(drop_value)
            })?;
            time(device, &format!("its gradient ({name})"), 3 * wide, calls, |i| {
                ops::bias_gelu_gradient(kind, at(2 * i), &wide_shift, at(2 * i + 1)).map(drop_value)
            })?;
        }
        let xs = copies(&bf16s(&[n, WIDTH], 12)?)?;
        let at = |i: usize| &xs[i % xs.len()];
        time(device, "bias, dropout, residual, norm", 4 * narrow, calls, |i| {
            ops::bias_layer_norm(at(2 * i), &shift, Some(at(2 * i + 1)), drop, [&gamma, &beta], 1e-5).map(drop_value)
        })?;
        let norm = ops::layer_norm(at(0), None, None, &gamma, &beta, 1e-5)?;
        time(device, "its gradient", 4 * narrow, calls, |i| {
            let into = NormGradients {
                residual: true,
                x: true,
                ..NormGradients::default()
            };
            ops::layer_norm_gradient(at(2 * i), at(2 * i + 1), &norm.mean, &norm.rstd, &gamma, drop, into)
                .map(drop_value)
        })?;
        let ys = copies(&bf16s(&[n, 3 * WIDTH], 13)?)?;
        for rank in [RANK, RANK / 2] {
            let low = LowRank {
                a: &a,
                b: &b,
                rank,
                scale: 2.0,
            };
            let paths = [0, 2 * WIDTH].map(|column| StackedPath {
                low,
                column,
                dropout: None,
            });
            time(
                device,
                &format!("low-rank paths, rank {rank}"),
                4 * narrow,
                calls,
                |i| ops::stacked_linear(at(i), &stacked, &stacked_shift, &paths).map(drop_value),
            )?;
            let (_, h) = ops::stacked_linear(at(0), &stacked, &stacked_shift, &paths)?;
            let mut dx = Some(bf16s(&[n, WIDTH], 14)?);
            time(
                device,
                &format!("their gradients, rank {rank}"),
                5 * narrow,
                calls,
                |i| {
                    let (dy, x, into) = (&ys[i % ys.len()], [at(i), &h], [(&da, &db), (&da, &db)]);
                    dx = ops::stacked_linear_gradient(dy, x, &stacked, &paths, &into, 0..rank, Some(dx.take()))?;
                    Ok(())
                },
            )?;
        }
    }
    Ok(())
}

fn drop_value<T>(_: T) {}
