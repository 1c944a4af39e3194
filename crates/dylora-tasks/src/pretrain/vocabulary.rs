//! A byte-level BPE vocabulary, learned from the text: RoBERTa's tokenizer, or GPT-2's.

use serde_json::json;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::{AddedToken, DecoderWrapper, Tokenizer};

use super::Architecture;
use crate::error::{Error, Result};

/// The special tokens; their ids are their places.
pub const SPECIAL: [&str; 5] = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"];
/// The id of `<mask>`.
pub const MASK: i32 = 4;
/// The special token of a causal model: it ends a text.
pub const END: &str = "<|endoftext|>";

/// The smallest vocabulary: the special tokens and one token for every byte.
pub(super) fn smallest(kind: Architecture) -> usize {
    special(kind).len() + 256
}

fn special(kind: Architecture) -> Vec<AddedToken> {
    match kind {
        // As in transformers, the mask takes the blank before it along.
        Architecture::Roberta => SPECIAL
            .map(|token| AddedToken::from(token, true).lstrip(token == "<mask>"))
            .to_vec(),
        Architecture::Gpt2 => vec![AddedToken::from(END, true)],
    }
}
/// A merge that occurs once in the whole text is chance.
const MIN_FREQUENCY: u64 = 2;

/// Learns at most `vocab_size` tokens from `texts`; equal texts give equal tokenizers.
///
/// # Errors
/// The trainer's own words.
pub(super) fn learn<'a>(
    kind: Architecture,
    texts: impl Iterator<Item = &'a str> + Send,
    vocab_size: usize,
) -> Result<Tokenizer> {
    let failed = |error: tokenizers::Error| Error::argument("--text", format!("no vocabulary can be learned: {error}"));
    let bytes = || ByteLevel::new(false, true, true);
    let trainer = BpeTrainer::builder()
        .vocab_size(vocab_size)
        .min_frequency(MIN_FREQUENCY)
        .special_tokens(special(kind))
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build();
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(bytes()));
    tokenizer.with_decoder(Some(DecoderWrapper::ByteLevel(ByteLevel::default())));
    tokenizer
        .train(&mut TrainerWrapper::BpeTrainer(trainer), texts)
        .map_err(failed)?;
    if kind == Architecture::Gpt2 {
        // Published GPT-2 tokenizers put nothing around a text either.
        return Ok(tokenizer);
    }
    let processor = RobertaProcessing::new(("</s>".to_owned(), 2), ("<s>".to_owned(), 0))
        .trim_offsets(true)
        .add_prefix_space(false);
    tokenizer.with_post_processor(Some(processor));
    Ok(tokenizer)
}

/// The text of a `tokenizer_config.json`.
pub(super) fn tokenizer_config(kind: Architecture, max_positions: usize) -> serde_json::Value {
    if kind == Architecture::Gpt2 {
        return json!({
            "tokenizer_class": "GPT2Tokenizer",
            "model_max_length": max_positions,
            "add_prefix_space": false,
            "bos_token": END,
            "eos_token": END,
            "unk_token": END,
        });
    }
    json!({
        "tokenizer_class": "RobertaTokenizer",
        "model_max_length": max_positions,
        "add_prefix_space": false,
        "trim_offsets": true,
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXTS: [&str; 4] = [
        "the cat sat on the mat",
        "the dog sat on the road",
        "a cat and a dog ran",
        "naïve cats",
    ];

    #[test]
    fn the_same_text_gives_the_same_tokenizer_on_any_number_of_threads()
    -> std::result::Result<(), Box<dyn std::error::Error>> {
        let mut files = Vec::new();
        for threads in [1, 2, 2, 2] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
            let tokenizer = pool.install(|| learn(Architecture::Roberta, TEXTS.into_iter(), 300))?;
            files.push(tokenizer.to_string(true).map_err(|error| error.to_string())?);
        }
        assert!(files.iter().all(|file| *file == files[0]));
        Ok(())
    }

    #[test]
    fn special_tokens_come_first_and_every_byte_has_a_token() -> Result<()> {
        let tokenizer = learn(Architecture::Roberta, TEXTS.into_iter(), 270)?;
        for (id, token) in SPECIAL.iter().enumerate() {
            assert_eq!(tokenizer.token_to_id(token), Some(id as u32), "{token}");
        }
        assert_eq!(SPECIAL[MASK as usize], "<mask>");
        assert_eq!(tokenizer.get_vocab_size(true), 270);
        let ids = tokenizer.encode("日 zebra", true).map(|e| e.get_ids().to_vec());
        let ids = ids.unwrap_or_default();
        assert!(!ids.contains(&3), "no byte is unknown: {ids:?}");
        assert_eq!((ids.first(), ids.last()), (Some(&0), Some(&2)));
        assert_eq!(
            learn(Architecture::Roberta, TEXTS.into_iter(), 261)?.get_vocab_size(true),
            261
        );
        Ok(())
    }
    #[test]
    fn a_causal_vocabulary_has_one_special_token_and_puts_nothing_around_a_text() -> Result<()> {
        assert_eq!(smallest(Architecture::Gpt2), 257);
        let tokenizer = learn(Architecture::Gpt2, TEXTS.into_iter(), 270)?;
        assert_eq!(tokenizer.get_vocab_size(true), 270);
        assert_eq!(tokenizer.token_to_id(END), Some(0));
        let ids = tokenizer
            .encode("the", true)
            .map(|e| e.get_ids().to_vec())
            .unwrap_or_default();
        assert!(!ids.is_empty() && !ids.contains(&0));
        Ok(())
    }
}
