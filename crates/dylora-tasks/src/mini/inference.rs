//! Inference with three labels (MNLI) and two (RTE): quantifiers, negation and hypernyms.
//!
//! Cutting away detail, or naming the kind instead of the thing, makes a claim weaker: what was claimed still holds. Under a
//! negation it is the other way round.

use super::draw::Draw;
use super::event::{Detail, Event, Slot, noun, phrase, sentence};
use super::lexicon::{OF_PEOPLE, OF_THINGS, PEOPLE, PLACES, THINGS, TIMES, VERBS};
use super::pairs::SYNONYMS;

/// What follows from a premise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    Entailment,
    Neutral,
    Contradiction,
}

/// Of whom something is claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quantity {
    The,
    All,
    Some,
    No,
}

/// A sentence about an event; the nouns may be named by their kind.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim {
    event: Event,
    quantity: Quantity,
    /// `did not`; [`Quantity::No`] denies by itself.
    negated: bool,
    who_kind: bool,
    what_kind: bool,
}

/// What can be left out or put in without changing the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    WhoKind,
    WhatKind,
    Adjective,
    Place,
    Time,
}

const PARTS: [Part; 5] = [Part::WhoKind, Part::WhatKind, Part::Adjective, Part::Place, Part::Time];

impl Claim {
    fn denies(&self) -> bool {
        self.negated || self.quantity == Quantity::No
    }

    /// Whether that part could be made less exact.
    fn exact(&self, part: Part) -> bool {
        match part {
            // `the worker` would be somebody else, and what all farmers did not all workers did.
            Part::WhoKind => !self.who_kind && matches!(self.quantity, Quantity::Some | Quantity::No),
            Part::WhatKind => !self.what_kind,
            Part::Adjective => self.event.what_adjective.is_some(),
            Part::Place => self.event.place.is_some(),
            Part::Time => self.event.time.is_some(),
        }
    }

    fn weaken(&mut self, part: Part) {
        match part {
            Part::WhoKind => self.who_kind = true,
            Part::WhatKind => self.what_kind = true,
            Part::Adjective => self.event.what_adjective = None,
            Part::Place => self.event.place = None,
            Part::Time => self.event.time = None,
        }
    }

    /// Without one or two of the exact parts; the same if there is none.
    fn general(&self, draw: &mut Draw) -> Claim {
        let parts: Vec<Part> = PARTS.into_iter().filter(|&part| self.exact(part)).collect();
        let mut claim = self.clone();
        let count = 1 + draw.below(2);
        for index in draw.some_of(count, parts.len()) {
            claim.weaken(parts[index]);
        }
        claim
    }

    /// What follows from it by cutting away (or, if it denies, by adding) detail. `exact` is the claim with every detail.
    fn implied(&self, exact: &Claim, draw: &mut Draw) -> Claim {
        if self.denies() {
            self.detailed(exact, draw)
        } else {
            let mut claim = self.clone();
            if claim.quantity == Quantity::All && draw.chance(60) {
                claim.quantity = Quantity::Some;
            }
            claim.general(draw)
        }
    }

    /// What does not follow, by adding (or, if it denies, by cutting away) detail.
    fn unsure(&self, exact: &Claim, draw: &mut Draw) -> Claim {
        if self.denies() {
            return self.general(draw);
        }
        let mut claim = self.detailed(exact, draw);
        if claim.quantity == Quantity::Some && draw.chance(30) {
            claim.quantity = Quantity::All;
        }
        claim
    }

    /// With one or two parts as exact as in `exact`; the same if it has all of them.
    fn detailed(&self, exact: &Claim, draw: &mut Draw) -> Claim {
        let parts: Vec<Part> = PARTS
            .into_iter()
            .filter(|&part| exact.exact(part) && !self.exact(part))
            .collect();
        let mut claim = self.clone();
        let count = 1 + draw.below(2);
        for index in draw.some_of(count, parts.len()) {
            match parts[index] {
                Part::WhoKind => claim.who_kind = false,
                Part::WhatKind => claim.what_kind = false,
                Part::Adjective => claim.event.what_adjective = exact.event.what_adjective,
                Part::Place => claim.event.place = exact.event.place,
                Part::Time => claim.event.time = exact.event.time,
            }
        }
        claim
    }

    /// Denied if it claims, claimed if it denies.
    fn turned(&self, draw: &mut Draw) -> Claim {
        let mut claim = self.clone();
        match self.quantity {
            Quantity::The => claim.negated = !self.negated,
            Quantity::No => claim.quantity = *draw.pick(&[Quantity::Some, Quantity::All]),
            Quantity::All | Quantity::Some => claim.quantity = Quantity::No,
        }
        claim
    }

    fn text(&self, draw: &mut Draw) -> String {
        let event = &self.event;
        let several = self.quantity != Quantity::The || event.several;
        let forms = PEOPLE[event.who.group].name;
        let person = match (self.who_kind, several) {
            (false, _) => noun(&PEOPLE[event.who.group].nouns[event.who.noun], several, SYNONYMS, draw),
            (true, true) => forms.1,
            (true, false) => forms.0,
        };
        let article = match self.quantity {
            Quantity::The => "the",
            Quantity::All => "all",
            Quantity::Some => "some",
            Quantity::No => "no",
        };
        let who = phrase(article, event.who_adjective.map(|index| OF_PEOPLE[index].0), person);
        let thing = if self.what_kind {
            THINGS[event.what.group].name.0
        } else {
            noun(&THINGS[event.what.group].nouns[event.what.noun], false, SYNONYMS, draw)
        };
        let what = phrase("a", event.what_adjective.map(|index| OF_THINGS[index].0), thing);
        let forms = VERBS[event.verb].forms;
        let verb = if self.negated {
            format!("did not {}", forms[0])
        } else {
            forms[2].to_owned()
        };
        let mut text = format!("{who} {verb} {what}");
        for adjunct in event
            .place
            .map(|index| PLACES[index])
            .into_iter()
            .chain(event.time.map(|index| TIMES[index]))
        {
            text.push(' ');
            text.push_str(adjunct);
        }
        sentence(&text, '.')
    }
}

