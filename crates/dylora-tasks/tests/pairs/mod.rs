//! A tiny random GPT-2 and pairs of texts in a temporary directory, for tests of text-to-text runs.
#![allow(dead_code)]

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use dylora_tasks::nn::tensor::{DType, Device};
use dylora_tasks::nn::{Gpt2Config, Gpt2LanguageModel, Method, save_tensors};
use dylora_tasks::settings::TrainSettings;

pub(crate) type TestResult = Result<(), Box<dyn Error>>;
pub(crate) type Loaded<T> = Result<T, Box<dyn Error>>;

/// Every byte is a token, and one more ends a text.
pub(crate) const END: usize = 256;

/// How byte-level tokenizers write a byte: printable ones as they are, the others as the letters from 256 on, in order.
fn letter(byte: u32) -> String {
    let plain = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || (174..=255).contains(&b);
    let code = if plain(byte) {
        byte
    } else {
        256 + (0..byte).filter(|b| !plain(*b)).count() as u32
    };
    char::from_u32(code).map(String::from).unwrap_or_default()
}

/// A model directory with random weights, for texts of so many tokens.
pub(crate) fn write_model(model: &Path, positions: usize) -> Loaded<()> {
    fs::create_dir(model)?;
    let names = (0..=255).map(letter).chain(["<|endoftext|>".to_owned()]);
    let vocabulary: serde_json::Map<_, _> = names.enumerate().map(|(id, name)| (name, id.into())).collect();
    fs::write(model.join("vocab.json"), serde_json::to_string(&vocabulary)?)?;
    fs::write(model.join("merges.txt"), "#version: 0.2\n")?;
    let config = Gpt2Config {
        vocab_size: END + 1,
        max_positions: positions,
        hidden_size: 32,
        num_layers: 2,
        num_heads: 4,
        intermediate_size: 64,
        eos_token_id: END,
        initializer_range: 0.3,
        ..Gpt2Config::small()
    }
    .with_dropout(0.05);
    fs::write(model.join("config.json"), config.to_json())?;
    let random = Gpt2LanguageModel::new(&Device::cpu(), DType::F32, &config, None, None, 1)?;
    Ok(save_tensors(&model.join("model.safetensors"), &random.merge(0)?, &[])?)
}

/// A model directory with random weights, and two files of pairs.
pub(crate) struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Loaded<Self> {
        let dir = tempfile::tempdir()?;
        write_model(&dir.path().join("model"), 40)?;
        let place = Place { dir };
        let pairs = |count: usize| -> String {
            let line = |i: usize| {
                let word = ["red", "blue", "green"][i % 3];
                format!("{{\"context\": \"k {word}\", \"completion\": \"it is {word}\"}}\n")
            };
            (0..count).map(line).collect()
        };
        fs::write(place.path("train.jsonl"), pairs(24))?;
        fs::write(place.path("dev.jsonl"), pairs(3))?;
        Ok(place)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn settings(&self, method: Method) -> TrainSettings {
        TrainSettings {
            method,
            epochs: 4,
            batch_size: 4,
            lr: 2e-2,
            warmup_steps: Some(2),
            // Less than a batch, so that gradients of several passes are added.
            token_budget: 50,
            ..TrainSettings::text(&self.path("model"), &self.path("train.jsonl"), &self.path("dev.jsonl"))
        }
    }
}
