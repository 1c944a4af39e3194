//! Device memory: two heaps of blocks that are used again.
//!
//! Work runs on one stream, so a block that is given back may be handed out at once: whatever still reads it is ahead in
//! the stream. Tensors made inside a step come from the step heap; none of them lives when the next step begins, which is
//! what lets a captured graph use the same addresses again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{result as driver, sys};

use super::context::{Inner, driver_error};
use crate::error::{Error, Result};

/// Which heap a block belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Persistent,
    Step,
}

#[derive(Default)]
struct Free {
    blocks: BTreeMap<usize, Vec<sys::CUdeviceptr>>,
    bytes: usize,
}

/// Both heaps.
#[derive(Default)]
pub(crate) struct Heaps {
    persistent: Mutex<Free>,
    step: Mutex<Free>,
    /// How often memory went back to the driver.
    epoch: AtomicU64,
}

/// Bytes of device memory; given back when dropped.
pub(crate) struct Block {
    pub(crate) pointer: sys::CUdeviceptr,
    size: usize,
    which: Which,
    owner: Arc<Inner>,
}

/// `len` rounded up by at most an eighth, and to what every access width is aligned to.
fn size_class(len: usize) -> usize {
    let len = len.max(512);
    len.next_multiple_of((len.next_power_of_two() / 16).max(512))
}

impl Heaps {
    fn of(&self, which: Which) -> std::sync::MutexGuard<'_, Free> {
        match which {
            Which::Persistent => &self.persistent,
            Which::Step => &self.step,
        }
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives what is free back to the driver, which is all of it where no block lives any more. The context must be current and the stream
    /// idle.
    pub(crate) fn clear(&mut self) {
        for heap in [&mut self.persistent, &mut self.step] {
            let free = heap.get_mut().unwrap_or_else(PoisonError::into_inner);
            for pointer in std::mem::take(&mut free.blocks).into_values().flatten() {
                // SAFETY: the block is on the free list, so nothing owns it, and the stream is idle.
                let _ = unsafe { driver::free_sync(pointer) };
            }
            free.bytes = 0;
        }
    }

    /// A number that changes when memory that a graph may use goes back to the driver.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// At least `len` bytes with unspecified contents.
    pub(crate) fn take(owner: &Arc<Inner>, which: Which, len: usize) -> Result<Block> {
        let size = size_class(len);
        let block = |pointer, size| Block {
            pointer,
            size,
            which,
            owner: owner.clone(),
        };
        {
            let mut free = owner.heaps.of(which);
            let found = free.blocks.range(size..=size + size / 4).next().map(|(size, _)| *size);
            if let Some(size) = found
                && let Some(list) = free.blocks.get_mut(&size)
                && let Some(pointer) = list.pop()
            {
                if list.is_empty() {
                    free.blocks.remove(&size);
                }
                free.bytes -= size;
                return Ok(block(pointer, size));
            }
        }
        owner.bind()?;
        // SAFETY: the context is current; the block owns the memory from here on.
        if let Ok(pointer) = unsafe { driver::malloc_sync(size) } {
            return Ok(block(pointer, size));
        }
        // What lies idle goes back before giving up.
        owner.synchronise()?;
        owner.heaps.epoch.fetch_add(1, Ordering::Relaxed);
        for which in [Which::Persistent, Which::Step] {
            let mut free = owner.heaps.of(which);
            for pointer in std::mem::take(&mut free.blocks).into_values().flatten() {
                // SAFETY: the block is on the free list, so nothing owns it, and the stream is idle.
                unsafe { driver::free_sync(pointer) }.map_err(|e| driver_error("free", e))?;
            }
            free.bytes = 0;
        }
        // SAFETY: as above.
        match unsafe { driver::malloc_sync(size) } {
            Ok(pointer) => Ok(block(pointer, size)),
            Err(error) => match driver::mem_get_info() {
                Ok((available, total)) if error.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                    Err(Error::OutOfMemory {
                        wanted: size,
                        free: available,
                        total,
                    })
                }
                _ => Err(driver_error("malloc", error)),
            },
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut free = self.owner.heaps.of(self.which);
        free.bytes += self.size;
        free.blocks.entry(self.size).or_default().push(self.pointer);
    }
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes of {:?} memory", self.size, self.which)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_classes_are_aligned_and_waste_at_most_an_eighth() {
        for len in (1..200_000).step_by(37) {
            let class = size_class(len);
            assert!(class >= len && class.is_multiple_of(512));
            assert!(class - len <= (len / 8).max(511), "{len} -> {class}");
        }
    }
}
