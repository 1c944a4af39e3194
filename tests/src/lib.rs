//! What the tests that span several crates share: tiny models whose weights are all random, and packed inputs.

#[cfg(doctest)]
mod book;

use dylora_nn::autograd::Parameter;
use dylora_nn::tensor::{DType, Device, Purpose, Segments, Stream, Tensor};
use dylora_nn::{
    AdapterInit, AdapterSettings, EncoderConfig, Family, Inputs, Result, ScaleRule, Selected, SequenceClassifier,
    Target,
};

/// A small encoder of width 8 with two heads and a feed-forward part of width 12.
pub fn config(family: Family, num_layers: usize, dropout: f64) -> EncoderConfig {
    let roberta = family == Family::Roberta;
    EncoderConfig {
        family,
        vocab_size: 19,
        hidden_size: 8,
        num_layers,
        num_heads: 2,
        intermediate_size: 12,
        max_positions: 12,
        position_offset: if roberta { 2 } else { 0 },
        type_vocab_size: if roberta { 1 } else { 2 },
        // Normalisation of only eight numbers that happen to be close would be steep; this bounds it.
        layer_norm_eps: 0.1,
        ..EncoderConfig::roberta_base()
    }
    .with_dropout(dropout)
}

/// Adapters with alpha = 1 on the given layers.
pub fn adapter(rank: usize, scale: ScaleRule, targets: &[Target], dropout: f64) -> AdapterSettings {
    AdapterSettings {
        rank,
        alpha: 1.0,
        scale,
        targets: targets.to_vec(),
        dropout,
        init: AdapterInit::KaimingUniform,
    }
}

/// Numbers from -1 to 1, a function of seed and place.
pub fn values(seed: u64, place: u32, len: usize) -> Vec<f64> {
    let draw = Stream::new(seed, Purpose::Init).draws(place).next();
    (0..len as u32)
        .map(|i| f64::from(draw.word(i)) / f64::from(u32::MAX) * 2.0 - 1.0)
        .collect()
}

/// A model in f64 of which no weight has a special value: B is not zero, no gamma is 1 and no bias 0.
///
/// # Errors
/// If the settings are not usable.
pub fn random_model(
    config: &EncoderConfig,
    num_labels: usize,
    adapter: Option<&AdapterSettings>,
    seed: u64,
) -> Result<SequenceClassifier> {
    let model = SequenceClassifier::new(&Device::cpu(), DType::F64, config, num_labels, adapter, None, seed)?;
    let frozen = model.frozen().map(|(name, tensor)| (name.to_owned(), tensor.clone()));
    let trained = model.parameters();
    let trained = trained.iter().map(|p| (p.name().to_owned(), p.value().clone()));
    for (place, (name, tensor)) in frozen.chain(trained).enumerate() {
        // Enough to be curved, little enough to stay smooth; gammas lie around 1, and tables are wide, because the
        // normalisation after them is the steeper the narrower they are.
        let (centre, spread) = match name.as_str() {
            name if name.ends_with("LayerNorm.weight") => (1.0, 0.4),
            name if name.ends_with("_embeddings.weight") => (0.0, 1.0),
            _ => (0.0, 0.4),
        };
        let random = values(seed, place as u32, tensor.len())
            .into_iter()
            .map(|v| centre + spread * v);
        let random: Vec<f64> = random.collect();
        tensor.write(&random)?;
    }
    Ok(model)
}

/// Random tokens for `config`, packed.
///
/// # Errors
/// If there are more tokens than fit a batch.
pub fn packed(config: &EncoderConfig, lengths: &[usize], seed: u64) -> Result<Inputs> {
    let device = Device::cpu();
    let tokens = lengths.iter().sum();
    let below = |place: u32, limit: usize| -> Vec<i32> {
        let scale = limit as f64 / 2.000_001;
        values(seed, place, tokens)
            .iter()
            .map(|v| ((v + 1.0) * scale) as i32)
            .collect()
    };
    let row = |values: Vec<i32>| Tensor::from_slice(&device, &values, &[values.len()]);
    let offset = config.position_offset as i32;
    let first_rows = lengths.iter().scan(0, |start, length| {
        let first = *start;
        *start += *length as i32;
        Some(first)
    });
    Ok(Inputs {
        ids: row(below(1, config.vocab_size))?,
        positions: row(lengths
            .iter()
            .flat_map(|length| offset..offset + *length as i32)
            .collect())?,
        token_types: row(below(2, config.type_vocab_size))?,
        segments: Segments::new(&device, lengths)?,
        first: Selected::one_each(row(first_rows.collect())?)?,
    })
}

/// The gradient of a parameter as plain numbers.
///
/// # Errors
/// Inside a step.
pub fn gradient(parameter: &Parameter) -> Result<Vec<f64>> {
    Ok(parameter.grad().to_f64_vec()?)
}

/// A short name of an adapter's factor, as the fixtures have it: `<layer>.<query|value>.<A|B>`.
pub fn factor_name(parameter: &Parameter) -> String {
    let parts: Vec<&str> = parameter.name().split('.').collect();
    let layer = parts.iter().position(|p| *p == "layer").map_or("", |i| parts[i + 1]);
    let target = if parts.contains(&"query") { "query" } else { "value" };
    let factor = if parts.contains(&"lora_A") { "A" } else { "B" };
    format!("{layer}.{target}.{factor}")
}
