//! Text from a language model: greedily, by sampling, or by beam search, for many prompts at once.
//!
//! All running texts of all active prompts go through the model in one pass per token; a prompt that is done makes room for
//! the next one, whose tokens are read in the same pass in which the others get their next. Results follow transformers
//! 5.24's `generate` for one prompt at a time.

mod beam;
mod bench;
mod sample;

use dylora_nn::{Decoder, Feed, Gpt2LanguageModel};

use crate::error::{Error, Result};

pub use beam::EarlyStopping;
pub use bench::{GenerateBench, GenerateReport};
pub use sample::Sampling;

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Strategy {
    /// Always the likeliest.
    Greedy,
    /// Drawn.
    Sample(Sampling),
    /// The likeliest whole texts among some that are continued side by side.
    Beam {
        /// Texts that are continued, and the most that are returned.
        beams: usize,
        /// A text's score is its log-probability over its length to this power: above 0 favours long texts.
        length_penalty: f64,
        /// When a prompt is done.
        early_stopping: EarlyStopping,
    },
}

/// What is generated, and until when.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GenerateSettings {
    /// How the next token is chosen.
    pub strategy: Strategy,
    /// The most tokens after the prompt, the end token included.
    pub max_new_tokens: usize,
    /// The token that ends a text.
    pub eos: i32,
    /// No sequence of so many tokens stands twice in a text, the prompt included; 0 allows all.
    pub no_repeat_ngram: usize,
    /// Prompts that are worked on at a time.
    pub batch: usize,
}

impl GenerateSettings {
    /// The paper's generation: 10 beams, length penalty 0.8, no repeated 4-gram.
    pub fn paper(eos: i32, max_new_tokens: usize) -> Self {
        GenerateSettings {
            strategy: Strategy::Beam {
                beams: 10,
                length_penalty: 0.8,
                early_stopping: EarlyStopping::Heuristic,
            },
            max_new_tokens,
            eos,
            no_repeat_ngram: 4,
            batch: 16,
        }
    }

    fn validate(&self, model: &Gpt2LanguageModel) -> Result<()> {
        let wrong = |name: &str, message: String| Err(Error::argument(name, message));
        if self.max_new_tokens == 0 {
            return wrong("--max-new-tokens", "must be at least 1".to_owned());
        }
        if self.batch == 0 {
            return wrong("--batch-size", "must be at least 1".to_owned());
        }
        let vocabulary = model.config().vocab_size;
        if !usize::try_from(self.eos).is_ok_and(|eos| eos < vocabulary) {
            return wrong("eos", format!("{} is not in a vocabulary of {vocabulary}", self.eos));
        }
        match self.strategy {
            Strategy::Greedy => Ok(()),
            Strategy::Sample(sampling) => sampling.validate(),
            Strategy::Beam { beams: 0, .. } => wrong("--beams", "must be at least 1".to_owned()),
            Strategy::Beam { length_penalty, .. } if !length_penalty.is_finite() => {
                wrong("--length-penalty", format!("{length_penalty} is not a number"))
            }
            Strategy::Beam { .. } => Ok(()),
        }
    }
}

/// A text that was generated.
#[derive(Clone, Debug, PartialEq)]
pub struct Hypothesis {
    /// The tokens after the prompt; the end token is the last one where the text ended by itself.
    pub tokens: Vec<i32>,
    /// Beam search: the log-probability over length^penalty. Otherwise the log-probability, of what was drawn from where
    /// tokens were drawn.
    pub score: f32,
}

/// A text that is being continued.
#[derive(Clone, Debug)]
struct Running {
    /// Prompt and continuation.
    tokens: Vec<i32>,
    /// The cache's rows of the tokens that were read.
    rows: Vec<i32>,
    score: f32,
}

impl Running {
    fn new(prompt: &[i32]) -> Self {
        Running {
            tokens: prompt.to_vec(),
            rows: Vec::new(),
            score: 0.0,
        }
    }

