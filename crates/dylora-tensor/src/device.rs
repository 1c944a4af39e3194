//! Where tensors live: the CPU or a CUDA device.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::cuda::{Cuda, KernelCache};
use crate::dtype::{DType, Elem, Storage};
use crate::error::{Error, Result};
use crate::step::Steps;

/// A device: where tensors live and operations run.
///
/// Clones share the device. Make one per model that is trained: steps are counted per device, so two models that
/// train at the same time on one device would see each other's steps.
#[derive(Clone)]
pub enum Device {
    /// The processor, through rayon's current thread pool.
    Cpu(Cpu),
    /// A CUDA device; one stream.
    Cuda(Cuda),
}

impl Device {
    /// A new CPU device with its own buffer pool and step counter.
    pub fn cpu() -> Device {
        Device::Cpu(Cpu::default())
    }

    /// The CUDA device with this number. Its kernels are compiled here, or come from `cache`.
    ///
    /// # Errors
    /// One sentence about the library that is missing (driver, NVRTC, cuBLAS), a number that no device has, or what the
    /// driver reports.
    pub fn cuda(ordinal: usize, cache: Option<&dyn KernelCache>) -> Result<Device> {
        Cuda::new(ordinal, cache).map(Device::Cuda)
    }

    /// The number of CUDA devices; 0 where there is no NVIDIA driver.
    pub fn count_cuda() -> usize {
        Cuda::count()
    }

    /// Whether a CUDA device could be made, without making one.
    ///
    /// # Errors
    /// As [`Device::cuda`] where a library or the device is missing.
    pub fn probe_cuda(ordinal: usize) -> Result<()> {
        Cuda::probe(ordinal).map(drop)
    }

    /// A name for records: the kind of device and its number of threads, or the GPU.
    pub fn describe(&self) -> String {
        match self {
            Device::Cpu(_) => format!("cpu, {} threads", rayon::current_num_threads()),
            Device::Cuda(cuda) => format!("cuda:{}, {}", cuda.ordinal(), cuda.name()),
        }
    }

    /// Whether both are the same device.
    pub(crate) fn same(&self, other: &Device) -> bool {
        match (self, other) {
            (Device::Cpu(a), Device::Cpu(b)) => Arc::ptr_eq(&a.shared, &b.shared),
            (Device::Cuda(a), Device::Cuda(b)) => a.same(b),
            _ => false,
        }
    }

    /// Waits until the device has done all it was given.
    ///
    /// # Errors
    /// What a GPU reports about earlier work.
    pub fn synchronise(&self) -> Result<()> {
        match self {
            Device::Cpu(_) => Ok(()),
            Device::Cuda(cuda) => cuda.synchronise(),
        }
    }

    /// Which step is running, and what it was begun with.
    pub(crate) fn steps(&self) -> &Steps {
        match self {
            Device::Cpu(cpu) => &cpu.shared.steps,
            Device::Cuda(cuda) => &cuda.inner.steps,
        }
    }

    /// Fails inside a step: what would stall or break a captured GPU graph is an error on every device.
    pub(crate) fn check_host_read(&self, op: &'static str) -> Result<()> {
        if self.steps().running() {
            return Err(Error::HostReadInStep { op });
        }
        Ok(())
    }

    /// The generation that a tensor made now carries: none outside a step.
    pub(crate) fn generation(&self) -> Option<u64> {
        self.steps().generation()
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu(_) => f.write_str("Cpu"),
            Device::Cuda(cuda) => cuda.fmt(f),
        }
    }
}

/// The CPU: a pool of buffers that steps use again, so that a training step allocates nothing after the first few.
#[derive(Clone, Default)]
pub struct Cpu {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    steps: Steps,
    pool: Mutex<Pool>,
}

/// Buffers below this many elements come from the allocator, which is fast enough for them.
const POOLED_FROM: usize = 4096;

#[derive(Default)]
struct Pool {
    free: BTreeMap<(DType, usize), Vec<Storage>>,
    free_bytes: usize,
    live_bytes: usize,
    peak_bytes: usize,
}

impl Cpu {
    /// At least `len` elements with unspecified values; callers overwrite all they use.
    pub(crate) fn take<T: Elem>(&self, len: usize) -> Storage {
        if len < POOLED_FROM {
            return T::wrap(vec![T::default(); len]);
        }
        let capacity = size_class(len);
        let mut pool = self.pool();
        let found = pool
            .free
            .range((T::DTYPE, capacity)..=(T::DTYPE, capacity + capacity / 2))
            .next()
            .map(|(key, _)| *key);
        let storage = found.and_then(|key| {
            let list = pool.free.get_mut(&key)?;
            let storage = list.pop();
            if list.is_empty() {
                pool.free.remove(&key);
            }
            storage
        });
        let bytes = match &storage {
            Some(found) => {
                let bytes = found.0.len() * T::DTYPE.size();
                pool.free_bytes -= bytes;
                bytes
            }
            None => capacity * T::DTYPE.size(),
        };
        pool.live_bytes += bytes;
        pool.peak_bytes = pool.peak_bytes.max(pool.live_bytes);
        drop(pool);
        storage.unwrap_or_else(|| T::wrap(vec![T::default(); capacity]))
    }

    /// Takes a buffer back; `pooled` says whether it came from [`Cpu::take`].
    pub(crate) fn give(&self, storage: Storage, pooled: bool) {
        let len = storage.0.len();
        if !pooled || len < POOLED_FROM {
            return;
        }
        let dtype = storage.0.dtype();
        let bytes = len * dtype.size();
        let mut pool = self.pool();
        pool.live_bytes -= bytes;
        // What lies idle never takes the whole above a quarter more than was once needed at the same time.
        if pool.live_bytes + pool.free_bytes + bytes <= pool.peak_bytes + pool.peak_bytes / 4 {
            pool.free_bytes += bytes;
            pool.free.entry((dtype, len)).or_default().push(storage);
        }
    }

    fn pool(&self) -> std::sync::MutexGuard<'_, Pool> {
        self.shared.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `len` rounded up by at most an eighth, so that batches of slightly different sizes share buffers.
fn size_class(len: usize) -> usize {
    let unit = (len.next_power_of_two() / 16).max(1);
    len.next_multiple_of(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_classes_waste_at_most_an_eighth() {
        for len in POOLED_FROM..POOLED_FROM * 40 {
            let class = size_class(len);
            assert!(class >= len && class - len <= len / 8, "{len} -> {class}");
        }
    }

    #[test]
    fn a_freed_buffer_is_used_again_and_idle_memory_is_bounded() {
        let cpu = Cpu::default();
        let first = cpu.take::<f32>(10_000);
        let bytes = first.0.len() * 4;
        cpu.give(first, true);
        assert_eq!(cpu.pool().free_bytes, bytes);
        let second = cpu.take::<f32>(9_900);
        assert_eq!(second.0.len() * 4, bytes);
        assert_eq!(cpu.pool().free_bytes, 0);
        cpu.give(second, true);
        for len in [20_000, 40_000, 80_000, 160_000] {
            let storage = cpu.take::<f32>(len);
            cpu.give(storage, true);
        }
        let pool = cpu.pool();
        assert!(pool.free_bytes <= pool.peak_bytes + pool.peak_bytes / 4);
        assert_eq!(pool.live_bytes, 0);
    }
}
