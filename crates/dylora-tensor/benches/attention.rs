//! Attention alone on the first GPU, bf16: `cargo bench -p dylora-tensor --bench attention`. Microseconds of one layer, many
//! launches between two waits, over inputs that together exceed the L2; beside them the arithmetic's floor.
#![allow(missing_docs, clippy::print_stdout)]

use std::time::Instant;

use dylora_tensor::ops::{self, Attended, Attention};
use dylora_tensor::{DType, Device, Dropout, Purpose, Result, Segments, Stream, Tensor};

/// Dense bf16 products of an H100 or H200, FLOP a microsecond.
const FLOP: f64 = 790e6;

fn random(device: &Device, shape: &[usize], id: u32) -> Result<Tensor> {
    let draw = Stream::new(1, Purpose::Head).draws(id).next();
    // A prime number of values over and over.
    let values: Vec<f32> = (0..99_991)
        .map(|i| draw.word(i) as f32 / u32::MAX as f32 * 2.0 - 1.0)
        .collect();
    let values = values.iter().copied().cycle().take(shape.iter().product()).collect();
    Tensor::from_vec(&Device::cpu(), values, shape)?
        .to_dtype(DType::Bf16)?
        .to_device(device)
}

/// Microseconds of one call.
fn time(device: &Device, calls: usize, mut call: impl FnMut(usize) -> Result<()>) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..4 {
        device.synchronise()?;
        let start = Instant::now();
        for i in 0..calls {
            call(i)?;
        }
        device.synchronise()?;
        best = best.min(start.elapsed().as_secs_f64() * 1e6 / calls as f64);
    }
    Ok(best)
}

fn case(device: &Device, lengths: &[usize], heads: usize, dim: usize, causal: bool, p: f64) -> Result<()> {
    let (segments, width) = (Segments::new(device, lengths)?, heads * dim);
    let tokens = segments.tokens();
    let sets = ((96 << 20) / (tokens * width * 2 * 3)).clamp(1, 12);
    let mut inputs = Vec::new();
    for i in 0..sets as u32 {
        inputs.push((
            random(device, &[tokens, 3 * width], 2 * i)?,
            random(device, &[tokens, width], 2 * i + 1)?,
        ));
    }
    let settings = Attention {
        queries: &segments,
        keys: &segments,
        num_heads: heads,
        scale: 1.0 / (dim as f64).sqrt(),
        causal,
        dropout: Dropout::new(p, Stream::new(1, Purpose::Dropout).draws(0).next())?,
    };
    let mut outputs = Vec::new();
    for (stacked, _) in &inputs {
        outputs.push(ops::stacked_attention(None, stacked, &settings)?);
    }
    let calls = ((4 << 24) / (tokens * width)).clamp(10, 400);
    let forward = time(device, calls, |i| {
        ops::stacked_attention(None, &inputs[i % sets].0, &settings).map(drop)
    })?;
    let gradient = time(device, calls, |i| {
        let ((stacked, dout), (out, lse)) = (&inputs[i % sets], &outputs[i % sets]);
        ops::stacked_attention_gradient(dout, None, stacked, out, lse, &settings).map(drop)
    })?;
    let squares: usize = lengths.iter().map(|n| n * n).sum();
    let products = 2.0 * (squares * width) as f64 / if causal { 2.0 } else { 1.0 };
    let mean = tokens / lengths.len();
    println!(
        "{:3} x {mean:4} tokens, {heads:2} x {dim:3}, causal {}, p {p}: forward {forward:7.1} ({:6.1}), gradient \
         {gradient:7.1} ({:6.1}) us; {:4.0} and {:4.0} TFLOP/s",
        lengths.len(),
        u8::from(causal),
        2.0 * products / FLOP,
        5.0 * products / FLOP,
        2.0 * products / forward / 1e6,
        5.0 * products / gradient / 1e6,
    );
    Ok(())
}

/// The plain form.
fn single(device: &Device, lengths: &[usize], heads: usize, dim: usize) -> Result<()> {
    let (segments, width) = (Segments::new(device, lengths)?, heads * dim);
    let tokens = segments.tokens();
    let new = |id| random(device, &[tokens, width], id)?.to_dtype(DType::F32);
    let (q, k, v, dout) = (new(1)?, new(2)?, new(3)?, new(4)?);
    let settings = Attention {
        queries: &segments,
        keys: &segments,
        num_heads: heads,
        scale: 1.0 / (dim as f64).sqrt(),
        causal: false,
        dropout: Dropout::new(0.1, Stream::new(1, Purpose::Dropout).draws(0).next())?,
    };
    let (out, lse) = ops::attention(&q, &k, &v, &settings)?;
    let forward = time(device, 10, |_| ops::attention(&q, &k, &v, &settings).map(drop))?;
    let at = Attended {
        q: &q,
        k: &k,
        v: &v,
        out: &out,
        lse: &lse,
    };
    let gradient = time(device, 10, |_| {
        ops::attention_gradient(&dout, &at, &settings, [true; 3]).map(drop)
    })?;
    println!(
        "f32, {} x {} tokens, {heads} x {dim}: forward {forward:7.1}, gradient {gradient:7.1} us",
        lengths.len(),
        tokens / lengths.len()
    );
    Ok(())
}

fn main() -> Result<()> {
    if Device::count_cuda() == 0 {
        println!("skipped: no CUDA device");
        return Ok(());
    }
    let device = Device::cuda(0, None)?;
    for n in [64, 128, 256, 512] {
        case(&device, &[n; 32], 12, 64, false, 0.1)?;
    }
    // Lengths as MRPC's.
    let lengths: Vec<usize> = (0..32).map(|i| 30 + i * 7 % 33).collect();
    case(&device, &lengths, 12, 64, false, 0.1)?;
    case(&device, &[512; 32], 12, 64, false, 0.0)?;
    case(&device, &[512; 8], 16, 64, true, 0.1)?;
    case(&device, &[1024; 4], 16, 64, true, 0.1)?;
    case(&device, &[512; 1], 12, 64, false, 0.1)?;
    case(&device, &[64; 32], 12, 32, false, 0.1)?;
    case(&device, &[128; 32], 12, 32, false, 0.1)?;
    case(&device, &[512; 16], 8, 128, true, 0.1)?;
    single(&device, &[64; 32], 12, 64)?;
    single(&device, &[128; 32], 12, 64)?;
    single(&device, &[128; 32], 12, 32)?;
    single(&device, &[512; 32], 12, 64)
}
