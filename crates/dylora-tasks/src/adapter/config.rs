//! PEFT's `adapter_config.json`.

use std::collections::BTreeMap;
use std::path::Path;

use dylora_nn::ScaleRule;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::run_dir::read_json;

/// The fields of an `adapter_config.json` that say what an adapter computes. Others are kept by nobody and read by nobody
/// but PEFT, whose defaults they have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PeftConfig {
    /// `LORA`.
    pub peft_type: String,
    /// `SEQ_CLS`, `CAUSAL_LM`, ...
    #[serde(default)]
    pub task_type: Option<String>,
    /// The model that was adapted.
    #[serde(default)]
    pub base_model_name_or_path: Option<String>,
    /// The rank.
    pub r: usize,
    /// Numerator of the scale.
    #[serde(serialize_with = "whole")]
    pub lora_alpha: f64,
    /// Dropout on the adapters' input.
    #[serde(default)]
    pub lora_dropout: f64,
    /// Ends of the names of the adapted modules.
    #[serde(default)]
    pub target_modules: Value,
    /// Modules that were trained whole.
    #[serde(default)]
    pub modules_to_save: Option<Vec<String>>,
    /// Whether the base stores its matrices `[inputs, outputs]`.
    #[serde(default)]
    pub fan_in_fan_out: bool,
    /// Whether biases were trained: `none`, `all`, `lora_only`.
    #[serde(default = "none")]
    pub bias: String,
    /// Ranks of modules that have another than `r`.
    #[serde(default)]
    pub rank_pattern: BTreeMap<String, usize>,
    /// `lora_alpha` of such modules.
    #[serde(default, serialize_with = "whole_values")]
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Scale by the root of the rank.
    #[serde(default)]
    pub use_rslora: bool,
    /// Directions and magnitudes apart.
    #[serde(default)]
    pub use_dora: bool,
    /// Initialisation, of which some change the base weights.
    #[serde(default = "yes")]
    pub init_lora_weights: Value,
    /// Not in training.
    #[serde(default)]
    pub inference_mode: bool,
    /// What this library says of an adapter with all its ranks.
    #[serde(default, rename = "dylora", skip_serializing_if = "Option::is_none")]
    pub own: Option<Value>,
}

fn none() -> String {
    "none".to_owned()
}

fn yes() -> Value {
    Value::Bool(true)
}

/// A whole number without a decimal point, as PEFT writes it.
fn whole<S: serde::Serializer>(value: &f64, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    number(*value).serialize(serializer)
}

fn whole_values<S: serde::Serializer>(
    values: &BTreeMap<String, f64>,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    let values: BTreeMap<&String, Value> = values.iter().map(|(key, value)| (key, number(*value))).collect();
    values.serialize(serializer)
}

fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        Value::from(value as i64)
    } else {
        Value::from(value)
    }
}

impl PeftConfig {
    /// Reads the file and refuses what would be read as another function than PEFT computes.
    ///
    /// # Errors
    /// If it cannot be read, or describes something other than plain low-rank adapters.
    pub fn read(path: &Path) -> Result<Self> {
        let config: PeftConfig = read_json(path)?;
        let refuse = |what: &str| Err(Error::file(path, format!("{what} is not supported; plain LoRA is")));
        if config.peft_type != "LORA" {
            return refuse(&format!("peft_type {:?}", config.peft_type));
        }
        if config.use_dora {
            return refuse("use_dora");
        }
        if config.bias != "none" {
            return refuse(&format!("bias {:?}", config.bias));
        }
        if let Value::String(init) = &config.init_lora_weights
            && ["pissa", "olora", "loftq", "corda", "lora_ga"]
                .iter()
                .any(|kind| init.starts_with(kind))
        {
            return refuse(&format!("init_lora_weights {init:?}, which changes the base weights,"));
        }
        if config.r == 0 {
            return Err(Error::file(path, "r is 0; the smallest rank is 1"));
        }
        if !(config.lora_alpha.is_finite() && config.lora_alpha > 0.0) {
            return Err(Error::file(
                path,
                format!("lora_alpha {} is not a number above 0", config.lora_alpha),
            ));
        }
        Ok(config)
    }

    /// How the scale follows from `lora_alpha`.
    pub(super) fn rule(&self) -> ScaleRule {
        if self.use_rslora {
            ScaleRule::OverSqrtB
        } else {
            ScaleRule::OverB
        }
    }

    /// What PEFT multiplies a module's `B A x` by, for factors of rank `rank`.
    pub(super) fn scale(&self, module: &str, rank: usize) -> f64 {
        // PEFT takes the first key that is the end of the module's name at a dot.
        let ends = |key: &str| {
            module
                .strip_suffix(key)
                .is_some_and(|before| before.is_empty() || before.ends_with('.'))
        };
        let own = self.alpha_pattern.iter().find(|(key, _)| ends(key));
        let alpha = own.map_or(self.lora_alpha, |(_, alpha)| *alpha);
        self.rule().at(alpha, rank, rank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> std::result::Result<PeftConfig, String> {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let path = dir.path().join("adapter_config.json");
        std::fs::write(&path, text).map_err(|error| error.to_string())?;
        PeftConfig::read(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn the_scale_is_alpha_over_rank_or_its_root() {
        let config = read(
            r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 16, "alpha_pattern": {"mlp.c_fc": 2.5}, "whatever": null}"#,
        )
        .unwrap();
        assert_eq!(config.scale("h.0.attn.c_attn", 4), 4.0);
        assert_eq!(config.scale("h.0.mlp.c_fc", 1), 2.5);
        assert_eq!(config.scale("h.0.umlp.c_fc", 2), 8.0);
        let config = read(r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 16, "use_rslora": true}"#).unwrap();
        assert_eq!(config.scale("x", 4), 8.0);
    }

    #[test]
    fn what_is_another_function_is_refused() {
        for (more, expected) in [
            (r#""use_dora": true"#, "use_dora"),
            (r#""bias": "all""#, "bias \"all\""),
            (r#""init_lora_weights": "pissa_niter_4""#, "pissa_niter_4"),
            (r#""lora_alpha": 0"#, "lora_alpha 0"),
            (r#""peft_type": "IA3""#, "peft_type \"IA3\""),
        ] {
            let mut fields: serde_json::Map<String, Value> =
                serde_json::from_str(r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 16}"#).unwrap();
            fields.extend(serde_json::from_str::<serde_json::Map<_, _>>(&format!("{{{more}}}")).unwrap());
            let message = read(&Value::Object(fields).to_string()).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }
}
