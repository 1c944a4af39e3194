//! Matrix products by cuBLAS; f32 accumulation.

use std::ffi::c_void;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use cudarc::cublas::{result as cublas, sys};
use cudarc::driver::sys::CUdeviceptr;

use super::context::{Cuda, blas_error};
use crate::dtype::DType;
use crate::error::{Error, Result};

/// A row-major matrix as an operand: where it is, and whether it is read transposed.
#[derive(Clone, Copy)]
pub(crate) struct Operand {
    pub(crate) at: CUdeviceptr,
    /// Columns as stored.
    pub(crate) width: usize,
    pub(crate) transposed: bool,
}

fn blas_type(op: &'static str, dtype: DType) -> Result<sys::cudaDataType_t> {
    match dtype {
        DType::F32 => Ok(sys::cudaDataType_t::CUDA_R_32F),
        DType::Bf16 => Ok(sys::cudaDataType_t::CUDA_R_16BF),
        found => Err(Error::DType {
            op,
            expected: "f32 or bf16",
            found,
        }),
    }
}

impl Cuda {
    /// c `[m, n]` = (c if `accumulate`) + a b, with a `[m, k]` and b `[k, n]` of type `inputs`, c of type `output`.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn product(
        &self,
        op: &'static str,
        [m, n, k]: [usize; 3],
        a: Operand,
        b: Operand,
        inputs: DType,
        c: CUdeviceptr,
        output: DType,
        accumulate: bool,
    ) -> Result<()> {
        if m == 0 || n == 0 {
            return Ok(());
        }
        let int = |x: usize| i32::try_from(x).map_err(|_| Error::invalid(op, format!("{x} is too large a side")));
        let (input_type, output_type) = (blas_type(op, inputs)?, blas_type(op, output)?);
        let compute = if inputs == DType::F32 && self.inner.tf32.load(Ordering::Relaxed) {
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32
        } else {
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F
        };
        let transpose = |operand: Operand| {
            if operand.transposed {
                sys::cublasOperation_t::CUBLAS_OP_T
            } else {
                sys::cublasOperation_t::CUBLAS_OP_N
            }
        };
        let (alpha, beta) = (1f32, if accumulate { 1f32 } else { 0f32 });
        self.inner.bind()?;
        let blas = self.inner.blas.lock().unwrap_or_else(PoisonError::into_inner);
        // cuBLAS is column-major: a row-major matrix is its own transpose there, so cᵀ = bᵀ aᵀ is asked for.
        // SAFETY: the caller's tensors have these sizes; the handle is this context's.
        unsafe {
            cublas::gemm_ex(
                blas.0,
                transpose(b),
                transpose(a),
                int(n)?,
                int(m)?,
                int(k)?,
                (&raw const alpha).cast::<c_void>(),
                b.at as *const c_void,
                input_type,
                int(b.width)?,
                a.at as *const c_void,
                input_type,
                int(a.width)?,
                (&raw const beta).cast::<c_void>(),
                c as *mut c_void,
                output_type,
                int(n)?,
                compute,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .map_err(blas_error)
    }
}
