//! The one tensor type: contiguous, row-major, up to four dimensions, element type and device known at run time.

mod later;

use std::ops::{Deref, Range};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};

use half::bf16;

use crate::cuda::{self, Cuda};
use crate::device::{Cpu, Device};
use crate::dtype::{DType, Data, Elem, Storage};
use crate::error::{Error, Result};
use crate::map::Mapped;
use crate::shape::Shape;

use later::Arrival;
pub use later::Later;

/// A contiguous row-major array on a device.
///
/// Clones, [`reshape`](Tensor::reshape) and [`rows`](Tensor::rows) share memory; nothing is ever strided.
/// Operations make new tensors; [`write`](Tensor::write), [`copy_from`](Tensor::copy_from) and the operations named
/// `..._into` change one in place, and every view of it sees that.
#[derive(Clone, Debug)]
pub struct Tensor {
    buffer: Arc<Buffer>,
    shape: Shape,
    offset: usize,
    generation: Option<u64>,
}

#[derive(Debug)]
struct Buffer {
    memory: Memory,
    dtype: DType,
    device: Device,
}

#[derive(Debug)]
enum Memory {
    /// Elements of the host, from the device's pool where `pooled`.
    Host { storage: RwLock<Storage>, pooled: bool },
    /// Device memory, and the least and greatest integer last written from the host: indices are checked against it
    /// without asking the device.
    Cuda {
        block: Arc<cuda::Block>,
        bounds: Mutex<Option<(i32, i32)>>,
    },
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let (Device::Cpu(cpu), Memory::Host { storage, pooled: true }) = (&self.device, &mut self.memory)
            && let Ok(storage) = storage.get_mut()
        {
            cpu.give(std::mem::replace(storage, i32::wrap(Vec::new())), true);
        }
    }
}

/// Shared access to a tensor's elements.
pub(crate) struct Read<'a, T> {
    guard: RwLockReadGuard<'a, Storage>,
    range: Range<usize>,
    op: std::marker::PhantomData<T>,
}

impl<T: Elem> Deref for Read<'_, T> {
    type Target = [T];
    #[inline]
    fn deref(&self) -> &[T] {
        // The type was checked when the guard was made.
        T::view(&self.guard).map_or(&[], |all| &all[self.range.clone()])
    }
}

/// Exclusive access to a tensor's elements.
pub(crate) struct Write<'a, T> {
    guard: RwLockWriteGuard<'a, Storage>,
    range: Range<usize>,
    op: std::marker::PhantomData<T>,
}

impl<T: Elem> Write<'_, T> {
    #[inline]
    pub(crate) fn slice(&mut self) -> &mut [T] {
        let range = self.range.clone();
        T::view_mut(&mut self.guard).map_or(&mut [], |all| &mut all[range])
    }
}

impl Tensor {
    /// A tensor of the given elements, copied.
    ///
    /// # Errors
    /// If the number of elements is not the product of the dimensions.
    pub fn from_slice<T: Elem>(device: &Device, data: &[T], shape: &[usize]) -> Result<Tensor> {
        Self::from_vec(device, data.to_vec(), shape)
    }

    /// A tensor that takes the elements over.
    ///
    /// # Errors
    /// If the number of elements is not the product of the dimensions.
    pub fn from_vec<T: Elem>(device: &Device, data: Vec<T>, shape: &[usize]) -> Result<Tensor> {
        let shape = Shape::new("from_vec", shape)?;
        if shape.len() != data.len() {
            return Err(Error::shape("from_vec", &[data.len()], &shape));
        }
        if let Device::Cuda(cuda) = device {
            let tensor = Self::on_cuda("from_vec", cuda, T::DTYPE, &shape)?;
            tensor.write(&data)?;
            return Ok(tensor);
        }
        Ok(Self::wrap(device, T::wrap(data), shape, false))
    }

