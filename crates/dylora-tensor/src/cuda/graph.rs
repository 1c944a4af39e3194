//! A pass recorded as a CUDA graph: the same launches on the same addresses, whatever its inputs and values are.
//!
//! Inputs and values of a pass lie in one block of device memory and are written with one copy before the graph is
//! launched. Everything else that a graph reads or writes is either persistent, or from the step heap, whose blocks are
//! not given back to the driver while a graph may use them (`Heaps::epoch` counts when that happens all the same).

use std::sync::{Arc, RwLockReadGuard};

use cudarc::driver::{result as driver, sys};

use super::Cuda;
use super::context::{Inner, driver_error};
use super::gpu::while_recording;
use super::heap::{Block, Heaps, Which};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::step::{PassInput, PassValues};
use crate::tensor::Tensor;

const OP: &str = "step";

/// Words of `struct Live` of common.cuh, and where an input may begin: 16 bytes, as the widest access.
const HEADER: usize = 8;
const ALIGNED: usize = 4;

/// One key's memory, and its graph once there is one.
pub(crate) struct Recording {
    memory: Arc<Block>,
    inputs: Vec<Tensor>,
    words: Vec<u32>,
    graph: Option<Graph>,
}

impl std::fmt::Debug for Recording {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = if self.graph.is_some() {
            "recorded"
        } else {
            "not recorded"
        };
        write!(f, "a pass of {} inputs, {state}", self.inputs.len())
    }
}

impl Recording {
    /// Memory for a pass with inputs as long as these.
    pub(crate) fn new(cuda: &Cuda, inputs: &[PassInput<'_>]) -> Result<Self> {
        let mut starts = Vec::with_capacity(inputs.len());
        let mut words = HEADER;
        for input in inputs {
            starts.push(words);
            words += input.len().next_multiple_of(ALIGNED);
        }
        let memory = Arc::new(Heaps::take(&cuda.inner, Which::Persistent, 4 * words)?);
        let inputs = inputs
            .iter()
            .zip(starts)
            .map(|(input, start)| {
                let dtype = match input {
                    PassInput::Indices { .. } => DType::I32,
                    PassInput::Reals { dtype: DType::F32, .. } => DType::F32,
                    PassInput::Reals { dtype, .. } => {
                        return Err(Error::Unsupported {
                            op: OP,
                            what: dtype.to_string(),
                        });
                    }
                };
                Tensor::on_block(OP, cuda, &memory, dtype, start, &[input.len()])
            })
            .collect::<Result<_>>()?;
        Ok(Recording {
            memory,
            inputs,
            words: vec![0; words],
            graph: None,
        })
    }

    /// The inputs, where the device has them.
    pub(crate) fn inputs(&self) -> Vec<Tensor> {
        self.inputs.clone()
    }

    /// The address of the pass' values.
    pub(crate) fn address(&self) -> u64 {
        self.memory.pointer
    }

    /// Hands a pass' inputs and values over to the device; work before this still reads the last ones.
    pub(crate) fn write(&mut self, cuda: &Cuda, inputs: &[PassInput<'_>], values: &PassValues) -> Result<()> {
        let number = |n: usize| u32::try_from(n).map_err(|_| Error::invalid(OP, format!("{n} is too large")));
        let (step, site) = values.dropout.as_ref().map_or((0, 0), |draws| draws.place());
        let ranks = values.ranks.clone().unwrap_or(crate::step::PassRanks {
            read: 0,
            write: 0..0,
            scale: 0.0,
        });
        self.words[..HEADER].copy_from_slice(&[
            step,
            site,
            number(ranks.read)?,
            number(ranks.write.start)?,
            number(ranks.write.end)?,
            (ranks.scale as f32).to_bits(),
            (values.weight as f32).to_bits(),
            0,
        ]);
        let mut at = HEADER;
        for input in inputs {
            match input {
                PassInput::Indices { values, .. } => {
                    for (word, value) in self.words[at..].iter_mut().zip(*values) {
                        *word = value.cast_unsigned();
                    }
                }
                PassInput::Reals { values, .. } => {
                    for (word, value) in self.words[at..].iter_mut().zip(*values) {
                        *word = (*value as f32).to_bits();
                    }
                }
            }
            at += input.len().next_multiple_of(ALIGNED);
        }
        cuda.upload(self.memory.pointer, &self.words)
    }

    /// Whether [`Recording::launch`] has something to launch.
    pub(crate) fn is_ready(&self, cuda: &Cuda) -> bool {
        self.graph
            .as_ref()
            .is_some_and(|graph| graph.epoch == cuda.inner.heaps.epoch())
    }

    /// Records what `body` launches, without running it.
    pub(crate) fn record<E: From<Error>>(
        &mut self,
        cuda: &Cuda,
        body: &mut dyn FnMut() -> Result<(), E>,
    ) -> Result<(), E> {
        self.graph = None;
        let capture = Capture::begin(cuda)?;
        let result = body();
        let captured = capture.end();
        result?;
        self.graph = Some(captured?.instantiate()?);
        Ok(())
    }

    /// Hands the recorded work to the device.
    pub(crate) fn launch(&self, cuda: &Cuda) -> Result<()> {
        let Some(graph) = &self.graph else {
            return Err(Error::invalid(OP, "nothing was recorded"));
        };
        cuda.inner.bind()?;
        // SAFETY: the graph is complete and lives as long as this value; the addresses in it belong to tensors that the
        // caller keeps, to this value's memory, or to blocks of the step heap, none of which was freed (`is_ready`).
        unsafe { driver::graph::launch(graph.executable, cuda.inner.stream) }.map_err(|e| driver_error(OP, e))
    }
}

/// A stream that records; ended when dropped, should the body panic.
struct Capture<'a> {
    cuda: &'a Cuda,
    open: bool,
    _quiet: RwLockReadGuard<'static, ()>,
}

impl<'a> Capture<'a> {
    fn begin(cuda: &'a Cuda) -> Result<Self> {
        cuda.inner.bind()?;
        let quiet = while_recording();
        // Relaxed: memory may be asked for meanwhile; what must not happen, host copies, `upload` refuses itself.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream lives as long as the device.
        unsafe { driver::stream::begin_capture(cuda.inner.stream, mode) }.map_err(|e| driver_error(OP, e))?;
        cuda.inner.recording(true);
        Ok(Capture {
            cuda,
            open: true,
            _quiet: quiet,
        })
    }

