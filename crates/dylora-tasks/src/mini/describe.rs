//! Descriptions: a thing or person, and what is said of it, in sentences. The same facts have many texts: the facts come in
//! any order, one or several to a sentence, as a verb, an adjective or what follows the noun.

use super::draw::Draw;

/// Something that can be said, in the forms that a sentence can take it up in.
#[derive(Clone, Debug, Default)]
pub(super) struct Fact {
    /// `serves Italian food`; at least one.
    pub(super) verbs: Vec<String>,
    /// `near the Opera House`.
    pub(super) phrases: Vec<String>,
    /// `Italian`.
    pub(super) adjectives: Vec<String>,
}

impl Fact {
    /// Forms in which `{}` stands for the value.
    pub(super) fn new(value: &str, verbs: &[&str], phrases: &[&str], adjectives: &[&str]) -> Self {
        let fill = |forms: &[&str]| forms.iter().map(|form| form.replace("{}", value)).collect();
        Fact {
            verbs: fill(verbs),
            phrases: fill(phrases),
            adjectives: fill(adjectives),
        }
    }
}

/// Whether something is spoken of as a thing or as a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gender {
    Thing,
    He,
    She,
}

impl Gender {
    fn pronoun(self) -> &'static str {
        match self {
            Gender::Thing => "it",
            Gender::He => "he",
            Gender::She => "she",
        }
    }

    fn relative(self) -> &'static str {
        match self {
            Gender::Thing => "that",
            Gender::He | Gender::She => "who",
        }
    }
}

/// What is spoken of.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    /// `Golden Lantern`.
    pub(super) name: String,
    /// `pub`.
    pub(super) noun: &'static str,
    /// Whether the noun is one of the facts, which every text has to tell.
    pub(super) tell_noun: bool,
    pub(super) gender: Gender,
}

/// Of the facts of a sentence, those that are still to be told.
struct Untold<'f>(Vec<&'f Fact>);

impl Untold<'_> {
    /// A form of the first fact that has one of the kind, which is told by it.
    fn take(&mut self, forms: impl Fn(&Fact) -> &[String], draw: &mut Draw) -> Option<String> {
        let place = self.0.iter().position(|fact| !forms(fact).is_empty())?;
        let fact = self.0.remove(place);
        Some(draw.pick(forms(fact)).clone())
    }

    fn adjective(&mut self, draw: &mut Draw) -> Option<String> {
        self.take(|fact| &fact.adjectives, draw)
    }

    fn phrase(&mut self, draw: &mut Draw) -> Option<String> {
        self.take(|fact| &fact.phrases, draw)
    }

    /// `serves Italian food and is near the Opera House`; a fact at least is left.
    fn verbs(&mut self, most: usize, draw: &mut Draw) -> Option<String> {
        let count = (1 + draw.below(most)).min(self.0.len());
        let told: Vec<String> = (0..count).filter_map(|_| self.take(|fact| &fact.verbs, draw)).collect();
        list(&told)
    }
}

/// `a, b and c`; none of nothing.
fn list(parts: &[String]) -> Option<String> {
    let (last, rest) = parts.split_last()?;
    Some(match rest {
        [] => last.clone(),
        _ => format!("{} and {last}", rest.join(", ")),
    })
}

/// A text that tells every fact, each once, with capitals and full stops.
pub(super) fn text(subject: &Subject, facts: &[Fact], draw: &mut Draw) -> String {
    let order: Vec<usize> = if draw.chance(60) {
        (0..facts.len()).collect()
    } else {
        draw.some_of(facts.len(), facts.len())
    };
    let mut untold = Untold(order.into_iter().map(|index| &facts[index]).collect());
    let mut sentences = vec![opening(subject, &mut untold, draw)];
    while let Some(sentence) = further(subject, &mut untold, draw) {
        sentences.push(sentence);
    }
    let sentences: Vec<String> = sentences.iter().map(|text| format!("{}.", capital(text))).collect();
    sentences.join(" ")
}

