//! What a process has of a GPU once, however many [`super::Cuda`] it makes of it: the context and the kernels.
//!
//! A context is never given back: threads that have it current, and cuBLAS, keep its address. What a [`super::Cuda`] takes from
//! it, it frees itself.

use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use cudarc::driver::{result as driver, sys};

use super::context::{DECLARED, driver_error};
use super::module::{KernelCache, Modules};
use crate::error::{Error, Result};

/// A GPU that the process uses.
pub(super) struct Gpu {
    number: i32,
    pub(super) device: sys::CUdevice,
    pub(super) context: sys::CUcontext,
    pub(super) multiprocessors: usize,
    pub(super) modules: Modules,
}

// SAFETY: the driver's handles may be used from any thread (who uses the context makes it current first).
unsafe impl Send for Gpu {}
// SAFETY: as above; nothing in it changes but the modules' table of functions, which is locked.
unsafe impl Sync for Gpu {}

static KNOWN: Mutex<Vec<Arc<Gpu>>> = Mutex::new(Vec::new());

/// A stream that records must not meet anything that waits for the whole context, as making and destroying a cuBLAS handle does:
/// the recording would fail, and with it whatever is launched for it.
static RECORDING: RwLock<()> = RwLock::new(());

/// Held while a stream records; several streams may.
pub(super) fn while_recording() -> RwLockReadGuard<'static, ()> {
    RECORDING.read().unwrap_or_else(PoisonError::into_inner)
}

/// Held while something waits for the whole context.
pub(super) fn while_nothing_records() -> RwLockWriteGuard<'static, ()> {
    RECORDING.write().unwrap_or_else(PoisonError::into_inner)
}

impl Gpu {
    /// The device with this number of the driver's; its kernels are loaded the first time.
    pub(super) fn of(number: i32, cache: Option<&dyn KernelCache>) -> Result<Arc<Gpu>> {
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gpu) = known.iter().find(|gpu| gpu.number == number) {
            return Ok(gpu.clone());
        }
        let gpu = Arc::new(Self::first(number, cache)?);
        known.push(gpu.clone());
        Ok(gpu)
    }

    fn first(number: i32, cache: Option<&dyn KernelCache>) -> Result<Gpu> {
        use sys::CUdevice_attribute_enum as A;
        let fail = |e| driver_error("cuda", e);
        let device = driver::device::get(number).map_err(fail)?;
        // SAFETY: the device exists.
        let read = |attribute| unsafe { driver::device::get_attribute(device, attribute) }.map_err(fail);
        let capability = (
            read(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            read(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        );
        if capability < (8, 0) {
            let name = driver::device::get_name(device).map_err(fail)?;
            return Err(Error::Cuda {
                op: "cuda",
                message: format!(
                    "{name} has compute capability {}.{}; 8.0 is the least",
                    capability.0, capability.1
                ),
            });
        }
        let shared = read(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let multiprocessors = read(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        // SAFETY: the device exists; the context is current in this thread from here on.
        let context = unsafe {
            let context = driver::primary_ctx::retain(device).map_err(fail)?;
            driver::ctx::set_current(context).map_err(fail)?;
            context
        };
        let architecture = format!("sm_{}{}", capability.0, capability.1);
        Ok(Gpu {
            number,
            device,
            context,
            multiprocessors: usize::try_from(multiprocessors).unwrap_or(1).max(1),
            modules: Modules::load(&architecture, shared - DECLARED, cache)?,
        })
    }
}
