//! METEOR's paraphrase table, of which only the pairs are kept whose phrases both occur in the corpus.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use rustc_hash::{FxHashMap, FxHashSet};

use super::{Corpus, Word};
use crate::error::{Error, Result};

/// Number of a phrase.
pub(super) type Phrase = u32;

/// Longest phrase that is looked for; those of the official table have at most 7 words.
const LONGEST: usize = 8;

/// Pairs of phrases in file order.
#[derive(Clone, Debug, Default)]
pub(super) struct Paraphrases {
    ids: FxHashMap<Vec<Word>, Phrase>,
    lengths: Vec<usize>,
    /// By phrase: what it can be put as.
    others: Vec<Vec<Phrase>>,
    longest: usize,
}

impl Paraphrases {
    /// Reads a gzipped table: three lines a pair, its probability (not used here) and the two phrases.
    pub(super) fn read(path: &Path, corpus: &Corpus) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("read", path))?;
        let mut lines = BufReader::with_capacity(1 << 18, MultiGzDecoder::new(BufReader::with_capacity(1 << 18, file)));
        let filter = Filter::new(corpus);
        let mut table = Self::default();
        let (mut line, mut number) = (Vec::new(), 0);
        let (mut first, mut second) = (Vec::new(), Vec::new());
        loop {
            // A phrase is read only as far as it is known to be in the corpus.
            let mut known = false;
            for part in 0..3 {
                line.clear();
                // What is not looked at is not copied: the probability, and the second phrase of a pair that is out already.
                let is_read = part == 1 || (part == 2 && known);
                let length = if is_read {
                    lines.read_until(b'\n', &mut line)
                } else {
                    lines.skip_until(b'\n')
                };
                // Not `map_err(Error::io(..))` alone: that would copy the path for each of sixteen million lines.
                let length = length.map_err(|error| Error::io("read", path)(error))?;
                number += 1;
                if length == 0 {
                    if part == 0 {
                        return Ok(table);
                    }
                    return Err(Error::Malformed {
                        path: path.to_owned(),
                        line: number,
                        message: "the table ends within a pair".to_owned(),
                    });
                }
                let text = line.strip_suffix(b"\n").unwrap_or(&line);
                match part {
                    0 => {}
                    1 => known = filter.words(text, &mut first),
                    _ => known = known && filter.words(text, &mut second),
                }
            }
            if known {
                table.insert(&first, &second);
            }
        }
    }

    fn insert(&mut self, first: &[Word], second: &[Word]) {
        let first = self.id(first);
        let second = self.id(second);
        self.others[first as usize].push(second);
    }

    fn id(&mut self, words: &[Word]) -> Phrase {
        if let Some(&id) = self.ids.get(words) {
            return id;
        }
        let id = self.lengths.len() as Phrase;
        self.ids.insert(words.to_vec(), id);
        self.lengths.push(words.len());
        self.others.push(Vec::new());
        self.longest = self.longest.max(words.len());
        id
    }

    /// Phrases that `words` begin with, shorter ones first.
    pub(super) fn at(&self, words: &[Word]) -> impl Iterator<Item = Phrase> {
        (1..=self.longest.min(words.len())).filter_map(|length| self.ids.get(&words[..length]).copied())
    }

    /// What a phrase can be put as, in file order.
    pub(super) fn of(&self, phrase: Phrase) -> &[Phrase] {
        &self.others[phrase as usize]
    }

    /// Words of a phrase.
    pub(super) fn length(&self, phrase: Phrase) -> usize {
        self.lengths[phrase as usize]
    }
}

/// The runs of words of a corpus.
struct Filter<'a> {
    ids: FxHashMap<&'a [u8], Word>,
    runs: FxHashSet<&'a [Word]>,
}

impl<'a> Filter<'a> {
    fn new(corpus: &'a Corpus) -> Self {
        let ids = corpus
            .words()
            .iter()
            .enumerate()
            .map(|(id, word)| (word.as_bytes(), id as Word));
        let mut runs = FxHashSet::default();
        for segment in corpus.segments() {
            for text in std::iter::once(&segment.hypothesis).chain(&segment.references) {
                (1..=LONGEST).for_each(|length| runs.extend(text.windows(length)));
            }
        }
        Self {
            ids: ids.collect(),
            runs,
        }
    }

    /// Puts the phrase's words into `words`; whether it occurs in the corpus.
    fn words(&self, phrase: &[u8], words: &mut Vec<Word>) -> bool {
        words.clear();
        for word in phrase.split(|&byte| byte == b' ').filter(|word| !word.is_empty()) {
            match self.ids.get(word) {
                Some(&id) => words.push(id),
                None => return false,
            }
        }
        self.runs.contains(&words[..])
    }
}
