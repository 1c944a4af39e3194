//! Text to text: a causal language model learns to write a completion after a context, and a finished run writes them.
//!
//! How a run goes is [`crate::train`]'s matter; this is what is trained there, and `task.json` says that it is of this kind.
//! After the last step the loss on the dev pairs is measured at every rank.

mod data;
mod job;
mod pass;
mod trained;
mod trainer;

use dylora_nn::Gpt2Config;
use serde::Serialize;

use crate::settings::TrainSettings;

pub use data::{EncodedPair, TextCodec, TextPair, read_contexts, read_pairs};
pub use job::TextData;
pub(crate) use job::TextJob;
pub use trained::TrainedText;
pub use trainer::TextTrainer;

/// The task's name in settings and on the command line.
pub const TASK: &str = "text";

/// What `task.json` of such a run says.
#[derive(Serialize)]
struct TextTask {
    name: String,
    head: &'static str,
    metrics: [&'static str; 2],
}

impl TextTask {
    fn of(settings: &TrainSettings) -> Self {
        TextTask {
            name: settings.task.clone(),
            head: "language-model",
            metrics: METRICS,
        }
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