/// The first sentence: it has the name, and the noun if that is a fact.
fn opening(subject: &Subject, untold: &mut Untold<'_>, draw: &mut Draw) -> String {
    let Subject { name, noun, .. } = subject;
    let named = |draw: &mut Draw| {
        if subject.tell_noun || (draw.chance(30) && subject.gender == Gender::Thing) {
            format!("the {noun} {name}")
        } else {
            name.clone()
        }
    };
    match draw.below(10) {
        0..2 if subject.gender == Gender::Thing => {
            format!("there is {} called {name}", noun_phrase(subject, untold, draw))
        }
        2..4 => {
            let what = noun_phrase(subject, untold, draw);
            match untold.verbs(2, draw) {
                Some(verbs) => format!("{name}, {what}, {verbs}"),
                None => format!("{name} is {what}"),
            }
        }
        4..6 => match (untold.phrase(draw), untold.verbs(2, draw)) {
            (Some(phrase), Some(verbs)) => format!("{phrase}, {} {verbs}", named(draw)),
            (Some(phrase), None) => format!("{name} is {} {phrase}", with_article(noun)),
            (None, Some(verbs)) => format!("{} {verbs}", named(draw)),
            (None, None) => format!("{name} is {}", with_article(noun)),
        },
        6..7 if !untold.0.is_empty() => match untold.verbs(2, draw) {
            Some(verbs) => format!("{} {verbs}", named(draw)),
            None => format!("{name} is {}", with_article(noun)),
        },
        _ => {
            let what = noun_phrase(subject, untold, draw);
            let relative = subject.gender.relative();
            match draw.chance(50).then(|| untold.verbs(2, draw)).flatten() {
                Some(verbs) => format!("{name} is {what} {relative} {verbs}"),
                None => format!("{name} is {what}"),
            }
        }
    }
}

/// `a cheap Italian pub near the Opera House`, with as many facts as fall into it.
fn noun_phrase(subject: &Subject, untold: &mut Untold<'_>, draw: &mut Draw) -> String {
    let mut words = Vec::new();
    for percent in [65, 40] {
        words.extend(draw.chance(percent).then(|| untold.adjective(draw)).flatten());
    }
    words.push(subject.noun.to_owned());
    for percent in [65, 25] {
        words.extend(draw.chance(percent).then(|| untold.phrase(draw)).flatten());
    }
    with_article(&words.join(" "))
}

/// A later sentence, while there is something to tell.
fn further(subject: &Subject, untold: &mut Untold<'_>, draw: &mut Draw) -> Option<String> {
    if untold.0.is_empty() {
        return None;
    }
    let who = match (subject.gender, draw.below(10)) {
        (Gender::Thing, 0..3) => format!("the {}", subject.noun),
        (_, 3) => subject.name.clone(),
        (gender, _) => gender.pronoun().to_owned(),
    };
    if untold.0.len() > 1
        && draw.chance(15)
        && let Some(phrase) = untold.phrase(draw)
    {
        return untold.verbs(1, draw).map(|verbs| format!("{phrase}, {who} {verbs}"));
    }
    let also = if draw.chance(15) { "also " } else { "" };
    untold.verbs(3, draw).map(|verbs| match verbs.strip_prefix("is ") {
        Some(rest) => format!("{who} is {also}{rest}"),
        None => format!("{who} {also}{verbs}"),
    })
}

/// The words with `a` or `an` before them.
pub(super) fn with_article(words: &str) -> String {
    let article = if words.starts_with(['a', 'e', 'i', 'o', 'A', 'E', 'I', 'O']) {
        "an"
    } else {
        "a"
    };
    format!("{article} {words}")
}

/// The text with a capital at its beginning.
pub(super) fn capital(text: &str) -> String {
    let mut rest = text.chars();
    let first = rest.next().map(|first| first.to_ascii_uppercase());
    format!("{}{}", first.into_iter().collect::<String>(), rest.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fact_is_told_once_and_texts_differ() {
        let subject = Subject {
            name: "Golden Lantern".to_owned(),
            noun: "pub",
            tell_noun: true,
            gender: Gender::Thing,
        };
        let facts: Vec<Fact> = ["one", "two", "three", "four"]
            .iter()
            .map(|value| {
                Fact::new(
                    value,
                    &["serves {} food", "offers {} dishes"],
                    &["with {} food"],
                    &["{}"],
                )
            })
            .collect();
        let mut draw = Draw::new(3, 0);
        let mut texts = std::collections::HashSet::new();
        for _ in 0..300 {
            let text = text(&subject, &facts, &mut draw);
            for value in ["one", "two", "three", "four", "Golden Lantern"] {
                let times = text.matches(value).count();
                assert!(times == 1 || (value.starts_with('G') && times > 0), "{value}: {text}");
            }
            assert!(
                text.contains("pub") && text.ends_with('.') && !text.contains("  "),
                "{text}"
            );
            assert!(text.starts_with(|first: char| first.is_ascii_uppercase()), "{text}");
            texts.insert(text);
        }
        assert!(texts.len() > 250, "{}", texts.len());
    }
}
