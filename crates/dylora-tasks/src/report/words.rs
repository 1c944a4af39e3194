//! Words and numbers as the forms of a report write them.

use crate::record::RankName;

/// A number with so many digits after the point; never a zero with a minus.
pub(crate) fn digits(value: f64, decimals: usize) -> String {
    let words = format!("{value:.decimals$}");
    match words.strip_prefix('-') {
        Some(rest) if rest.chars().all(|c| "0.".contains(c)) => rest.to_owned(),
        _ => words,
    }
}

/// The same with its sign: `+0.90`, `-0.31`, `0.00`.
pub(super) fn signed(value: f64, decimals: usize) -> String {
    let words = digits(value, decimals);
    let is_zero = words.chars().all(|c| "0.".contains(c));
    if is_zero || words.starts_with('-') || value.is_nan() {
        words
    } else {
        format!("+{words}")
    }
}

/// A number for a program: at most six digits after the point, no more than are needed.
pub(super) fn plain(value: f64) -> String {
    let words = digits(value, 6);
    if words.contains('.') {
        words.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        words
    }
}

/// A whole number with commas: `1,234`.
pub(super) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut words = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            words.push(',');
        }
        words.push(digit);
    }
    words
}

/// `1 h 02 min`, `3 min 05 s`, `4.2 s`.
pub(super) fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 59.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    match whole / 3600 {
        0 => format!("{} min {:02} s", whole / 60, whole % 60),
        hours => format!("{hours} h {:02} min", whole % 3600 / 60),
    }
}

/// A row's rank.
pub(crate) fn rank_words(rank: RankName) -> String {
    match rank {
        RankName::Full => "–".to_owned(),
        other => other.to_string(),
    }
}

/// `1 run`, `2 runs`.
pub(super) fn counted(number: usize, word: &str) -> String {
    format!("{number} {word}{}", if number == 1 { "" } else { "s" })
}

/// A caller's words on one line, without characters that no form can show.
pub(crate) fn one_line(words: &str) -> String {
    let blank = |c: char| if c.is_whitespace() { ' ' } else { c };
    let clean: String = words.chars().map(blank).filter(|c| !c.is_control()).collect();
    clean
        .split(' ')
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// A caller's words as text or a quoted attribute of XML.
pub(super) fn escape_xml(words: &str) -> String {
    let mut text = String::with_capacity(words.len());
    for c in words.chars() {
        match c {
            '&' => text.push_str("&amp;"),
            '<' => text.push_str("&lt;"),
            '>' => text.push_str("&gt;"),
            '"' => text.push_str("&quot;"),
            other => text.push(other),
        }
    }
    text
}

/// A caller's words as Markdown that means just them, in a line of text or a cell of a table.
pub(crate) fn escape_markdown(words: &str) -> String {
    let mut text = String::with_capacity(words.len());
    for c in words.chars() {
        if "\\`*_<&|[]~".contains(c) || (text.is_empty() && "#>+-=".contains(c)) {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

/// A caller's words as LaTeX that means just them. What `pdflatex` has no glyph for is named by its number, so that a document
/// always compiles.
pub(super) fn escape_latex(words: &str) -> String {
    let mut text = String::with_capacity(words.len());
    for c in words.chars() {
        match c {
            '\\' => text.push_str("\\textbackslash{}"),
            '{' | '}' | '$' | '&' | '#' | '%' | '_' => text.extend(['\\', c]),
            '~' => text.push_str("\\textasciitilde{}"),
            '^' => text.push_str("\\textasciicircum{}"),
            '<' => text.push_str("\\textless{}"),
            '>' => text.push_str("\\textgreater{}"),
            '|' => text.push_str("\\textbar{}"),
            '"' => text.push_str("\\textquotedbl{}"),
            '`' => text.push_str("\\textasciigrave{}"),
            '\'' => text.push_str("\\textquotesingle{}"),
            // Two of them would become one dash.
            '-' => text.push_str("-{}"),
            '±' => text.push_str("$\\pm$"),
            '×' => text.push_str("$\\times$"),
            '↓' => text.push_str("$\\downarrow$"),
            '★' => text.push_str("$\\star$"),
            '≠' => text.push_str("$\\neq$"),
            '▲' => text.push_str("$\\blacktriangle$"),
            '▼' => text.push_str("$\\blacktriangledown$"),
            '≈' => text.push_str("$\\approx$"),
            '–' => text.push_str("--"),
            '—' => text.push_str("---"),
            '“' => text.push_str("``"),
            '”' => text.push_str("''"),
            '‘' => text.push('`'),
            '’' => text.push('\''),
            ' '..='\u{7e}' | 'À'..='Ö' | 'Ø'..='ö' | 'ø'..='ÿ' => text.push(c),
            other => text.push_str(&format!("[U+{:04X}]", u32::from(other))),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_a_sign_and_no_minus_zero() {
        assert_eq!(
            [digits(-0.001, 2), digits(-0.1, 1), digits(f64::NAN, 2)],
            ["0.00", "-0.1", "NaN"]
        );
        assert_eq!(
            [
                signed(0.904, 2),
                signed(-0.31, 2),
                signed(-0.001, 2),
                signed(0.0, 0),
                signed(f64::NAN, 1)
            ],
            ["+0.90", "-0.31", "0.00", "0", "NaN"]
        );
        assert_eq!(
            [
                plain(71.0),
                plain(2f64.sqrt()),
                plain(70.999_999_999_9),
                plain(-0.0),
                plain(1e9),
                plain(f64::INFINITY)
            ],
            ["71", "1.414214", "71", "0", "1000000000", "inf"]
        );
        assert_eq!(
            [grouped(0), grouped(999), grouped(1_234_567)],
            ["0", "999", "1,234,567"]
        );
    }

    #[test]
    fn words_mean_themselves_in_every_form() {
        assert_eq!(one_line(" a\n b\tc\u{0}\u{7}d "), "a b cd");
        assert_eq!(escape_xml("<b a=\"1\">&"), "&lt;b a=&quot;1&quot;&gt;&amp;");
        assert_eq!(escape_markdown("a|b_c*[d](e)<f>"), "a\\|b\\_c\\*\\[d\\](e)\\<f>");
        assert_eq!(escape_markdown("# a#"), "\\# a#");
        assert_eq!(
            escape_latex("50% of $x_1 & #2 {a}\\b~^é日"),
            "50\\% of \\$x\\_1 \\& \\#2 \\{a\\}\\textbackslash{}b\\textasciitilde{}\\textasciicircum{}é[U+65E5]"
        );
    }
}
