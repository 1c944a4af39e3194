//! The tokeniser of NIST's mteval-v13a for Western languages.

use super::{ascii_words, is_python_blank, rewrite};

/// mteval-v13a as the E2E challenge's Python form has it: Unicode white space separates, words are in lower case. A text without
/// a word gives one empty word, as there.
pub fn mteval(text: &str) -> Vec<String> {
    let separated = separate(text);
    let words: Vec<String> = separated
        .split(is_python_blank)
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    if words.is_empty() { vec![String::new()] } else { words }
}

/// mteval-v13a as `multi-bleu-detok.perl` has it: bytes, so that only ASCII white space separates; case is kept.
pub fn multi_bleu_detok(text: &str) -> Vec<String> {
    ascii_words(&separate(text))
}

/// Blanks around everything that is a word of its own.
fn separate(text: &str) -> String {
    let text = text
        .replace("<skipped>", "")
        .replace("-\n", "")
        .replace('\n', " ")
        .replace("&quot;", "\"")
        .replace("&amp;", "&")
        .replace("&lt;", "<")
        .replace("&gt;", ">");
    let padded: Vec<char> = format!(" {text} ").chars().collect();
    let alone = rewrite(&padded, |[c]| is_mark(*c), |[c], out| out.extend([' ', *c, ' ']));
    // A dot or comma stays in a number, a hyphen leaves one.
    let mark_after = rewrite(
        &alone,
        |[before, mark]| !before.is_ascii_digit() && is_point(*mark),
        |[before, mark], out| out.extend([*before, ' ', *mark, ' ']),
    );
    let mark_before = rewrite(
        &mark_after,
        |[mark, after]| is_point(*mark) && !after.is_ascii_digit(),
        |[mark, after], out| out.extend([' ', *mark, ' ', *after]),
    );
    let hyphen = rewrite(
        &mark_before,
        |[digit, hyphen]| digit.is_ascii_digit() && *hyphen == '-',
        |[digit, hyphen], out| out.extend([*digit, ' ', *hyphen, ' ']),
    );
    hyphen.into_iter().collect()
}

/// ASCII punctuation and blank, but not apostrophe, comma, hyphen and dot.
fn is_mark(c: char) -> bool {
    matches!(c, '{'..='~' | '['..='`' | ' '..='&' | '('..='+' | ':'..='@' | '/')
}

fn is_point(c: char) -> bool {
    matches!(c, '.' | ',')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_points_and_lose_their_hyphens() {
        assert_eq!(
            mteval("It's £1,234.5, 20-25; ok."),
            ["it's", "£1,234.5", ",", "20", "-", "25", ";", "ok", "."]
        );
    }

    #[test]
    fn entities_are_decoded_in_order() {
        assert_eq!(mteval("a&amp;lt;<skipped>b"), ["a", "<", "b"]);
    }

    #[test]
    fn the_python_form_has_an_empty_word_and_unicode_blanks() {
        assert_eq!(mteval(" \u{a0} "), [""]);
        assert_eq!(mteval("A\u{3000}B"), ["a", "b"]);
        assert_eq!(multi_bleu_detok("A\u{a0}B."), ["A\u{a0}B", "."]);
        assert!(multi_bleu_detok("").is_empty());
    }
}
