//! Where a backward pass puts gradients.

use dylora_tensor::{Result, Tensor, ops};

/// An input of a recorded operation: a place on the tape, or nothing for a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Input(pub(crate) Option<usize>);

impl Input {
    /// Whether a gradient is wanted.
    pub fn wanted(self) -> bool {
        self.0.is_some()
    }
}

/// Collects the gradients of one backward pass.
pub struct GradSink<'a> {
    pub(crate) slots: &'a mut [Option<Tensor>],
    /// Whether the gradient at hand is the 1 that a backward pass begins with.
    pub(crate) first: bool,
}

impl GradSink<'_> {
    /// Takes what has been collected for an input, to be added to; [`GradSink::put`] it back.
    pub fn take(&mut self, input: Input) -> Option<Tensor> {
        input.0.and_then(|index| self.slots[index].take())
    }

    /// Puts the whole gradient of an input after [`GradSink::take`].
    pub fn put(&mut self, input: Input, gradient: Tensor) {
        if let Some(index) = input.0 {
            self.slots[index] = Some(gradient);
        }
    }

    /// Adds to the gradient of an input; does nothing for a constant.
    ///
    /// # Errors
    /// If an earlier contribution has another shape or type.
    pub fn add(&mut self, input: Input, gradient: Tensor) -> Result<()> {
        let Some(index) = input.0 else { return Ok(()) };
        let sum = match self.slots[index].take() {
            None => gradient,
            Some(earlier) if earlier.is_unshared() => {
                ops::add_into(&gradient, &earlier)?;
                earlier
            }
            Some(earlier) if gradient.is_unshared() => {
                ops::add_into(&earlier, &gradient)?;
                gradient
            }
            Some(earlier) => ops::add(&earlier, &gradient)?,
        };
        self.slots[index] = Some(sum);
        Ok(())
    }
}
