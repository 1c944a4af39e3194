//! What happened: somebody did something to a thing, perhaps somewhere, perhaps at some time. The same event has many
//! sentences and questions.

use super::draw::Draw;
use super::lexicon::{Adjective, Group, Noun, OF_PEOPLE, OF_THINGS, PEOPLE, PLACES, THINGS, TIMES, VERBS, Verb};

/// Infinitive, past and past participle in [`super::lexicon::VerbForms`].
const INFINITIVE: usize = 0;
const PAST: usize = 2;
const PARTICIPLE: usize = 3;

/// A noun by its group and its place there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NounId {
    pub(super) group: usize,
    pub(super) noun: usize,
}

impl NounId {
    fn draw(groups: &[Group], group: usize, draw: &mut Draw) -> Self {
        NounId {
            group,
            noun: draw.below(groups[group].nouns.len()),
        }
    }
}

/// The parts of an event that can be asked for or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    Who,
    Verb,
    What,
    Place,
    Time,
}

/// How much an event holds besides actor, verb and thing: percentages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Detail {
    /// An adjective, for the actor and for the thing each.
    pub(super) adjective: usize,
    /// A place.
    pub(super) place: usize,
    /// A time.
    pub(super) time: usize,
}

/// An event; numbers are indices into the lexicon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) who: NounId,
    /// Several actors of that kind.
    pub(super) several: bool,
    pub(super) who_adjective: Option<usize>,
    pub(super) verb: usize,
    pub(super) what: NounId,
    pub(super) what_adjective: Option<usize>,
    pub(super) place: Option<usize>,
    pub(super) time: Option<usize>,
}

/// How an event is said.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    /// The thing is the grammatical subject.
    pub(super) passive: bool,
    /// The time, or else the place, comes first.
    pub(super) front: bool,
    /// Percentage of the words that have a synonym which give way to it.
    pub(super) synonyms: usize,
}

impl Style {
    /// A random style.
    pub(super) fn draw(synonyms: usize, draw: &mut Draw) -> Self {
        Style {
            passive: draw.chance(35),
            front: draw.chance(25),
            synonyms,
        }
    }
}

/// The word of a noun in singular or plural, or now and then its synonym.
pub(super) fn noun(noun: &Noun, several: bool, synonyms: usize, draw: &mut Draw) -> &'static str {
    let forms = match noun.synonym {
        Some(synonym) if draw.chance(synonyms) => synonym,
        _ => noun.forms,
    };
    if several { forms.1 } else { forms.0 }
}

/// A form of a verb, or now and then of its synonym.
fn verb(verb: &Verb, form: usize, synonyms: usize, draw: &mut Draw) -> &'static str {
    match verb.synonym {
        Some(synonym) if draw.chance(synonyms) => synonym[form],
        _ => verb.forms[form],
    }
}

fn adjective(list: &[Adjective], index: usize, synonyms: usize, draw: &mut Draw) -> &'static str {
    match list[index] {
        (_, Some(synonym)) if draw.chance(synonyms) => synonym,
        (word, _) => word,
    }
}

/// Indices of the verbs that are done to things of `group`.
pub(super) fn verbs_for(group: usize) -> Vec<usize> {
    (0..VERBS.len())
        .filter(|&index| VERBS[index].takes.contains(&group))
        .collect()
}

impl Event {
    /// A random event.
    pub(super) fn draw(detail: Detail, draw: &mut Draw) -> Self {
        let who_group = draw.below(PEOPLE.len());
        let who = NounId::draw(PEOPLE, who_group, draw);
        let verb = draw.below(VERBS.len());
        let what_group = *draw.pick(VERBS[verb].takes);
        let what = NounId::draw(THINGS, what_group, draw);
        let maybe = |percent: usize, count: usize, draw: &mut Draw| draw.chance(percent).then(|| draw.below(count));
        Event {
            who,
            several: draw.chance(40),
            who_adjective: maybe(detail.adjective, OF_PEOPLE.len(), draw),
            verb,
            what,
            what_adjective: maybe(detail.adjective, OF_THINGS.len(), draw),
            place: maybe(detail.place, PLACES.len(), draw),
            time: maybe(detail.time, TIMES.len(), draw),
        }
    }

    /// The slots that are filled.
    pub(super) fn slots(&self) -> Vec<Slot> {
        let mut slots = vec![Slot::Who, Slot::Verb, Slot::What];
        slots.extend(self.place.map(|_| Slot::Place));
        slots.extend(self.time.map(|_| Slot::Time));
        slots
    }

