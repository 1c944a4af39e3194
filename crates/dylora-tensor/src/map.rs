//! Files in memory: tensors that borrow the pages of a file in place of copying them.
//!
//! # Why this is sound enough
//! A mapped file can change under the program that reads it, which no type can forbid. Here is what that can do, and why it
//! is no more than that. The map is private and read-only, so nothing is ever written to the file. Only floating-point
//! elements are borrowed, for which every pattern of bits is a number: a file that another program overwrites in place gives
//! other numbers, or a mixture, and never an invalid value. No length, offset, index or branch of this library is read from a
//! map: shapes come from the caller, who has read and checked the file's header by other means, and integers (which index
//! tables) are never borrowed. A file that is *replaced* (written under another name and renamed, as this project and the
//! hub's clients do) stays what it was, because the map holds the old one.
//!
//! What remains: where a file is cut short in place while it is mapped, reading beyond its new end stops the process with
//! SIGBUS. So no file is mapped unless the caller asks for it, and what trains for days reads its own copy instead
//! (`dylora-nn`: `Checkpoint::open` reads, `Checkpoint::map` borrows).
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::sync::Arc;

use crate::device::Device;
use crate::dtype::{DType, Elem};
use crate::error::{Error, Result};
use crate::shape::Shape;
use crate::tensor::Tensor;

/// A file's bytes as memory: read from the disk when they are first looked at, and shared with other programs.
///
/// The file must not be changed in place while tensors borrow from it: they would have other numbers, and where it was made
/// shorter, the process ends. Replacing it by renaming another over it is safe. Clones share the map.
#[derive(Clone, Debug)]
pub struct FileMap {
    pages: Arc<memmap2::Mmap>,
}

impl FileMap {
    /// Maps the whole of an open file.
    ///
    /// # Errors
    /// If the file system does not map files.
    pub fn new(file: &File) -> io::Result<Self> {
        // SAFETY: see the head of this module.
        let pages = unsafe { memmap2::Mmap::map(file)? };
        // The disk begins to read ahead; a system that does not take advice reads page by page.
        #[cfg(unix)]
        let _ = pages.advise(memmap2::Advice::WillNeed);
        Ok(FileMap { pages: Arc::new(pages) })
    }

    /// Bytes of the file when it was mapped.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Whether the file was empty.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// A tensor of the little-endian elements that begin at byte `start`, without copying them. Writing to it gives it memory
    /// of its own first.
    ///
    /// `None` where they cannot be borrowed: on a GPU, on a big-endian machine, integers, and elements that are not aligned
    /// for their type.
    ///
    /// # Errors
    /// If the file does not hold that many bytes, or `shape` has no or more than four dimensions.
    pub fn tensor(&self, device: &Device, dtype: DType, start: usize, shape: &[usize]) -> Result<Option<Tensor>> {
        const OP: &str = "map";
        let shape = Shape::new(OP, shape)?;
        let count = shape.iter().try_fold(1usize, |count, size| count.checked_mul(*size));
        let end = count.and_then(|count| count.checked_mul(dtype.size())?.checked_add(start));
        if end.is_none_or(|end| end > self.len()) {
            let message = format!(
                "{shape:?} of {dtype} from byte {start} on is more than {} bytes",
                self.len()
            );
            return Err(Error::invalid(OP, message));
        }
        // The pages begin at an address that is aligned for every type.
        let fits = start.is_multiple_of(dtype.size()) && dtype != DType::I32;
        if !fits || cfg!(target_endian = "big") || !matches!(device, Device::Cpu(_)) {
            return Ok(None);
        }
        let elements = Mapped {
            pages: self.clone(),
            dtype,
            start,
            len: shape.len(),
        };
        Ok(Some(Tensor::borrow(device, elements, shape)))
    }
}

/// Elements that lie in a file. What [`FileMap::tensor`] checked holds of each.
#[derive(Debug)]
pub(crate) struct Mapped {
    pages: FileMap,
    dtype: DType,
    start: usize,
    len: usize,
}

