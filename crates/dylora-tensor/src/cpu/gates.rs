//! Hard-concrete gates. There are thousands of them where there are millions of activations, so all is computed in f64.

use crate::float::Float;
use crate::ops::HardConcrete;
use crate::rng::Draw;

/// Uniform numbers keep this distance from 0 and 1, as in FLOP's released code.
const EDGE: f64 = 1e-6;

pub(crate) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// ln u - ln(1 - u) of a uniform u between the edges, from 23 of the word's bits: what f32 holds exactly.
fn logistic_noise(word: u32) -> f64 {
    let u = (f64::from(word >> 9) + 0.5) / f64::from(1u32 << 23);
    let inside = |u: f64| EDGE + (1.0 - 2.0 * EDGE) * u;
    (inside(u) / inside(1.0 - u)).ln()
}

/// The sigmoid before it is stretched, and the gate.
fn gate(form: &HardConcrete, log_alpha: f64, word: u32) -> (f64, f64) {
    let s = sigmoid((logistic_noise(word) + log_alpha) / form.beta);
    (s, s * (form.high - form.low) + form.low)
}

/// A gate for each parameter.
pub(crate) fn draw<T: Float>(form: &HardConcrete, draw: &Draw, log_alpha: &[T], z: &mut [T]) {
    for (i, (z, a)) in z.iter_mut().zip(log_alpha).enumerate() {
        *z = T::from_f64(gate(form, a.to_f64(), draw.word(i as u32)).1.clamp(0.0, 1.0));
    }
}

/// da += dz (high - low) s (1 - s) / beta where the gate is inside 0..1.
pub(crate) fn draw_gradient<T: Float>(form: &HardConcrete, draw: &Draw, log_alpha: &[T], dz: &[T], da: &mut [T]) {
    for (i, ((da, dz), a)) in da.iter_mut().zip(dz).zip(log_alpha).enumerate() {
        let (s, stretched) = gate(form, a.to_f64(), draw.word(i as u32));
        if (0.0..=1.0).contains(&stretched) {
            *da += T::from_f64(dz.to_f64() * (form.high - form.low) * s * (1.0 - s) / form.beta);
        }
    }
}

/// The sum of share times the probability that the gate is not 0.
pub(crate) fn expected<T: Float>(form: &HardConcrete, log_alpha: &[T], shares: &[T]) -> f64 {
    let open = log_alpha.iter().zip(shares);
    open.map(|(a, share)| share.to_f64() * form.open(a.to_f64())).sum()
}

/// da += slope times the gradient of [`expected`].
pub(crate) fn expected_gradient<T: Float>(
    form: &HardConcrete,
    log_alpha: &[T],
    shares: &[T],
    slope: f64,
    da: &mut [T],
) {
    for ((da, a), share) in da.iter_mut().zip(log_alpha).zip(shares) {
        let open = form.open(a.to_f64());
        *da += T::from_f64(slope * share.to_f64() * open * (1.0 - open));
    }
}
