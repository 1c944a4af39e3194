//! Products of few rows with weights that no cache holds, in f32: how fast the weights are read, beside plain reading.
//! `cargo bench -p dylora-tensor --bench few_rows`.
#![allow(missing_docs, clippy::print_stdout)]

use std::hint::black_box;
use std::time::Instant;

use dylora_tensor::{Device, Result, Tensor, ops};
use rayon::prelude::*;

/// Outputs and inputs of the layers of GPT-2 small and medium, and of their vocabulary.
const SHAPES: [(usize, usize); 8] = [
    (768, 768),
    (3072, 768),
    (768, 3072),
    (50257, 768),
    (1024, 1024),
    (4096, 1024),
    (1024, 4096),
    (50257, 1024),
];
/// Rows: one text, beam search of one, four and more prompts, and where the other product takes over.
const ROWS: [usize; 8] = [1, 10, 20, 40, 64, 128, 256, 257];
/// Bytes of weights that are gone through before one is read again.
const WEIGHTS: usize = 192 << 20;
/// Passes over all weights, of which the fastest counts.
const PASSES: usize = 7;

fn values(len: usize, factor: usize) -> Vec<f32> {
    let value = |i: usize| (i * factor % 1000) as f32 / 1000.0 - 0.5;
    (0..len).map(value).collect()
}

/// Sums in 32 lanes, so that reading is what takes the time.
fn read(all: &[f32]) -> f32 {
    let sums = all.par_chunks(1 << 16).map(|part| {
        let mut lanes = [0f32; 32];
        for chunk in part.as_chunks::<32>().0 {
            lanes.iter_mut().zip(chunk).for_each(|(sum, x)| *sum += x);
        }
        lanes.iter().sum::<f32>()
    });
    sums.sum()
}

fn seconds(mut pass: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..PASSES {
        let started = Instant::now();
        pass()?;
        best = best.min(started.elapsed().as_secs_f64());
    }
    Ok(best)
}

fn run() -> Result<()> {
    let device = Device::cpu();
    println!("{}; GB/s of weights, GFLOP/s in brackets\n", device.describe());
    for (m, d) in SHAPES {
        let copies = WEIGHTS.div_ceil(m * d * 4);
        let bytes = (copies * m * d * 4) as f64;
        let all = values(copies * m * d, 7919);
        let reading = seconds(|| {
            black_box(read(&all));
            Ok(())
        })?;
        let all = Tensor::from_vec(&device, all, &[copies * m, d])?;
        let mut line = format!("{m} x {d}: read {:.1}", bytes / reading / 1e9);
        for n in ROWS {
            let x = Tensor::from_vec(&device, values(n * d, 104_729), &[n, d])?;
            let taken = seconds(|| {
                for copy in 0..copies {
                    black_box(ops::linear(&x, &all.rows(copy * m..(copy + 1) * m)?, None)?);
                }
                Ok(())
            })?;
            let speed = bytes / taken / 1e9;
            line += &format!(", {n} rows {speed:.1} ({:.0})", speed * n as f64 / 2.0);
        }
        println!("{line}");
    }
    Ok(())
}

fn main() -> Result<()> {
    // From inside the thread pool, so that no product has to wait for a thread to be woken.
    rayon::scope(|_| run())
}
