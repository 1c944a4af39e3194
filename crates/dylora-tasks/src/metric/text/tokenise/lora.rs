//! What LoRA's decoding script does to outputs and references of WebNLG and DART before the official scorer sees them.

use std::sync::LazyLock;

use regex::Regex;

use super::is_python_blank;

/// Anything that Python's `re` does not count as part of a word.
static MARK: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"[^\p{L}\p{N}_]").expect("a constant pattern"));

/// Lower case, a blank on both sides of every character that is no letter, digit or underscore, no two blanks in a row.
pub fn lora(text: &str) -> String {
    let lower = text.to_lowercase();
    let separated = MARK.replace_all(&lower, " $0 ");
    let words: Vec<&str> = separated
        .split(is_python_blank)
        .filter(|word| !word.is_empty())
        .collect();
    words.join(" ")
}

/// Words that the Treebank rules cut in two, with the length of the first half.
const CONTRACTIONS: [(&str, usize); 6] = [
    ("cannot", 3),
    ("gimme", 3),
    ("gonna", 3),
    ("gotta", 3),
    ("lemme", 3),
    ("wanna", 3),
];

/// What nltk's `word_tokenize` makes of a line that [`lora`] has prepared, where nothing is left to do but this: a double quote
/// becomes two backquotes, and six contractions are cut.
pub fn treebank(line: &str) -> String {
    let words = line.split(' ').map(|word| {
        if word == "\"" {
            return "``".to_owned();
        }
        match CONTRACTIONS.iter().find(|(whole, _)| *whole == word) {
            Some((_, first)) => format!("{} {}", &word[..*first], &word[*first..]),
            None => word.to_owned(),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_stand_alone_and_letters_of_any_script_stay() {
        assert_eq!(
            lora("  Don't (Ünder_score), 3.5\u{a0}kg"),
            "don ' t ( ünder_score ) , 3 . 5 kg"
        );
        assert_eq!(lora("\t"), "");
    }

    #[test]
    fn quotes_and_contractions_of_the_treebank() {
        assert_eq!(treebank("you cannot say \" wanna \""), "you can not say `` wan na ``");
        assert_eq!(treebank(""), "");
    }
}
