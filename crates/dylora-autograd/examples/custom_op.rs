//! A new operation, its gradient by hand, and the oracle that says whether the gradient is right.
//!
//! The operation is softplus, y = ln(1 + eˣ), with dx = dy / (1 + e⁻ˣ). This crate has none; `CustomOp` is the door.
//!
//! `cargo run -p dylora-autograd --example custom_op`
#![allow(clippy::print_stdout)]

use dylora_autograd::gradcheck::{self, Derivative};
use dylora_autograd::tensor::{Device, Tensor};
use dylora_autograd::{CustomOp, GradSink, Input, Parameter, Result, Tape, Var, ops};

/// What softplus keeps: its input, from which the gradient can be computed.
#[derive(Debug)]
struct Softplus {
    x: Tensor,
    /// How the derivative at x is computed; the example also tries a wrong one.
    derivative: fn(f64) -> f64,
}

/// ln(1 + eˣ) without overflow: for x > 0 it is x + ln(1 + e⁻ˣ).
fn value(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// 1 / (1 + e⁻ˣ).
fn derivative(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn softplus(tape: &mut Tape, x: &Var, derivative: fn(f64) -> f64) -> Result<Var> {
    let values = x.value().to_vec::<f64>()?.into_iter().map(value).collect();
    let y = Tensor::from_vec(x.value().device(), values, x.value().shape())?;
    let op = Softplus {
        x: x.value().clone(), // a handle; no numbers are copied
        derivative,
    };
    tape.custom(y, &[x], Box::new(op))
}

impl CustomOp for Softplus {
    fn saved(&self) -> Vec<&Tensor> {
        vec![&self.x]
    }

    fn backward(self: Box<Self>, dy: Tensor, inputs: &[Input], sink: &mut GradSink<'_>) -> Result<()> {
        let x = self.x.to_vec::<f64>()?;
        let dx = x
            .iter()
            .zip(dy.to_vec::<f64>()?)
            .map(|(x, dy)| dy * (self.derivative)(*x));
        sink.add(
            inputs[0],
            Tensor::from_vec(dy.device(), dx.collect::<Vec<f64>>(), dy.shape())?,
        )
    }
}

/// Holds the gradient of a loss behind softplus against central differences in f64.
fn oracle(derivative: fn(f64) -> f64) -> Result<Derivative> {
    let device = Device::cpu();
    let x = [-4.0, -0.7, 0.0, 0.3, 1.5, 6.0];
    let x = Parameter::new("x", Tensor::from_slice(&device, &x, &[6])?, false)?;
    let targets = Tensor::from_slice(&device, &[0.5, -0.5, 1.0, 0.0, 2.0, 3.0], &[6])?;
    let mut found = gradcheck::check(std::slice::from_ref(&x), 1, &mut |tape| {
        let x = tape.parameter(&x)?;
        let y = softplus(tape, &x, derivative)?;
        // Every element gets another weight in the loss, so that no error can cancel.
        ops::mse(tape, &y, &targets, 0.5)
    })?;
    Ok(found.remove(0))
}

fn main() -> Result<()> {
    for (name, derivative) in [
        ("1 / (1 + e^-x)", derivative as fn(f64) -> f64),
        ("tanh x, a mistake", f64::tanh),
    ] {
        let found = oracle(derivative)?;
        println!(
            "{name:<18} by hand {:+.12}  by differences {:+.12}  relative error {:.1e}",
            found.analytic,
            found.numeric,
            found.relative_error(1e-6)
        );
    }
    Ok(())
}

#[test]
fn the_oracle_accepts_the_gradient_and_refuses_a_mistake() -> Result<()> {
    // The five-point difference is good to about 1e-10 here; a wrong formula is off in the first digits.
    assert!(oracle(derivative)?.relative_error(1e-6) < 1e-8);
    assert!(oracle(f64::tanh)?.relative_error(1e-6) > 1e-2);
    Ok(())
}