    /// The text with one more token.
    fn with(&self, token: i32, score: f32) -> Self {
        // Most texts are continued many times; room for the next token spares each of them a second copy.
        let mut tokens = Vec::with_capacity(self.tokens.len() + 2);
        tokens.extend_from_slice(&self.tokens);
        tokens.push(token);
        let mut rows = Vec::with_capacity(self.rows.len() + 2);
        rows.extend_from_slice(&self.rows);
        Running { tokens, rows, score }
    }
}

/// The likeliest continuations of one running text, likeliest first; banned ones have a score of -inf.
#[derive(Clone, Copy)]
struct Next<'a> {
    tokens: &'a [i32],
    scores: &'a [f32],
}

/// One prompt's search.
enum Search {
    Single(sample::Single),
    Beam(beam::Beam),
}

impl Search {
    fn new(prompt: &[i32], index: usize, settings: &GenerateSettings) -> Self {
        match settings.strategy {
            Strategy::Greedy => Search::Single(sample::Single::new(prompt, settings, None)),
            Strategy::Sample(sampling) => {
                let draws = sampling.draws(index);
                Search::Single(sample::Single::new(prompt, settings, Some((sampling, draws))))
            }
            Strategy::Beam {
                beams,
                length_penalty,
                early_stopping,
            } => Search::Beam(beam::Beam::new(prompt, settings, beams, length_penalty, early_stopping)),
        }
    }

    fn running(&self) -> &[Running] {
        match self {
            Search::Single(single) => single.running(),
            Search::Beam(beam) => beam.running(),
        }
    }

    fn running_mut(&mut self) -> &mut [Running] {
        match self {
            Search::Single(single) => single.running_mut(),
            Search::Beam(beam) => beam.running_mut(),
        }
    }

