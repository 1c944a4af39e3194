//! The errors of tensor operations: each names the operation and what did not fit.

use crate::dtype::DType;

/// What can go wrong in a tensor operation.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Two shapes that do not go together.
    #[error("{op}: shapes {left:?} and {right:?} do not fit")]
    Shape {
        /// The operation.
        op: &'static str,
        /// The first shape (what was given).
        left: Vec<usize>,
        /// The second shape (what it was held against).
        right: Vec<usize>,
    },
    /// A tensor of the wrong element type.
    #[error("{op}: expected {expected}, found {found}")]
    DType {
        /// The operation.
        op: &'static str,
        /// What the operation takes.
        expected: &'static str,
        /// What it got.
        found: DType,
    },
    /// An index (token id, row, class) outside its table.
    #[error("{op}: index {index} at position {position} is outside 0..{limit}")]
    Index {
        /// The operation.
        op: &'static str,
        /// The offending index.
        index: i64,
        /// Where it stands in the index tensor.
        position: usize,
        /// The number of valid indices.
        limit: usize,
    },
    /// An argument outside its domain.
    #[error("{op}: {message}")]
    Invalid {
        /// The operation.
        op: &'static str,
        /// What is wrong, in words.
        message: String,
    },
    /// A tensor's values were asked for inside a step; on a GPU that would break a captured graph.
    #[error("{op}: a tensor cannot be read on the host inside a step")]
    HostReadInStep {
        /// The operation.
        op: &'static str,
    },
    /// A tensor made inside a step was used after the step had ended.
    #[error("{op}: the tensor belongs to a step that has ended")]
    StaleTensor {
        /// The operation.
        op: &'static str,
    },
    /// Tensors of two devices in one operation, or a tensor that is not where the operation reads it.
    #[error("{op}: the tensors are not on one device")]
    Device {
        /// The operation.
        op: &'static str,
    },
    /// What this device does not do.
    #[error("{op}: {what} is not supported on CUDA")]
    Unsupported {
        /// The operation.
        op: &'static str,
        /// What was asked for.
        what: String,
    },
    /// The CUDA driver or one of its libraries reported an error, or is not there.
    #[error("{op}: {message}")]
    Cuda {
        /// What was being done.
        op: &'static str,
        /// What the library said, or which one is missing.
        message: String,
    },
    /// The device's memory is used up.
    #[error(
        "out of device memory: {wanted} bytes were wanted and {free} of {total} are free; fewer tokens in one pass (a \
         smaller token budget) need less"
    )]
    OutOfMemory {
        /// Bytes asked for.
        wanted: usize,
        /// Bytes free.
        free: usize,
        /// Bytes the device has.
        total: usize,
    },
    /// One buffer was to be written while it was read by the same operation.
    #[error("{op}: input and output share memory")]
    Aliased {
        /// The operation.
        op: &'static str,
    },
}

impl Error {
    /// An [`Error::Shape`] from two slices.
    pub fn shape(op: &'static str, left: &[usize], right: &[usize]) -> Self {
        Error::Shape {
            op,
            left: left.to_vec(),
            right: right.to_vec(),
        }
    }

    /// An [`Error::Invalid`] with a message.
    pub fn invalid(op: &'static str, message: impl Into<String>) -> Self {
        Error::Invalid {
            op,
            message: message.into(),
        }
    }
}

/// The result of a tensor operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;
