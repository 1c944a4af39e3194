//! Text without labels, to pre-train on: lines of the kinds of sentences that the tasks are made of.
//!
//! Most lines are pairs, and most pairs begin their second half with a word that says how the halves hang together (`So`,
//! `But`, `Maybe`, `Yes`, `No`). A hidden one can only be guessed by comparing the halves, and comparing is what five of the
//! eight tasks need. Each of them is one token, so that it is hidden as a whole.

use super::draw::Draw;
use super::event::Detail;
use super::inference::{self, Relation};
use super::{acceptability, pairs, sentiment};

/// Of the pairs, how many say how their halves hang together.
const MARKED: usize = 90;

/// One line: a text, or a pair with a tab between.
pub(super) fn line(draw: &mut Draw) -> String {
    let detail = if draw.chance(50) {
        pairs::FULL
    } else {
        Detail {
            adjective: 15,
            place: 30,
            time: 30,
        }
    };
    match draw.below(100) {
        0..15 => acceptability::accepted(draw),
        15..28 => opinion(draw),
        28..58 => {
            let (one, two, same) = pairs::paraphrase(detail, draw);
            pair(&one, same_or_not(same), &two, draw)
        }
        58..72 => {
            let (one, two, same) = pairs::duplicate(detail, draw);
            pair(&one, same_or_not(same), &two, draw)
        }
        72..84 => {
            let (question, reply, answered) = pairs::answer(detail, draw);
            pair(&question, if answered { "Yes" } else { "No" }, &reply, draw)
        }
        _ => {
            let (relation, word) = *draw.pick(&[
                (Relation::Entailment, "So"),
                (Relation::Contradiction, "But"),
                (Relation::Neutral, "Maybe"),
            ]);
            let (premise, hypothesis) = inference::draw(relation, draw);
            pair(&premise, word, &hypothesis, draw)
        }
    }
}

fn same_or_not(same: bool) -> &'static str {
    if same { "So" } else { "But" }
}

/// A judgement, perhaps with another one that agrees or does not.
fn opinion(draw: &mut Draw) -> String {
    let (text, good) = sentiment::draw(draw);
    if draw.chance(30) {
        return text;
    }
    let agrees = draw.chance(60);
    let word = if agrees { "so" } else { "but" };
    format!("{text}\t{word} {}", sentiment::clause(good == agrees, draw))
}

fn pair(one: &str, word: &str, two: &str, draw: &mut Draw) -> String {
    if !draw.chance(MARKED) {
        return format!("{one}\t{two}");
    }
    let mut rest = two.chars();
    let first = rest.next().map(|first| first.to_ascii_lowercase());
    format!(
        "{one}\t{word} {}{}",
        first.into_iter().collect::<String>(),
        rest.as_str()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_texts_or_pairs_and_most_pairs_say_how_they_hang_together() {
        let mut draw = Draw::new(13, 0);
        let lines: Vec<String> = (0..2000).map(|_| line(&mut draw)).collect();
        let seconds: Vec<&str> = lines
            .iter()
            .filter_map(|line| line.split_once('\t'))
            .map(|pair| pair.1)
            .collect();
        let words = ["So ", "But ", "Maybe ", "Yes ", "No ", "so ", "but "];
        let marked = seconds
            .iter()
            .filter(|text| words.iter().any(|word| text.starts_with(word)))
            .count();
        assert!((1500..1850).contains(&seconds.len()), "{}", seconds.len());
        assert!(marked * 100 > seconds.len() * 85, "{marked} of {}", seconds.len());
        assert!(
            lines
                .iter()
                .all(|line| line.matches('\t').count() <= 1 && !line.contains("  "))
        );
    }
}
