//! Beam search for one prompt, step for step as transformers 5.24's `generate` does it.
//!
//! Scores are sums of log-probabilities in f32. Of all continuations of all beams the best 2 x beams are looked at: those
//! among the first `beams` that end are finished texts, and the best `beams` that do not end go on. A finished text's score
//! is divided by its number of new tokens (the end token counts) to the power of the length penalty; the best `beams`
//! finished texts are kept.

use super::{GenerateSettings, Hypothesis, Next, Running};

/// When a prompt with as many finished texts as beams is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlyStopping {
    /// As soon as there are that many (transformers' `True`).
    AtOnce,
    /// When the best running text, scored at its present length, is no better than the worst finished one (`False`).
    Heuristic,
    /// When the best running text, scored at the most favourable length, is no better (`"never"`).
    Never,
}

/// One prompt's beams.
pub(super) struct Beam {
    prompt: usize,
    beams: usize,
    length_penalty: f64,
    early_stopping: EarlyStopping,
    max_new_tokens: usize,
    eos: i32,
    running: Vec<Running>,
    /// Best first.
    finished: Vec<Hypothesis>,
    done: bool,
}

impl Beam {
    pub(super) fn new(
        prompt: &[i32],
        settings: &GenerateSettings,
        beams: usize,
        length_penalty: f64,
        early_stopping: EarlyStopping,
    ) -> Self {
        Beam {
            prompt: prompt.len(),
            beams,
            length_penalty,
            early_stopping,
            max_new_tokens: settings.max_new_tokens,
            eos: settings.eos,
            // One text that all beams grow from; a copy for each beam would give every continuation several times.
            running: vec![Running::new(prompt)],
            finished: Vec::new(),
            done: false,
        }
    }

    pub(super) fn running(&self) -> &[Running] {
        &self.running
    }

    pub(super) fn running_mut(&mut self) -> &mut [Running] {
        &mut self.running
    }

    /// A sum of log-probabilities over a length to the power of the penalty.
    fn normalised(&self, score: f32, length: usize) -> f32 {
        score / (length as f64).powf(self.length_penalty) as f32
    }

    pub(super) fn advance(&mut self, next: &[Next<'_>]) {
        let mut candidates: Vec<(f32, usize, i32)> = Vec::new();
        for (beam, (running, next)) in self.running.iter().zip(next).enumerate() {
            let pairs = next.tokens.iter().zip(next.scores);
            candidates.extend(pairs.map(|(token, score)| (running.score + score, beam, *token)));
        }
        // Stable: equal scores stay in the order of beams and tokens.
        candidates.sort_by(|a, b| b.0.total_cmp(&a.0));
        candidates.truncate(2 * self.beams);

        let length = self.running.first().map_or(0, |r| r.tokens.len() + 1 - self.prompt);
        let last = length >= self.max_new_tokens;
        let ends = |token: i32| last || token == self.eos;
        let full = self.finished.len() == self.beams && self.early_stopping == EarlyStopping::AtOnce;
        let mut finished = std::mem::take(&mut self.finished);
        if !full {
            for (score, beam, token) in candidates.iter().take(self.beams).filter(|c| ends(c.2)) {
                let mut tokens = self.running[*beam].tokens[self.prompt..].to_vec();
                tokens.push(*token);
                finished.push(Hypothesis {
                    tokens,
                    score: self.normalised(*score, length),
                });
            }
            finished.sort_by(|a, b| b.score.total_cmp(&a.score));
            finished.truncate(self.beams);
        }
        self.finished = finished;

        let open = candidates.iter().filter(|c| !ends(c.2)).take(self.beams);
        self.running = open
            .map(|(score, beam, token)| self.running[*beam].with(*token, *score))
            .collect();
        self.done = self.is_done(length);
    }

    /// Whether no running text can be among the results, after texts of `length` new tokens.
    fn is_done(&self, length: usize) -> bool {
        let Some(best) = self.running.first() else {
            return true;
        };
        let Some(worst) = self.finished.get(self.beams - 1) else {
            return false;
        };
        let length = match self.early_stopping {
            EarlyStopping::AtOnce => return true,
            EarlyStopping::Never if self.length_penalty > 0.0 => self.max_new_tokens,
            EarlyStopping::Never | EarlyStopping::Heuristic => length,
        };
        self.normalised(best.score, length) <= worst.score
    }

    pub(super) fn finished(&mut self) -> Option<Vec<Hypothesis>> {
        self.done.then(|| std::mem::take(&mut self.finished))
    }
}
