//! Linear layers with low-rank paths, apart and side by side.

use dylora_tensor::ops::{self, Attention, LowRank, LowRankGradients};
use dylora_tensor::{DType, Dropout, Error, Result, Segments, Tensor};

use super::support::{Both, Make, close, close_if_some, close_to, dropout, gpu, norm, on_both_types, verdict};

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