    /// A tensor of zeros.
    ///
    /// # Errors
    /// If `shape` has no or more than four dimensions.
    pub fn zeros(device: &Device, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        fn fill<T: Elem>(device: &Device, shape: &[usize]) -> Result<Tensor> {
            Tensor::make::<T>("zeros", device, shape, |out| {
                out.fill(T::default());
                Ok(())
            })
        }
        if let Device::Cuda(cuda) = device {
            let tensor = Self::on_cuda("zeros", cuda, dtype, shape)?;
            tensor.fill_zero()?;
            return Ok(tensor);
        }
        match dtype {
            DType::F64 => fill::<f64>(device, shape),
            DType::F32 => fill::<f32>(device, shape),
            DType::Bf16 => fill::<bf16>(device, shape),
            DType::I32 => fill::<i32>(device, shape),
        }
    }

    /// A tensor of ones, f64 or f32.
    ///
    /// # Errors
    /// If `shape` has no or more than four dimensions, or the type is another.
    pub fn ones(device: &Device, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        const OP: &str = "ones";
        match (device, dtype) {
            (Device::Cuda(cuda), DType::F32) => {
                let tensor = Self::on_cuda(OP, cuda, dtype, shape)?;
                cuda.ones(tensor.cuda_pointer(OP, cuda, dtype)?, tensor.len())?;
                Ok(tensor)
            }
            (_, DType::F32) => Tensor::make::<f32>(OP, device, shape, |out| {
                out.fill(1.0);
                Ok(())
            }),
            (_, DType::F64) => Tensor::make::<f64>(OP, device, shape, |out| {
                out.fill(1.0);
                Ok(())
            }),
            (_, found) => Err(Error::DType {
                op: OP,
                expected: "f64 or f32",
                found,
            }),
        }
    }

    /// A new tensor whose elements `fill` writes; it must write all of them.
    pub(crate) fn make<T: Elem>(
        op: &'static str,
        device: &Device,
        shape: &[usize],
        fill: impl FnOnce(&mut [T]) -> Result<()>,
    ) -> Result<Tensor> {
        let shape = Shape::new(op, shape)?;
        let Device::Cpu(cpu) = device else {
            return Err(Error::Device { op });
        };
        let mut storage = Pooled {
            storage: Some(cpu.take::<T>(shape.len())),
            cpu,
        };
        if let Some(storage) = &mut storage.storage
            && let Some(all) = T::view_mut(storage)
        {
            fill(&mut all[..shape.len()])?;
        }
        let storage = storage.storage.take();
        Ok(Self::wrap(
            device,
            storage.unwrap_or_else(|| T::wrap(Vec::new())),
            shape,
            true,
        ))
    }

    /// A tensor to accumulate into: `onto` itself where nothing else sees it, a copy of it otherwise, or a new one with
    /// unspecified values; the flag says whether there is something to add to.
    pub(crate) fn target<T: Elem>(
        op: &'static str,
        onto: Option<Tensor>,
        device: &Device,
        shape: &[usize],
    ) -> Result<(Tensor, bool)> {
        match onto {
            None => Ok((Self::make::<T>(op, device, shape, |_| Ok(()))?, false)),
            Some(t) if t.shape() != shape => Err(Error::shape(op, t.shape(), shape)),
            Some(t) if t.is_unshared() => Ok((t, true)),
            Some(t) => {
                let values = t.read::<T>(op)?;
                let copy = Self::make::<T>(op, device, shape, |out| {
                    out.copy_from_slice(&values);
                    Ok(())
                })?;
                Ok((copy, true))
            }
        }
    }

    /// A tensor of unspecified values on a CUDA device; whoever makes it writes all of them.
    pub(crate) fn on_cuda(op: &'static str, cuda: &Cuda, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        Cuda::check_type(op, dtype)?;
        let shape = Shape::new(op, shape)?;
        let device = Device::Cuda(cuda.clone());
        Ok(Tensor {
            generation: device.generation(),
            buffer: Arc::new(Buffer {
                memory: Memory::Cuda {
                    block: Arc::new(cuda.take(shape.len() * dtype.size())?),
                    bounds: Mutex::new(None),
                },
                dtype,
                device,
            }),
            shape,
            offset: 0,
        })
    }

