//! A pre-norm block's residual stream and the loss over a vocabulary.

use dylora_tensor::ops::{self, CrossEntropy, NormGradients};
use dylora_tensor::{DType, Error, Result, Tensor};

use crate::support::{Make, close, close_if_some, close_to, dropout, on_both_types};

#[test]
fn residual_sums_and_their_normalisation() -> Result<()> {
    on_both_types(|make| {
        for shape in [
            [1, 8],
            [3, 7],
            [37, 32],
            [65, 100],
            [70, 384],
            [5, 768],
            [130, 1024],
            [9, 1280],
            [3, 1601],
            [5, 2600],
        ] {
            for (bias, above, drop) in [
                (false, true, None),
                (true, true, dropout(1)),
                (true, false, dropout(1)),
                (true, true, None),
            ] {
                residual_case(make, shape, (bias, above), drop)?;
            }
        }
        Ok(())
    })
}

fn residual_case(
    make: &mut Make<'_>,
    shape: [usize; 2],
    (with_bias, with_above): (bool, bool),
    drop: Option<dylora_tensor::Dropout>,
) -> Result<()> {
    let [n, d] = shape;
    let (x, out) = (make.activations(&shape)?, make.activations(&shape)?);
    let (dy, above) = (make.activations(&shape)?, make.activations(&shape)?);
    let (bias, gamma, beta) = (make.weights(&[d])?, make.weights(&[d])?, make.weights(&[d])?);
    let (dgamma, dbeta) = (make.weights(&[d])?, make.weights(&[d])?);
    let tol = make.tolerance(d, 3.0);
    let shift = with_bias.then_some((&bias.gpu, &bias.cpu)).unzip();
    let g = ops::residual_norm(&x.gpu, &out.gpu, shift.0, drop, [&gamma.gpu, &beta.gpu], 1e-5)?;
    let c = ops::residual_norm(&x.cpu, &out.cpu, shift.1, drop, [&gamma.cpu, &beta.cpu], 1e-5)?;
    close("residual", &g.sum, &c.sum, tol);
    close("normalised residual", &g.y, &c.y, tol);
    // The gradient starts from the GPU's own sum and statistics on both sides, so that their rounding counts once.
    let wide = |t: &Tensor| t.to_device(&make.cpu)?.to_dtype(DType::F64);
    let (sum, mean, rstd) = (wide(&g.sum)?, wide(&g.mean)?, wide(&g.rstd)?);
    for (residual, x, learns) in [(true, true, true), (false, true, false), (true, false, false)] {
        let into = |gamma, beta| NormGradients {
            residual,
            x,
            dgamma: learns.then_some(gamma),
            dbeta: learns.then_some(beta),
        };
        let gpu = ops::residual_norm_gradient(
            &dy.gpu,
            with_above.then(|| above.gpu.clone()),
            [&g.sum, &g.mean, &g.rstd],
            &gamma.gpu,
            drop,
            into(&dgamma.gpu, &dbeta.gpu),
        )?;
        let cpu = ops::residual_norm_gradient(
            &dy.cpu,
            with_above.then(|| above.cpu.clone()),
            [&sum, &mean, &rstd],
            &gamma.cpu,
            drop,
            into(&dgamma.cpu, &dbeta.cpu),
        )?;
        close_if_some("gradient of the residual", &gpu.0, &cpu.0, tol);
        close_if_some("gradient of what is added", &gpu.1, &cpu.1, tol);
    }
    close("dgamma", &dgamma.gpu, &dgamma.cpu, make.tolerance(n + d, 0.0));
    close("dbeta", &dbeta.gpu, &dbeta.cpu, make.tolerance(n, 0.0));
    Ok(())
}

#[test]
fn loss_over_a_vocabulary() -> Result<()> {
    on_both_types(|make| {
        for ([n, d, c], rows) in [
            ([1, 8, 3], 1),
            ([7, 32, 61], 3),
            ([40, 64, 1000], 64),
            ([33, 64, 4097], 10),
            ([19, 64, 50257], 8),
        ] {
            for padded in [false, true] {
                vocabulary_case(make, [n, d, c], rows, padded)?;
            }
        }
        let (x, w) = (make.activations(&[2, 8])?, make.activations(&[5, 8])?);
        let wrong = make.integers(&[1, 5])?;
        let settings = CrossEntropy {
            smoothing: 0.0,
            ignore: None,
            weight: 1.0,
        };
        let found = ops::linear_cross_entropy(&x.gpu, &w.gpu, 5, &wrong.gpu, &settings, 2, true, None);
        assert!(
            matches!(found, Err(Error::Index { index: 5, limit: 5, .. })),
            "{found:?}"
        );
        Ok(())
    })
}

fn vocabulary_case(make: &mut Make<'_>, [n, d, c]: [usize; 3], rows: usize, padded: bool) -> Result<()> {
    let table = if padded { ops::vocabulary_rows(make.gpu, c) } else { c };
    let (x, w) = (make.activations(&[n, d])?, make.activations(&[table, d])?);
    let target = |i: usize| if i % 5 == 3 { -100 } else { (i * 7919 % c) as i32 };
    let targets = make.integers(&(0..n).map(target).collect::<Vec<_>>())?;
    for smoothing in [0.0, 0.1] {
        let settings = CrossEntropy {
            smoothing,
            ignore: Some(-100),
            weight: 1.0 / n as f64,
        };
        // A weight that learns is f32.
        let learns = make.dtype == DType::F32 && table == c;
        let (gdw, cdw) = (make.weights(&[table, d])?, make.weights(&[table, d])?);
        cdw.cpu.copy_from(&gdw.cpu)?;
        let gpu = ops::linear_cross_entropy(
            &x.gpu,
            &w.gpu,
            c,
            &targets.gpu,
            &settings,
            rows,
            true,
            learns.then_some(&gdw.gpu),
        )?;
        let cpu = ops::linear_cross_entropy(
            &x.cpu,
            &w.cpu,
            c,
            &targets.cpu,
            &settings,
            rows,
            true,
            learns.then_some(&cdw.cpu),
        )?;
        // A loss is a difference of logits, which are of the size of 1 and rounded to the activations' type.
        close_to(
            "loss over a vocabulary",
            &gpu.loss,
            &cpu.loss,
            make.tolerance(d, 2.0),
            1.0,
        );
        // A probability is the exponential of a difference that errs by a few units of the last place of up to 8.
        let exponential = 2f64.powi(-19);
        close_if_some("its dx", &gpu.dx, &cpu.dx, make.tolerance(c + d, 4.0) + exponential);
        if learns {
            close("its dW", &gdw.gpu, &cdw.cpu, make.tolerance(n + d, 0.0) + exponential);
        }
        let alone = ops::linear_cross_entropy(&x.gpu, &w.gpu, c, &targets.gpu, &settings, rows, false, None)?;
        assert!(alone.dx.is_none());
        assert_eq!(alone.loss.to_vec::<f32>()?, gpu.loss.to_vec::<f32>()?);
    }
    Ok(())
}
