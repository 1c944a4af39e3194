//! The tape: what was computed in this step, in order.

use std::sync::Arc;

use dylora_tensor::{Error, Result, Tensor};

use crate::op::{CustomOp, Op, OpKind};
use crate::ops;
use crate::param::Parameter;
use crate::sink::{GradSink, Input};
use crate::var::{NodeId, Var};

/// The records of one step. It is made empty, filled by [`ops`](crate::ops), and consumed by [`Tape::backward`].
#[derive(Debug)]
pub struct Tape {
    nodes: Vec<Op>,
    recording: bool,
    token: Arc<()>,
}

impl Default for Tape {
    fn default() -> Self {
        Self::new()
    }
}

impl Tape {
    /// An empty tape.
    pub fn new() -> Self {
        Tape {
            nodes: Vec::new(),
            recording: true,
            token: Arc::new(()),
        }
    }

    /// A tape that records nothing: every value is a constant, and nothing is kept.
    pub fn inference() -> Self {
        Tape {
            recording: false,
            ..Self::new()
        }
    }

    /// A value that wants no gradient.
    pub fn constant(&self, value: &Tensor) -> Var {
        Var {
            value: value.clone(),
            node: None,
        }
    }

    /// A trained tensor as a value. Masked parameters belong to [`ops::lora_linear`], which knows their ranks.
    ///
    /// # Errors
    /// If the parameter is masked.
    pub fn parameter(&mut self, parameter: &Parameter) -> Result<Var> {
        ops::parameter::record(self, parameter)
    }

    /// The result of an operation of the user's; see [`CustomOp`].
    ///
    /// # Errors
    /// If an input belongs to another tape.
    pub fn custom(&mut self, value: Tensor, inputs: &[&Var], op: Box<dyn CustomOp>) -> Result<Var> {
        ops::custom::record(self, value, inputs, op)
    }

    /// The place of an operation's input on this tape.
    pub(crate) fn input(&self, var: &Var) -> Result<Input> {
        match &var.node {
            Some(node) if !Arc::ptr_eq(&node.tape, &self.token) => Err(Error::invalid(
                "tape",
                "a variable was used on a tape that it does not belong to",
            )),
            node => Ok(Input(node.as_ref().map(|n| n.index))),
        }
    }

    /// Whether operations leave records.
    pub(crate) fn is_recording(&self) -> bool {
        self.recording
    }

    /// Puts a record on the tape if `wanted`, which says whether anything needs its gradient.
    pub(crate) fn push(&mut self, value: Tensor, wanted: bool, op: impl FnOnce() -> Op) -> Var {
        let node = (wanted && self.recording).then(|| {
            self.nodes.push(op());
            NodeId {
                index: self.nodes.len() - 1,
                tape: self.token.clone(),
            }
        });
        Var { value, node }
    }

    /// What the records keep alive for the backward pass, in order: the kind of operation and each tensor.
    pub fn saved(&self) -> impl Iterator<Item = (OpKind, &Tensor)> {
        self.nodes
            .iter()
            .flat_map(|op| op.saved().into_iter().map(|tensor| (op.kind(), tensor)))
    }

    /// The recorded operations, in order.
    pub fn recorded(&self) -> impl Iterator<Item = OpKind> {
        self.nodes.iter().map(Op::kind)
    }

    /// Adds the gradient of `loss` (one element) to every parameter it depends on, freeing records as it goes.
    ///
    /// # Errors
    /// If the loss has more than one element or depends on nothing that is trained.
    pub fn backward(self, loss: &Var) -> Result<()> {
        const OP: &str = "backward";
        if loss.value.len() != 1 {
            return Err(Error::shape(OP, loss.value.shape(), &[1]));
        }
        let Some(root) = self.input(loss)?.0 else {
            return Err(Error::invalid(OP, "the loss depends on nothing that is trained"));
        };
        let mut slots: Vec<Option<Tensor>> = vec![None; self.nodes.len()];
        slots[root] = Some(Tensor::ones(
            loss.value.device(),
            loss.value.dtype(),
            loss.value.shape(),
        )?);
        for (index, op) in self.nodes.into_iter().enumerate().rev() {
            // A record that the loss does not depend on has no gradient; its tensors are freed all the same.
            if let Some(dy) = slots[index].take() {
                let mut sink = GradSink {
                    slots: &mut slots,
                    first: index == root,
                };
                op.backward(dy, &mut sink)?;
            }
        }
        Ok(())
    }
}