    /// A tensor of 4-byte elements in a part of a block of device memory that others share; `offset` in elements.
    pub(crate) fn on_block(
        op: &'static str,
        cuda: &Cuda,
        block: &Arc<cuda::Block>,
        dtype: DType,
        offset: usize,
        shape: &[usize],
    ) -> Result<Tensor> {
        Ok(Tensor {
            generation: None,
            buffer: Arc::new(Buffer {
                memory: Memory::Cuda {
                    block: block.clone(),
                    bounds: Mutex::new(None),
                },
                dtype,
                device: Device::Cuda(cuda.clone()),
            }),
            shape: Shape::new(op, shape)?,
            offset,
        })
    }

    /// [`Tensor::target`] on a CUDA device.
    pub(crate) fn cuda_target(
        op: &'static str,
        onto: Option<Tensor>,
        cuda: &Cuda,
        dtype: DType,
        shape: &[usize],
    ) -> Result<(Tensor, bool)> {
        match onto {
            None => Ok((Self::on_cuda(op, cuda, dtype, shape)?, false)),
            Some(t) if t.shape() != shape => Err(Error::shape(op, t.shape(), shape)),
            Some(t) if t.is_unshared() => Ok((t, true)),
            Some(t) => {
                let copy = Self::on_cuda(op, cuda, dtype, shape)?;
                copy.copy_from(&t)?;
                Ok((copy, true))
            }
        }
    }

    /// Where the elements are in a CUDA device's memory.
    pub(crate) fn cuda_pointer(&self, op: &'static str, cuda: &Cuda, dtype: DType) -> Result<u64> {
        self.check_alive(op)?;
        self.check_dtype(op, dtype)?;
        match (&self.buffer.memory, self.device()) {
            (Memory::Cuda { block, .. }, Device::Cuda(own)) if own.same(cuda) => {
                Ok(block.pointer + (self.offset * dtype.size()) as u64)
            }
            _ => Err(Error::Device { op }),
        }
    }

    /// The least and greatest integer that the host wrote into this tensor's memory, where that is known.
    pub(crate) fn known_bounds(&self) -> Option<(i32, i32)> {
        match &self.buffer.memory {
            Memory::Cuda { bounds, .. } => *bounds.lock().unwrap_or_else(PoisonError::into_inner),
            Memory::Host { .. } => None,
        }
    }

    /// A tensor of elements that lie in a file.
    pub(crate) fn borrow(device: &Device, elements: Mapped, shape: Shape) -> Tensor {
        Self::wrap(device, Storage(Data::Mapped(elements)), shape, false)
    }

    fn wrap(device: &Device, storage: Storage, shape: Shape, pooled: bool) -> Tensor {
        Tensor {
            generation: device.generation(),
            buffer: Arc::new(Buffer {
                dtype: storage.0.dtype(),
                memory: Memory::Host {
                    storage: RwLock::new(storage),
                    pooled,
                },
                device: device.clone(),
            }),
            shape,
            offset: 0,
        }
    }

    /// The elements, copied to the host.
    ///
    /// # Errors
    /// If the element type is another one, inside a step, or if the tensor's step has ended.
    pub fn to_vec<T: Elem>(&self) -> Result<Vec<T>> {
        self.device().check_host_read("to_vec")?;
        self.fetch::<T>("to_vec")
    }

    /// The elements of any type, converted to f64 (exactly).
    ///
    /// # Errors
    /// As [`Tensor::to_vec`].
    pub fn to_f64_vec(&self) -> Result<Vec<f64>> {
        fn convert<T: Elem>(tensor: &Tensor) -> Result<Vec<f64>> {
            let values = tensor.fetch::<T>("to_vec")?;
            Ok(values.iter().map(|v| v.to_f64_lossless()).collect())
        }
        self.device().check_host_read("to_vec")?;
        match self.dtype() {
            DType::F64 => convert::<f64>(self),
            DType::F32 => convert::<f32>(self),
            DType::Bf16 => convert::<bf16>(self),
            DType::I32 => convert::<i32>(self),
        }
    }

