//! Page-locked host memory: what a copy to or from the device needs so that nobody waits for it.

use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{result as driver, sys};

use super::context::{Inner, driver_error};
use crate::error::{Error, Result};

/// Buffers that copies to the device go through in turn.
const SLOTS: usize = 8;
/// Larger copies are rare and wait.
pub(crate) const LARGEST: usize = 1 << 20;

/// Page-locked memory with the event behind its last copy. The context must be current where one is made or dropped.
struct Slot {
    at: *mut c_void,
    size: usize,
    event: sys::CUevent,
}

// SAFETY: memory and event are the driver's and bound to no thread; whoever holds the value has them alone.
unsafe impl Send for Slot {}

impl Slot {
    fn new(size: usize) -> Result<Self> {
        const OP: &str = "page-locked memory";
        let fail = |e| driver_error(OP, e);
        let event = driver::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).map_err(fail)?;
        // SAFETY: the slot owns the memory from here on.
        match unsafe { driver::malloc_host(size, 0) } {
            Ok(at) => Ok(Slot { at, size, event }),
            Err(error) => {
                // SAFETY: just made, and not given to anybody.
                let _ = unsafe { driver::event::destroy(event) };
                Err(fail(error))
            }
        }
    }

    /// Waits until the last copy has ended.
    fn wait(&self) -> Result<()> {
        // SAFETY: the event lives as long as the slot; one that was never recorded has happened.
        unsafe { driver::event::synchronize(self.event) }.map_err(|e| driver_error("synchronise", e))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // SAFETY: both were made in `new`; the copy that used the memory has ended or its stream is gone.
        unsafe {
            let _ = driver::event::synchronize(self.event);
            let _ = driver::event::destroy(self.event);
            let _ = driver::free_host(self.at);
        }
    }
}

/// A device's page-locked buffers.
#[derive(Default)]
pub(crate) struct Staging {
    up: Mutex<(Vec<Slot>, usize)>,
    down: Mutex<Vec<Slot>>,
}

impl Staging {
    /// Gives everything back; the context must be current.
    pub(crate) fn clear(&mut self) {
        let up = self.up.get_mut().unwrap_or_else(PoisonError::into_inner);
        up.0.clear();
        self.down.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Copies at most [`LARGEST`] bytes to the device, behind the stream's work. The data may go away once this returns.
    pub(crate) fn upload(&self, stream: sys::CUstream, to: sys::CUdeviceptr, data: &[u8]) -> Result<()> {
        let fail = |e| driver_error("upload", e);
        let mut up = self.up.lock().unwrap_or_else(PoisonError::into_inner);
        let (slots, next) = &mut *up;
        let size = data.len().next_power_of_two().max(4096);
        if slots.len() < SLOTS {
            *next = slots.len();
            slots.push(Slot::new(size)?);
        } else {
            *next = (*next + 1) % SLOTS;
            slots[*next].wait()?;
            if slots[*next].size < size {
                slots[*next] = Slot::new(size)?;
            }
        }
        let slot = &slots[*next];
        // SAFETY: the slot has room for the data and nobody else reads it until its event has happened; `to` has room too.
        unsafe {
            std::ptr::copy_nonoverlapping(data.as_ptr(), slot.at.cast(), data.len());
            let staged = std::slice::from_raw_parts(slot.at.cast::<u8>(), data.len());
            driver::memcpy_htod_async(to, staged, stream).map_err(fail)?;
            driver::event::record(slot.event, stream).map_err(fail)
        }
    }

    /// Begins to copy f32 values to the host.
    pub(crate) fn download(owner: &Arc<Inner>, from: sys::CUdeviceptr, len: usize) -> Result<Arriving> {
        let fail = |e| driver_error("download", e);
        owner.bind()?;
        let size = (4 * len).next_power_of_two().max(4096);
        let spare = {
            let mut down = owner.staging.down.lock().unwrap_or_else(PoisonError::into_inner);
            let found = down.iter().position(|slot| slot.size >= size);
            found.map(|index| down.swap_remove(index))
        };
        let slot = spare.map_or_else(|| Slot::new(size), Ok)?;
        // SAFETY: the slot has room for so many values and is nobody else's until it is given back.
        unsafe {
            let to = std::slice::from_raw_parts_mut(slot.at.cast::<f32>(), len);
            driver::memcpy_dtoh_async(to, from, owner.stream).map_err(fail)?;
            driver::event::record(slot.event, owner.stream).map_err(fail)?;
        }
        Ok(Arriving {
            slot: Some(slot),
            len,
            owner: owner.clone(),
        })
    }
}

/// Values on their way to the host.
pub(crate) struct Arriving {
    slot: Option<Slot>,
    len: usize,
    owner: Arc<Inner>,
}

impl Arriving {
    /// Waits for the values.
    pub(crate) fn wait(&self) -> Result<Vec<f32>> {
        let Some(slot) = &self.slot else {
            return Err(Error::invalid("download", "the values were taken"));
        };
        self.owner.bind()?;
        slot.wait()?;
        // SAFETY: the copy of `len` values into the slot has ended.
        Ok(unsafe { std::slice::from_raw_parts(slot.at.cast::<f32>(), self.len) }.to_vec())
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        let _ = self.owner.bind();
        if let Some(slot) = self.slot.take()
            && slot.wait().is_ok()
        {
            let mut down = self.owner.staging.down.lock().unwrap_or_else(PoisonError::into_inner);
            down.push(slot);
        }
    }
}
