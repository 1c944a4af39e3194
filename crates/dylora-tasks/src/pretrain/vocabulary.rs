//! A byte-level BPE vocabulary, learned from the text: RoBERTa's tokenizer.

use dylora_nn::EncoderConfig;
use serde_json::json;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::{AddedToken, DecoderWrapper, Tokenizer};

use crate::error::{Error, Result};

/// The special tokens; their ids are their places.
pub const SPECIAL: [&str; 5] = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"];
/// The id of `<mask>`.
pub const MASK: i32 = 4;
/// The smallest vocabulary: the special tokens and one token for every byte.
pub(super) const SMALLEST: usize = SPECIAL.len() + 256;
/// A merge that occurs once in the whole text is chance.
const MIN_FREQUENCY: u64 = 2;

/// Learns at most `vocab_size` tokens from `texts`; equal texts give equal tokenizers.
///
/// # Errors
/// The trainer's own words.
pub(super) fn learn<'a>(texts: impl Iterator<Item = &'a str> + Send, vocab_size: usize) -> Result<Tokenizer> {
    let failed = |error: tokenizers::Error| Error::argument("--text", format!("no vocabulary can be learned: {error}"));
    // As in transformers, the mask takes the blank before it along.
    let special = SPECIAL.map(|token| AddedToken::from(token, true).lstrip(token == "<mask>"));
    let bytes = || ByteLevel::new(false, true, true);
    let trainer = BpeTrainer::builder()
        .vocab_size(vocab_size)
        .min_frequency(MIN_FREQUENCY)
        .special_tokens(special.to_vec())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build();
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(bytes()));
    tokenizer.with_decoder(Some(DecoderWrapper::ByteLevel(ByteLevel::default())));
    tokenizer
        .train(&mut TrainerWrapper::BpeTrainer(trainer), texts)
        .map_err(failed)?;
    let processor = RobertaProcessing::new(("</s>".to_owned(), 2), ("<s>".to_owned(), 0))
        .trim_offsets(true)
        .add_prefix_space(false);
    tokenizer.with_post_processor(Some(processor));
    Ok(tokenizer)
}

/// The text of a `tokenizer_config.json`.
pub(super) fn tokenizer_config(config: &EncoderConfig) -> serde_json::Value {
    json!({
        "tokenizer_class": "RobertaTokenizer",
        "model_max_length": config.max_positions,
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
            let tokenizer = pool.install(|| learn(TEXTS.into_iter(), 300))?;
            files.push(tokenizer.to_string(true).map_err(|error| error.to_string())?);
        }
        assert!(files.iter().all(|file| *file == files[0]));
        Ok(())
    }

    #[test]
    fn special_tokens_come_first_and_every_byte_has_a_token() -> Result<()> {
        let tokenizer = learn(TEXTS.into_iter(), 270)?;
        for (id, token) in SPECIAL.iter().enumerate() {
            assert_eq!(tokenizer.token_to_id(token), Some(id as u32), "{token}");
        }
        assert_eq!(SPECIAL[MASK as usize], "<mask>");
        assert_eq!(tokenizer.get_vocab_size(true), 270);
        let ids = tokenizer.encode("日 zebra", true).map(|e| e.get_ids().to_vec());
        let ids = ids.unwrap_or_default();
        assert!(!ids.contains(&3), "no byte is unknown: {ids:?}");
        assert_eq!((ids.first(), ids.last()), (Some(&0), Some(&2)));
        assert_eq!(learn(TEXTS.into_iter(), SMALLEST)?.get_vocab_size(true), SMALLEST);
        Ok(())
    }
}
