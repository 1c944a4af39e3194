//! One training step as a unit: on the CPU its body runs; a CUDA device records the work of a pass once and replays it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::cuda::Recording;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::rng::{Draws, Dropout};
use crate::tensor::Tensor;

/// What fixes the shape of a step: two steps with equal keys launch the same work on other data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StepKey {
    /// What kind of step it is, chosen by the caller (for example training or evaluation).
    pub kind: u8,
    /// Packed tokens.
    pub tokens: u32,
    /// Sequences.
    pub sequences: u32,
    /// Tokens of the longest sequence.
    pub longest: u32,
    /// Tokens that the head reads; 0 where the other sizes say it.
    pub read: u32,
}

/// How a step was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ran {
    /// The body ran.
    Eagerly,
    /// The body ran while its work was recorded, and the record was launched.
    Recorded,
    /// The record of an earlier pass was launched; the body did not run.
    Replayed,
}

/// Numbers that a pass reads, from the host; as long in every pass of a key.
#[derive(Clone, Copy, Debug)]
pub enum PassInput<'a> {
    /// Integers, all of them in `0..limit`. They are checked here, because a replayed pass checks nothing.
    Indices {
        /// The integers.
        values: &'a [i32],
        /// What they are below.
        limit: usize,
    },
    /// Real numbers, stored as `dtype` (f64 or f32).
    Reals {
        /// The numbers.
        values: &'a [f64],
        /// How they are stored.
        dtype: DType,
    },
}

/// The ranks of a pass, as all its low-rank operations take them.
#[derive(Clone, Debug, PartialEq)]
pub struct PassRanks {
    /// Ranks that are read.
    pub read: usize,
    /// Ranks whose gradients are stored.
    pub write: Range<usize>,
    /// Factor on the low-rank path.
    pub scale: f64,
}

/// What may differ between two passes of one key beside their inputs. Operations of the pass must be given these very
/// values; another one is an error on every device, because a replayed pass would not see it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PassValues {
    /// Where dropout draws from; after the pass it is where the next one goes on.
    pub dropout: Option<Draws>,
    /// The ranks; `None` where there are no low-rank operations.
    pub ranks: Option<PassRanks>,
    /// Factor on the sum of losses.
    pub weight: f64,
}

/// What the body of a pass works with.
#[derive(Debug)]
pub struct Pass {
    /// The inputs in the order they were given, each one-dimensional.
    pub inputs: Vec<Tensor>,
    /// Where dropout draws from. The body leaves it where it stopped.
    pub dropout: Option<Draws>,
}

/// The running step of a device.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    running: AtomicBool,
    generation: AtomicU64,
    pass: Mutex<Option<Current>>,
}

/// What the running pass was begun with, and where a CUDA device has it in its memory.
#[derive(Clone, Debug)]
struct Current {
    values: PassValues,
    address: u64,
}

impl Steps {
    pub(crate) fn running(&self) -> bool {
        self.running.load(Ordering::Relaxed)
    }

    /// The generation that a tensor made now carries: none outside a step.
    pub(crate) fn generation(&self) -> Option<u64> {
        self.running().then(|| self.generation.load(Ordering::Relaxed))
    }

    /// Starts a step; `false` if one is running already.
    fn begin(&self) -> bool {
        !self.running.swap(true, Ordering::Relaxed)
    }

    /// Ends the step; tensors made in it become stale.
    fn end(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
        self.set(None);
        self.running.store(false, Ordering::Relaxed);
    }

    fn set(&self, pass: Option<Current>) {
        *self.pass.lock().unwrap_or_else(PoisonError::into_inner) = pass;
    }

