//! The state of a run in one safetensors file: trained tensors, both moments, step counts and position.

use std::path::Path;

use dylora_nn::tensor::Tensor;
use dylora_nn::{AdamW, Checkpoint, save_tensors};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::classifier::Classifier;
use crate::error::{Error, Result};
use crate::record::LossCurve;
use crate::trainer::Trainer;

/// Where a run is. Order of rows, ranks and dropout follow from seed and step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Optimizer steps done.
    pub step: u64,
    /// The loss so far.
    pub loss: LossCurve,
    /// Seconds of training so far.
    pub seconds: f64,
    /// Rows trained on so far.
    pub rows: u64,
    /// Tokens trained on so far.
    pub tokens: u64,
    /// How often the run was taken up again.
    pub resumed: u32,
}

/// The key of the position in the file's metadata.
const POSITION: &str = "position";

/// Writes the state of a run; the file is the old one or the new one, whatever happens.
///
/// # Errors
/// If it cannot be written.
pub fn save(path: &Path, trainer: &Trainer, position: &Position) -> Result<()> {
    save_state(
        path,
        trainer.classifier.model.named_trained(),
        &trainer.optimizer,
        position,
    )
}

/// [`save`] of any trained tensors, with the optimizer that moves them and a position of any shape.
pub(crate) fn save_state<P: Serialize>(
    path: &Path,
    mut tensors: Vec<(String, Tensor)>,
    optimizer: &AdamW,
    position: &P,
) -> Result<()> {
    tensors.extend(optimizer.state()?);
    let position = serde_json::to_string(position).map_err(|error| Error::file(path, error.to_string()))?;
    Ok(save_tensors(path, &tensors, &[(POSITION.to_owned(), position)])?)
}

/// Restores what [`save`] wrote. Without a file the run is where it began.
///
/// # Errors
/// If the file is damaged or belongs to another model.
pub fn load(path: &Path, trainer: &mut Trainer) -> Result<Position> {
    let named = trainer.classifier.model.named_trained();
    let stored: Option<Position> = load_state(path, &named, &mut trainer.optimizer)?;
    if let Some(position) = &stored {
        trainer.set_done(position.step);
    }
    let mut position = stored.unwrap_or_default();
    position.resumed += 1;
    Ok(position)
}

/// Restores what [`save_state`] wrote; `None` without a file.
pub(crate) fn load_state<P: DeserializeOwned>(
    path: &Path,
    tensors: &[(String, Tensor)],
    optimizer: &mut AdamW,
) -> Result<Option<P>> {
    if !path.is_file() {
        return Ok(None);
    }
    let checkpoint = Checkpoint::open(path)?;
    let text = checkpoint
        .note(POSITION)
        .ok_or_else(|| Error::file(path, "says no position"))?;
    let position = serde_json::from_str(&text).map_err(|error| Error::file(path, error.to_string()))?;
    checkpoint.restore(tensors, &[AdamW::STATE_PREFIX])?;
    optimizer.load_state(&checkpoint)?;
    Ok(Some(position))
}

/// Writes the trained tensors alone.
///
/// # Errors
/// If the file cannot be written.
pub fn save_trained(path: &Path, classifier: &Classifier) -> Result<()> {
    Ok(save_tensors(path, &classifier.model.named_trained(), &[])?)
}

/// Optimizer steps done according to a checkpoint; 0 without one. Reads no tensor.
///
/// # Errors
/// If the file is damaged.
pub fn steps_done(path: &Path) -> Result<u64> {
    if !path.is_file() {
        return Ok(0);
    }
    let text = Checkpoint::open(path)?
        .note(POSITION)
        .ok_or_else(|| Error::file(path, "says no position"))?;
    let position: Position = serde_json::from_str(&text).map_err(|error| Error::file(path, error.to_string()))?;
    Ok(position.step)
}
