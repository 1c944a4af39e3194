//! The state of a run in one safetensors file: trained tensors, both moments, step counts and position.

use std::path::Path;

use dylora_nn::tensor::Tensor;
use dylora_nn::{AdamW, Checkpoint, save_tensors};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::record::{LossCurve, OpenPoint, Trace};

/// Where a run is. Order of rows, ranks and dropout follow from seed and step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Optimizer steps done.
    pub step: u64,
    /// The loss so far.
    pub loss: LossCurve,
    /// Its trace; a checkpoint of an earlier version has none, and the trace begins where it is taken up.
    #[serde(default)]
    pub trace: Trace,
    /// The trace's next point.
    #[serde(default)]
    pub open: OpenPoint,
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

/// Writes the state of a run: trained tensors, the optimizer that moves them and a position of any shape. The file is the
/// old one or the new one, whatever happens.
///
/// # Errors
/// If it cannot be written.
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

/// Restores what [`save_state`] wrote; `None` without a file.
///
/// # Errors
/// If the file is damaged or belongs to another model.
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
