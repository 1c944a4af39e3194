//! Defaults of the method `flop`. The schedule is that of the released code's complete example, as shares of its 40000 steps:
//! 16000 of warm-up, a gates' rate of 1e-3 and a multipliers' rate of 3e-4. Gates start as in its script that prunes a trained
//! model. A sparsity of 0.7 among the factors, its default, is 0.55 of a Transformer's matrices, whose factors have half as many
//! numbers again.

pub(super) const SPARSITY: f64 = 0.55;
pub(super) const WARMUP: f64 = 0.4;
pub(super) const INIT: f64 = 0.05;
pub(super) const GATE_RATE: f64 = 40.0;
pub(super) const LAMBDA_RATE: f64 = 12.0;

pub(super) fn sparsity() -> f64 {
    SPARSITY
}
pub(super) fn is_sparsity(value: &f64) -> bool {
    *value == SPARSITY
}
pub(super) fn warmup() -> f64 {
    WARMUP
}
pub(super) fn is_warmup(value: &f64) -> bool {
    *value == WARMUP
}
pub(super) fn init() -> f64 {
    INIT
}
pub(super) fn is_init(value: &f64) -> bool {
    *value == INIT
}
