//! A CUDA device: libraries found at run time, one context, one stream, one cuBLAS handle with a fixed workspace.

use std::cell::Cell;
use std::ffi::c_void;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use cudarc::cublas::{result as cublas, sys as cublas_sys};
use cudarc::driver::{result as driver, sys};

use super::gpu::{Gpu, while_nothing_records};
use super::heap::{Block, Heaps, Which};
use super::module::{Kernel, KernelCache};
use super::staging::{self, Arriving, Staging};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::step::Steps;

pub(crate) fn driver_error(op: &'static str, error: driver::DriverError) -> Error {
    let name = |text: Option<&std::ffi::CStr>| text.map(|t| t.to_string_lossy().into_owned());
    let message = name(error.error_string().ok()).unwrap_or_else(|| format!("{error:?}"));
    Error::Cuda { op, message }
}

/// Bytes of the cuBLAS workspace: what NVIDIA recommends for Hopper.
const WORKSPACE: usize = 32 << 20;

/// Bytes of shared memory that kernels declare, at most.
pub(super) const DECLARED: i32 = 20 << 10;

/// Bytes of shared memory that a launch of a kernel may ask for that declares none.
pub(super) fn undeclared(cuda: &Cuda) -> usize {
    cuda.shared_limit() + DECLARED as usize
}

/// A CUDA device. Clones share it; all work goes to one stream.
#[derive(Clone)]
pub struct Cuda {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    gpu: Arc<Gpu>,
    pub(crate) ordinal: usize,
    name: String,
    pub(crate) stream: sys::CUstream,
    pub(crate) blas: Mutex<Blas>,
    workspace: sys::CUdeviceptr,
    pub(crate) heaps: Heaps,
    pub(crate) tf32: AtomicBool,
    pub(crate) steps: Steps,
    pub(crate) staging: Staging,
    recording: AtomicBool,
}

/// The cuBLAS handle.
pub(crate) struct Blas(pub(crate) cublas_sys::cublasHandle_t);

// SAFETY: handles of the driver may be used from any thread (a launch makes the context current first), and the cuBLAS
// handle is behind a lock.
unsafe impl Send for Inner {}
// SAFETY: as above; everything that changes is atomic or locked.
unsafe impl Sync for Inner {}

thread_local! {
    static CURRENT: Cell<sys::CUcontext> = const { Cell::new(std::ptr::null_mut()) };
}

fn missing(library: &str, what: &str) -> Error {
    Error::Cuda {
        op: "cuda",
        message: format!("{library} ({what}) was not found"),
    }
}

impl Cuda {
    /// The number of devices; 0 where there is no driver.
    pub(crate) fn count() -> usize {
        // SAFETY: this only tries to open the driver's library; without it no function of it may be called.
        if !unsafe { sys::is_culib_present() } || driver::init().is_err() {
            return 0;
        }
        driver::device::get_count().map_or(0, |count| usize::try_from(count).unwrap_or(0))
    }

    /// Looks for the libraries and the device; gives the device's number as the driver takes it.
    pub(crate) fn probe(ordinal: usize) -> Result<i32> {
        const OP: &str = "cuda";
        // SAFETY: these only try to open the libraries, whose initialisers are NVIDIA's. They must come before any call
        // into a library, because a call into one that is absent panics.
        unsafe {
            if !sys::is_culib_present() {
                return Err(missing("libcuda.so.1", "the NVIDIA driver"));
            }
            if !cudarc::nvrtc::sys::is_culib_present() {
                return Err(missing("libnvrtc.so", "NVRTC of the CUDA toolkit"));
            }
            if !cublas_sys::is_culib_present() {
                return Err(missing("libcublas.so", "cuBLAS of the CUDA toolkit"));
            }
        }
        driver::init().map_err(|e| driver_error(OP, e))?;
        let count = driver::device::get_count().map_err(|e| driver_error(OP, e))?;
        let number = i32::try_from(ordinal).ok().filter(|number| *number < count);
        number.ok_or_else(|| Error::Cuda {
            op: OP,
            message: format!("there is no device {ordinal}; the driver reports {count}"),
        })
    }

