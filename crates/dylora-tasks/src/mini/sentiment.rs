//! Sentiment (SST-2): short judgements of films and plays, composed so that no single word decides: a negation turns a
//! judgement, `but` gives the last clause the say, and degrees turn nothing.

use super::draw::Draw;
use super::lexicon::{ASPECTS, BAD, DEGREES, DISLIKES, GOOD, LIKES, WORKS};

/// A text of at least one judgement and whether it is favourable, in SST-2's lower case without a full stop.
pub(super) fn draw(draw: &mut Draw) -> (String, bool) {
    let good = draw.chance(50);
    let text = match draw.below(5) {
        0 => clause(good, draw),
        1 => format!("{} , and {}", clause(good, draw), clause(good, draw)),
        2 => format!("{} , but {}", clause(!good, draw), clause(good, draw)),
        3 => format!("although {} , {}", clause(!good, draw), clause(good, draw)),
        _ => format!("{} with {}", work(good, draw), with(good, draw)),
    };
    (text, good)
}

/// A judgement with a subject and a verb.
pub(super) fn clause(good: bool, draw: &mut Draw) -> String {
    let negated = draw.chance(30);
    // A denied word of praise is blame.
    let words_good = good != negated;
    match draw.below(3) {
        0 => {
            let (infinitive, past) = *draw.pick(if words_good { LIKES } else { DISLIKES });
            let aspect = draw.pick(ASPECTS).0;
            if negated {
                format!("i did not {infinitive} the {aspect}")
            } else {
                format!("i {}{past} the {aspect}", degree(40, draw))
            }
        }
        kind => {
            let (aspect, verb) = match kind {
                1 => *draw.pick(ASPECTS),
                _ => (*draw.pick(WORKS), "is"),
            };
            let not = if negated { "not " } else { "" };
            format!(
                "the {aspect} {verb} {not}{}{}",
                degree(35, draw),
                judgement(words_good, draw)
            )
        }
    }
}

/// `a funny comedy`, or `not a dull play`.
fn work(good: bool, draw: &mut Draw) -> String {
    let negated = draw.chance(25);
    let word = judgement(good != negated, draw);
    let article = if word.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    };
    let not = if negated { "not " } else { "" };
    format!("{not}{article} {word} {}", draw.pick(WORKS))
}

fn with(good: bool, draw: &mut Draw) -> String {
    format!("{}{} {}", degree(30, draw), judgement(good, draw), draw.pick(ASPECTS).0)
}

fn judgement(good: bool, draw: &mut Draw) -> &'static str {
    let words = if good { GOOD } else { BAD };
    words[draw.below(words.len())]
}

fn degree(percent: usize, draw: &mut Draw) -> String {
    if draw.chance(percent) {
        format!("{} ", draw.pick(DEGREES))
    } else {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negation_turns_a_judgement() {
        let mut draw_ = Draw::new(5, 0);
        let mut negated = 0;
        for turn in 0..500 {
            let good = turn % 2 == 0;
            let text = clause(good, &mut draw_);
            let praise = GOOD.iter().chain(LIKES.iter().flat_map(|pair| [&pair.0, &pair.1]));
            let praises = praise.into_iter().any(|word| text.split(' ').any(|part| part == *word));
            let not = text.split(' ').any(|part| part == "not");
            negated += usize::from(not);
            assert_eq!(praises != not, good, "{text}");
        }
        assert!((100..200).contains(&negated), "{negated}");
    }

    #[test]
    fn both_kinds_are_drawn() {
        let mut draw_ = Draw::new(5, 1);
        let good = (0..400).filter(|_| draw(&mut draw_).1).count();
        assert!((150..250).contains(&good), "{good}");
    }
}
