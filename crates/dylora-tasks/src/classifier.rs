//! An encoder with a head on a device, fed with packed batches.

use std::path::Path;

use dylora_nn::autograd::{RankSlice, Tape};
use dylora_nn::tensor::{DType, Device, PassInput, Segments, Tensor};
use dylora_nn::{
    AdapterSettings, Checkpoint, Ctx, EncoderConfig, FlopSettings, Inputs, Selected, SequenceClassifier, Targets,
};

use crate::device;
use crate::error::{Error, Result};
use crate::pack::{PackedBatch, pack};
use crate::pass::Limits;
use crate::prepare::Prepared;
use crate::settings::{Precision, TrainSettings};
use crate::task::{Head, Label};

impl Precision {
    /// The element type of weights and activations.
    pub fn dtype(self) -> DType {
        match self {
            Precision::F32 | Precision::Tf32 => DType::F32,
            Precision::F64 => DType::F64,
            Precision::Bf16 => DType::Bf16,
        }
    }
}

/// A model that reads packed batches.
pub struct Classifier {
    /// The encoder with its head, and its adapters if it has some.
    pub model: SequenceClassifier,
    device: Device,
    dtype: DType,
    head: Head,
    position_offset: usize,
    limits: Limits,
}

/// A batch's labels, from the host.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Labels {
    Classes { values: Vec<i32>, limit: usize },
    Scores { values: Vec<f64>, dtype: DType },
}

impl Labels {
    /// What a pass reads.
    pub(crate) fn input(&self) -> PassInput<'_> {
        match self {
            Labels::Classes { values, limit } => PassInput::Indices { values, limit: *limit },
            Labels::Scores { values, dtype } => PassInput::Reals { values, dtype: *dtype },
        }
    }

    /// What logits are held against, of the tensor that [`Labels::input`] became.
    pub(crate) fn targets(&self, tensor: &Tensor) -> Targets {
        match self {
            Labels::Classes { .. } => Targets::Classes(tensor.clone()),
            Labels::Scores { .. } => Targets::Scores(tensor.clone()),
        }
    }
}

impl Classifier {
    /// Builds the model: weights from `source` (a model directory), or random ones.
    ///
    /// # Errors
    /// What is wrong with the checkpoint, all keys at once.
    pub fn new(
        config: &EncoderConfig,
        head: Head,
        adapter: Option<&AdapterSettings>,
        source: Option<&Path>,
        precision: Precision,
        seed: u64,
    ) -> Result<Self> {
        let checkpoint = source.map(Checkpoint::open).transpose()?;
        Self::build(config, head, (adapter, None), checkpoint.as_ref(), precision, seed)
    }

    /// The model that a run of these settings trains: with adapters, factorised, or plain. Weights are those of `source`, or
    /// random.
    ///
    /// # Errors
    /// As [`Classifier::new`].
    pub fn of(
        settings: &TrainSettings,
        config: &EncoderConfig,
        head: Head,
        source: Option<&Checkpoint>,
        precision: Precision,
    ) -> Result<Self> {
        let (adapter, flop) = (settings.adapter(), settings.flop());
        let form = (adapter.as_ref(), flop.as_ref());
        Self::build(config, head, form, source, precision, settings.seed)
    }

    fn build(
        config: &EncoderConfig,
        head: Head,
        (adapter, flop): (Option<&AdapterSettings>, Option<&FlopSettings>),
        source: Option<&Checkpoint>,
        precision: Precision,
        seed: u64,
    ) -> Result<Self> {
        let device = device::open(precision)?;
        let dtype = precision.dtype();
        if precision == Precision::Bf16 && adapter.is_none() {
            return Err(Error::argument(
                "--precision",
                "bf16 needs a frozen base; --method full and flop learn every weight and take f32 or tf32",
            ));
        }
        let labels = head.num_labels();
        let model = match flop {
            Some(flop) => SequenceClassifier::factorised(&device, dtype, config, labels, flop, source, seed)?,
            None => SequenceClassifier::new(&device, dtype, config, labels, adapter, source, seed)?,
        };
        Ok(Classifier {
            model,
            device,
            dtype,
            head,
            position_offset: config.position_offset,
            limits: Limits::new(config),
        })
    }

    /// The plain model that this one is at a rank: adapters are added to their layers, all else is shared with this model.
    ///
    /// # Errors
    /// If the rank is not one of the model's.
    pub fn merged(&self, rank: usize) -> Result<Self> {
        Ok(Classifier {
            model: self.model.merged(rank)?,
            device: self.device.clone(),
            ..*self
        })
    }

