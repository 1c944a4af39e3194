//! Tiny models and packed inputs; every test file takes what it needs.
#![allow(dead_code)]

use std::error::Error;

use dylora_nn::autograd::{Parameter, RankSlice, Tape, ops};
use dylora_nn::tensor::{DType, Device, Purpose, Segments, Stream, Tensor};
use dylora_nn::{
    AdamW, AdapterInit, AdapterSettings, Ctx, EncoderConfig, Family, Inputs, Result, ScaleRule, Selected,
    SequenceClassifier, Target,
};

pub(crate) type TestResult = std::result::Result<(), Box<dyn Error>>;

/// Two blocks of width 8. New weights are spread widely, so that nothing stays near zero.
pub(crate) fn config(family: Family) -> EncoderConfig {
    EncoderConfig {
        family,
        vocab_size: 23,
        hidden_size: 8,
        num_layers: 2,
        num_heads: 2,
        intermediate_size: 12,
        max_positions: 16,
        position_offset: if family == Family::Roberta { 2 } else { 0 },
        type_vocab_size: if family == Family::Roberta { 1 } else { 2 },
        initializer_range: 0.4,
        ..EncoderConfig::roberta_base()
    }
}

pub(crate) fn adapter(rank: usize, targets: &[Target]) -> AdapterSettings {
    AdapterSettings {
        rank,
        alpha: 2.0 * rank as f64,
        scale: ScaleRule::default(),
        targets: targets.to_vec(),
        dropout: 0.0,
        init: AdapterInit::KaimingUniform,
    }
}

pub(crate) fn query_value(rank: usize) -> AdapterSettings {
    adapter(rank, &[Target::Query, Target::Value])
}

/// Numbers from -1 to 1.
pub(crate) fn values(seed: u64, place: u32, len: usize) -> Vec<f64> {
    let draw = Stream::new(seed, Purpose::Init).draws(place).next();
    (0..len as u32)
        .map(|i| f64::from(draw.word(i)) / f64::from(u32::MAX) * 2.0 - 1.0)
        .collect()
}

/// Overwrites a tensor of floats.
pub(crate) fn write(tensor: &Tensor, values: &[f64]) -> Result<()> {
    match tensor.dtype() {
        DType::F64 => tensor.write(values)?,
        _ => tensor.write(&values.iter().map(|v| *v as f32).collect::<Vec<f32>>())?,
    }
    Ok(())
}

/// Gives every parameter random values: B does not stay at zero, nor biases.
pub(crate) fn randomise(parameters: &[Parameter], seed: u64) -> Result<()> {
    for (place, parameter) in parameters.iter().enumerate() {
        let random: Vec<f64> = values(seed, place as u32, parameter.len())
            .iter()
            .map(|v| 0.5 * v)
            .collect();
        write(parameter.value(), &random)?;
    }
    Ok(())
}

/// Random tokens, packed.
pub(crate) fn inputs(device: &Device, config: &EncoderConfig, lengths: &[usize], seed: u64) -> Result<Inputs> {
    let tokens: usize = lengths.iter().sum();
    let below = |place: u32, limit: usize| -> Vec<i32> {
        values(seed, place, tokens)
            .iter()
            .map(|v| ((v + 1.0) / 2.000_001 * limit as f64) as i32)
            .collect()
    };
    let row = |values: Vec<i32>| Tensor::from_slice(device, &values, &[values.len()]);
    let offset = config.position_offset as i32;
    let first_rows = lengths.iter().scan(0, |start, length| {
        let first = *start;
        *start += *length as i32;
        Some(first)
    });
    Ok(Inputs {
        ids: row(below(0, config.vocab_size))?,
        positions: row(lengths
            .iter()
            .flat_map(|length| offset..offset + *length as i32)
            .collect())?,
        token_types: row(below(1, config.type_vocab_size))?,
        segments: Segments::new(device, lengths)?,
        first: Selected::one_each(row(first_rows.collect())?)?,
    })
}

/// Logits at rank `b`, without dropout.
pub(crate) fn logits(model: &SequenceClassifier, inputs: &Inputs, b: usize) -> Result<Vec<f64>> {
    let mut tape = Tape::inference();
    let mut ctx = Ctx {
        tape: &mut tape,
        slice: RankSlice::prefix(b),
        dropout: None,
    };
    Ok(model.forward(&mut ctx, inputs)?.value().to_f64_vec()?)
}

/// The bits of floats, for comparisons that must not forgive anything.
pub(crate) fn bits(tensor: &Tensor) -> Result<Vec<u64>> {
    Ok(tensor.to_f64_vec()?.into_iter().map(f64::to_bits).collect())
}

/// One training step with dropout: forward, backward, update.
pub(crate) fn train_step(
    model: &SequenceClassifier,
    optimizer: &mut AdamW,
    inputs: &Inputs,
    slice: &RankSlice,
    (seed, step): (u64, u32),
) -> Result<f64> {
    let device = inputs.ids.device();
    let count = inputs.segments.count();
    let labels: Vec<i32> = (0..count as i32).map(|i| i % 2).collect();
    let labels = Tensor::from_slice(device, &labels, &[count])?;
    model.slice().set(slice.clone());
    for parameter in model.parameters() {
        parameter.zero_grad()?;
    }
    let mut tape = Tape::new();
    let mut ctx = Ctx {
        tape: &mut tape,
        slice: slice.clone(),
        dropout: Some(Stream::new(seed, Purpose::Dropout).draws(step)),
    };
    let logits = model.forward(&mut ctx, inputs)?;
    let mean = ops::CrossEntropy {
        smoothing: 0.0,
        ignore: None,
        weight: 1.0 / count as f64,
    };
    let loss = ops::cross_entropy(&mut tape, &logits, &labels, &mean)?;
    let value = loss.value().to_f64_vec()?[0];
    tape.backward(&loss)?;
    optimizer.step(1e-2, Some(1.0))?;
    Ok(value)
}

/// Sizes of the largest logit and of the largest difference.
pub(crate) fn distance(a: &[f64], b: &[f64]) -> (f64, f64) {
    assert_eq!(a.len(), b.len());
    let size = a.iter().chain(b).fold(0.0f64, |most, v| most.max(v.abs()));
    let apart = a.iter().zip(b).fold(0.0f64, |most, (a, b)| most.max((a - b).abs()));
    (size, apart)
}

/// Weights of a whole model with two labels, by their published keys.
pub(crate) fn weights(config: &EncoderConfig, seed: u64) -> Result<Vec<(String, Tensor)>> {
    let model = SequenceClassifier::new(&Device::cpu(), DType::F32, config, 2, None, None, seed)?;
    randomise(&model.parameters(), seed)?;
    Ok(model.named_trained())
}

/// The message of an error; empty where there is none.
pub(crate) fn refusal<T>(result: Result<T>) -> String {
    result.map_err(|error| error.to_string()).err().unwrap_or_default()
}