    /// The address of the pass' values if `agrees` with them, 0 where no pass with values is running.
    fn check(&self, op: &'static str, what: &str, agrees: impl FnOnce(&PassValues) -> bool) -> Result<u64> {
        match &*self.pass.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(0),
            Some(current) if agrees(&current.values) => Ok(current.address),
            Some(_) => Err(Error::invalid(
                op,
                format!("{what} is not what the pass was begun with"),
            )),
        }
    }

    /// Holds a low-rank operation against the ranks of the pass.
    pub(crate) fn check_ranks(&self, op: &'static str, read: usize, scale: f64) -> Result<u64> {
        self.check(op, "the rank or its scale", |values| {
            values
                .ranks
                .as_ref()
                .is_some_and(|ranks| ranks.read == read && ranks.scale == scale)
        })
    }

    /// Holds a low-rank gradient against the ranks of the pass.
    pub(crate) fn check_writes(&self, op: &'static str, read: usize, write: &Range<usize>, scale: f64) -> Result<u64> {
        self.check(op, "a rank that learns", |values| {
            values
                .ranks
                .as_ref()
                .is_some_and(|ranks| ranks.read == read && ranks.scale == scale && ranks.write == *write)
        })
    }

    /// Refuses an operation that has a value of its own for every step.
    pub(crate) fn check_no_pass(&self, op: &'static str) -> Result<()> {
        self.check(op, "a value that changes from step to step", |_| false)
            .map(drop)
    }

    /// Holds a loss against the weight of the pass.
    pub(crate) fn check_weight(&self, op: &'static str, weight: f64) -> Result<u64> {
        self.check(op, "the loss's weight", |values| values.weight == weight)
    }

    /// Holds a draw against the stream of the pass; also gives the site where the pass began.
    pub(crate) fn check_draw(&self, op: &'static str, step: u32, site: u32) -> Result<(u64, u32)> {
        let mut first = 0;
        let address = self.check(op, "dropout's place in its stream", |values| {
            values.dropout.as_ref().is_some_and(|draws| {
                let (at, from) = draws.place();
                first = from;
                at == step && from <= site
            })
        })?;
        Ok((address, if address == 0 { 0 } else { first }))
    }
}

/// Passes of a key that run their body before one is recorded: memory and libraries have settled by then.
const EAGER: u32 = 2;
/// Records that are kept; the one unused for longest goes first.
const RECORDS: usize = 256;

/// Runs steps on a device.
///
/// Inside a step tensors cannot be read on the host, and tensors made there cannot be used afterwards: whatever
/// survives is copied into a tensor made before. The CPU checks these rules too, so a CPU test finds what would break
/// a captured GPU graph.
///
/// ```
/// use dylora_tensor::{Device, Error, StepCache, StepKey, Tensor, ops};
/// let device = Device::cpu();
/// let x = Tensor::from_slice(&device, &[1.0f32, 2.0], &[2])?;
/// let total = Tensor::zeros(&device, dylora_tensor::DType::F32, &[2])?;
/// let key = StepKey { kind: 0, tokens: 2, sequences: 1, longest: 2, read: 0 };
/// StepCache::new(&device).run(key, &mut || {
///     assert!(matches!(x.to_vec::<f32>(), Err(Error::HostReadInStep { .. })));
///     ops::add_into(&ops::add(&x, &x)?, &total)
/// })?;
/// assert_eq!(total.to_vec::<f32>()?, [2.0, 4.0]);
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
pub struct StepCache {
    device: Device,
    records: bool,
    passes: HashMap<StepKey, Entry>,
    clock: u64,
}

/// What is known of a key on a CUDA device.
#[derive(Debug)]
struct Entry {
    recording: Recording,
    lengths: Vec<usize>,
    eager: u32,
    /// Draws of dropout that a pass takes.
    draws: u32,
    used: u64,
}

impl StepCache {
    /// A cache for steps on `device`.
    pub fn new(device: &Device) -> Self {
        StepCache {
            device: device.clone(),
            records: true,
            passes: HashMap::new(),
            clock: 0,
        }
    }

