//! One text a prompt: the likeliest next token, or one that is drawn.

use dylora_nn::tensor::{Draws, Purpose, Stream};

use super::{GenerateSettings, Hypothesis, Next, Running};
use crate::error::{Error, Result};

/// What tokens are drawn from. The steps follow one another: temperature, then the k likeliest, then the share p.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it: above 0; 1 changes nothing.
    pub temperature: f64,
    /// Only so many of the likeliest tokens; 0 for all.
    pub top_k: usize,
    /// Only the likeliest tokens that together have this share of the probability, and always one; 1 for all.
    pub top_p: f64,
    /// Equal seeds draw equal texts, whatever else is generated at the same time.
    pub seed: u64,
}

impl Sampling {
    pub(super) fn validate(&self) -> Result<()> {
        let wrong = |name: &str, message: String| Err(Error::argument(name, message));
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return wrong("--temperature", format!("{} is not a number above 0", self.temperature));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return wrong("--top-p", format!("{} is not above 0 and at most 1", self.top_p));
        }
        Ok(())
    }

    /// A prompt's own random numbers.
    pub(super) fn draws(&self, prompt: usize) -> Draws {
        Stream::new(self.seed, Purpose::Sample).draws(prompt as u32)
    }

    /// How many of the likeliest tokens matter.
    pub(super) fn considered(&self, vocabulary: usize) -> usize {
        match self.top_k {
            0 => vocabulary,
            k => k.min(vocabulary),
        }
    }

    /// The probabilities of the tokens with these log-probabilities, which fall from first to last and are all that
    /// matter; those that are left out have 0.
    pub fn probabilities(&self, falling: &[f32]) -> Vec<f64> {
        let Some(top) = falling.first().map(|top| f64::from(*top)) else {
            return Vec::new();
        };
        let mut shares: Vec<f64> = falling
            .iter()
            .map(|score| ((f64::from(*score) - top) / self.temperature).exp())
            .collect();
        if self.top_k > 0 {
            shares.iter_mut().skip(self.top_k).for_each(|share| *share = 0.0);
        }
        let scale = |shares: &mut [f64]| {
            let sum: f64 = shares.iter().sum();
            shares.iter_mut().for_each(|share| *share /= sum);
        };
        scale(&mut shares);
        if self.top_p < 1.0 {
            let mut before = 0.0;
            for (place, share) in shares.iter_mut().enumerate() {
                let own = *share;
                if place > 0 && before >= self.top_p {
                    *share = 0.0;
                }
                before += own;
            }
            scale(&mut shares);
        }
        shares
    }
}

/// One prompt's text.
pub(super) struct Single {
    prompt: usize,
    max_new_tokens: usize,
    eos: i32,
    running: Vec<Running>,
    sampling: Option<(Sampling, Draws)>,
}

impl Single {
    pub(super) fn new(prompt: &[i32], settings: &GenerateSettings, sampling: Option<(Sampling, Draws)>) -> Self {
        Single {
            prompt: prompt.len(),
            max_new_tokens: settings.max_new_tokens,
            eos: settings.eos,
            running: vec![Running::new(prompt)],
            sampling,
        }
    }

    pub(super) fn running(&self) -> &[Running] {
        &self.running
    }

    pub(super) fn running_mut(&mut self) -> &mut [Running] {
        &mut self.running
    }

    pub(super) fn advance(&mut self, next: &[Next<'_>]) {
        for (running, next) in self.running.iter_mut().zip(next) {
            let (place, gain) = match &mut self.sampling {
                None => (0, next.scores.first().copied().unwrap_or(f32::NEG_INFINITY)),
                Some((sampling, draws)) => {
                    let probabilities = sampling.probabilities(next.scores);
                    let place = chosen(&probabilities, draws.next().word(0));
                    (
                        place,
                        probabilities.get(place).map_or(f32::NEG_INFINITY, |p| p.ln() as f32),
                    )
                }
            };
            let token = next.tokens.get(place).copied().unwrap_or(self.eos);
            running.tokens.push(token);
            running.score += gain;
        }
    }

    pub(super) fn finished(&mut self) -> Option<Vec<Hypothesis>> {
        let over = self.running.iter().all(|running| {
            running.tokens.len() - self.prompt >= self.max_new_tokens
                || (running.tokens.len() > self.prompt && running.tokens.last() == Some(&self.eos))
        });
        let prompt = self.prompt;
        over.then(|| {
            let texts = self.running.drain(..);
            let texts = texts.map(|running| Hypothesis {
                tokens: running.tokens[prompt..].to_vec(),
                score: running.score,
            });
            texts.collect()
        })
    }
}

/// The place where a random word falls in probabilities that add up to 1.
fn chosen(probabilities: &[f64], word: u32) -> usize {
    let target = (f64::from(word) + 0.5) / 2f64.powi(32);
    let mut sum = 0.0;
    let found = probabilities.iter().position(|p| {
        sum += p;
        *p > 0.0 && sum > target
    });
    // Rounding can leave the sum below a target next to 1.
    found.unwrap_or_else(|| probabilities.iter().rposition(|p| *p > 0.0).unwrap_or(0))
}
