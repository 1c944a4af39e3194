//! What decoding asks of a GPU.

use dylora_tensor::ops::{self, CacheAttention, TopClasses};
use dylora_tensor::{Device, Result, Segments, Tensor};

use super::support::{close, on_both_types};

#[test]
fn attention_over_listed_rows() -> Result<()> {
    on_both_types(|make| {
        for (heads, dim) in [(12, 64), (3, 32), (1, 128), (2, 8), (1, 100), (2, 12)] {
            for (asking, listed) in [
                (vec![1], vec![1]),
                (vec![1, 1, 1], vec![40, 3, 129]),
                (vec![5, 1, 33], vec![5, 70, 64]),
            ] {
                let (capacity, width) = (150, heads * dim);
                let q = make.activations(&[asking.iter().sum(), width])?;
                let (k, v) = (
                    make.activations(&[capacity, width])?,
                    make.activations(&[capacity, width])?,
                );
                let all: usize = listed.iter().sum();
                let list: Vec<i32> = (0..all).map(|i| (i * 37 % capacity) as i32).collect();
                let rows = make.integers(&list)?;
                let sequences = |device: &Device| -> Result<_> {
                    Ok((Segments::new(device, &asking)?, Segments::new(device, &listed)?))
                };
                let (on_gpu, on_cpu) = (sequences(make.gpu)?, sequences(&make.cpu)?);
                let settings = |segments, rows| {
                    let (queries, keys): &(Segments, Segments) = segments;
                    CacheAttention {
                        queries,
                        keys,
                        rows,
                        num_heads: heads,
                        scale: 3.0 / (dim as f64).sqrt(),
                    }
                };
                let gpu = ops::attend_rows(&q.gpu, &k.gpu, &v.gpu, &settings(&on_gpu, &rows.gpu))?;
                let cpu = ops::attend_rows(&q.cpu, &k.cpu, &v.cpu, &settings(&on_cpu, &rows.cpu))?;
                // Scores reach about 3: an error of a score is one of the same size in its probability.
                let tolerance = 4.0 * make.tolerance(all + dim, 1.0);
                close(
                    &format!("{heads} x {dim}, {asking:?} of {listed:?}"),
                    &gpu,
                    &cpu,
                    tolerance,
                );
            }
        }
        Ok(())
    })
}

/// Classes that are the same, and scores within what f32 sums err by.
fn same(what: &str, gpu: &TopClasses, cpu: &TopClasses) {
    assert_eq!(gpu.k, cpu.k, "{what}");
    assert_eq!(gpu.classes, cpu.classes, "{what}");
    for (gpu, cpu) in gpu.scores.iter().zip(&cpu.scores) {
        assert!(
            gpu == cpu || (gpu - cpu).abs() < 2e-5 * (1.0 + cpu.abs()),
            "{what}: {gpu} and {cpu}"
        );
    }
}

#[test]
fn the_likeliest_classes() -> Result<()> {
    on_both_types(|make| {
        for (n, c, k) in [
            (1, 1, 1),
            (3, 7, 5),
            (2, 500, 20),
            (5, 513, 1),
            (4, 5000, 20),
            (20, 50257, 20),
            (2, 3000, 500),
            (2, 3000, 600),
        ] {
            // Values of bf16 are often equal, which decides by class.
            let logits = make.activations(&[n, c])?;
            let banned: Vec<Vec<i32>> = (0..n)
                .map(|row| (0..row.min(c - k)).map(|j| (j * 31 % c) as i32).collect())
                .collect();
            let gpu = ops::top_log_softmax(&logits.gpu, &banned, k)?;
            let cpu = ops::top_log_softmax(&logits.cpu, &banned, k)?;
            same(&format!("{k} of {n} x {c} {:?}", make.dtype), &gpu, &cpu);
        }
        // Banned are the best ones, so that what is next has to be found.
        let logits = make.activations(&[1, 4000])?;
        let best = ops::top_log_softmax(&logits.cpu, &[vec![]], 30)?.classes;
        let (gpu, cpu) = (
            ops::top_log_softmax(&logits.gpu, std::slice::from_ref(&best), 20)?,
            ops::top_log_softmax(&logits.cpu, std::slice::from_ref(&best), 20)?,
        );
        same("the best are banned", &gpu, &cpu);
        // More equal ones than a block keeps, with some above.
        let mut values = vec![0.5f32; 6000];
        (values[17], values[5900], values[3]) = (2.0, 2.0, 1.0);
        let on = |device: &Device| Tensor::from_slice(device, &values, &[1, 6000]);
        let flat = (on(make.gpu)?.to_dtype(make.dtype)?, on(&make.cpu)?);
        let (gpu, cpu) = (
            ops::top_log_softmax(&flat.0, &[vec![0, 17]], 9)?,
            ops::top_log_softmax(&flat.1, &[vec![0, 17]], 9)?,
        );
        assert_eq!(cpu.classes, [5900, 3, 1, 2, 4, 5, 6, 7, 8]);
        same("equal ones", &gpu, &cpu);
        Ok(())
    })
}
