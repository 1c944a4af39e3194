//! Pairs that say or ask the same or nearly so: paraphrase (MRPC), duplicate questions (QQP), graded similarity (STS-B), and
//! a question with a sentence that answers it or does not (QNLI).

use super::draw::Draw;
use super::event::{Detail, Event, Slot, Style, sentence};

/// Percentage of the words with a synonym that are replaced by it.
pub(super) const SYNONYMS: usize = 30;
/// Of the words that are changed, how many become something of another kind.
const FAR: usize = 50;

/// What the tasks' sentences hold.
pub(super) const FULL: Detail = Detail {
    adjective: 35,
    place: 65,
    time: 65,
};

/// Changes one to three of the filled slots, `keep` excepted.
pub(super) fn nearly(event: &Event, keep: Option<Slot>, draw: &mut Draw) -> Event {
    let slots: Vec<Slot> = event.slots().into_iter().filter(|&slot| Some(slot) != keep).collect();
    let count = *draw.pick(&[1, 2, 2, 3]);
    let mut other = event.clone();
    for index in draw.some_of(count, slots.len()) {
        let near = !draw.chance(FAR);
        other.change(slots[index], near, draw);
    }
    other
}

fn statement(event: &Event, draw: &mut Draw) -> String {
    let style = Style::draw(SYNONYMS, draw);
    sentence(&event.clause(style, draw), '.')
}

/// Two ways to say the same, as a rule in different words.
fn twice(draw: &mut Draw, mut say: impl FnMut(&mut Draw) -> String) -> (String, String) {
    let (one, mut two) = (say(draw), say(draw));
    for _ in 0..3 {
        if one == two {
            two = say(draw);
        }
    }
    (one, two)
}

fn asked(event: &Event, slot: Slot, draw: &mut Draw) -> String {
    let style = Style::draw(SYNONYMS, draw);
    sentence(&event.question(slot, style, draw), '?')
}

/// A slot to ask for.
pub(super) fn askable(event: &Event, draw: &mut Draw) -> Slot {
    let slots: Vec<Slot> = event.slots().into_iter().filter(|&slot| slot != Slot::Verb).collect();
    *draw.pick(&slots)
}

/// Two statements and whether they say the same.
pub(super) fn paraphrase(detail: Detail, draw: &mut Draw) -> (String, String, bool) {
    let event = Event::draw(detail, draw);
    let same = draw.chance(55);
    let other = if same {
        event.clone()
    } else {
        nearly(&event, None, draw)
    };
    (statement(&event, draw), statement(&other, draw), same)
}

/// Two questions and whether they ask the same.
pub(super) fn duplicate(detail: Detail, draw: &mut Draw) -> (String, String, bool) {
    let event = Event::draw(detail, draw);
    let slot = askable(&event, draw);
    let same = draw.chance(42);
    let (one, two) = if same {
        twice(draw, |draw| asked(&event, slot, draw))
    } else if draw.chance(30) {
        let slots = [Slot::Who, Slot::What, Slot::Place, Slot::Time];
        let own = slots.iter().position(|&known| known == slot).unwrap_or(0);
        let other = slots[draw.other(slots.len(), own)];
        (asked(&event, slot, draw), asked(&event, other, draw))
    } else {
        let other = nearly(&event, Some(slot), draw);
        (asked(&event, slot, draw), asked(&other, slot, draw))
    };
    (one, two, same)
}

/// Two statements and how alike they are, in tenths from 0 to 50: what is kept of actor, verb, thing and the rest, with a
/// half for something of the same kind, and a judge's hesitation of half a point at most.
pub(super) fn similarity(draw: &mut Draw) -> (String, String, usize) {
    let detail = Detail {
        adjective: 25,
        place: 100,
        time: 0,
    };
    let event = Event::draw(detail, draw);
    let slots = event.slots();
    let mut other = event.clone();
    let mut lost = 0;
    let changes = draw.below(slots.len() + 1);
    for index in draw.some_of(changes, slots.len()) {
        let near = draw.chance(40);
        other.change(slots[index], near, draw);
        let noun = matches!(slots[index], Slot::Who | Slot::What);
        let half = noun && (other.who.group, other.what.group) == (event.who.group, event.what.group);
        lost += if half { 7 } else { 13 };
    }
    let score = (50 + draw.below(11)).saturating_sub(lost + 5).min(50);
    (statement(&event, draw), statement(&other, draw), score)
}

/// A question, a sentence, and whether the sentence answers the question.
pub(super) fn answer(detail: Detail, draw: &mut Draw) -> (String, String, bool) {
    let mut event = Event::draw(detail, draw);
    let slot = askable(&event, draw);
    let question = asked(&event, slot, draw);
    let answered = draw.chance(50);
    if !answered {
        // Where it was or when is not said, or it is said of something else.
        match slot {
            Slot::Place if draw.chance(50) => event.place = None,
            Slot::Time if draw.chance(50) => event.time = None,
            _ => event = nearly(&event, Some(slot), draw),
        }
    }
    (question, statement(&event, draw), answered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_differ_where_they_may() {
        let mut draw = Draw::new(9, 0);
        for _ in 0..300 {
            let event = Event::draw(FULL, &mut draw);
            let other = nearly(&event, Some(Slot::What), &mut draw);
            assert_eq!(event.what, other.what);
            assert_ne!(event, other);
        }
    }

    #[test]
    fn scores_cover_the_scale_and_equal_sentences_score_high() {
        let mut draw = Draw::new(9, 1);
        let mut thirds = [0; 3];
        for _ in 0..600 {
            let (one, two, score) = similarity(&mut draw);
            assert!(score <= 50);
            thirds[score * 3 / 51] += 1;
            if one == two {
                assert!(score >= 45, "{one} {score}");
            }
        }
        assert!(thirds.iter().all(|&count| count > 100), "{thirds:?}");
    }

    #[test]
    fn shares_are_as_drawn() {
        let mut draw = Draw::new(9, 2);
        let mut count = |make: fn(Detail, &mut Draw) -> (String, String, bool)| {
            (0..1000).filter(|_| make(FULL, &mut draw).2).count()
        };
        for (share, near) in [(count(paraphrase), 550), (count(duplicate), 420), (count(answer), 500)] {
            // Five standard deviations of a thousand draws.
            assert!(share.abs_diff(near) < 80, "{share} {near}");
        }
    }
}
