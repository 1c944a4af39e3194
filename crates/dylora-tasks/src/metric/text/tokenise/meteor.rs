//! METEOR 1.5's normaliser for English (`-norm`): words apart, punctuation kept, in lower case.

use std::sync::LazyLock;

use regex::Regex;
use rustc_hash::FxHashSet;

use super::{is_ascii_blank, rewrite};

static DOTS: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\.(\.+)").expect("a constant pattern"));
static LAST_DOT: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(?s)DOTMULTI\.([^.])").expect("a constant pattern"));

/// The normaliser with its list of words that a dot does not end (`Mr`, `Co`, single capitals).
#[derive(Clone, Debug, Default)]
pub struct Normaliser {
    prefixes: FxHashSet<String>,
    /// Those that keep their dot before a number only.
    before_numbers: FxHashSet<String>,
}

impl Normaliser {
    /// Reads METEOR's file of such words: one a line, `#NUMERIC_ONLY#` behind those that keep their dot before a number only;
    /// `#` begins a comment.
    pub fn new(prefixes: &str) -> Self {
        let mut normaliser = Self::default();
        for line in prefixes.lines() {
            let mut parts = line.split_whitespace();
            match (parts.next(), parts.next()) {
                (Some(word), _) if word.starts_with('#') => {}
                (Some(word), Some("#NUMERIC_ONLY#")) => _ = normaliser.before_numbers.insert(word.to_owned()),
                (Some(word), _) => _ = normaliser.prefixes.insert(word.to_owned()),
                (None, _) => {}
            }
        }
        normaliser
    }

    /// The words of a line in lower case.
    pub fn words(&self, text: &str) -> Vec<String> {
        let lower = self.normalise(text).to_lowercase();
        lower
            .split(is_ascii_blank)
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect()
    }

    /// The line with one blank between words, before it is put in lower case.
    pub fn normalise(&self, text: &str) -> String {
        let chars: Vec<char> = format!(" {text} ").chars().collect();
        let apart = rewrite(&chars, |[c]| !stays(*c), |[c], out| out.extend([' ', *c, ' ']));
        let chars = protect_dots(apart);
        let chars = commas(&chars);
        let chars = quotes(&chars);
        let chars = hyphens(&chars);
        let chars = apostrophes(&chars);
        let text: String = chars.into_iter().collect();
        let text = restore_dots(self.final_dots(&text));
        let words: Vec<&str> = text.split(is_blank).filter(|word| !word.is_empty()).collect();
        words.join(" ")
    }

    /// Takes the dot off a word that it does not belong to.
    fn final_dots(&self, text: &str) -> String {
        let words: Vec<&str> = text.split(is_ascii_blank).filter(|word| !word.is_empty()).collect();
        let mut out = String::with_capacity(text.len() + 8);
        for (index, word) in words.iter().enumerate() {
            let next = words.get(index + 1).and_then(|next| next.chars().next());
            let keeps = |stem: &str| {
                self.prefixes.contains(stem)
                    || next.is_some_and(|c| c.is_ascii_lowercase())
                    || (self.before_numbers.contains(stem) && next.is_some_and(|c| c.is_ascii_digit()))
            };
            match word.strip_suffix('.').filter(|stem| !stem.is_empty()) {
                Some(stem) if stem.contains('.') && stem.contains(is_alpha) => {
                    out.extend(word.chars().filter(|c| *c != '.'));
                }
                Some(stem) if !keeps(stem) => {
                    out.push_str(stem);
                    out.push_str(" .");
                }
                _ => out.push_str(word),
            }
            out.push(' ');
        }
        out
    }
}

/// A run of dots becomes a word that later steps leave alone.
fn protect_dots(chars: Vec<char>) -> Vec<char> {
    let text: String = chars.iter().collect();
    if !text.contains("..") && !text.contains("DOTMULTI") {
        return chars;
    }
    let mut text = DOTS.replace_all(&text, " DOTMULTI$1").into_owned();
    while text.contains("DOTMULTI.") {
        text = LAST_DOT.replace_all(&text, "DOTDOTMULTI $1").into_owned();
        text = text.replace("DOTMULTI.", "DOTDOTMULTI");
    }
    text.chars().collect()
}

fn restore_dots(mut text: String) -> String {
    while text.contains("DOTDOTMULTI") {
        text = text.replace("DOTDOTMULTI", "DOTMULTI.");
    }
    if text.contains("DOTMULTI") {
        text = text.replace("DOTMULTI", ".");
    }
    text
}

