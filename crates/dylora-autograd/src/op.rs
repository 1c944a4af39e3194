//! The closed set of recorded operations. Adding one means adding a file in `ops/` with its backward pass.

use std::fmt::Debug;

use dylora_tensor::{Result, Tensor};

use crate::ops;
use crate::sink::{GradSink, Input};

/// What a recorded operation must be able to do. There are no defaults: an operation without a backward pass does not
/// compile.
pub(crate) trait Backward: Debug {
    /// The tensors kept alive for the backward pass only; weights, which live anyway, are not among them.
    fn saved(&self) -> Vec<&Tensor>;
    /// Turns the gradient of the result into gradients of what wants one.
    fn backward(self, dy: Tensor, sink: &mut GradSink<'_>) -> Result<()>;
}

macro_rules! operations {
    ($($kind:ident($record:ty), $doc:literal;)*) => {
        /// The kinds of recorded operations. Tests match on it without a wildcard, so that none is forgotten.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum OpKind {
            $(#[doc = $doc] $kind,)*
        }

        impl OpKind {
            /// Every kind.
            pub const ALL: &'static [OpKind] = &[$(OpKind::$kind,)*];
        }

        /// A recorded operation.
        // Records live in one list for one step; boxing the large ones would buy nothing.
        #[allow(clippy::large_enum_variant)]
        #[derive(Debug)]
        pub(crate) enum Op {
            $($kind($record),)*
        }

        impl Op {
            pub(crate) fn kind(&self) -> OpKind {
                match self { $(Op::$kind(_) => OpKind::$kind,)* }
            }

            pub(crate) fn saved(&self) -> Vec<&Tensor> {
                match self { $(Op::$kind(op) => op.saved(),)* }
            }

            pub(crate) fn backward(self, dy: Tensor, sink: &mut GradSink<'_>) -> Result<()> {
                match self { $(Op::$kind(op) => op.backward(dy, sink),)* }
            }
        }
    };
}

operations! {
    Add(ops::add::Record), "Sum of two values.";
    Attention(ops::attention::Record), "Scaled dot-product attention over packed sequences.";
    BiasGelu(ops::bias_gelu::Record), "GELU behind a frozen bias.";
    CrossEntropy(ops::loss::Record), "Cross-entropy against classes.";
    Custom(ops::custom::Record), "An operation of the user's.";
    Dropout(ops::dropout::Record), "Dropout.";
    Embed(ops::embed::Record), "Sum of table rows.";
    GatherRows(ops::gather_rows::Record), "Selected rows.";
    Gate(ops::gate::Record), "Gates on columns.";
    Gelu(ops::gelu::Record), "GELU.";
    HardConcrete(ops::hard_concrete::Record), "Drawn hard-concrete gates.";
    LayerNorm(ops::layer_norm::Record), "Layer normalisation of dropout(x) + residual.";
    Linear(ops::linear::Record), "x Wᵀ + bias.";
    LinearCrossEntropy(ops::linear_cross_entropy::Record), "Cross-entropy of a linear layer's logits, in chunks.";
    LoraLinear(ops::lora_linear::Record), "Linear layer with a low-rank path.";
    Mse(ops::loss::MseRecord), "Squared error.";
    Parameter(ops::parameter::Record), "A trained tensor as a value.";
    Residual(ops::residual_norm::Record), "x + dropout(out + bias).";
    ResidualNorm(ops::residual_norm::NormRecord), "Layer normalisation of a residual sum.";
    SparsityPenalty(ops::sparsity_penalty::Record), "Augmented Lagrangian of the gates' expected sparsity.";
    StackedAttention(ops::stacked_attention::Record), "Attention of columns of one tensor.";
    StackedLinear(ops::stacked_linear::Record), "Frozen linear layer with low-rank paths on some columns.";
    Tanh(ops::tanh::Record), "tanh.";
}

/// An operation defined outside this crate. Its result is computed by the caller and put on the tape with
/// [`Tape::custom`](crate::Tape::custom).
///
/// ```
/// use dylora_autograd::tensor::{Device, Tensor, ops as kernels};
/// use dylora_autograd::{CustomOp, GradSink, Input, Parameter, Result, Tape, ops};
///
/// /// y = x + x.
/// #[derive(Debug)]
/// struct Double;
///
/// impl CustomOp for Double {
///     fn saved(&self) -> Vec<&Tensor> {
///         Vec::new()
///     }
///     fn backward(self: Box<Self>, dy: Tensor, inputs: &[Input], sink: &mut GradSink<'_>) -> Result<()> {
///         sink.add(inputs[0], kernels::add(&dy, &dy)?)
///     }
/// }
///
/// fn main() -> Result<()> {
///     let device = Device::cpu();
///     let p = Parameter::new("p", Tensor::from_slice(&device, &[3.0f64], &[1])?, false)?;
///     let mut tape = Tape::new();
///     let x = tape.parameter(&p)?;
///     let doubled = kernels::add(x.value(), x.value())?;
///     let y = tape.custom(doubled, &[&x], Box::new(Double))?;
///     let zero = Tensor::from_slice(&device, &[0.0f64], &[1])?;
///     let loss = ops::mse(&mut tape, &y, &zero, 1.0)?; // (2 p)²
///     tape.backward(&loss)?;
///     assert_eq!(p.grad().to_vec::<f64>()?, [24.0]); // 8 p
///     Ok(())
/// }
/// ```
pub trait CustomOp: Debug + Send {
    /// The tensors kept for the backward pass.
    fn saved(&self) -> Vec<&Tensor>;

    /// Adds the gradient of every wanted input to the sink, given the gradient of the result.
    ///
    /// # Errors
    /// Whatever goes wrong.
    fn backward(self: Box<Self>, dy: Tensor, inputs: &[Input], sink: &mut GradSink<'_>) -> Result<()>;
}