impl Mapped {
    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The elements, if `T` is their type.
    #[inline]
    pub(crate) fn elements<T: Elem>(&self) -> Option<&[T]> {
        if T::DTYPE != self.dtype {
            return None;
        }
        let bytes = &self.pages.pages[self.start..self.start + self.len * size_of::<T>()];
        // SAFETY: the bytes are there, their address is aligned for T (start is a multiple of its size, a map of a page's),
        // and every pattern of bits is a T. That they do not change is the caller's: see the head of this module.
        Some(unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast::<T>(), self.len) })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// Eight bytes, then 1.0, -2.5, 0.5 as f32, and three bytes more.
    fn file() -> io::Result<File> {
        let mut file = tempfile::tempfile()?;
        file.write_all(&[7; 8])?;
        for value in [1.0f32, -2.5, 0.5] {
            file.write_all(&value.to_le_bytes())?;
        }
        file.write_all(&[0; 3])?;
        Ok(file)
    }

    type TestResult = std::result::Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn elements_are_borrowed_where_they_lie() -> TestResult {
        let device = Device::cpu();
        let map = FileMap::new(&file()?)?;
        let tensor = map.tensor(&device, DType::F32, 8, &[3])?.ok_or("not borrowed")?;
        // The file is closed and the map out of hand; its pages stay as long as a tensor has them.
        drop(map);
        assert_eq!(tensor.to_vec::<f32>()?, [1.0, -2.5, 0.5]);
        assert!(tensor.to_vec::<f64>().is_err());
        assert_eq!(
            tensor.reshape(&[1, 3])?.to_dtype(DType::F64)?.to_f64_vec()?,
            [1.0, -2.5, 0.5]
        );
        assert_eq!(tensor.rows(1..2)?.to_f64_vec()?, [-2.5]);
        Ok(())
    }

    #[test]
    fn writing_gives_a_tensor_memory_of_its_own_and_every_view_sees_it() -> TestResult {
        let device = Device::cpu();
        let (file, other) = (file()?, Device::cpu());
        let map = FileMap::new(&file)?;
        let tensor = map.tensor(&device, DType::F32, 8, &[3])?.ok_or("not borrowed")?;
        let view = tensor.rows(2..3)?;
        tensor.rows(1..2)?.write(&[4.0f32])?;
        assert_eq!(tensor.to_vec::<f32>()?, [1.0, 4.0, 0.5]);
        view.fill_zero()?;
        assert_eq!(tensor.to_vec::<f32>()?, [1.0, 4.0, 0.0]);
        let again = map.tensor(&other, DType::F32, 8, &[3])?.ok_or("not borrowed")?;
        assert_eq!(again.to_vec::<f32>()?, [1.0, -2.5, 0.5]);
        again.copy_from(&tensor)?;
        assert_eq!(again.to_vec::<f32>()?, [1.0, 4.0, 0.0]);
        Ok(())
    }

    #[test]
    fn what_is_not_aligned_or_an_integer_is_not_borrowed_and_what_is_not_there_is_an_error() -> TestResult {
        let device = Device::cpu();
        let map = FileMap::new(&file()?)?;
        assert_eq!((map.len(), map.is_empty()), (23, false));
        assert!(map.tensor(&device, DType::F32, 10, &[2])?.is_none());
        assert!(map.tensor(&device, DType::I32, 8, &[2])?.is_none());
        assert!(map.tensor(&device, DType::F64, 12, &[1])?.is_none());
        assert!(map.tensor(&device, DType::F64, 8, &[1])?.is_some());
        assert!(map.tensor(&device, DType::Bf16, 10, &[2])?.is_some());
        for (start, shape) in [
            (12, &[3][..]),
            (24, &[0]),
            (usize::MAX, &[1]),
            (8, &[usize::MAX / 2]),
            (8, &[usize::MAX, 2]),
        ] {
            let error = map.tensor(&device, DType::F32, start, shape).err().ok_or("borrowed")?;
            assert!(error.to_string().contains("23 bytes"), "{error}");
        }
        assert!(map.tensor(&device, DType::F32, 8, &[]).is_err());
        Ok(())
    }
}