    fn end(mut self) -> Result<Captured> {
        self.close()
    }

    fn close(&mut self) -> Result<Captured> {
        self.open = false;
        self.cuda.inner.recording(false);
        // SAFETY: the capture was begun on this stream and has not been ended.
        let graph = unsafe { driver::stream::end_capture(self.cuda.inner.stream) }.map_err(|e| driver_error(OP, e))?;
        Ok(Captured {
            graph,
            owner: self.cuda.inner.clone(),
        })
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        if self.open {
            // The panic that led here is what is reported.
            let _ = self.close();
        }
    }
}

/// What was recorded, as a description.
struct Captured {
    graph: sys::CUgraph,
    owner: Arc<Inner>,
}

impl Captured {
    fn instantiate(self) -> Result<Graph> {
        let fail = |e| driver_error(OP, e);
        // SAFETY: the graph was just made; the executable form holds nothing of it.
        let executable =
            unsafe { driver::graph::instantiate(self.graph, sys::CUgraphInstantiate_flags(0)) }.map_err(fail)?;
        Ok(Graph {
            executable,
            epoch: self.owner.heaps.epoch(),
            owner: self.owner.clone(),
        })
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        // SAFETY: made by `end_capture`, destroyed once.
        let _ = unsafe { driver::graph::destroy(self.graph) };
    }
}

/// A graph that can be launched.
struct Graph {
    executable: sys::CUgraphExec,
    /// The heaps' epoch when it was recorded.
    epoch: u64,
    owner: Arc<Inner>,
}

// SAFETY: handles of the driver may be used from any thread; every use makes the context current first.
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: instantiated once, destroyed once; a launch under way is finished by the driver first.
        unsafe {
            let _ = self.owner.bind();
            let _ = driver::graph::exec_destroy(self.executable);
        }
    }
}
