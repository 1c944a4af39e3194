//! Attention over packed sequences, in both forms.

use dylora_tensor::ops::{self, Attended, Attention};
use dylora_tensor::{DType, Device, Dropout, Error, Result, Segments, Tensor};

use super::support::{Make, close, close_to, dropout, gpu, norm, on_both_types, verdict};

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