/// A comma stays in a number.
fn commas(chars: &[char]) -> Vec<char> {
    let mut chars = chars.to_vec();
    for (before, after) in [(false, false), (true, false), (false, true)] {
        if !chars.contains(&',') {
            break;
        }
        chars = rewrite(
            &chars,
            |[x, mark, y]| *mark == ',' && x.is_ascii_digit() == before && y.is_ascii_digit() == after,
            |[x, _, y], out| out.extend([*x, ' ', ',', ' ', *y]),
        );
    }
    chars
}

/// One form of single and of double quotes.
fn quotes(chars: &[char]) -> Vec<char> {
    let single = rewrite(chars, |[c]| matches!(c, '`' | '‘' | '’'), |_, out| out.push('\''));
    let double = rewrite(
        &single,
        |[c]| matches!(c, '“' | '”'),
        |_, out| out.extend([' ', '"', ' ']),
    );
    rewrite(
        &double,
        |pair| *pair == ['\'', '\''],
        |_, out| out.extend([' ', '"', ' ']),
    )
}

/// One form of hyphen; between words it is a blank. The pass does not look twice at a letter: of `a-b-c` the second stays.
fn hyphens(chars: &[char]) -> Vec<char> {
    let plain = rewrite(chars, |[c]| *c == '–', |_, out| out.push('-'));
    let single = rewrite(&plain, |pair| *pair == ['-', '-'], |_, out| out.push('-'));
    rewrite(
        &single,
        |[x, mark, y]| *mark == '-' && (is_alnum(*x) || *x == '.') && is_alnum(*y),
        |[x, _, y], out| out.extend([*x, ' ', *y]),
    )
}

fn apostrophes(chars: &[char]) -> Vec<char> {
    let mut chars = chars.to_vec();
    if !chars.contains(&'\'') {
        return chars;
    }
    type Fits = fn(char, char) -> bool;
    let alone: [Fits; 3] = [
        |x, y| !is_alpha(x) && !is_alpha(y),
        |x, y| !is_alnum(x) && is_alpha(y),
        |x, y| is_alpha(x) && !is_alpha(y),
    ];
    for fits in alone {
        chars = rewrite(
            &chars,
            |[x, mark, y]| *mark == '\'' && fits(*x, *y),
            |[x, mark, y], out| out.extend([*x, ' ', *mark, ' ', *y]),
        );
    }
    let joined: [Fits; 2] = [|x, y| is_alpha(x) && is_alpha(y), |x, y| x.is_ascii_digit() && y == 's'];
    for fits in joined {
        chars = rewrite(
            &chars,
            |[x, mark, y]| *mark == '\'' && fits(*x, *y),
            |[x, mark, y], out| out.extend([*x, ' ', *mark, *y]),
        );
    }
    chars
}

/// Letters, digits, blanks, and the marks that later steps look at.
fn stays(c: char) -> bool {
    is_alnum(c) || is_ascii_blank(c) || matches!(c, '.' | '\'' | '`' | ',' | '-' | '‘' | '’')
}

/// What METEOR takes for a letter: Latin and Cyrillic blocks.
fn is_alpha(c: char) -> bool {
    c.is_ascii_alphabetic()
        || matches!(c,
            'À'..='Ö' | 'Ø'..='ö' | 'ø'..='ž' | '\u{400}'..='\u{4ff}' | '\u{500}'..='\u{527}'
            | '\u{a640}'..='\u{a66e}' | '\u{a67e}'..='\u{a697}' | '\u{1d00}'..='\u{1d7f}')
}

fn is_alnum(c: char) -> bool {
    is_alpha(c) || c.is_ascii_digit()
}

/// What separates words in the end.
fn is_blank(c: char) -> bool {
    matches!(
        c,
        ' ' | '\u{a0}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn gives(text: &str, expected: &str) {
        let normaliser = Normaliser::new("# comment\nMr\nNo #NUMERIC_ONLY#\n");
        assert_eq!(normaliser.normalise(text), expected);
    }

    #[test]
    fn dots_belong_to_abbreviations_and_runs() {
        gives("Mr. A met the U.S. team. The end.", "Mr. A met the US team . The end .");
        gives("No. 5 and No. Yes", "No. 5 and No . Yes");
        gives("So... it ended. quite.", "So ... it ended. quite .");
    }

    #[test]
    fn hyphens_and_apostrophes() {
        gives(
            "a-b-c – 20-25 isn't the boys' 'x' 1990's",
            "a b-c - 20 25 isn 't the boys ' ' x ' 1990 's",
        );
    }

    #[test]
    fn commas_stay_in_numbers() {
        gives("1,234, a,b (c)", "1,234 , a , b ( c )");
    }
}