    /// Fills a slot with something else that still makes sense. `near` keeps nouns within their group.
    pub(super) fn change(&mut self, slot: Slot, near: bool, draw: &mut Draw) {
        match slot {
            Slot::Who => self.who = another(PEOPLE, self.who, near, &all(PEOPLE), draw),
            Slot::What => self.what = another(THINGS, self.what, near, VERBS[self.verb].takes, draw),
            Slot::Verb => {
                let fitting = verbs_for(self.what.group);
                let own = fitting.iter().position(|&index| index == self.verb).unwrap_or(0);
                self.verb = fitting[draw.other(fitting.len(), own)];
            }
            Slot::Place => self.place = self.place.map(|own| draw.other(PLACES.len(), own)),
            Slot::Time => self.time = self.time.map(|own| draw.other(TIMES.len(), own)),
        }
    }

    /// The actor with its article: `the old farmers`.
    pub(super) fn actor(&self, synonyms: usize, draw: &mut Draw) -> String {
        let word = noun(
            &PEOPLE[self.who.group].nouns[self.who.noun],
            self.several,
            synonyms,
            draw,
        );
        phrase(
            "the",
            self.who_adjective
                .map(|index| adjective(OF_PEOPLE, index, synonyms, draw)),
            word,
        )
    }

    /// The thing with its article: `the red bicycle`.
    pub(super) fn thing(&self, synonyms: usize, draw: &mut Draw) -> String {
        let word = noun(&THINGS[self.what.group].nouns[self.what.noun], false, synonyms, draw);
        phrase(
            "the",
            self.what_adjective
                .map(|index| adjective(OF_THINGS, index, synonyms, draw)),
            word,
        )
    }

    /// A sentence that says what happened, without capital and full stop.
    pub(super) fn clause(&self, style: Style, draw: &mut Draw) -> String {
        let Style { synonyms, .. } = style;
        let (who, what) = (self.actor(synonyms, draw), self.thing(synonyms, draw));
        let word = &VERBS[self.verb];
        let core = if style.passive {
            format!("{what} was {} by {who}", verb(word, PARTICIPLE, synonyms, draw))
        } else {
            format!("{who} {} {what}", verb(word, PAST, synonyms, draw))
        };
        let (place, time) = (
            self.place.map(|index| PLACES[index]),
            self.time.map(|index| TIMES[index]),
        );
        let (first, rest): (Option<&str>, [Option<&str>; 2]) = match (style.front, time, place) {
            (true, Some(time), place) => (Some(time), [place, None]),
            (true, None, Some(place)) => (Some(place), [None, None]),
            _ => (None, [place, time]),
        };
        let parts = first
            .into_iter()
            .chain([core.as_str()])
            .chain(rest.into_iter().flatten());
        parts.collect::<Vec<_>>().join(" ")
    }

    /// A question for `slot`, without capital and question mark; it tells every other slot. A verb is not asked for.
    pub(super) fn question(&self, slot: Slot, style: Style, draw: &mut Draw) -> String {
        let Style { synonyms, passive, .. } = style;
        let word = &VERBS[self.verb];
        let (who, what) = (self.actor(synonyms, draw), self.thing(synonyms, draw));
        let asks = |slot: Slot| match slot {
            Slot::Place => "where",
            Slot::Time => "when",
            Slot::Who | Slot::Verb | Slot::What => "what",
        };
        let mut text = match (slot, passive) {
            (Slot::Who, false) => format!("who {} {what}", verb(word, PAST, synonyms, draw)),
            (Slot::Who, true) => format!("by whom was {what} {}", verb(word, PARTICIPLE, synonyms, draw)),
            (Slot::What, true) => format!("what was {} by {who}", verb(word, PARTICIPLE, synonyms, draw)),
            (Slot::What | Slot::Verb, _) => format!("what did {who} {}", verb(word, INFINITIVE, synonyms, draw)),
            (_, false) => format!(
                "{} did {who} {} {what}",
                asks(slot),
                verb(word, INFINITIVE, synonyms, draw)
            ),
            (_, true) => format!(
                "{} was {what} {} by {who}",
                asks(slot),
                verb(word, PARTICIPLE, synonyms, draw)
            ),
        };
        let place = self.place.filter(|_| slot != Slot::Place).map(|index| PLACES[index]);
        let time = self.time.filter(|_| slot != Slot::Time).map(|index| TIMES[index]);
        for adjunct in place.into_iter().chain(time) {
            text.push(' ');
            text.push_str(adjunct);
        }
        text
    }
}