    /// The model as it is evaluated, where that is another than the trained one: without the components that the method
    /// `flop` drops.
    ///
    /// # Errors
    /// If a GPU fails.
    pub fn pruned(&self) -> Result<Option<Self>> {
        if self.model.gates().is_none() {
            return Ok(None);
        }
        Ok(Some(Classifier {
            model: self.model.pruned()?,
            device: self.device.clone(),
            ..*self
        }))
    }

    /// Where the model is.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What the head predicts.
    pub fn head(&self) -> Head {
        self.head
    }

    /// What the model adds to positions.
    pub fn position_offset(&self) -> usize {
        self.position_offset
    }

    /// What the model's ids, positions and token types are below.
    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// The type of losses and scores: f32 where activations are narrower.
    fn wide(&self) -> DType {
        match self.dtype {
            DType::F64 => DType::F64,
            _ => DType::F32,
        }
    }

    /// A new tensor for so many losses.
    pub(crate) fn scalars(&self, count: usize) -> Result<Tensor> {
        Ok(Tensor::zeros(&self.device, self.wide(), &[count])?)
    }

    /// A batch on the device.
    ///
    /// # Errors
    /// If it has more tokens than an `i32` counts.
    pub fn inputs(&self, batch: &PackedBatch) -> Result<Inputs> {
        inputs(&self.device, batch)
    }

    /// A batch's labels: classes, or scores in the type of the losses, `[sequences]`.
    ///
    /// # Errors
    /// For a row without a label, or with one of the other kind.
    pub(crate) fn labels(&self, batch: &PackedBatch) -> Result<Labels> {
        let wrong = |index: usize| {
            Error::argument(
                "labels",
                format!(
                    "row {} has {:?}, not a label of {:?}",
                    batch.rows[index], batch.labels[index], self.head
                ),
            )
        };
        let labels = batch.labels.iter().enumerate();
        Ok(match self.head {
            Head::Classify(classes) => Labels::Classes {
                values: labels
                    .map(|(index, label)| match label {
                        Label::Class(class) if *class < classes => i32::try_from(*class).map_err(|_| wrong(index)),
                        _ => Err(wrong(index)),
                    })
                    .collect::<Result<_>>()?,
                limit: classes,
            },
            Head::Regress => Labels::Scores {
                values: labels
                    .map(|(index, label)| label.score().ok_or_else(|| wrong(index)))
                    .collect::<Result<_>>()?,
                dtype: self.wide(),
            },
        })
    }

    /// Logits of every row at a rank (`None`: as the model was trained, for one without adapters), `[rows, num_labels]`
    /// row by row, in the order of the rows.
    ///
    /// Rows of similar length run together; which rows share a pass changes a row's numbers by rounding only.
    ///
    /// # Errors
    /// If a row does not fit the model.
    pub fn logits(
        &self,
        rows: &Prepared,
        rank: Option<usize>,
        token_budget: usize,
        mut progress: impl FnMut(usize),
    ) -> Result<Vec<f64>> {
        let width = self.head.num_labels();
        let mut order: Vec<usize> = (0..rows.len()).collect();
        // Longest first: what needs most memory is known at once.
        order.sort_by_key(|&row| std::cmp::Reverse(rows.encoded[row].ids.len()));
        let mut all = vec![0.0; rows.len() * width];
        for batch in pack(&rows.encoded, &rows.labels, &order, self.position_offset, token_budget)? {
            let mut tape = Tape::inference();
            let mut ctx = Ctx {
                tape: &mut tape,
                slice: RankSlice::full(rank.unwrap_or_else(|| self.model.rank())),
                dropout: None,
            };
            let logits = self
                .model
                .forward(&mut ctx, &self.inputs(&batch)?)?
                .value()
                .to_f64_vec()?;
            for (row, values) in batch.rows.iter().zip(logits.chunks_exact(width)) {
                all[row * width..(row + 1) * width].copy_from_slice(values);
            }
            progress(batch.rows.len());
        }
        Ok(all)
    }
}

/// A batch on a device.
///
/// # Errors
/// If it has more tokens than an `i32` counts.
pub(crate) fn inputs(device: &Device, batch: &PackedBatch) -> Result<Inputs> {
    let tokens = |values: &[i32]| Tensor::from_slice(device, values, &[values.len()]);
    Ok(Inputs {
        ids: tokens(&batch.ids)?,
        positions: tokens(&batch.positions)?,
        token_types: tokens(&batch.token_types)?,
        segments: Segments::new(device, &batch.lengths)?,
        first: Selected::one_each(tokens(&batch.first_rows())?)?,
    })
}
