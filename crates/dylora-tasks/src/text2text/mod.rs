//! Text to text: a causal language model learns to write a completion after a context, and a finished run writes them.
//!
//! How a run goes is [`crate::train`]'s matter; this is what is trained there, and `task.json` says that it is of this kind.
//! The pairs are those of two jsonl files, or of a generation task's official files ([`crate::generation`]). After the last
//! step the loss on the dev pairs is measured at every rank; or, if the settings say so, the texts that the model writes for
//! a generation task's prompts are judged.

mod data;
mod job;
mod judge;
mod pass;
mod trained;
mod trainer;
mod write;

use dylora_nn::Gpt2Config;
use serde::Serialize;

use crate::error::Result;
use crate::generation::GenerationTask;
use crate::metric::text::chain::Chain;
use crate::settings::TrainSettings;

pub use data::{EncodedPair, TextCodec, TextPair, read_contexts, read_pairs};
pub use job::TextData;
pub(crate) use job::TextJob;
pub(crate) use judge::add_meteor;
pub use judge::{Judgement, Prompts};
pub use trained::TrainedText;
pub(crate) use trained::mean_loss;
pub use trainer::TextTrainer;
pub use write::write_lines;

/// The task's name in settings and on the command line.
pub const TASK: &str = "text";

/// What `task.json` of such a run says.
#[derive(Serialize)]
struct TextTask {
    name: String,
    head: &'static str,
    metrics: Vec<&'static str>,
}

impl TextTask {
    fn of(settings: &TrainSettings) -> Result<Self> {
        Ok(TextTask {
            name: settings.task.clone(),
            head: "language-model",
            metrics: match settings.writing {
                None => METRICS.to_vec(),
                Some(_) => {
                    let metrics = Chain::of(GenerationTask::find(&settings.task)?).metrics();
                    metrics.iter().map(|metric| metric.name).collect()
                }
            },
        })
    }
}

/// Mean loss of a predicted token in nats, and its exponential.
const METRICS: [&str; 2] = ["loss", "perplexity"];

/// The model's sizes with the dropout that the settings ask for.
fn with_dropout(config: Gpt2Config, settings: &TrainSettings) -> Gpt2Config {
    match settings.dropout {
        Some(dropout) => config.with_dropout(dropout),
        None => config,
    }
}
