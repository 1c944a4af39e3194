//! DyLoRA on a linear layer of your own: no transformer, no checkpoint, one matrix.
//!
//! A frozen W0 [16, 16] is to become W0 + D, where D has rank 4 and each of its ranks is half as strong as the one before.
//! DyLoRA and LoRA learn D from pairs x, (W0 + D) x with adapters of rank 4; then both are cut to every rank, and what
//! is left of D says how good the cut is.
//!
//! `cargo run -p dylora-nn --release --example custom_linear`
#![allow(clippy::print_stdout)]

use dylora_nn::autograd::{GradMask, Parameter, RankSlice, SliceCell, Tape, Weight, ops};
use dylora_nn::tensor::{DType, Device, Purpose, Stream, Tensor};
use dylora_nn::{AdamW, AdamWSettings, AdaptedLinear, Adapter, Ctx, Distribution, Linear, LinearWarmup, Method};
use dylora_nn::{RankSampler, Result, ScaleRule};

const WIDTH: usize = 16;
const RANK: usize = 4;
const ALPHA: f64 = 4.0;
const ROWS: usize = 64;

/// Numbers from -1 to 1, a function of purpose, place and index.
fn numbers(purpose: Purpose, place: u32, len: usize) -> Vec<f64> {
    let draw = Stream::new(42, purpose).draws(place).next();
    (0..len as u32)
        .map(|i| f64::from(draw.word(i)) / f64::from(u32::MAX) * 2.0 - 1.0)
        .collect()
}

/// y = x yᵀ for matrices given by rows: x `[n, k]`, y `[m, k]`.
fn product(x: &[f64], y: &[f64], k: usize) -> Vec<f64> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    x.chunks_exact(k)
        .flat_map(|row| y.chunks_exact(k).map(move |other| dot(row, other)))
        .collect()
}

/// D, the correction that is to be learned, `[WIDTH, WIDTH]`.
fn correction() -> Vec<f64> {
    // The k-th direction weighs 2^-k; random directions are nearly orthogonal.
    let up: Vec<f64> = numbers(Purpose::Head, 1, WIDTH * RANK)
        .chunks_exact(RANK)
        .flat_map(|row| row.iter().zip(0..).map(|(v, k)| v * 0.5f64.powi(k)).collect::<Vec<_>>())
        .collect();
    product(&up, &numbers(Purpose::Head, 2, WIDTH * RANK), RANK)
}

/// Trains an adapter and gives, for every rank, the share of D that is not learned: |D - (alpha/b) B A|² / |D|².
fn left_over(method: Method, steps: u64) -> Result<Vec<f64>> {
    let device = Device::cpu();
    let tensor = |values: Vec<f64>, shape: &[usize]| Tensor::from_vec(&device, values, shape);
    let frozen = numbers(Purpose::Head, 3, WIDTH * WIDTH);
    let wanted = correction();

    // The slice of the step: one cell, which the masks of A and B read.
    let slice = SliceCell::new(RankSlice::full(RANK));
    let mask = |axis| GradMask {
        axis,
        slice: slice.clone(),
    };
    let a = tensor(
        numbers(Purpose::Init, 1, RANK * WIDTH)
            .iter()
            .map(|v| v / 4.0)
            .collect(),
        &[RANK, WIDTH],
    )?;
    let b = Tensor::zeros(&device, DType::F64, &[WIDTH, RANK])?;
    let layer = AdaptedLinear {
        base: Linear {
            weight: Weight::Frozen(tensor(frozen.clone(), &[WIDTH, WIDTH])?),
            bias: Weight::Frozen(Tensor::zeros(&device, DType::F64, &[WIDTH])?),
        },
        factors: None,
        adapter: Some(Adapter {
            a: Parameter::new("lora_A", a, true)?.with_mask(mask(0)),
            b: Parameter::new("lora_B", b, true)?.with_mask(mask(1)),
            alpha: ALPHA,
            scale: ScaleRule::OverB,
            dropout: 0.0,
        }),
    };
    let adapter = layer
        .adapter
        .iter()
        .flat_map(|adapter| [adapter.a.clone(), adapter.b.clone()]);
    let mut optimizer = AdamW::new(&adapter.collect::<Vec<_>>(), AdamWSettings::default())?;
    let schedule = LinearWarmup {
        peak: 0.02,
        warmup: steps / 20,
        total: steps,
    };
    let sampler = RankSampler::new(Distribution::Uniform, 1, RANK)?;

    for step in 0..steps {
        let drawn = sampler.draw(&mut Stream::new(42, Purpose::Rank).at(step as u32));
        // LoRA takes no notice of the drawn rank: it always reads and changes all of them.
        slice.set(method.slice(drawn, RANK));
        let x = numbers(Purpose::Text, step as u32, ROWS * WIDTH);
        let target: Vec<f64> = product(&x, &frozen, WIDTH)
            .iter()
            .zip(product(&x, &wanted, WIDTH))
            .map(|(base, more)| base + more)
            .collect();
        let (x, target) = (tensor(x, &[ROWS, WIDTH])?, tensor(target, &[ROWS * WIDTH])?);
        optimizer.zero_grad()?;
        let mut tape = Tape::new();
        let x = tape.constant(&x);
        let mut ctx = Ctx {
            tape: &mut tape,
            slice: slice.get(),
            dropout: None,
        };
        let y = layer.forward(&mut ctx, &x)?;
        let loss = ops::mse(&mut tape, &y, &target, 1.0 / (ROWS * WIDTH) as f64)?;
        tape.backward(&loss)?;
        optimizer.step(schedule.lr(step), None)?;
    }

    let squares = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>();
    (1..=RANK)
        .map(|rank| {
            let merged = layer.merged(rank)?.to_f64_vec()?;
            let missing: Vec<f64> = merged
                .iter()
                .zip(&frozen)
                .zip(&wanted)
                .map(|((m, w), d)| m - w - d)
                .collect();
            Ok(squares(&missing) / squares(&wanted))
        })
        .collect()
}

fn main() -> Result<()> {
    println!("share of the correction that is missing, cut to each rank");
    for method in [Method::Lora, Method::DyLora, Method::DyLoraFrozen] {
        let left = left_over(method, 2000)?;
        let shares: Vec<String> = left.iter().map(|share| format!("{:6.2} %", 100.0 * share)).collect();
        println!("{:<14} {}", method.name(), shares.join("  "));
    }
    Ok(())
}

#[test]
fn dylora_can_be_cut_and_lora_cannot() -> Result<()> {
    let (lora, dylora) = (left_over(Method::Lora, 600)?, left_over(Method::DyLora, 600)?);
    // At its own rank LoRA has learned nearly all of D; cut to one rank it is a poor guess, and DyLoRA a good one.
    assert!(lora[RANK - 1] < 0.01, "{lora:?}");
    assert!(dylora[0] < 0.6 && dylora[0] < 0.5 * lora[0], "{dylora:?} {lora:?}");
    Ok(())
}
