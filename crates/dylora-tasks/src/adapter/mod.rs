//! Adapters of other libraries: PEFT's directories and loralib's files, out of a run and into one.
//!
//! PEFT keeps one pair of factors per module and scales their product by `lora_alpha / r`, or by `lora_alpha / √r` where
//! `use_rslora` is set. So an adapter cut to rank b is exported with r = b and the run's own alpha, with `use_rslora` where
//! the run scaled by alpha / √b; where it scaled by alpha / r at every rank, `lora_alpha` is the part b / r of alpha. GPT-2's `c_attn` is one module there and three layers with an adapter each
//! here: `Module` is where the two meet. Sources: the files that `peft` 0.21 writes, and `loralib`'s `lora_state_dict`.

mod config;
mod export;
mod import;
mod inspect;

use std::path::Path;

use dylora_nn::Target;
use dylora_nn::tensor::{DType, Device, Tensor};
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::run_dir::read_json;

pub use config::PeftConfig;
pub use export::{ExportFormat, Exported, export};
pub use import::{StartingAdapter, start};
pub use inspect::{Contents, TensorKind, inspect};

/// PEFT's configuration.
const PEFT_CONFIG: &str = "adapter_config.json";
/// PEFT's weights.
const PEFT_WEIGHTS: &str = "adapter_model.safetensors";
/// What stands before a model's keys in PEFT's weights.
const PEFT_PREFIX: &str = "base_model.model.";
/// What this crate says about an adapter, in the metadata of its file and, with all ranks, in PEFT's configuration.
const OWN_KEY: &str = "dylora";

/// Models by how they name their layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// RoBERTa and its relatives.
    Roberta,
    /// BERT.
    Bert,
    /// GPT-2.
    Gpt2,
}

/// The part of a model's `config.json` that is always there.
#[derive(Deserialize)]
struct ModelType {
    model_type: String,
}

impl Architecture {
    /// What the directory with this `config.json` holds.
    ///
    /// # Errors
    /// If the file cannot be read or is of a model that this library does not have.
    pub fn of(config: &Path) -> Result<Self> {
        let ModelType { model_type } = read_json(config)?;
        match model_type.as_str() {
            "roberta" | "xlm-roberta" | "camembert" => Ok(Architecture::Roberta),
            "bert" => Ok(Architecture::Bert),
            "gpt2" => Ok(Architecture::Gpt2),
            other => Err(Error::file(
                config,
                format!("model_type {other:?} is not supported (roberta, bert and gpt2 are)"),
            )),
        }
    }

    /// What stands before the keys of the bare model.
    fn prefix(self) -> &'static str {
        match self {
            Architecture::Roberta => "roberta.",
            Architecture::Bert => "bert.",
            Architecture::Gpt2 => "transformer.",
        }
    }

    /// How the keys of a bare model begin.
    fn bare(self) -> &'static str {
        match self {
            Architecture::Roberta | Architecture::Bert => "encoder.layer.",
            Architecture::Gpt2 => "h.",
        }
    }

    /// Below which modules PEFT stores the head.
    fn head_modules(self) -> &'static [&'static str] {
        match self {
            Architecture::Roberta => &["classifier"],
            Architecture::Bert => &["classifier", "pooler"],
            Architecture::Gpt2 => &[],
        }
    }

    /// Whether a key is of the head.
    fn is_head(self, key: &str) -> bool {
        match self {
            Architecture::Roberta => key.starts_with("classifier."),
            Architecture::Bert => key.starts_with("classifier.") || key.starts_with("bert.pooler."),
            Architecture::Gpt2 => false,
        }
    }

    /// Layers of a block by the ends of their modules' names.
    fn layers(self) -> &'static [(&'static str, Layer)] {
        const ENCODER: &[(&str, Layer)] = &[
            ("attention.self.query", Layer::One(Target::Query)),
            ("attention.self.key", Layer::One(Target::Key)),
            ("attention.self.value", Layer::One(Target::Value)),
            ("attention.output.dense", Layer::One(Target::AttentionOutput)),
            ("intermediate.dense", Layer::One(Target::Intermediate)),
            ("output.dense", Layer::One(Target::Output)),
        ];
        const GPT2: &[(&str, Layer)] = &[
            ("attn.c_attn", Layer::Thirds),
            ("attn.c_proj", Layer::One(Target::AttentionOutput)),
            ("mlp.c_fc", Layer::One(Target::Intermediate)),
            ("mlp.c_proj", Layer::One(Target::Output)),
        ];
        match self {
            Architecture::Roberta | Architecture::Bert => ENCODER,
            Architecture::Gpt2 => GPT2,
        }
    }

    /// The layer that a module `PREFIX.N.end` is, and that end.
    fn layer(self, module: &str) -> Option<(&'static str, Layer)> {
        let below = module.strip_prefix(self.prefix())?.strip_prefix(self.bare())?;
        let (number, end) = below.split_once('.')?;
        number.parse::<usize>().ok()?;
        self.layers().iter().copied().find(|(known, _)| *known == end)
    }

    /// The names that PEFT finds these modules, and no others, by.
    fn target_names(self, modules: &[Module]) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for module in modules {
            let name = match self.layer(&module.name) {
                // The end alone is the end of `attention.output.dense` too.
                Some(("output.dense", _)) => {
                    let bare = module.name.strip_prefix(self.prefix()).unwrap_or(&module.name);
                    bare.strip_prefix("encoder.").unwrap_or(bare).to_owned()
                }
                Some((end, _)) => end.rsplit_once("self.").map_or(end, |(_, last)| last).to_owned(),
                None => module.name.clone(),
            };
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }
}

