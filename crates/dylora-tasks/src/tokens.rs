//! Text to token ids, exactly as transformers' fast tokenizers do it: special tokens, token types, truncation.
//!
//! The `tokenizers` crate does the work; this module builds its tokenizer from a model directory, puts the special tokens
//! around one or two texts and cuts the longer text first when they do not fit.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Deserialize;
use tokenizers::models::bpe::BPE;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::utils::truncation::truncate_encodings;
use tokenizers::{
    AddedToken, DecoderWrapper, Encoding, PostProcessor, PostProcessorWrapper, Tokenizer, TruncationParams,
};

use crate::error::{Error, Result};
use crate::task::Example;

/// The token ids of one example.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids, special tokens included, `[tokens]`.
    pub ids: Vec<u32>,
    /// 0 for the first text and its special tokens, 1 for the second (always 0 with RoBERTa), `[tokens]`.
    pub token_types: Vec<u32>,
}

/// A tokenizer read from a model directory.
#[derive(Clone, Debug)]
pub struct TokenizerSource {
    /// Without post-processor, truncation and padding: those are done here.
    tokenizer: Tokenizer,
    processor: Option<PostProcessorWrapper>,
    largest_id: u32,
}

/// The parts of `tokenizer_config.json` that change ids.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TokenizerConfig {
    do_lower_case: Option<bool>,
    tokenize_chinese_chars: Option<bool>,
    strip_accents: Option<bool>,
    add_prefix_space: Option<bool>,
}

impl TokenizerSource {
    /// Reads `tokenizer.json`; without it `vocab.json` and `merges.txt` (byte-level BPE: RoBERTa when the vocabulary has `<s>`
    /// and `</s>`, else GPT-2); without them `vocab.txt` (BERT's WordPiece). `tokenizer_config.json` is heeded in the last
    /// two cases, with transformers' defaults where it says nothing: BERT in lower case, no prefix space.
    ///
    /// Truncation and padding settings inside `tokenizer.json` are ignored. The spelling of a special token inside a text
    /// becomes that token, as with transformers, except where the tokenizer puts no special tokens around a text (GPT-2):
    /// there `<|endoftext|>` in a text is text.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when no such files are there, or one cannot be read or lacks a special token.
    pub fn from_model_dir(dir: &Path) -> Result<Self> {
        let file = |name: &str| Some(dir.join(name)).filter(|path| path.is_file());
        if let Some(path) = file("tokenizer.json") {
            return Ok(Self::new(
                Tokenizer::from_file(&path).map_err(|error| failure(&path, error))?,
            ));
        }
        let config = match file("tokenizer_config.json") {
            Some(path) => read_config(&path)?,
            None => TokenizerConfig::default(),
        };
        if let (Some(vocab), Some(merges)) = (file("vocab.json"), file("merges.txt")) {
            return byte_level(&vocab, &merges, &config).map(Self::new);
        }
        match file("vocab.txt") {
            Some(vocab) => word_piece(&vocab, &config).map(Self::new),
            None => Err(failure(
                dir,
                "neither tokenizer.json nor vocab.json with merges.txt nor vocab.txt is there",
            )),
        }
    }

    /// A tokenizer as the `tokenizers` crate has it.
    pub(crate) fn new(mut tokenizer: Tokenizer) -> Self {
        tokenizer.with_padding(None);
        // Cannot fail: only a truncation that is set can be wrong.
        let _ = tokenizer.with_truncation(None);
        let processor = tokenizer.get_post_processor().cloned();
        tokenizer.with_post_processor(None::<PostProcessorWrapper>);
        let adds_tokens = processor
            .as_ref()
            .is_some_and(|processor| processor.added_tokens(false) > 0);
        tokenizer.set_encode_special_tokens(!adds_tokens);
        let largest_id = tokenizer.get_vocab(true).into_values().max().unwrap_or(0);
        TokenizerSource {
            tokenizer,
            processor,
            largest_id,
        }
    }