    /// A cache that runs every body, on every device: what replayed passes are held against.
    pub fn eager(device: &Device) -> Self {
        StepCache {
            records: false,
            ..StepCache::new(device)
        }
    }

    /// Whether passes are recorded and replayed here, so that it pays to give different passes one key.
    pub fn replays(&self) -> bool {
        self.records && matches!(self.device, Device::Cuda(_))
    }

    /// Runs one step.
    ///
    /// # Errors
    /// What `body` returns, or [`Error::Invalid`] if a step is running on the device already.
    pub fn run<E: From<Error>>(&mut self, _key: StepKey, body: &mut dyn FnMut() -> Result<(), E>) -> Result<Ran, E> {
        let end = self.begin()?;
        let result = body();
        drop(end);
        result.map(|()| Ran::Eagerly)
    }

    /// Runs one step that reads `inputs` and `values`.
    ///
    /// A CUDA device runs the body of a key's first passes, records the work of the next one as a graph, and from then on
    /// launches that graph without calling `body`. So whatever differs between two passes of a key must be in `inputs` or
    /// `values`, and the body must do the same work every time.
    ///
    /// # Errors
    /// What `body` returns; an integer beyond its limit; inputs of another length than this key's before; or
    /// [`Error::Invalid`] if a step is running on the device already.
    pub fn pass<E: From<Error>>(
        &mut self,
        key: StepKey,
        inputs: &[PassInput<'_>],
        values: &mut PassValues,
        body: &mut dyn FnMut(&mut Pass) -> Result<(), E>,
    ) -> Result<Ran, E> {
        for input in inputs {
            input.check()?;
        }
        if !self.replays() {
            let end = self.begin()?;
            self.device.steps().set(Some(Current {
                values: values.clone(),
                address: 0,
            }));
            let mut pass = Pass {
                inputs: inputs.iter().map(|i| i.tensor(&self.device)).collect::<Result<_>>()?,
                dropout: values.dropout.clone(),
            };
            let result = body(&mut pass);
            drop(end);
            values.dropout = pass.dropout;
            return result.map(|()| Ran::Eagerly);
        }
        let Device::Cuda(cuda) = self.device.clone() else {
            return Err(Error::Device { op: "step" }.into());
        };
        self.clock += 1;
        let lengths: Vec<usize> = inputs.iter().map(PassInput::len).collect();
        if !self.passes.contains_key(&key) {
            self.make_room();
            let entry = Entry {
                recording: Recording::new(&cuda, inputs)?,
                lengths: lengths.clone(),
                eager: 0,
                draws: 0,
                used: 0,
            };
            self.passes.insert(key, entry);
        }
        let end = self.begin()?;
        let Some(entry) = self.passes.get_mut(&key) else {
            return Err(Error::invalid("step", "a key was lost").into());
        };
        if entry.lengths != lengths {
            return Err(Error::invalid("step", format!("{key:?} had inputs of other lengths before")).into());
        }
        entry.used = self.clock;
        entry.recording.write(&cuda, inputs, values)?;
        if entry.recording.is_ready(&cuda) {
            entry.recording.launch(&cuda)?;
            drop(end);
            if let Some(draws) = &mut values.dropout {
                draws.skip(entry.draws);
            }
            return Ok(Ran::Replayed);
        }
        self.device.steps().set(Some(Current {
            values: values.clone(),
            address: entry.recording.address(),
        }));
        let mut pass = Pass {
            inputs: entry.recording.inputs(),
            dropout: values.dropout.clone(),
        };
        let ran = if entry.eager < EAGER {
            entry.eager += 1;
            body(&mut pass)?;
            Ran::Eagerly
        } else {
            entry.recording.record(&cuda, &mut || body(&mut pass))?;
            Ran::Recorded
        };
        if ran == Ran::Recorded {
            // Tensors of the pass are dead once it is launched, and the memory behind them is the next pass'.
            entry.recording.launch(&cuda)?;
        }
        drop(end);
        let taken = |draws: &Option<Draws>| draws.as_ref().map_or(0, |draws| draws.place().1);
        entry.draws = taken(&pass.dropout).saturating_sub(taken(&values.dropout));
        values.dropout = pass.dropout;
        Ok(ran)
    }

    fn begin(&self) -> Result<EndStep> {
        if !self.device.steps().begin() {
            return Err(Error::invalid("step", "a step is running on this device already"));
        }
        Ok(EndStep(self.device.clone()))
    }

    /// Forgets the key that was unused for longest where there are too many.
    fn make_room(&mut self) {
        if self.passes.len() < RECORDS {
            return;
        }
        let oldest = self
            .passes
            .iter()
            .min_by_key(|(_, entry)| entry.used)
            .map(|(key, _)| *key);
        if let Some(key) = oldest {
            self.passes.remove(&key);
        }
    }
}

impl PassInput<'_> {
    /// The number of numbers.
    pub(crate) fn len(&self) -> usize {
        match self {
            PassInput::Indices { values, .. } => values.len(),
            PassInput::Reals { values, .. } => values.len(),
        }
    }

