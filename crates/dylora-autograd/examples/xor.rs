//! XOR with the tape and nothing else: two linear layers, tanh between them, plain gradient descent.
//!
//! `cargo run -p dylora-autograd --example xor`
#![allow(clippy::print_stdout)]

use dylora_autograd::tensor::{Device, Purpose, Stream, Tensor};
use dylora_autograd::{Parameter, Result, Tape, Var, Weight, ops};

/// The four rows and what XOR makes of them, as numbers that tanh reaches easily.
const INPUTS: [f64; 8] = [-1.0, -1.0, -1.0, 1.0, 1.0, -1.0, 1.0, 1.0];
const TARGETS: [f64; 4] = [-1.0, 1.0, 1.0, -1.0];

/// Four hidden units between two inputs and one output.
struct Network {
    hidden: [Weight; 2],
    output: [Weight; 2],
    parameters: Vec<Parameter>,
}

impl Network {
    fn new(device: &Device, seed: u64) -> Result<Self> {
        let mut parameters = Vec::new();
        let mut weight = |name: &str, shape: &[usize]| -> Result<Weight> {
            // Numbers from -1 to 1 that depend on the seed and on the parameter's place alone.
            let draw = Stream::new(seed, Purpose::Init).draws(parameters.len() as u32).next();
            let count = shape.iter().product::<usize>() as u32;
            let values = (0..count).map(|i| f64::from(draw.word(i)) / f64::from(u32::MAX) * 2.0 - 1.0);
            let parameter = Parameter::new(
                name,
                Tensor::from_vec(device, values.collect::<Vec<f64>>(), shape)?,
                true,
            )?;
            parameters.push(parameter.clone());
            Ok(Weight::Trained(parameter))
        };
        Ok(Network {
            hidden: [weight("hidden.weight", &[4, 2])?, weight("hidden.bias", &[4])?],
            output: [weight("output.weight", &[1, 4])?, weight("output.bias", &[1])?],
            parameters,
        })
    }

    /// x `[n, 2]` to `[n, 1]`.
    fn forward(&self, tape: &mut Tape, x: &Var) -> Result<Var> {
        let hidden = ops::linear(tape, x, &self.hidden[0], Some(&self.hidden[1]))?;
        let hidden = ops::tanh(tape, &hidden)?;
        ops::linear(tape, &hidden, &self.output[0], Some(&self.output[1]))
    }
}

/// Trains and returns the four outputs.
fn learn(steps: usize, rate: f64) -> Result<Vec<f64>> {
    let device = Device::cpu();
    let network = Network::new(&device, 1)?;
    let inputs = Tensor::from_slice(&device, &INPUTS, &[4, 2])?;
    let targets = Tensor::from_slice(&device, &TARGETS, &[4])?;
    for step in 0..steps {
        // A tape lives for one step: it is filled by the forward pass and consumed by the backward pass.
        let mut tape = Tape::new();
        let x = tape.constant(&inputs);
        let y = network.forward(&mut tape, &x)?;
        let loss = ops::mse(&mut tape, &y, &targets, 1.0 / 4.0)?;
        if step % 100 == 0 {
            println!("step {step:>4}  loss {:.2e}", loss.value().to_vec::<f64>()?[0]);
        }
        tape.backward(&loss)?;
        for parameter in &network.parameters {
            let gradient = parameter.grad().to_vec::<f64>()?;
            let moved = parameter.value().to_vec::<f64>()?.into_iter().zip(gradient);
            let moved: Vec<f64> = moved.map(|(value, gradient)| value - rate * gradient).collect();
            parameter.value().write(&moved)?;
            parameter.zero_grad()?;
        }
    }
    let mut tape = Tape::inference();
    let x = tape.constant(&inputs);
    network.forward(&mut tape, &x)?.value().to_vec::<f64>()
}

fn main() -> Result<()> {
    for (x, y) in INPUTS.chunks_exact(2).zip(learn(500, 0.3)?) {
        println!("{x:?} -> {y:+.3}");
    }
    Ok(())
}

#[test]
fn the_four_rows_are_learned() -> Result<()> {
    let outputs = learn(500, 0.3)?;
    for (output, target) in outputs.iter().zip(TARGETS) {
        assert!((output - target).abs() < 0.1, "{outputs:?}");
    }
    // Without training they are not, so the loop above is what did it.
    let untrained = learn(0, 0.3)?;
    assert!(
        untrained
            .iter()
            .zip(TARGETS)
            .any(|(output, target)| output * target < 0.0)
    );
    Ok(())
}