/// What of ours a module of the published model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layer {
    One(Target),
    /// Query, key and value one after the other in its outputs.
    Thirds,
}

/// The thirds of `c_attn`, by name and target.
const THIRDS: [(&str, Target); 3] = [("query", Target::Query), ("key", Target::Key), ("value", Target::Value)];

/// A, `[rank, inputs]`, and B, `[outputs, rank]`, row-major.
#[derive(Clone, Debug, PartialEq)]
struct Factors {
    rank: usize,
    a: Vec<f64>,
    b: Vec<f64>,
}

impl Factors {
    fn new(a: &Tensor, b: &Tensor) -> Option<Result<Self>> {
        let (&[rank, _], &[_, columns]) = (a.shape(), b.shape()) else {
            return None;
        };
        let read = || {
            Ok(Factors {
                rank,
                a: a.to_f64_vec()?,
                b: b.to_f64_vec()?,
            })
        };
        (rank > 0 && rank == columns).then(read)
    }

    fn inputs(&self) -> usize {
        self.a.len() / self.rank
    }

    fn outputs(&self) -> usize {
        self.b.len() / self.rank
    }

    /// The first `rank` rows of A and columns of B.
    fn cut(&self, rank: usize) -> Factors {
        let columns = |row: &[f64]| row[..rank].to_vec();
        Factors {
            rank,
            a: self.a[..rank * self.inputs()].to_vec(),
            b: self.b.chunks_exact(self.rank).flat_map(columns).collect(),
        }
    }

    /// Some rows of B with some of its columns, and the rows of A that belong to those.
    fn block(&self, outputs: std::ops::Range<usize>, ranks: std::ops::Range<usize>) -> Factors {
        let d = self.inputs();
        let rows = self.b.chunks_exact(self.rank).skip(outputs.start).take(outputs.len());
        Factors {
            rank: ranks.len(),
            a: self.a[ranks.start * d..ranks.end * d].to_vec(),
            b: rows.flat_map(|row| row[ranks.clone()].to_vec()).collect(),
        }
    }

    fn tensors(&self, dtype: DType) -> Result<(Tensor, Tensor)> {
        let tensor = |values: &[f64], shape: [usize; 2]| -> Result<Tensor> {
            Ok(Tensor::from_slice(&Device::cpu(), values, &shape)?.to_dtype(dtype)?)
        };
        Ok((
            tensor(&self.a, [self.rank, self.inputs()])?,
            tensor(&self.b, [self.outputs(), self.rank])?,
        ))
    }
}

/// A module of the published model with our adapters on it: one, or up to three on the thirds of its outputs.
#[derive(Clone, Debug, PartialEq)]
struct Module {
    name: String,
    /// Outputs of the module over those of a part.
    parts: usize,
    /// Which part, and its factors.
    adapters: Vec<(usize, Factors)>,
}

impl Module {
    /// One pair of factors that does at rank b what the parts do: A of one above the other, B block by block, zero where
    /// a part has no adapter.
    fn stacked(&self, rank: usize) -> Factors {
        let cut: Vec<(usize, Factors)> = self.adapters.iter().map(|(part, f)| (*part, f.cut(rank))).collect();
        let outputs = cut.first().map_or(0, |(_, factors)| factors.outputs());
        let width = rank * cut.len();
        let mut b = vec![0.0; self.parts * outputs * width];
        for (place, (part, factors)) in cut.iter().enumerate() {
            let rows = b.chunks_exact_mut(width).skip(part * outputs);
            for (row, values) in rows.zip(factors.b.chunks_exact(rank)) {
                row[place * rank..][..rank].copy_from_slice(values);
            }
        }
        Factors {
            rank: width,
            a: cut.into_iter().flat_map(|(_, factors)| factors.a).collect(),
            b,
        }
    }

