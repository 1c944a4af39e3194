//! Costs that were measured once, beside the run.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{RankCost, Timing, costs};
use crate::device;
use crate::error::{Error, Result};
use crate::evaluate::TrainedModel;
use crate::record::RankName;
use crate::run_dir::{RunDir, read_json, write_json};
use crate::settings::{Precision, TrainSettings};

/// What is measured of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CostOptions {
    /// How much is timed.
    pub timing: Timing,
    /// Where the base model's weights are now, if they have moved.
    pub base: Option<PathBuf>,
    /// A file with rows laid out as the dev split is, in place of the data that the run was trained on.
    pub file: Option<PathBuf>,
}

/// The costs of a run at every rank that it is evaluated at, and what they were measured with: `costs.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Costs {
    /// The device, with its number of threads.
    pub device: String,
    /// What the model computed in.
    pub precision: Precision,
    /// SHA-256 of `adapter.safetensors`.
    pub adapter: String,
    /// Rows that were timed one at a time.
    pub rows: usize,
    /// Batches that were timed.
    pub batches: usize,
    /// Rows of a batch.
    pub batch_rows: usize,
    /// The costs, by rank.
    pub ranks: Vec<RankCost>,
}

impl Costs {
    /// What was measured of a run, on whatever device; `None` where nothing was, or the adapter is another one since.
    ///
    /// # Errors
    /// If the file or the adapter cannot be read.
    pub fn read(run: &Path) -> Result<Option<Self>> {
        let run = RunDir::unlocked(run);
        if !run.costs().is_file() {
            return Ok(None);
        }
        let found: Costs = read_json(&run.costs())?;
        let adapter = fingerprint(&run.adapter())?;
        Ok((found.adapter == adapter).then_some(found))
    }

    /// Whether these are the costs that would be measured here.
    fn fit(&self, settings: &TrainSettings, device: &str, timing: Timing) -> bool {
        let ranks = settings.ranks().into_iter().map(RankName::new);
        self.device == device
            && self.precision == device::to_use(settings.precision)
            && (self.rows, self.batches, self.batch_rows) == (timing.rows, timing.batches, timing.batch_rows)
            && self.ranks.iter().map(|cost| cost.rank).eq(ranks)
    }
}

/// What each rank of a finished run of a classifier costs here: as its `costs.json` says if that was measured on this device with
/// this adapter and as much was timed, else measured on rows of its dev split and written there.
///
/// # Errors
/// If the run has not ended or is no classifier's; if, where it must be measured, the base model or the data is not there.
pub fn costs_of(run: &Path, options: &CostOptions) -> Result<Vec<RankCost>> {
    let dir = RunDir::open(run)?;
    let settings = dir.settings()?;
    let timing = options.timing;
    // Measured anew where the file says nothing.
    if let Ok(Some(found)) = Costs::read(run) {
        let device = device::open(device::to_use(settings.precision))?.describe();
        if found.fit(&settings, &device, timing) {
            return Ok(found.ranks);
        }
    }
    let model = TrainedModel::open(run, options.base.as_deref())?;
    let adapter = fingerprint(&dir.adapter())?;
    let split = model
        .task
        .eval_splits
        .first()
        .copied()
        .unwrap_or(crate::task::Split::Dev);
    let rows = model.prepare(&model.rows(split, options.file.as_deref())?)?;
    let measured = Costs {
        device: model.classifier.device().describe(),
        precision: device::to_use(settings.precision),
        adapter,
        rows: timing.rows,
        batches: timing.batches,
        batch_rows: timing.batch_rows,
        ranks: costs(&model, &rows, &settings.ranks(), timing)?,
    };
    write_json(&dir.costs(), &measured)?;
    Ok(measured.ranks)
}

fn fingerprint(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    Ok(Sha256::digest(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}