    /// Begins to copy the elements to the host, behind all work that the device has been given so far, and does not wait.
    ///
    /// # Errors
    /// Inside a step, or if the tensor's step has ended.
    pub fn to_host_later(&self) -> Result<Later> {
        const OP: &str = "to_host_later";
        self.device().check_host_read(OP)?;
        if let (Device::Cuda(cuda), DType::F32) = (self.device(), self.dtype()) {
            let from = self.cuda_pointer(OP, cuda, DType::F32)?;
            return Ok(Later(Arrival::OnItsWay(cuda.download_later(from, self.len())?)));
        }
        Ok(Later(Arrival::Here(self.to_f64_vec()?)))
    }

    /// The elements on the host.
    fn fetch<T: Elem>(&self, op: &'static str) -> Result<Vec<T>> {
        let Device::Cuda(cuda) = self.device() else {
            return Ok(self.read::<T>(op)?.to_vec());
        };
        let from = self.cuda_pointer(op, cuda, T::DTYPE)?;
        let mut values = vec![T::default(); self.len()];
        cuda.download(from, &mut values)?;
        Ok(values)
    }

    /// The same values, rounded to another floating-point type; a clone where the type is the same already.
    ///
    /// # Errors
    /// If either type is an integer.
    pub fn to_dtype(&self, dtype: DType) -> Result<Tensor> {
        fn convert<S: Elem, T: Elem>(source: &Tensor) -> Result<Tensor> {
            let values = source.read::<S>("to_dtype")?;
            Tensor::make::<T>("to_dtype", source.device(), source.shape(), |out| {
                for (o, v) in out.iter_mut().zip(values.iter()) {
                    *o = T::from_f64_lossy(v.to_f64_lossless());
                }
                Ok(())
            })
        }
        use DType::{Bf16, F32, F64, I32};
        if let Device::Cuda(cuda) = self.device()
            && self.dtype() != dtype
        {
            return cuda::convert(cuda, self, dtype);
        }
        match (self.dtype(), dtype) {
            (a, b) if a == b => Ok(self.clone()),
            (F64, F32) => convert::<f64, f32>(self),
            (F64, Bf16) => convert::<f64, bf16>(self),
            (F32, F64) => convert::<f32, f64>(self),
            (F32, Bf16) => convert::<f32, bf16>(self),
            (Bf16, F64) => convert::<bf16, f64>(self),
            (Bf16, F32) => convert::<bf16, f32>(self),
            (I32, _) | (_, _) => Err(Error::DType {
                op: "to_dtype",
                expected: "floating-point types",
                found: I32,
            }),
        }
    }

    /// Replaces all elements.
    ///
    /// # Errors
    /// If the number or type of elements differs.
    pub fn write<T: Elem>(&self, data: &[T]) -> Result<()> {
        if data.len() != self.len() {
            return Err(Error::shape("write", &[data.len()], self.shape()));
        }
        let Memory::Cuda { bounds, .. } = &self.buffer.memory else {
            self.write_guard::<T>("write")?.slice().copy_from_slice(data);
            return Ok(());
        };
        let Device::Cuda(cuda) = self.device() else {
            return Err(Error::Device { op: "write" });
        };
        cuda.upload(self.cuda_pointer("write", cuda, T::DTYPE)?, data)?;
        if T::DTYPE == DType::I32 {
            let numbers = data.iter().map(|v| v.to_f64_lossless() as i32);
            let (least, greatest) = numbers.fold((i32::MAX, i32::MIN), |(a, b), v| (a.min(v), b.max(v)));
            let whole = self.offset == 0;
            let mut bounds = bounds.lock().unwrap_or_else(PoisonError::into_inner);
            *bounds = match *bounds {
                // Part of a buffer: what was known of the rest still holds.
                Some((a, b)) if !whole => Some((a.min(least), b.max(greatest))),
                _ => Some((least, greatest)),
            };
        }
        Ok(())
    }