    /// Number of tokens, special and added ones included.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// The id of a token by its exact spelling: `<s>`, `[SEP]`, `Ġthe`.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// The text of ids; special tokens are left out.
    ///
    /// # Errors
    /// [`Error::Encode`] if the tokenizer cannot put them together.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer.decode(ids, true).map_err(|error| Error::Encode {
            row: 0,
            message: error.to_string(),
        })
    }

    /// Special tokens around one text, or around and between two.
    pub fn num_special_tokens(&self, pair: bool) -> usize {
        self.processor
            .as_ref()
            .map_or(0, |processor| processor.added_tokens(pair))
    }

    /// Whether a model with so many embeddings can take every id. A model may have more embeddings than there are tokens
    /// (some are padded to a round number).
    ///
    /// # Errors
    /// [`Error::Vocabulary`] with both numbers.
    pub fn check_fits(&self, model_vocab_size: usize) -> Result<()> {
        if (self.largest_id as usize) < model_vocab_size {
            return Ok(());
        }
        Err(Error::Vocabulary {
            tokenizer: self.vocab_size(),
            largest: self.largest_id,
            model: model_vocab_size,
        })
    }

    /// One example's ids and token types, at most `max_length` of them: RoBERTa `<s> A </s>`, `<s> A </s></s> B </s>`; BERT
    /// `[CLS] A [SEP]`, `[CLS] A [SEP] B [SEP]` with types 0 and 1.
    ///
    /// What does not fit is cut at the right. Of two texts the longer one is cut down to what the shorter one leaves; when
    /// both are longer than half of the room (special tokens taken off), each gets half, the odd token going to the longer
    /// text, or to the second of equals: `longest_first` of the fast tokenizers.
    ///
    /// # Errors
    /// [`Error::MaxLength`] when not even the special tokens fit.
    pub fn encode(&self, text_a: &str, text_b: Option<&str>, max_length: usize) -> Result<Encoded> {
        self.encode_row(0, text_a, text_b, max_length)
    }

    /// [`TokenizerSource::encode`] of many rows on all cores, in the order of the rows.
    ///
    /// # Errors
    /// As `encode`, for the first row that fails.
    pub fn encode_batch(&self, rows: &[(&str, Option<&str>)], max_length: usize) -> Result<Vec<Encoded>> {
        rows.par_iter()
            .enumerate()
            .map(|(row, &(text_a, text_b))| self.encode_row(row, text_a, text_b, max_length))
            .collect()
    }

    /// [`TokenizerSource::encode_batch`] of examples.
    ///
    /// # Errors
    /// As `encode_batch`.
    pub fn encode_examples(&self, examples: &[Example], max_length: usize) -> Result<Vec<Encoded>> {
        let rows: Vec<_> = examples
            .iter()
            .map(|row| (row.text_a.as_str(), row.text_b.as_deref()))
            .collect();
        self.encode_batch(&rows, max_length)
    }

    fn encode_row(&self, row: usize, text_a: &str, text_b: Option<&str>, max_length: usize) -> Result<Encoded> {
        let special = self.num_special_tokens(text_b.is_some());
        let room = max_length
            .checked_sub(special)
            .ok_or(Error::MaxLength { max_length, special })?;
        let failed = |error: tokenizers::Error| Error::Encode {
            row,
            message: error.to_string(),
        };
        let encode = |text: &str| self.tokenizer.encode_fast(text, false).map_err(failed);

        let first = encode(text_a)?;
        let second = text_b.map(encode).transpose()?.map(|mut encoding| {
            encoding.set_type_ids(vec![1; encoding.len()]);
            encoding
        });
        let params = TruncationParams {
            max_length: room,
            ..TruncationParams::default()
        };
        let (first, second) = truncate_encodings(first, second, &params).map_err(failed)?;
        let encoding = match &self.processor {
            Some(processor) => processor.process(first, second, true).map_err(failed)?,
            None => Encoding::merge(std::iter::once(first).chain(second), false),
        };
        Ok(Encoded {
            ids: encoding.get_ids().to_vec(),
            token_types: encoding.get_type_ids().to_vec(),
        })
    }
}

