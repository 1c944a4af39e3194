//! Numbers on both devices, and how far apart results may be.

use std::cell::RefCell;
use std::sync::OnceLock;

use dylora_tensor::{DType, Device, Dropout, Purpose, Result, Stream, Tensor};
use rand::Rng;

/// The first GPU, if there is one.
pub(crate) fn gpu() -> Option<&'static Device> {
    static GPU: OnceLock<Option<Device>> = OnceLock::new();
    let device = GPU.get_or_init(|| (Device::count_cuda() > 0).then(|| Device::cuda(0, None).expect("a CUDA device")));
    if device.is_none() {
        eprintln!("skipped: no CUDA device");
    }
    device.as_ref()
}

/// The same numbers on the CPU (f64) and on the GPU.
pub(crate) struct Both {
    pub(crate) cpu: Tensor,
    pub(crate) gpu: Tensor,
}

pub(crate) struct Make<'a> {
    pub(crate) cpu: Device,
    pub(crate) gpu: &'a Device,
    pub(crate) dtype: DType,
    seed: u32,
}

impl<'a> Make<'a> {
    pub(crate) fn new(gpu: &'a Device, dtype: DType) -> Self {
        Make {
            cpu: Device::cpu(),
            gpu,
            dtype,
            seed: 0,
        }
    }

    pub(crate) fn values(&mut self, n: usize) -> Vec<f32> {
        self.seed += 1;
        let mut rng = Stream::new(7, Purpose::Init).at(self.seed);
        (0..n).map(|_| rng.next_u32() as f32 / 2f32.powi(31) - 1.0).collect()
    }

    /// Uniform numbers between -1 and 1, of the type of activations.
    pub(crate) fn activations(&mut self, shape: &[usize]) -> Result<Both> {
        self.tensor(shape, self.dtype)
    }

    /// The same in f32: what learns, and vectors.
    pub(crate) fn weights(&mut self, shape: &[usize]) -> Result<Both> {
        self.tensor(shape, DType::F32)
    }

    pub(crate) fn tensor(&mut self, shape: &[usize], dtype: DType) -> Result<Both> {
        let values = self.values(shape.iter().product());
        let rounded = Tensor::from_vec(&self.cpu, values, shape)?.to_dtype(dtype)?;
        Ok(Both {
            cpu: rounded.to_dtype(DType::F64)?,
            gpu: rounded.to_device(self.gpu)?,
        })
    }

    pub(crate) fn integers(&self, values: &[i32]) -> Result<Both> {
        Ok(Both {
            cpu: Tensor::from_slice(&self.cpu, values, &[values.len()])?,
            gpu: Tensor::from_slice(self.gpu, values, &[values.len()])?,
        })
    }

    /// Tolerance for sums of k terms; `rounds` is how often a bf16 value was rounded on the way.
    pub(crate) fn tolerance(&self, k: usize, rounds: f64) -> f64 {
        let single = (4.0 + (k as f64).sqrt()) * 2f64.powi(-23);
        single
            + if self.dtype == DType::Bf16 {
                rounds * 2f64.powi(-8)
            } else {
                0.0
            }
    }
}

pub(crate) fn norm(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}

thread_local! {
    /// What was not close in this test; all cases are tried before [`verdict`] fails it.
    static WRONG: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Fails the test if anything was not close.
pub(crate) fn verdict() {
    let wrong = WRONG.take();
    let some: Vec<&str> = wrong.iter().take(40).map(String::as_str).collect();
    assert!(
        wrong.is_empty(),
        "{} results are wrong, the first being\n{}",
        wrong.len(),
        some.join("\n")
    );
}

/// Holds the error against the norm of what is right, or `floor` where that is larger.
#[track_caller]
pub(crate) fn close_to(what: &str, gpu: &Tensor, cpu: &Tensor, tolerance: f64, floor: f64) {
    let got = gpu.to_f64_vec().expect("a tensor to read");
    let want = cpu.to_f64_vec().expect("a tensor to read");
    assert_eq!(
        got.len(),
        want.len(),
        "{what}: {:?} against {:?}",
        gpu.shape(),
        cpu.shape()
    );
    let off: Vec<f64> = got.iter().zip(&want).map(|(g, w)| g - w).collect();
    let (error, size) = (norm(&off), norm(&want).max(floor));
    // A number that is not one is not close.
    if error.is_nan() || error > tolerance * size + 1e-30 {
        let line = format!(
            "line {}: {what} {:?} {}: error {error:e} of {size:e} is {:e}, allowed {tolerance:e}",
            std::panic::Location::caller().line(),
            gpu.shape(),
            gpu.dtype(),
            error / size
        );
        WRONG.with_borrow_mut(|wrong| wrong.push(line));
    }
}

#[track_caller]
pub(crate) fn close(what: &str, gpu: &Tensor, cpu: &Tensor, tolerance: f64) {
    close_to(what, gpu, cpu, tolerance, 0.0);
}

#[track_caller]
pub(crate) fn close_if_some(what: &str, gpu: &Option<Tensor>, cpu: &Option<Tensor>, tolerance: f64) {
    assert_eq!(gpu.is_some(), cpu.is_some(), "{what}");
    if let (Some(gpu), Some(cpu)) = (gpu, cpu) {
        close(what, gpu, cpu, tolerance);
    }
}

pub(crate) fn dropout(site: usize) -> Option<Dropout> {
    let mut draws = Stream::new(3, Purpose::Dropout).draws(5);
    for _ in 0..site {
        draws.next();
    }
    Dropout::new(0.1, draws.next()).expect("a probability")
}

pub(crate) fn on_both_types(test: impl Fn(&mut Make<'_>) -> Result<()>) -> Result<()> {
    let Some(gpu) = gpu() else { return Ok(()) };
    [DType::F32, DType::Bf16]
        .into_iter()
        .try_for_each(|dtype| test(&mut Make::new(gpu, dtype)))?;
    verdict();
    Ok(())
}