    /// The device with this number.
    ///
    /// # Errors
    /// One sentence about the library that is missing (driver, NVRTC, cuBLAS), the number that no device has, or what the
    /// driver says.
    pub fn new(ordinal: usize, cache: Option<&dyn KernelCache>) -> Result<Self> {
        const OP: &str = "cuda";
        let fail = |e| driver_error(OP, e);
        let number = Self::probe(ordinal)?;
        let gpu = Gpu::of(number, cache)?;
        let name = driver::device::get_name(gpu.device).map_err(fail)?;
        let mut inner = Inner {
            gpu,
            ordinal,
            name,
            stream: std::ptr::null_mut(),
            blas: Mutex::new(Blas(std::ptr::null_mut())),
            workspace: 0,
            heaps: Heaps::default(),
            tf32: AtomicBool::new(false),
            steps: Steps::default(),
            staging: Staging::default(),
            recording: AtomicBool::new(false),
        };
        inner.bind()?;
        let alone = while_nothing_records();
        inner.stream = driver::stream::create(driver::stream::StreamKind::NonBlocking).map_err(fail)?;
        // SAFETY: the context is current; the handle and the workspace live as long as the device.
        unsafe {
            inner.workspace = driver::malloc_sync(WORKSPACE).map_err(fail)?;
            let blas = cublas::create_handle().map_err(blas_error)?;
            inner.blas = Mutex::new(Blas(blas));
            cublas::set_stream(blas, inner.stream.cast()).map_err(blas_error)?;
            cublas_sys::cublasSetWorkspace_v2(blas, inner.workspace as *mut c_void, WORKSPACE)
                .result()
                .map_err(blas_error)?;
        }
        drop(alone);
        Ok(Cuda { inner: Arc::new(inner) })
    }

    /// The device's name, for records.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The device's number.
    pub fn ordinal(&self) -> usize {
        self.inner.ordinal
    }

    /// Lets products of f32 matrices round their inputs to TF32 (10 bits of mantissa), or not.
    pub fn set_tf32(&self, on: bool) {
        self.inner.tf32.store(on, Ordering::Relaxed);
    }

    /// Waits until all work handed over so far is done.
    ///
    /// # Errors
    /// What the device reports about work before this.
    pub fn synchronise(&self) -> Result<()> {
        self.inner.synchronise()
    }

    /// Bytes of device memory in use by this process' allocations and others', and in all.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn memory(&self) -> Result<(usize, usize)> {
        self.inner.bind()?;
        let (free, total) = driver::mem_get_info().map_err(|e| driver_error("memory", e))?;
        Ok((total - free, total))
    }

    /// Device memory from the heap of the moment.
    pub(crate) fn take(&self, len: usize) -> Result<Block> {
        let which = if self.inner.steps.running() {
            Which::Step
        } else {
            Which::Persistent
        };
        Heaps::take(&self.inner, which, len)
    }

    /// How many multiprocessors the device has.
    pub(crate) fn multiprocessors(&self) -> usize {
        self.inner.gpu.multiprocessors
    }

    /// Bytes of shared memory that a launch may ask for.
    pub(crate) fn shared_limit(&self) -> usize {
        usize::try_from(self.inner.gpu.modules.shared).unwrap_or(0)
    }

    /// Launches a kernel.
    ///
    /// # Safety
    /// `args` points to values of exactly the kernel's parameter types, device pointers among them are valid for what
    /// the kernel reads and writes, and the sizes agree.
    pub(crate) unsafe fn launch(
        &self,
        kernel: Kernel,
        grid: (usize, usize, usize),
        block: u32,
        shared: usize,
        args: &mut [*mut c_void],
    ) -> Result<()> {
        const OP: &str = "launch";
        let fail = |e| driver_error(kernel.2, e);
        if grid.0 == 0 || grid.1 == 0 || grid.2 == 0 {
            return Ok(());
        }
        let side = |n: usize| u32::try_from(n).map_err(|_| Error::invalid(OP, format!("a grid of {n} blocks")));
        self.inner.bind()?;
        let function = self.inner.gpu.modules.function(kernel.0, kernel.1, kernel.2)?;
        let grid = (side(grid.0)?, side(grid.1)?, side(grid.2)?);
        // SAFETY: the caller's.
        unsafe { driver::launch_kernel(function, grid, (block, 1, 1), shared as u32, self.inner.stream, args) }
            .map_err(fail)
    }

    pub(crate) fn same(&self, other: &Cuda) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Copies from the host; the data may go away once this returns.
    ///
    /// # Errors
    /// While a pass is recorded: the graph would read this memory again when it holds something else.
    pub(crate) fn upload<T: Copy>(&self, to: sys::CUdeviceptr, data: &[T]) -> Result<()> {
        if self.inner.recording.load(Ordering::Relaxed) {
            return Err(Error::invalid(
                "upload",
                "data of the host inside a pass that is recorded",
            ));
        }
        if data.is_empty() {
            return Ok(());
        }
        self.inner.bind()?;
        let len = std::mem::size_of_val(data);
        // SAFETY: numbers without padding, seen as their bytes.
        let bytes = unsafe { std::slice::from_raw_parts(data.as_ptr().cast::<u8>(), len) };
        if len <= staging::LARGEST {
            return self.inner.staging.upload(self.inner.stream, to, bytes);
        }
        // SAFETY: `to` has room for the data. From pageable memory the driver returns once it has taken the bytes.
        unsafe { driver::memcpy_htod_async(to, bytes, self.inner.stream) }.map_err(|e| driver_error("upload", e))
    }

    /// Begins to copy f32 values to the host, behind all work handed over so far.
    pub(crate) fn download_later(&self, from: sys::CUdeviceptr, len: usize) -> Result<Arriving> {
        Staging::download(&self.inner, from, len)
    }

    /// The address of the ranks of the running pass, which these must be; 0 where there is none.
    pub(crate) fn live_ranks(&self, op: &'static str, rank: usize, scale: f64) -> Result<u64> {
        self.inner.steps.check_ranks(op, rank, scale)
    }

    /// The same where gradients are stored.
    pub(crate) fn live_writes(&self, op: &'static str, rank: usize, write: &Range<usize>, scale: f64) -> Result<u64> {
        self.inner.steps.check_writes(op, rank, write, scale)
    }

    /// The same for the weight of a loss.
    pub(crate) fn live_weight(&self, op: &'static str, weight: f64) -> Result<u64> {
        self.inner.steps.check_weight(op, weight)
    }

    /// The same for a place in the stream of dropout, and the site where the pass began.
    pub(crate) fn live_draws(&self, op: &'static str, step: u32, site: u32) -> Result<(u64, u32)> {
        self.inner.steps.check_draw(op, step, site)
    }

    /// Copies to the host and waits for it.
    pub(crate) fn download<T: Copy>(&self, from: sys::CUdeviceptr, data: &mut [T]) -> Result<()> {
        if !data.is_empty() {
            self.inner.bind()?;
            // SAFETY: `from` holds as many elements, and the copy has ended when this returns.
            unsafe { driver::memcpy_dtoh_async(data, from, self.inner.stream) }
                .map_err(|e| driver_error("download", e))?;
        }
        self.inner.synchronise()
    }

    pub(crate) fn copy(&self, to: sys::CUdeviceptr, from: sys::CUdeviceptr, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.inner.bind()?;
        // SAFETY: both hold as many bytes.
        unsafe { driver::memcpy_dtod_async(to, from, bytes, self.inner.stream) }.map_err(|e| driver_error("copy", e))
    }

    pub(crate) fn zero(&self, at: sys::CUdeviceptr, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.inner.bind()?;
        // SAFETY: the memory holds as many bytes.
        unsafe { driver::memset_d8_async(at, 0, bytes, self.inner.stream) }.map_err(|e| driver_error("zero", e))
    }

    /// Sets f32 values to one; unlike an upload it can be recorded.
    pub(crate) fn ones(&self, at: sys::CUdeviceptr, len: usize) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        self.inner.bind()?;
        // SAFETY: the memory holds as many values of four bytes.
        unsafe { sys::cuMemsetD32Async(at, 1f32.to_bits(), len, self.inner.stream) }
            .result()
            .map_err(|e| driver_error("ones", e))
    }

    /// What a tensor may hold here.
    pub(crate) fn check_type(op: &'static str, dtype: DType) -> Result<()> {
        match dtype {
            DType::F64 => Err(Error::Unsupported {
                op,
                what: "f64".to_owned(),
            }),
            _ => Ok(()),
        }
    }
}

