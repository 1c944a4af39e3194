//! The tokeniser in front of METEOR, ROUGE-L and CIDEr in the E2E chain: Stanford's PTB tokeniser in lower case, then every
//! punctuation mark dropped.
//!
//! A rule list, not the whole tokeniser: it gives what the chain gives on the texts of E2E, and on common abbreviations,
//! addresses and entities besides.

/// Tokens that the chain drops.
const DROPPED: [&str; 11] = ["''", "'", "`", ".", "?", "!", ",", ":", "-", ";", "--"];

/// Titles and the like that keep their dot.
const ABBREVIATIONS: [&str; 14] = [
    "mr", "mrs", "ms", "messrs", "dr", "prof", "st", "inc", "co", "corp", "ltd", "jr", "sr", "etc",
];

/// What can be cut off the end of a word, negation aside.
const CLITICS: [&str; 6] = ["'s", "'m", "'d", "'ll", "'re", "'ve"];

/// Two words written as one, with the length of the first.
const CONTRACTIONS: [(&str, usize); 6] = [
    ("cannot", 3),
    ("gonna", 3),
    ("gotta", 3),
    ("wanna", 3),
    ("gimme", 3),
    ("lemme", 3),
];

/// The words of a line without its punctuation.
pub fn ptb(text: &str) -> Vec<String> {
    let lower = text
        .to_lowercase()
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&amp;", "&");
    let chars: Vec<char> = lower.chars().collect();
    let mut scanner = Scanner {
        text: &chars,
        at: 0,
        words: Vec::new(),
    };
    while scanner.at < chars.len() {
        scanner.step();
    }
    scanner.words
}

struct Scanner<'a> {
    text: &'a [char],
    at: usize,
    words: Vec<String>,
}