    /// Replaces all elements by those of `source`.
    ///
    /// # Errors
    /// If shape or type differ, or if the two share memory.
    pub fn copy_from(&self, source: &Tensor) -> Result<()> {
        fn copy<T: Elem>(source: &Tensor, target: &Tensor) -> Result<()> {
            let values = source.read::<T>("copy_from")?;
            target.write_guard::<T>("copy_from")?.slice().copy_from_slice(&values);
            Ok(())
        }
        if source.shape() != self.shape() {
            return Err(Error::shape("copy_from", source.shape(), self.shape()));
        }
        if let Device::Cuda(cuda) = self.device() {
            if self.shares_memory(source) {
                return Err(Error::Aliased { op: "copy_from" });
            }
            let Device::Cuda(_) = source.device() else {
                return self.receive(source);
            };
            let to = self.cuda_pointer("copy_from", cuda, self.dtype())?;
            let from = source.cuda_pointer("copy_from", cuda, self.dtype())?;
            if let (Memory::Cuda { bounds, .. }, DType::I32) = (&self.buffer.memory, self.dtype()) {
                *bounds.lock().unwrap_or_else(PoisonError::into_inner) = source.known_bounds();
            }
            return cuda.copy(to, from, self.len() * self.dtype().size());
        }
        match self.dtype() {
            DType::F64 => copy::<f64>(source, self),
            DType::F32 => copy::<f32>(source, self),
            DType::Bf16 => copy::<bf16>(source, self),
            DType::I32 => copy::<i32>(source, self),
        }
    }

    /// Takes the elements of a tensor on the CPU.
    fn receive(&self, source: &Tensor) -> Result<()> {
        match self.dtype() {
            DType::F64 => self.write(&source.read::<f64>("copy_from")?),
            DType::F32 => self.write(&source.read::<f32>("copy_from")?),
            DType::Bf16 => self.write(&source.read::<bf16>("copy_from")?),
            DType::I32 => self.write(&source.read::<i32>("copy_from")?),
        }
    }

    /// The same values on another device; a clone where it is the same one.
    ///
    /// # Errors
    /// Inside a step, or if the device does not hold this type.
    pub fn to_device(&self, device: &Device) -> Result<Tensor> {
        fn copy<T: Elem>(source: &Tensor, device: &Device) -> Result<Tensor> {
            Tensor::from_vec(device, source.fetch::<T>("to_device")?, source.shape())
        }
        if self.device().same(device) {
            return Ok(self.clone());
        }
        self.device().check_host_read("to_device")?;
        match self.dtype() {
            DType::F64 => copy::<f64>(self, device),
            DType::F32 => copy::<f32>(self, device),
            DType::Bf16 => copy::<bf16>(self, device),
            DType::I32 => copy::<i32>(self, device),
        }
    }

    /// Sets all elements to zero.
    ///
    /// # Errors
    /// If the tensor is being read, or its step has ended.
    pub fn fill_zero(&self) -> Result<()> {
        fn fill<T: Elem>(target: &Tensor) -> Result<()> {
            target.write_guard::<T>("fill_zero")?.slice().fill(T::default());
            Ok(())
        }
        if let Device::Cuda(cuda) = self.device() {
            let at = self.cuda_pointer("fill_zero", cuda, self.dtype())?;
            return cuda.zero(at, self.len() * self.dtype().size());
        }
        match self.dtype() {
            DType::F64 => fill::<f64>(self),
            DType::F32 => fill::<f32>(self),
            DType::Bf16 => fill::<bf16>(self),
            DType::I32 => fill::<i32>(self),
        }
    }

