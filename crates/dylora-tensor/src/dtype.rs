//! Element types: what a tensor's buffer holds, as a run-time value and as a Rust type.

use std::fmt;

use half::bf16;
use ndarray::Array1;

use crate::map::Mapped;

/// The element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// 64-bit float; the precision of the finite-difference oracle.
    F64,
    /// 32-bit float.
    F32,
    /// bfloat16; storage only on the CPU.
    Bf16,
    /// 32-bit signed integer: token ids, positions, offsets, classes.
    I32,
}

impl DType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            DType::F64 => 8,
            DType::F32 | DType::I32 => 4,
            DType::Bf16 => 2,
        }
    }

    /// Whether the CPU computes with this type (f32 and f64).
    pub fn computes(self) -> bool {
        matches!(self, DType::F64 | DType::F32)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F64 => "f64",
            DType::F32 => "f32",
            DType::Bf16 => "bf16",
            DType::I32 => "i32",
        })
    }
}

/// A buffer's elements.
#[derive(Debug)]
pub(crate) enum Data {
    F64(Array1<f64>),
    F32(Array1<f32>),
    Bf16(Array1<bf16>),
    I32(Array1<i32>),
    /// Elements of a file, of any type that is not an integer; they cannot be written.
    Mapped(Mapped),
}

impl Data {
    pub(crate) fn dtype(&self) -> DType {
        match self {
            Data::F64(_) => DType::F64,
            Data::F32(_) => DType::F32,
            Data::Bf16(_) => DType::Bf16,
            Data::I32(_) => DType::I32,
            Data::Mapped(a) => a.dtype(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Data::F64(a) => a.len(),
            Data::F32(a) => a.len(),
            Data::Bf16(a) => a.len(),
            Data::I32(a) => a.len(),
            Data::Mapped(a) => a.len(),
        }
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f64 {}
    impl Sealed for f32 {}
    impl Sealed for half::bf16 {}
    impl Sealed for i32 {}
}

/// A type that a tensor can hold: `f64`, `f32`, [`bf16`] or `i32`.
pub trait Elem: sealed::Sealed + Copy + Default + Send + Sync + fmt::Debug + 'static {
    /// The run-time value of this type.
    const DTYPE: DType;
    #[doc(hidden)]
    fn from_f64_lossy(value: f64) -> Self;
    #[doc(hidden)]
    fn to_f64_lossless(self) -> f64;
    #[doc(hidden)]
    fn wrap(data: Vec<Self>) -> Storage;
    #[doc(hidden)]
    fn view(data: &Storage) -> Option<&[Self]>;
    #[doc(hidden)]
    fn view_mut(data: &mut Storage) -> Option<&mut [Self]>;
}

/// An opaque buffer; public only because the sealed [`Elem`] mentions it.
#[derive(Debug)]
pub struct Storage(pub(crate) Data);

impl Storage {
    /// Copies borrowed elements, so that they can be written.
    pub(crate) fn own<T: Elem>(&mut self) {
        if let Data::Mapped(mapped) = &self.0
            && let Some(elements) = mapped.elements::<T>()
        {
            *self = T::wrap(elements.to_vec());
        }
    }
}

macro_rules! elem {
    ($type:ty, $variant:ident, $from:expr, $to:expr) => {
        impl Elem for $type {
            const DTYPE: DType = DType::$variant;
            #[inline]
            fn from_f64_lossy(value: f64) -> Self {
                ($from)(value)
            }
            #[inline]
            fn to_f64_lossless(self) -> f64 {
                ($to)(self)
            }
            fn wrap(data: Vec<Self>) -> Storage {
                Storage(Data::$variant(Array1::from_vec(data)))
            }
            fn view(data: &Storage) -> Option<&[Self]> {
                match &data.0 {
                    Data::$variant(a) => a.as_slice(),
                    Data::Mapped(a) => a.elements(),
                    _ => None,
                }
            }
            fn view_mut(data: &mut Storage) -> Option<&mut [Self]> {
                match &mut data.0 {
                    Data::$variant(a) => a.as_slice_mut(),
                    _ => None,
                }
            }
        }
    };
}

elem!(f64, F64, |v: f64| v, |v: f64| v);
elem!(f32, F32, |v: f64| v as f32, |v: f32| v as f64);
elem!(bf16, Bf16, bf16::from_f64, |v: bf16| v.to_f64());
elem!(i32, I32, |v: f64| v as i32, |v: i32| v as f64);