impl Scanner<'_> {
    /// Takes one token, or a blank.
    fn step(&mut self) {
        let c = self.text[self.at];
        if c.is_whitespace() || is_unknown(c) {
            self.at += 1;
        } else if let Some(end) = self.whole() {
            let token = self.take(end);
            self.words.push(token);
        } else if c == '.' && self.run(self.at, |c| c == '.') >= self.at + 3 {
            // An ellipsis is dropped.
            self.at = self.run(self.at, |c| c == '.');
        } else if c == '-' && self.peek(self.at + 1) == Some('-') {
            self.at = self.run(self.at, |c| c == '-');
        } else if let Some(end) = self.negative().or_else(|| self.number(self.at)) {
            let token = self.take(end);
            self.words.push(token);
        } else if is_word(c) {
            self.word();
        } else if let Some(end) = self.clitic() {
            let token = self.take(end).replace('’', "'");
            self.words.push(token);
        } else if matches!(c, '!' | '?') {
            let end = self.run(self.at, |c| matches!(c, '!' | '?'));
            let token = self.take(end);
            self.keep(&token);
        } else {
            self.at += 1;
            self.mark(c);
        }
    }

    fn peek(&self, at: usize) -> Option<char> {
        self.text.get(at).copied()
    }

    /// End of the run of such characters that starts at `at`.
    fn run(&self, at: usize, is_part: impl Fn(char) -> bool) -> usize {
        let rest = &self.text[at.min(self.text.len())..];
        at + rest.iter().take_while(|&&c| is_part(c)).count()
    }

    fn take(&mut self, end: usize) -> String {
        let token = self.text[self.at..end].iter().collect();
        self.at = end;
        token
    }

    /// Adds a token unless it is punctuation.
    fn keep(&mut self, token: &str) {
        if !DROPPED.contains(&token) {
            self.words.push(token.to_owned());
        }
    }

    /// End of an address, a handle, a tag or a written-out bracket, which are one token.
    fn whole(&self) -> Option<usize> {
        let rest = &self.text[self.at..];
        let starts = |prefix: &str| prefix.chars().zip(rest).filter(|(x, y)| x == *y).count() == prefix.len();
        let end = self.run(self.at, |c| !c.is_whitespace());
        if starts("www.") || starts("http://") || starts("https://") {
            let is_trailing = |c: &char| matches!(c, '.' | ',' | '!' | '?' | ')' | '"' | '\'' | ';' | ':');
            let trailing = self.text[self.at..end]
                .iter()
                .rev()
                .take_while(|c| is_trailing(c))
                .count();
            return Some(end - trailing);
        }
        if rest[0] == '@' && self.peek(self.at + 1).is_some_and(char::is_alphabetic) {
            return Some(self.run(self.at + 1, |c| is_word(c) || c == '_'));
        }
        if rest[0] == '<' && self.peek(self.at + 1).is_some_and(|c| c.is_alphabetic() || c == '/') {
            let close = self.run(self.at, |c| c != '>' && !c.is_whitespace());
            return (self.peek(close) == Some('>')).then_some(close + 1);
        }
        if ["-lrb-", "-rrb-", "-lsb-", "-rsb-", "-lcb-", "-rcb-"]
            .into_iter()
            .any(starts)
        {
            return Some(self.at + 5);
        }
        if is_word(rest[0]) {
            let is_part = |c: char| is_word(c) || matches!(c, '.' | '_' | '-' | '+');
            let name = self.run(self.at, is_part);
            if self.peek(name) == Some('@') && self.peek(name + 1).is_some_and(is_word) {
                let domain = self.run(name + 1, |c| is_word(c) || matches!(c, '.' | '-'));
                let trailing = usize::from(self.text[domain - 1] == '.');
                return Some(domain - trailing);
            }
        }
        None
    }

    /// End of a number: groups joined by `.,:/`, ranges, ordinals; not the beginning of a word such as `3kg` or `5-star`.
    fn number(&self, start: usize) -> Option<usize> {
        let digits = |at: usize| self.run(at, |c| c.is_ascii_digit());
        let mut end = digits(start);
        if end == start {
            return None;
        }
        while let Some(joint) = self.peek(end) {
            if !matches!(joint, '.' | ',' | ':' | '/' | '-') || digits(end + 1) == end + 1 {
                break;
            }
            end = digits(end + 1);
        }
        if let (Some(x), Some(y)) = (self.peek(end), self.peek(end + 1)) {
            let is_ordinal = matches!((x, y), ('s', 't') | ('n', 'd') | ('r', 'd') | ('t', 'h'));
            if is_ordinal && !self.peek(end + 2).is_some_and(is_word) {
                end += 2;
            }
        }
        let goes_on = match self.peek(end) {
            Some('-') => self.peek(end + 1).is_some_and(char::is_alphabetic),
            Some(c) => is_word(c),
            None => false,
        };
        (!goes_on).then_some(end)
    }

    /// End of a hyphen with a number that nothing stands before.
    fn negative(&self) -> Option<usize> {
        let before = self.at.checked_sub(1).map(|index| self.text[index]);
        if self.text[self.at] != '-' || before.is_some_and(|c| is_word(c) || c == '.') {
            return None;
        }
        self.number(self.at + 1)
    }

    /// End of an apostrophe with `s`, `m`, .. that nothing follows.
    fn clitic(&self) -> Option<usize> {
        if !is_apostrophe(self.text[self.at]) {
            return None;
        }
        let end = self.run(self.at + 1, is_word);
        let letters: String = self.text[self.at + 1..end].iter().collect();
        CLITICS.iter().any(|clitic| clitic[1..] == letters).then_some(end)
    }

    /// Takes a word, its dot if it is an abbreviation, and cuts it.
    fn word(&mut self) {
        let mut end = self.run(self.at, is_word);
        while self
            .peek(end)
            .is_some_and(|c| matches!(c, '-' | '.') || is_apostrophe(c))
            && self.peek(end + 1).is_some_and(is_word)
        {
            end = self.run(end + 1, is_word);
        }
        let is_dot = self.peek(end) == Some('.');
        let before_comma = is_dot && self.peek(end + 1) == Some(',');
        let mut word = self.take(end).replace('’', "'");
        if is_dot && (before_comma || self.is_abbreviation(&word)) {
            self.at += 1;
            word.push('.');
        }
        self.cut(&word);
    }

    /// Whether a word that a dot follows keeps it: `u.s`, `mr`, and `no` before a number.
    fn is_abbreviation(&self, word: &str) -> bool {
        let is_letter = |part: &str| part.chars().count() == 1 && part.chars().all(char::is_alphabetic);
        let next = self.run(self.at + 1, char::is_whitespace);
        ABBREVIATIONS.contains(&word)
            || (word.contains('.') && word.split('.').all(is_letter))
            || (word == "no" && self.peek(next).is_some_and(|c| c.is_ascii_digit()))
    }

    fn cut(&mut self, word: &str) {
        if let Some((_, first)) = CONTRACTIONS.iter().find(|(whole, _)| *whole == word) {
            self.words
                .extend([word[..*first].to_owned(), word[*first..].to_owned()]);
            return;
        }
        let ends = std::iter::once("n't").chain(CLITICS);
        match ends
            .into_iter()
            .find(|end| word.len() > end.len() && word.ends_with(end))
        {
            Some(end) => {
                self.cut(&word[..word.len() - end.len()]);
                self.words.push(end.to_owned());
            }
            None => self.words.push(word.to_owned()),
        }
    }

    /// A character that is a token of its own.
    fn mark(&mut self, c: char) {
        match c {
            '£' => self.words.push("#".to_owned()),
            '€' => self.words.push("$".to_owned()),
            '(' => self.words.push("-lrb-".to_owned()),
            ')' => self.words.push("-rrb-".to_owned()),
            '[' => self.words.push("-lsb-".to_owned()),
            ']' => self.words.push("-rsb-".to_owned()),
            '{' => self.words.push("-lcb-".to_owned()),
            '}' => self.words.push("-rcb-".to_owned()),
            // Quotes, dashes and the ellipsis become marks that are dropped.
            '"' | '“' | '”' | '‘' | '’' | '–' | '—' | '…' => {}
            other => self.keep(other.encode_utf8(&mut [0; 4])),
        }
    }
}