/// Article, adjective and noun; `a` becomes `an` before a vowel.
pub(super) fn phrase(article: &str, adjective: Option<&str>, word: &str) -> String {
    let first = adjective.unwrap_or(word);
    let article = if article == "a" && first.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        article
    };
    [Some(article), adjective, Some(word)]
        .into_iter()
        .flatten()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

fn all(groups: &[Group]) -> Vec<usize> {
    (0..groups.len()).collect()
}

/// A noun other than `own`: of its group, or else of another of the `allowed` groups if there is one.
fn another(groups: &[Group], own: NounId, near: bool, allowed: &[usize], draw: &mut Draw) -> NounId {
    let elsewhere: Vec<usize> = allowed.iter().copied().filter(|&group| group != own.group).collect();
    if near || elsewhere.is_empty() {
        NounId {
            group: own.group,
            noun: draw.other(groups[own.group].nouns.len(), own.noun),
        }
    } else {
        let group = *draw.pick(&elsewhere);
        NounId::draw(groups, group, draw)
    }
}

/// `text` as a sentence: a capital first, `end` last.
pub(super) fn sentence(text: &str, end: char) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(chars).chain([end]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Style = Style {
        passive: false,
        front: false,
        synonyms: 0,
    };

    fn event() -> Event {
        Event {
            who: NounId { group: 0, noun: 0 },
            several: false,
            who_adjective: Some(0),
            verb: 1,
            what: NounId { group: 1, noun: 1 },
            what_adjective: Some(2),
            place: Some(1),
            time: Some(0),
        }
    }

    #[test]
    fn an_event_is_said_in_several_ways() {
        let (event, mut draw) = (event(), Draw::new(0, 0));
        let passive = Style {
            passive: true,
            front: true,
            ..PLAIN
        };
        assert_eq!(
            event.clause(PLAIN, &mut draw),
            "the old farmer sold the red bicycle near the river on Monday"
        );
        assert_eq!(
            sentence(&event.clause(passive, &mut draw), '.'),
            "On Monday the red bicycle was sold by the old farmer near the river."
        );
        let all = Style { synonyms: 100, ..PLAIN };
        assert_eq!(event.actor(all.synonyms, &mut draw), "the elderly farmer");
        assert_eq!(event.thing(all.synonyms, &mut draw), "the red bike");
    }

    #[test]
    fn a_question_tells_everything_but_what_it_asks_for() {
        let (event, mut draw) = (event(), Draw::new(0, 0));
        let passive = Style { passive: true, ..PLAIN };
        let cases = [
            (Slot::Who, PLAIN, "who sold the red bicycle near the river on Monday"),
            (
                Slot::Who,
                passive,
                "by whom was the red bicycle sold near the river on Monday",
            ),
            (
                Slot::What,
                PLAIN,
                "what did the old farmer sell near the river on Monday",
            ),
            (
                Slot::Place,
                PLAIN,
                "where did the old farmer sell the red bicycle on Monday",
            ),
            (
                Slot::Time,
                passive,
                "when was the red bicycle sold by the old farmer near the river",
            ),
        ];
        for (slot, style, text) in cases {
            assert_eq!(event.question(slot, style, &mut draw), text);
        }
    }

    #[test]
    fn a_change_changes_that_slot_alone_and_still_makes_sense() {
        let mut draw = Draw::new(3, 0);
        let detail = Detail {
            adjective: 50,
            place: 100,
            time: 100,
        };
        for turn in 0..500 {
            let before = Event::draw(detail, &mut draw);
            for slot in before.slots() {
                let mut after = before.clone();
                after.change(slot, turn % 2 == 0, &mut draw);
                assert_ne!(after, before);
                assert!(VERBS[after.verb].takes.contains(&after.what.group), "{after:?}");
                match slot {
                    Slot::Who => after.who = before.who,
                    Slot::Verb => after.verb = before.verb,
                    Slot::What => after.what = before.what,
                    Slot::Place => after.place = before.place,
                    Slot::Time => after.time = before.time,
                }
                assert_eq!(after, before);
            }
        }
    }

    #[test]
    fn articles_follow_the_sound() {
        assert_eq!(phrase("a", Some("old"), "car"), "an old car");
        assert_eq!(phrase("a", None, "car"), "a car");
        assert_eq!(phrase("", None, "cars"), "cars");
    }
}