fn failure(path: &Path, error: impl ToString) -> Error {
    Error::Tokenizer {
        path: path.to_path_buf(),
        message: error.to_string(),
    }
}

fn read_config(path: &PathBuf) -> Result<TokenizerConfig> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    serde_json::from_str(&text).map_err(|error| failure(path, error))
}

/// The id of a token that the format cannot do without.
fn required(tokenizer: &Tokenizer, path: &Path, token: &str) -> Result<(String, u32)> {
    match tokenizer.token_to_id(token) {
        Some(id) => Ok((token.to_owned(), id)),
        None => Err(failure(path, format!("the vocabulary has no {token}"))),
    }
}

/// Registers the tokens that the vocabulary has, so that their spelling in a text is read as the token.
fn add_special(tokenizer: &mut Tokenizer, tokens: impl IntoIterator<Item = AddedToken>) {
    let known: Vec<AddedToken> = tokens
        .into_iter()
        .filter(|token| tokenizer.token_to_id(&token.content).is_some())
        .collect();
    tokenizer.add_special_tokens(&known);
}

/// RoBERTa's and GPT-2's tokenizer.
fn byte_level(vocab: &Path, merges: &Path, config: &TokenizerConfig) -> Result<Tokenizer> {
    let text = |path: &Path| {
        path.to_str()
            .map(str::to_owned)
            .ok_or_else(|| failure(path, "the path is not UTF-8"))
    };
    let model = BPE::from_file(&text(vocab)?, &text(merges)?)
        .build()
        .map_err(|error| failure(vocab, error))?;
    let prefix_space = config.add_prefix_space.unwrap_or(false);
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(prefix_space, true, true)));
    tokenizer.with_decoder(Some(DecoderWrapper::ByteLevel(ByteLevel::default())));
    let is_roberta = ["<s>", "</s>"]
        .iter()
        .all(|token| tokenizer.token_to_id(token).is_some());
    if is_roberta {
        let (cls, sep) = (
            required(&tokenizer, vocab, "<s>")?,
            required(&tokenizer, vocab, "</s>")?,
        );
        let processor = RobertaProcessing::new(sep, cls)
            .trim_offsets(true)
            .add_prefix_space(prefix_space);
        tokenizer.with_post_processor(Some(processor));
        let plain = ["<s>", "<pad>", "</s>", "<unk>"].map(|token| AddedToken::from(token, true));
        // As in transformers, the mask takes the blank before it along.
        add_special(
            &mut tokenizer,
            plain.into_iter().chain([AddedToken::from("<mask>", true).lstrip(true)]),
        );
    }
    Ok(tokenizer)
}

/// BERT's tokenizer.
fn word_piece(vocab: &Path, config: &TokenizerConfig) -> Result<Tokenizer> {
    let path = vocab.to_str().ok_or_else(|| failure(vocab, "the path is not UTF-8"))?;
    let model = WordPiece::from_file(path)
        .unk_token("[UNK]".to_owned())
        .continuing_subword_prefix("##".to_owned())
        .max_input_chars_per_word(100)
        .build()
        .map_err(|error| failure(vocab, error))?;
    let mut tokenizer = Tokenizer::new(model);
    required(&tokenizer, vocab, "[UNK]")?;
    let (cls, sep) = (
        required(&tokenizer, vocab, "[CLS]")?,
        required(&tokenizer, vocab, "[SEP]")?,
    );
    tokenizer.with_normalizer(Some(BertNormalizer::new(
        true,
        config.tokenize_chinese_chars.unwrap_or(true),
        config.strip_accents,
        config.do_lower_case.unwrap_or(true),
    )));
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    tokenizer.with_post_processor(Some(BertProcessing::new(sep, cls)));
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(|token| AddedToken::from(token, true));
    add_special(&mut tokenizer, special);
    Ok(tokenizer)
}