    fn check(&self) -> Result<()> {
        let PassInput::Indices { values, limit } = self else {
            return Ok(());
        };
        match values
            .iter()
            .position(|v| !usize::try_from(*v).is_ok_and(|v| v < *limit))
        {
            None => Ok(()),
            Some(position) => Err(Error::Index {
                op: "step",
                index: i64::from(values[position]),
                position,
                limit: *limit,
            }),
        }
    }

    /// A new tensor of the numbers.
    pub(crate) fn tensor(&self, device: &Device) -> Result<Tensor> {
        let shape = [self.len()];
        match self {
            PassInput::Indices { values, .. } => Tensor::from_slice(device, values, &shape),
            PassInput::Reals {
                values,
                dtype: DType::F64,
            } => Tensor::from_slice(device, values, &shape),
            PassInput::Reals {
                values,
                dtype: DType::F32,
            } => Tensor::from_vec(device, values.iter().map(|&v| v as f32).collect(), &shape),
            PassInput::Reals { dtype, .. } => Err(Error::DType {
                op: "step",
                expected: "f64 or f32",
                found: *dtype,
            }),
        }
    }
}

/// Ends the step also when its body fails or panics.
struct EndStep(Device);

impl Drop for EndStep {
    fn drop(&mut self) {
        self.0.steps().end();
    }
}