/// A premise and a hypothesis of which `relation` is true.
pub(super) fn draw(relation: Relation, draw: &mut Draw) -> (String, String) {
    loop {
        let (premise, hypothesis) = pair(relation, draw);
        // Where there was nothing to cut away or to add, both are the same claim.
        if premise != hypothesis {
            return (premise.text(draw), hypothesis.text(draw));
        }
    }
}

fn pair(relation: Relation, draw: &mut Draw) -> (Claim, Claim) {
    let detail = Detail {
        adjective: 40,
        place: 60,
        time: 40,
    };
    let mut event = Event::draw(detail, draw);
    event.who_adjective = None;
    let quantity = *draw.pick(&[
        Quantity::The,
        Quantity::The,
        Quantity::The,
        Quantity::Some,
        Quantity::Some,
        Quantity::All,
        Quantity::No,
        Quantity::No,
    ]);
    let exact = Claim {
        event,
        quantity,
        negated: quantity == Quantity::The && draw.chance(30),
        who_kind: false,
        what_kind: false,
    };
    // Something must be left to add: the premise is not always as exact as it could be.
    let wants_room = (relation == Relation::Neutral) != exact.denies();
    let premise = if wants_room || draw.chance(30) {
        exact.general(draw)
    } else {
        exact.clone()
    };
    let hypothesis = match relation {
        Relation::Entailment => premise.implied(&exact, draw),
        Relation::Contradiction => {
            // What denies a weaker claim denies the stronger one too.
            let mut weaker = premise.implied(&exact, draw);
            if weaker.quantity == Quantity::All {
                weaker.quantity = Quantity::Some;
            }
            weaker.turned(draw)
        }
        Relation::Neutral if draw.chance(40) => {
            let mut other = premise.clone();
            let slot = *draw.pick(&[Slot::Who, Slot::Verb, Slot::What]);
            other.event.change(slot, false, draw);
            if other.what_kind && other.event.what.group == premise.event.what.group && slot == Slot::What {
                // Another fruit is still a fruit.
                other.event.change(Slot::Verb, false, draw);
            }
            other
        }
        Relation::Neutral => premise.unsure(&exact, draw),
    };
    (premise, hypothesis)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How much detail a claim has.
    fn exactness(claim: &Claim) -> usize {
        PARTS
            .into_iter()
            .filter(|&part| match part {
                Part::WhoKind => !claim.who_kind,
                _ => claim.exact(part),
            })
            .count()
    }

    #[test]
    fn what_follows_is_weaker_unless_it_is_denied() {
        let mut draw = Draw::new(11, 0);
        let (mut claims, mut denials) = (0, 0);
        for _ in 0..2000 {
            let (premise, hypothesis) = pair(Relation::Entailment, &mut draw);
            assert_eq!(premise.denies(), hypothesis.denies());
            if premise.denies() {
                denials += 1;
                assert!(
                    exactness(&premise) <= exactness(&hypothesis),
                    "{premise:?} {hypothesis:?}"
                );
            } else {
                claims += 1;
                assert!(
                    exactness(&premise) >= exactness(&hypothesis),
                    "{premise:?} {hypothesis:?}"
                );
                assert!(!(hypothesis.quantity == Quantity::All && hypothesis.who_kind));
            }
        }
        assert!(claims > 500 && denials > 300, "{claims} {denials}");
    }

    #[test]
    fn contradictions_turn_the_claim_and_nothing_else_follows_from_them() {
        let mut draw = Draw::new(11, 1);
        for _ in 0..2000 {
            let (premise, hypothesis) = pair(Relation::Contradiction, &mut draw);
            assert_ne!(premise.denies(), hypothesis.denies(), "{premise:?} {hypothesis:?}");
            // The denied one is the more general: what it denies covers what the other claims.
            let (denied, claimed) = if premise.denies() {
                (&premise, &hypothesis)
            } else {
                (&hypothesis, &premise)
            };
            assert!(exactness(denied) <= exactness(claimed), "{premise:?} {hypothesis:?}");
        }
    }

    #[test]
    fn claims_read_as_sentences() {
        let mut draw = Draw::new(11, 2);
        let (mut claim, _) = pair(Relation::Entailment, &mut draw);
        claim.event = Event::draw(
            Detail {
                adjective: 0,
                place: 0,
                time: 0,
            },
            &mut draw,
        );
        claim.event.verb = 1;
        claim.event.what.group = 0;
        (claim.quantity, claim.negated, claim.who_kind, claim.what_kind) = (Quantity::The, true, false, true);
        claim.event.who.group = 0;
        (claim.event.who.noun, claim.event.several) = (1, false);
        assert_eq!(claim.text(&mut draw), "The carpenter did not sell a fruit.");
        (claim.quantity, claim.negated, claim.who_kind) = (Quantity::No, false, true);
        assert_eq!(claim.text(&mut draw), "No workers sold a fruit.");
    }
}
