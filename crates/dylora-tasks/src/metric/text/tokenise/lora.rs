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
}