    fn advance(&mut self, next: &[Next<'_>]) {
        match self {
            Search::Single(single) => single.advance(next),
            Search::Beam(beam) => beam.advance(next),
        }
    }

    /// The results, best first, if the search is over.
    fn finished(&mut self) -> Option<Vec<Hypothesis>> {
        match self {
            Search::Single(single) => single.finished(),
            Search::Beam(beam) => beam.finished(),
        }
    }
}

/// The tokens that would repeat a sequence of `n`: those that followed where the last n - 1 tokens stood before.
fn repeating(tokens: &[i32], n: usize) -> Vec<i32> {
    if n == 0 || tokens.len() < n {
        return Vec::new();
    }
    let last = &tokens[tokens.len() + 1 - n..];
    let windows = tokens.windows(n).filter(|window| &window[..n - 1] == last);
    windows.map(|window| window[n - 1]).collect()
}

/// Rows of the cache that are always worth keeping rather than tidying up.
const SMALL_CACHE: usize = 1024;

/// Continues every prompt with the model at a rank; hypotheses are best first, one for greedy and sampled texts, up to
/// `beams` otherwise. `done` hears how many prompts are finished.
///
/// ```
/// use dylora_nn::tensor::{DType, Device};
/// use dylora_nn::{Gpt2Config, Gpt2LanguageModel};
/// use dylora_tasks::generate::{GenerateSettings, generate};
///
/// # fn main() -> dylora_tasks::Result<()> {
/// let config = Gpt2Config {
///     vocab_size: 40,
///     hidden_size: 8,
///     num_layers: 1,
///     num_heads: 2,
///     intermediate_size: 16,
///     eos_token_id: 39,
///     ..Gpt2Config::small()
/// };
/// let model = Gpt2LanguageModel::new(&Device::cpu(), DType::F32, &config, None, None, 1)?;
/// let settings = GenerateSettings::paper(39, 12);
/// let texts = generate(&model, 0, &[vec![1, 2, 3], vec![4]], &settings, &mut |_| ())?;
/// assert_eq!(texts.len(), 2);
/// assert!(texts[0][0].score >= texts[0][1].score);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// If a setting is out of its domain, the rank is not one of the model's, or a prompt is empty, has an unknown token or
/// leaves no room for the new tokens; the prompt is named.
pub fn generate(
    model: &Gpt2LanguageModel,
    rank: usize,
    prompts: &[Vec<i32>],
    settings: &GenerateSettings,
    done: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<Hypothesis>>> {
    settings.validate(model)?;
    let positions = model.config().max_positions;
    for (index, prompt) in prompts.iter().enumerate() {
        let problem = if prompt.is_empty() {
            "is empty".to_owned()
        } else if prompt.len().saturating_add(settings.max_new_tokens) > positions {
            format!(
                "has {} tokens, which leaves no room for {} new ones in the {positions} positions of the model",
                prompt.len(),
                settings.max_new_tokens
            )
        } else {
            continue;
        };
        return Err(Error::argument("prompts", format!("prompt {} {problem}", index + 1)));
    }
    let mut decoder = Decoder::new(model, rank)?;
    let mut results: Vec<Vec<Hypothesis>> = vec![Vec::new(); prompts.len()];
    let (mut waiting, mut finished) = (prompts.iter().enumerate(), 0);
    let mut active: Vec<(usize, Search)> = Vec::new();
    let mut limit = SMALL_CACHE;
    loop {
        let room = settings.batch - active.len();
        let entering = waiting.by_ref().take(room);
        active.extend(entering.map(|(index, prompt)| (index, Search::new(prompt, index, settings))));
        if active.is_empty() {
            return Ok(results);
        }
        if decoder.used() > limit {
            let texts = active.iter_mut().flat_map(|(_, search)| search.running_mut());
            decoder.keep(&mut texts.map(|running| &mut running.rows).collect::<Vec<_>>())?;
            limit = SMALL_CACHE.max(2 * decoder.used());
        }
        step(&mut decoder, &mut active, settings)?;
        active.retain_mut(|(index, search)| match search.finished() {
            Some(hypotheses) => {
                results[*index] = hypotheses;
                finished += 1;
                done(finished);
                false
            }
            None => true,
        });
    }
}

/// One token for every running text.
fn step(decoder: &mut Decoder<'_>, active: &mut [(usize, Search)], settings: &GenerateSettings) -> Result<()> {
    let feeds: Vec<Feed<'_>> = active
        .iter()
        .flat_map(|(_, search)| search.running())
        .map(|running| Feed {
            ids: &running.tokens[running.rows.len()..],
            past: &running.rows,
        })
        .collect();
    let fed = decoder.feed(&feeds)?;
    let banned: Vec<Vec<i32>> = active
        .iter()
        .flat_map(|(_, search)| search.running())
        .map(|running| repeating(&running.tokens, settings.no_repeat_ngram))
        .collect();
    let vocabulary = decoder.model().config().vocab_size;
    let k = match settings.strategy {
        Strategy::Greedy => 1,
        // Twice as many as beams, so that enough go on even if all beams could end.
        Strategy::Beam { beams, .. } => beams.saturating_mul(2).min(vocabulary),
        Strategy::Sample(sampling) => sampling.considered(vocabulary),
    };
    let top = fed.top(&banned, k)?;
    let mut next = top
        .classes
        .chunks_exact(top.k)
        .zip(top.scores.chunks_exact(top.k))
        .map(|(tokens, scores)| Next { tokens, scores });
    let mut text = 0;
    for (_, search) in active {
        for running in search.running_mut() {
            running.rows.extend(fed.rows(text));
            text += 1;
        }
        let count = search.running().len();
        let own: Vec<Next<'_>> = next.by_ref().take(count).collect();
        search.advance(&own);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_repeat_a_sequence_is_found() {
        let tokens = [1, 2, 3, 1, 2, 4, 1, 2];
        assert_eq!(repeating(&tokens, 3), [3, 4]);
        assert_eq!(repeating(&tokens, 2), [3, 4]);
        assert!(repeating(&tokens, 4).is_empty());
        assert_eq!(repeating(&tokens, 1), tokens);
        assert!(repeating(&tokens, 0).is_empty());
        assert!(repeating(&tokens[..2], 3).is_empty());
        assert_eq!(repeating(&[5, 5, 5], 3), [5]);
    }
}