/// Holds the dropout of an operation against the pass that is running.
pub(crate) fn check_dropout(op: &'static str, device: &Device, dropout: Option<&Dropout>) -> Result<()> {
    let Some(dropout) = dropout else { return Ok(()) };
    let (step, site) = dropout.place();
    device.steps().check_draw(op, step, site).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Purpose, Stream, ops};

    const KEY: StepKey = StepKey {
        kind: 0,
        tokens: 0,
        sequences: 0,
        longest: 0,
        read: 0,
    };

    #[test]
    fn a_tensor_of_an_ended_step_is_stale_and_one_made_before_is_not() -> Result<(), Error> {
        let device = Device::cpu();
        let x = Tensor::from_slice(&device, &[1.0f64], &[1])?;
        let mut kept = None;
        let mut cache = StepCache::new(&device);
        cache.run(KEY, &mut || {
            let y = ops::add(&x, &x)?;
            kept = Some(y.clone());
            ops::add(&y, &x).map(drop)
        })?;
        let kept = kept.ok_or(Error::invalid("test", "the body did not run"))?;
        assert_eq!(kept.to_f64_vec(), Err(Error::StaleTensor { op: "to_vec" }));
        assert_eq!(ops::add(&kept, &x).map(drop), Err(Error::StaleTensor { op: "add" }));
        assert_eq!(x.to_vec::<f64>()?, [1.0]);
        Ok(())
    }

    #[test]
    fn steps_do_not_nest_and_an_error_ends_the_step() -> Result<(), Error> {
        let device = Device::cpu();
        let mut outer = StepCache::new(&device);
        let mut inner = StepCache::new(&device);
        let nested = outer.run(KEY, &mut || inner.run(KEY, &mut || Ok(())).map(drop));
        assert!(matches!(nested, Err(Error::Invalid { .. })));
        Tensor::zeros(&device, DType::F32, &[1])?.to_vec::<f32>()?;
        Ok(())
    }

    #[test]
    fn a_pass_reads_its_inputs_and_leaves_the_draws_where_its_body_stopped() -> Result<(), Error> {
        let device = Device::cpu();
        let sum = Tensor::zeros(&device, DType::F64, &[2])?;
        let mut values = PassValues {
            dropout: Some(Stream::new(1, Purpose::Dropout).draws(4)),
            ..PassValues::default()
        };
        let inputs = [PassInput::Reals {
            values: &[1.0, 2.0],
            dtype: DType::F64,
        }];
        let ran = StepCache::new(&device).pass(KEY, &inputs, &mut values, &mut |pass| {
            pass.dropout.as_mut().map(Draws::next);
            sum.copy_from(&pass.inputs[0])
        })?;
        assert_eq!(ran, Ran::Eagerly);
        assert_eq!(sum.to_vec::<f64>()?, [1.0, 2.0]);
        assert_eq!(values.dropout.map(|draws| draws.place()), Some((4, 1)));
        Ok(())
    }

    #[test]
    fn what_a_replay_would_not_see_is_an_error() -> Result<(), Error> {
        let device = Device::cpu();
        let matrix = |shape: &[usize]| Tensor::zeros(&device, DType::F64, shape);
        let (x, a, b) = (matrix(&[3, 4])?, matrix(&[2, 4])?, matrix(&[5, 2])?);
        let low = |rank, scale| ops::LowRank {
            a: &a,
            b: &b,
            rank,
            scale,
        };
        let pass = |values: &PassValues, body: &mut dyn FnMut() -> Result<()>| {
            StepCache::new(&device).pass(KEY, &[], &mut values.clone(), &mut |_| body())
        };
        let values = PassValues {
            dropout: Some(Stream::new(1, Purpose::Dropout).draws(4)),
            ranks: Some(PassRanks {
                read: 1,
                write: 0..1,
                scale: 16.0,
            }),
            weight: 0.5,
        };
        assert!(pass(&values, &mut || ops::lora_linear(&x, None, &low(1, 16.0)).map(drop)).is_ok());
        assert!(pass(&values, &mut || ops::lora_linear(&x, None, &low(2, 16.0)).map(drop)).is_err());
        assert!(pass(&values, &mut || ops::lora_linear(&x, None, &low(1, 8.0)).map(drop)).is_err());
        let drops = |step| {
            let draw = Stream::new(1, Purpose::Dropout).draws(step).next();
            let dropout = Dropout::new(0.5, draw)?.ok_or(Error::invalid("test", "no dropout"))?;
            pass(&values, &mut || ops::dropout(&x, dropout).map(drop))
        };
        assert!(drops(4).is_ok() && drops(5).is_err());
        let targets = Tensor::zeros(&device, DType::F64, &[12])?;
        let loss = |weight| pass(&values, &mut || ops::mse(&x, &targets, weight, false).map(drop));
        assert!(loss(0.5).is_ok() && loss(0.25).is_err());
        let beyond = [PassInput::Indices {
            values: &[0, 7],
            limit: 7,
        }];
        let mut values = values.clone();
        let refused = StepCache::new(&device).pass::<Error>(KEY, &beyond, &mut values, &mut |_| Ok(()));
        assert!(matches!(
            refused,
            Err(Error::Index {
                position: 1,
                limit: 7,
                ..
            })
        ));
        Ok(())
    }
}
