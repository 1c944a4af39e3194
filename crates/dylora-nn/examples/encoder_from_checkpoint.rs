//! An encoder from a model directory, as transformers saves one: read the sizes, read the weights, run packed sequences.
//!
//! The directory is made on the spot with random weights, so the example needs no download. With a path it reads yours:
//! `cargo run -p dylora-nn --example encoder_from_checkpoint -- roberta-base`
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::path::{Path, PathBuf};

use dylora_nn::autograd::{RankSlice, Tape};
use dylora_nn::tensor::{DType, Device, Segments, Tensor};
use dylora_nn::{AdapterSettings, Checkpoint, Ctx, EncoderConfig, Inputs, Selected, SequenceClassifier, save_tensors};

/// `config.json` of a RoBERTa with two layers of width 8.
const CONFIG: &str = r#"{
  "model_type": "roberta", "vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
  "intermediate_size": 16, "max_position_embeddings": 18, "type_vocab_size": 1, "pad_token_id": 1, "layer_norm_eps": 1e-5
}"#;

/// Writes a model directory: `config.json`, and `model.safetensors` with the published keys and no head.
fn make_model(dir: &Path) -> Result<(), Box<dyn Error>> {
    std::fs::write(dir.join("config.json"), CONFIG)?;
    let config = EncoderConfig::from_json(CONFIG)?;
    let random = SequenceClassifier::new(&Device::cpu(), DType::F32, &config, 2, None, None, 7)?;
    let weights = random.merge(0)?;
    let encoder: Vec<_> = weights
        .into_iter()
        .filter(|(key, _)| key.starts_with("roberta."))
        .collect();
    save_tensors(&dir.join("model.safetensors"), &encoder, &[])?;
    Ok(())
}

/// Two sequences laid end to end; positions count from the padding id + 1, which is RoBERTa's way.
fn packed(device: &Device, config: &EncoderConfig, texts: &[&[i32]]) -> Result<Inputs, Box<dyn Error>> {
    let ids = texts.concat();
    let lengths: Vec<usize> = texts.iter().map(|text| text.len()).collect();
    let offset = config.position_offset as i32;
    let positions: Vec<i32> = lengths.iter().flat_map(|n| offset..offset + *n as i32).collect();
    let first_rows: Vec<i32> = (0..texts.len())
        .map(|i| lengths[..i].iter().sum::<usize>() as i32)
        .collect();
    let row = |values: &[i32]| Tensor::from_slice(device, values, &[values.len()]);
    Ok(Inputs {
        token_types: row(&vec![0; ids.len()])?,
        ids: row(&ids)?,
        positions: row(&positions)?,
        segments: Segments::new(device, &lengths)?,
        first: Selected::one_each(row(&first_rows)?)?,
    })
}

/// Logits of two texts at every rank of fresh adapters over the encoder in `dir`.
fn logits(dir: &Path) -> Result<Vec<Vec<f32>>, Box<dyn Error>> {
    let device = Device::cpu();
    let config = EncoderConfig::from_file(&dir.join("config.json"))?;
    let weights = Checkpoint::open(dir)?;
    println!(
        "{}: {} tensors, width {}",
        dir.display(),
        weights.names().count(),
        config.hidden_size
    );

    // The encoder's weights are frozen; adapters and a new head are what would learn.
    let adapters = AdapterSettings::query_value(4, 8.0);
    let model = SequenceClassifier::new(&device, DType::F32, &config, 2, Some(&adapters), Some(&weights), 42)?;
    println!(
        "trainable at rank 1: {}, at rank 4: {}",
        model.num_trainable(1),
        model.num_trainable(4)
    );

    let inputs = packed(&device, &config, &[&[0, 5, 6, 7, 2], &[0, 9, 2]])?;
    let mut all = Vec::new();
    for rank in 1..=model.rank() {
        let mut tape = Tape::inference();
        let mut ctx = Ctx {
            tape: &mut tape,
            slice: RankSlice::full(rank),
            dropout: None,
        };
        all.push(model.forward(&mut ctx, &inputs)?.value().to_vec::<f32>()?);
    }
    Ok(all)
}

fn main() -> Result<(), Box<dyn Error>> {
    let made = tempfile::tempdir()?;
    let dir = match std::env::args_os().nth(1) {
        Some(given) => PathBuf::from(given),
        None => {
            make_model(made.path())?;
            made.path().to_owned()
        }
    };
    for (rank, logits) in (1..).zip(logits(&dir)?) {
        println!("rank {rank}: {logits:.4?}");
    }
    Ok(())
}

#[test]
fn a_checkpoint_is_read_and_fresh_adapters_change_nothing() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    make_model(dir.path())?;
    let all = logits(dir.path())?;
    assert_eq!(all.len(), 4);
    // B starts at zero, so at every rank the model is still its base.
    assert!(all.iter().all(|logits| logits == &all[0]), "{all:?}");
    assert!(all[0].iter().all(|logit| logit.is_finite() && *logit != 0.0));

    // A weight that is missing is named, whatever else is there.
    let file = dir.path().join("model.safetensors");
    let whole = Checkpoint::open(&file)?;
    let device = Device::cpu();
    let kept: Vec<_> = whole
        .names()
        .filter(|name| !name.ends_with("layer.1.output.dense.bias"))
        .collect();
    let kept = kept
        .into_iter()
        .map(|name| Ok((name.to_owned(), whole.tensor(name, DType::F32, &device)?)));
    let kept = kept.collect::<dylora_nn::Result<Vec<_>>>()?;
    save_tensors(&file, &kept, &[])?;
    let message = logits(dir.path()).map(|_| ()).unwrap_err().to_string();
    assert!(
        message.ends_with("missing: roberta.encoder.layer.1.output.dense.bias"),
        "{message}"
    );
    Ok(())
}
