//! WordNet synonyms in METEOR's two files.

use rustc_hash::{FxHashMap, FxHashSet};

use super::Word;

/// Endings in the order in which they are tried, each with what takes its place.
const ENDINGS: [(&str, &str); 18] = [
    ("s", ""),
    ("ses", "s"),
    ("xes", "x"),
    ("zes", "z"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("men", "man"),
    ("ies", "y"),
    ("es", "e"),
    ("es", ""),
    ("ed", "e"),
    ("ed", ""),
    ("ing", "e"),
    ("ing", ""),
    ("er", ""),
    ("est", ""),
    ("er", "e"),
    ("est", "e"),
];

/// Synsets of words, and bases of irregular forms.
#[derive(Clone, Debug, Default)]
pub(super) struct Synonyms {
    synsets: FxHashMap<String, Vec<u32>>,
    bases: FxHashMap<String, Vec<String>>,
}

impl Synonyms {
    /// Reads both files: a word or base, and on the next line its synsets or forms.
    pub(super) fn parse(exceptions: &str, synsets: &str) -> Result<Self, String> {
        let mut result = Self::default();
        for (_, base, forms) in pairs(exceptions)? {
            for form in forms.split_whitespace() {
                result.bases.entry(form.to_owned()).or_default().push(base.to_owned());
            }
        }
        for (line, word, numbers) in pairs(synsets)? {
            let number = |text: &str| {
                text.parse::<u32>()
                    .map_err(|_| format!("line {}: {text:?} is no synset", line + 1))
            };
            let numbers: Result<Vec<u32>, String> = numbers.split_whitespace().map(number).collect();
            result.synsets.entry(word.to_owned()).or_default().extend(numbers?);
        }
        Ok(result)
    }

    /// For each word the others that share a synset with it.
    pub(super) fn among(&self, words: &[String]) -> Vec<Vec<Word>> {
        let mut members: FxHashMap<u32, Vec<Word>> = FxHashMap::default();
        let of_word: Vec<FxHashSet<u32>> = words.iter().map(|word| self.of(word)).collect();
        for (word, synsets) in of_word.iter().enumerate() {
            for &synset in synsets {
                members.entry(synset).or_default().push(word as Word);
            }
        }
        let others = |(word, synsets): (usize, &FxHashSet<u32>)| {
            let sharing = synsets.iter().filter_map(|synset| members.get(synset)).flatten();
            let mut others: Vec<Word> = sharing.copied().filter(|&other| other as usize != word).collect();
            others.sort_unstable();
            others.dedup();
            others
        };
        of_word.iter().enumerate().map(others).collect()
    }

    /// The word's own synsets and those of its base form.
    fn of(&self, word: &str) -> FxHashSet<u32> {
        let listed = |word: &str| self.synsets.get(word).into_iter().flatten().copied();
        let mut found: FxHashSet<u32> = listed(word).collect();
        match self.bases.get(word) {
            Some(bases) => bases.iter().for_each(|base| found.extend(listed(base))),
            None => found.extend(
                self.regular(word)
                    .into_iter()
                    .flat_map(|base| listed(&base).collect::<Vec<_>>()),
            ),
        }
        found
    }

    /// The first form without a regular ending that has synsets.
    fn regular(&self, word: &str) -> Option<String> {
        if word.ends_with("ss") || word.chars().count() <= 2 {
            return None;
        }
        ENDINGS
            .iter()
            .filter_map(|(ending, other)| Some(format!("{}{other}", word.strip_suffix(ending)?)))
            .find(|base| self.synsets.contains_key(base))
    }
}

/// Lines two by two, with the number of the first, from 1.
fn pairs(text: &str) -> Result<Vec<(usize, &str, &str)>, String> {
    let lines: Vec<&str> = text.lines().collect();
    if !lines.len().is_multiple_of(2) {
        return Err(format!(
            "line {}: the second line of a pair is missing",
            lines.len() + 1
        ));
    }
    Ok(lines
        .chunks_exact(2)
        .enumerate()
        .map(|(index, pair)| (2 * index + 1, pair[0], pair[1]))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn synonyms(words: &[&str]) -> Vec<Vec<Word>> {
        let data = Synonyms::parse("child\nchildren\n", "kid\n1 2\nchild\n2\nbox\n3\ncase\n3 4\n").unwrap();
        data.among(&words.iter().map(|word| word.to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn words_share_a_synset_by_their_base() {
        assert_eq!(
            synonyms(&["kid", "children", "boxes", "case", "kids"]),
            [vec![1, 4], vec![0, 4], vec![3], vec![2], vec![0, 1]]
        );
        assert_eq!(synonyms(&["kid", "unknown"]), vec![Vec::<Word>::new(); 2]);
    }

    #[test]
    fn broken_files_are_named() {
        assert_eq!(Synonyms::parse("", "a\nx\n").unwrap_err(), "line 2: \"x\" is no synset");
        assert_eq!(
            Synonyms::parse("a\n", "").unwrap_err(),
            "line 2: the second line of a pair is missing"
        );
    }
}