    /// The same elements under another shape; memory is shared.
    ///
    /// # Errors
    /// If the number of elements differs.
    pub fn reshape(&self, shape: &[usize]) -> Result<Tensor> {
        let shape = Shape::new("reshape", shape)?;
        if shape.len() != self.len() {
            return Err(Error::shape("reshape", self.shape(), &shape));
        }
        Ok(Tensor { shape, ..self.clone() })
    }

    /// A range of the first dimension; memory is shared.
    ///
    /// # Errors
    /// If the range leaves the first dimension.
    pub fn rows(&self, range: Range<usize>) -> Result<Tensor> {
        let first = self.shape[0];
        if range.start > range.end || range.end > first {
            return Err(Error::invalid(
                "rows",
                format!("rows {}..{} of {first}", range.start, range.end),
            ));
        }
        let row = self.len().checked_div(first).unwrap_or(0);
        Ok(Tensor {
            shape: self.shape.with_first(range.len()),
            offset: self.offset + range.start * row,
            ..self.clone()
        })
    }

    /// The dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.buffer.dtype
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.buffer.device
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The product of all dimensions but the last.
    pub fn num_rows(&self) -> usize {
        self.shape.num_rows()
    }

    /// The last dimension.
    pub fn width(&self) -> usize {
        self.shape.width()
    }

    /// Whether no other tensor shares this one's memory, so that it may be changed unseen.
    pub fn is_unshared(&self) -> bool {
        Arc::strong_count(&self.buffer) == 1
    }

    /// Whether the two are views of the same buffer.
    pub fn shares_memory(&self, other: &Tensor) -> bool {
        Arc::ptr_eq(&self.buffer, &other.buffer)
    }

    fn check_alive(&self, op: &'static str) -> Result<()> {
        if self.generation.is_some() && self.generation != self.device().generation() {
            return Err(Error::StaleTensor { op });
        }
        Ok(())
    }

    fn check_dtype(&self, op: &'static str, dtype: DType) -> Result<()> {
        if self.dtype() != dtype {
            return Err(Error::DType {
                op,
                expected: match dtype {
                    DType::F64 => "f64",
                    DType::F32 => "f32",
                    DType::Bf16 => "bf16",
                    DType::I32 => "i32",
                },
                found: self.dtype(),
            });
        }
        Ok(())
    }

    fn host(&self, op: &'static str) -> Result<&RwLock<Storage>> {
        match &self.buffer.memory {
            Memory::Host { storage, .. } => Ok(storage),
            Memory::Cuda { .. } => Err(Error::Device { op }),
        }
    }

    pub(crate) fn read<T: Elem>(&self, op: &'static str) -> Result<Read<'_, T>> {
        self.check_alive(op)?;
        self.check_dtype(op, T::DTYPE)?;
        let guard = match self.host(op)?.try_read() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(e)) => e.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(Error::Aliased { op }),
        };
        Ok(Read {
            guard,
            range: self.offset..self.offset + self.len(),
            op: std::marker::PhantomData,
        })
    }

    pub(crate) fn write_guard<T: Elem>(&self, op: &'static str) -> Result<Write<'_, T>> {
        self.check_alive(op)?;
        self.check_dtype(op, T::DTYPE)?;
        let mut guard = match self.host(op)?.try_write() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(e)) => e.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(Error::Aliased { op }),
        };
        guard.own::<T>();
        Ok(Write {
            guard,
            range: self.offset..self.offset + self.len(),
            op: std::marker::PhantomData,
        })
    }
}

/// Gives the buffer back to the pool if filling it fails.
struct Pooled<'a> {
    storage: Option<Storage>,
    cpu: &'a Cpu,
}

impl Drop for Pooled<'_> {
    fn drop(&mut self) {
        if let Some(storage) = self.storage.take() {
            self.cpu.give(storage, true);
        }
    }
}

#[cfg(test)]
mod tests;