pub(crate) fn blas_error(error: cublas::CublasError) -> Error {
    Error::Cuda {
        op: "cuBLAS",
        message: format!("{:?}", error.0),
    }
}

impl Inner {
    /// Makes the context current in this thread.
    pub(crate) fn bind(&self) -> Result<()> {
        if CURRENT.get() != self.gpu.context {
            // SAFETY: the context stays until the process ends.
            unsafe { driver::ctx::set_current(self.gpu.context) }.map_err(|e| driver_error("context", e))?;
            CURRENT.set(self.gpu.context);
        }
        Ok(())
    }

    /// Says that launches are recorded from now on, or no longer.
    pub(crate) fn recording(&self, on: bool) {
        self.recording.store(on, Ordering::Relaxed);
    }

    pub(crate) fn synchronise(&self) -> Result<()> {
        self.bind()?;
        // SAFETY: the stream lives as long as this value.
        unsafe { driver::stream::synchronize(self.stream) }.map_err(|e| driver_error("synchronise", e))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Errors here have nobody to hear them.
        if self.bind().is_err() {
            return;
        }
        let _alone = while_nothing_records();
        let blas = self.blas.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner).0;
        // SAFETY: nothing refers to stream, handle or memory any more, and what was handed over has ended.
        unsafe {
            if !self.stream.is_null() {
                let _ = driver::stream::synchronize(self.stream);
            }
            self.staging.clear();
            if !blas.is_null() {
                let _ = cublas::destroy_handle(blas);
            }
            self.heaps.clear();
            if self.workspace != 0 {
                let _ = driver::free_sync(self.workspace);
            }
            if !self.stream.is_null() {
                let _ = driver::stream::destroy(self.stream);
            }
        }
    }
}

impl fmt::Debug for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cuda({}, {})", self.inner.ordinal, self.inner.name)
    }
}