    /// [`Module::stacked`] undone, for factors on a module of three thirds. Factors that were not stacked give each third
    /// the whole of A and its own rows of B, which is the same function.
    fn split(name: &str, whole: &Factors) -> Module {
        let outputs = whole.outputs() / 3;
        let third = |part: usize| part * outputs..(part + 1) * outputs;
        let used: Vec<(usize, Vec<usize>)> = (0..3)
            .map(|part| {
                let rows = &whole.b[third(part).start * whole.rank..third(part).end * whole.rank];
                let columns = (0..whole.rank)
                    .filter(|column| rows.chunks_exact(whole.rank).any(|row| row[*column] != 0.0))
                    .collect();
                (part, columns)
            })
            .filter(|(_, columns): &(usize, Vec<usize>)| !columns.is_empty())
            .collect();
        let width = whole.rank / used.len().max(1);
        let blocks = !used.is_empty()
            && width * used.len() == whole.rank
            && used.iter().enumerate().all(|(place, (_, columns))| {
                columns
                    .iter()
                    .all(|column| (place * width..(place + 1) * width).contains(column))
            });
        let adapters = if blocks {
            let block = |(place, (part, _)): (usize, &(usize, Vec<usize>))| {
                (*part, whole.block(third(*part), place * width..(place + 1) * width))
            };
            used.iter().enumerate().map(block).collect()
        } else {
            let all = |part: usize| (part, whole.block(third(part), 0..whole.rank));
            (0..3).map(all).collect()
        };
        Module {
            name: name.to_owned(),
            parts: 3,
            adapters,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factors(rank: usize, inputs: usize, outputs: usize, seed: f64) -> Factors {
        let values = |count: usize, seed: f64| (0..count).map(|i| ((i as f64 + 1.0) * seed).sin()).collect();
        Factors {
            rank,
            a: values(rank * inputs, seed),
            b: values(outputs * rank, seed + 0.5),
        }
    }

    /// B A, `[outputs, inputs]`.
    fn product(factors: &Factors) -> Vec<f64> {
        let (d, r) = (factors.inputs(), factors.rank);
        let row = |b: &[f64]| -> Vec<f64> {
            (0..d)
                .map(|column| (0..r).map(|k| b[k] * factors.a[k * d + column]).sum())
                .collect()
        };
        factors.b.chunks_exact(r).flat_map(row).collect()
    }

    #[test]
    fn stacked_thirds_are_one_product_with_a_zero_third() {
        let (query, value) = (factors(3, 4, 5, 1.0), factors(3, 4, 5, 2.0));
        let module = Module {
            name: "transformer.h.0.attn.c_attn".into(),
            parts: 3,
            adapters: vec![(0, query.clone()), (2, value.clone())],
        };
        for rank in 1..=3 {
            let whole = module.stacked(rank);
            assert_eq!((whole.rank, whole.inputs(), whole.outputs()), (2 * rank, 4, 15));
            let mut expected = product(&query.cut(rank));
            expected.extend([0.0; 20]);
            expected.extend(product(&value.cut(rank)));
            assert_eq!(product(&whole), expected);
            let back = Module::split(&module.name, &whole);
            assert_eq!(back.adapters, [(0, query.cut(rank)), (2, value.cut(rank))]);
        }
    }

    #[test]
    fn dense_factors_give_every_third_the_same_a() {
        let whole = factors(2, 4, 15, 1.0);
        let module = Module::split("c_attn", &whole);
        assert_eq!(module.adapters.len(), 3);
        let joined: Vec<f64> = module.adapters.iter().flat_map(|(_, f)| product(f)).collect();
        assert_eq!(joined, product(&whole));
        // Before training B is zero, and nothing says which thirds were meant.
        let fresh = Factors {
            b: vec![0.0; 30],
            ..whole
        };
        assert_eq!(Module::split("c_attn", &fresh).adapters.len(), 3);
    }

    #[test]
    fn names_that_peft_looks_for_mean_no_other_layer() {
        let module = |name: &str| Module {
            name: name.into(),
            parts: 1,
            adapters: Vec::new(),
        };
        let modules = [
            "roberta.encoder.layer.0.attention.self.query",
            "roberta.encoder.layer.0.output.dense",
            "roberta.encoder.layer.1.attention.self.query",
            "roberta.encoder.layer.1.output.dense",
        ]
        .map(module);
        assert_eq!(
            Architecture::Roberta.target_names(&modules),
            ["query", "layer.0.output.dense", "layer.1.output.dense"]
        );
        let modules = ["transformer.h.0.attn.c_attn", "transformer.h.0.mlp.c_proj"].map(module);
        assert_eq!(Architecture::Gpt2.target_names(&modules), ["attn.c_attn", "mlp.c_proj"]);
    }
}
