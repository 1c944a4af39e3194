//! From a line of text to words, as the official chains do it before each metric.

mod lora;
mod meteor;
mod mteval;
mod ptb;

pub use lora::{lora, treebank};
pub use meteor::Normaliser;
pub use mteval::{mteval, multi_bleu_detok};
pub use ptb::ptb;

/// Words between ASCII blanks, tabs and line breaks, as Perl splits bytes.
pub fn ascii_words(text: &str) -> Vec<String> {
    text.split(is_ascii_blank)
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Words between Unicode white space, as Python's `str.split` has them.
pub fn python_words(text: &str) -> Vec<String> {
    text.split(is_python_blank)
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Blank, tab, line feed, vertical tab, form feed, carriage return.
pub(crate) fn is_ascii_blank(c: char) -> bool {
    matches!(c, ' ' | '\t'..='\r')
}

/// White space as Python's `str.isspace` has it: Unicode's and the four ASCII separators.
pub(crate) fn is_python_blank(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// One pass from left to right over runs of `N` characters: where `matches`, `write` appends the run in its new form and the
/// pass goes on behind it; any other character is kept.
pub(crate) fn rewrite<const N: usize>(
    text: &[char],
    matches: impl Fn(&[char; N]) -> bool,
    write: impl Fn(&[char; N], &mut Vec<char>),
) -> Vec<char> {
    let mut out = Vec::with_capacity(text.len() + text.len() / 4);
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        match rest.first_chunk::<N>() {
            Some(run) if matches(run) => {
                write(run, &mut out);
                rest = &rest[N..];
            }
            _ => {
                out.push(first);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_goes_on_behind_a_match() {
        let text: Vec<char> = "aaab".chars().collect();
        let doubled = rewrite(&text, |[x, y]| x == y, |[x, _], out| out.extend([*x, '2']));
        assert_eq!(doubled.iter().collect::<String>(), "a2ab");
    }

    #[test]
    fn perl_knows_ascii_blanks_only() {
        assert_eq!(ascii_words("  a\tb\u{a0}c \n"), ["a", "b\u{a0}c"]);
        assert!(ascii_words(" ").is_empty());
    }
}
