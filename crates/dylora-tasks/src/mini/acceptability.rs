//! Acceptability (CoLA): sentences, and sentences with one fault of agreement, word order or selection.

use super::draw::Draw;
use super::event::{Detail, Event, noun, phrase, sentence};
use super::lexicon::{OF_PEOPLE, OF_THINGS, PEOPLE, PLACES, THINGS, VERBS};

const THIRD: usize = 1;
const ING: usize = 4;
const DETAIL: Detail = Detail {
    adjective: 60,
    place: 60,
    time: 0,
};

/// What is wrong with a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Agreement,
    Order,
    Selection,
}

/// A sentence and whether it is acceptable.
pub(super) fn draw(draw: &mut Draw) -> (String, bool) {
    if draw.chance(55) {
        (accepted(draw), true)
    } else {
        let fault = *draw.pick(&[Fault::Agreement, Fault::Agreement, Fault::Order, Fault::Selection]);
        (build(Some(fault), draw), false)
    }
}

/// An acceptable sentence.
pub(super) fn accepted(draw: &mut Draw) -> String {
    build(None, draw)
}

fn build(fault: Option<Fault>, draw: &mut Draw) -> String {
    let mut event = Event::draw(DETAIL, draw);
    while fault == Some(Fault::Selection) && VERBS[event.verb].takes.len() == THINGS.len() {
        event = Event::draw(DETAIL, draw);
    }
    let word = &VERBS[event.verb];
    let several = event.several;
    // The verb agrees with its subject, not with the noun that stands next to it.
    let attractor = draw.chance(35).then(|| {
        let thing = &THINGS[draw.below(THINGS.len())];
        let place = *draw.pick(&["near", "behind", "beside"]);
        let several = draw.chance(50);
        format!("{place} the {}", noun(draw.pick(thing.nouns), several, 0, draw))
    });
    let agreeing = several != (fault == Some(Fault::Agreement));
    let predicate = match draw.below(3) {
        0 if agreeing => word.forms[0].to_owned(),
        0 => word.forms[THIRD].to_owned(),
        1 => format!("{} {}", if agreeing { "are" } else { "is" }, word.forms[ING]),
        _ => format!("{} {}", if agreeing { "were" } else { "was" }, word.forms[ING]),
    };
    let adjective_of_actor = event.who_adjective.map(|index| OF_PEOPLE[index].0);
    let adjective_of_thing = event.what_adjective.map(|index| OF_THINGS[index].0);
    let person = noun(&PEOPLE[event.who.group].nouns[event.who.noun], several, 0, draw);
    let thing = if fault == Some(Fault::Selection) {
        unfit(event.verb, draw)
    } else {
        noun(&THINGS[event.what.group].nouns[event.what.noun], false, 0, draw)
    };
    let article = *draw.pick(&["the", "a"]);
    let mut parts = vec![phrase("the", adjective_of_actor, person)];
    parts.extend(attractor);
    parts.push(predicate);
    parts.push(phrase(article, adjective_of_thing, thing));
    parts.extend(event.place.map(|index| PLACES[index].to_owned()));
    let mut words: Vec<&str> = parts.iter().flat_map(|part| part.split(' ')).collect();
    if fault == Some(Fault::Order) {
        // Two neighbours change places; the first word stays, so that no capital gives it away.
        let at = 1 + draw.below(words.len() - 2);
        words.swap(at, at + 1);
    }
    sentence(&words.join(" "), '.')
}

/// A noun that `verb`, which does not take everything, is not done to.
fn unfit(verb: usize, draw: &mut Draw) -> &'static str {
    let others: Vec<usize> = (0..THINGS.len())
        .filter(|group| !VERBS[verb].takes.contains(group))
        .collect();
    let group = &THINGS[*draw.pick(&others)];
    noun(draw.pick(group.nouns), false, 0, draw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_of_agreement_is_one_of_number_only() {
        for file in 0..200 {
            let good = build(None, &mut Draw::new(7, file));
            let bad = build(Some(Fault::Agreement), &mut Draw::new(7, file));
            let different: Vec<_> = good.split(' ').zip(bad.split(' ')).filter(|(a, b)| a != b).collect();
            assert_eq!(good.split(' ').count(), bad.split(' ').count());
            assert_eq!(different.len(), 1, "{good} / {bad}");
        }
    }

    #[test]
    fn other_faults_change_order_or_one_noun() {
        for file in 0..200 {
            let good = build(None, &mut Draw::new(7, file));
            let order = build(Some(Fault::Order), &mut Draw::new(7, file));
            let sorted = |text: &str| {
                let mut words: Vec<_> = text.trim_end_matches('.').split(' ').map(str::to_owned).collect();
                words.sort();
                words
            };
            assert_eq!(sorted(&good), sorted(&order));
            assert_ne!(good, order);
        }
    }
}