/// Letters with their accents, and digits.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '\u{300}'..='\u{36f}')
}

fn is_apostrophe(c: char) -> bool {
    matches!(c, '\'' | '’')
}

/// Characters that the tokeniser warns of and leaves out: pictures and invisible ones.
fn is_unknown(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{1f000}'..='\u{1faff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn gives(text: &str, words: &str) {
        assert_eq!(ptb(text).join(" "), words);
    }

    #[test]
    fn clitics_are_cut_off() {
        gives(
            "It's isn't they'd've cannot, the pub’s.",
            "it 's is n't they 'd 've can not the pub 's",
        );
        gives("Gonna in the 1990's", "gon na in the 1990 's");
    }

    #[test]
    fn numbers_stay_whole() {
        gives(
            "£20-25, 1,234.5 at 11:59 on the 3rd: 5-star 3kg -7",
            "# 20-25 1,234.5 at 11:59 on the 3rd 5-star 3kg -7",
        );
        gives("£-25 or less than €30.", "# -25 or less than $ 30");
    }

    #[test]
    fn punctuation_goes_but_brackets_and_runs_stay() {
        gives(
            "\"A\" (b) -- c... what?! no? – yes…",
            "a -lrb- b -rrb- c what ?! no yes",
        );
        gives("", "");
    }

    #[test]
    fn abbreviations_keep_their_dot() {
        gives(
            "Mr. A of the U.S. met in the center., at no. 5. No. Yes.",
            "mr. a of the u.s. met in the center. at no. 5 no yes",
        );
    }
}
