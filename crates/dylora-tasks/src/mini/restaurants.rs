//! Places to eat: E2E's attributes with values of our own, and what can be said of each.

use super::describe::{self, Fact, Gender, Subject};
use super::draw::Draw;

const FIRST: &[&str] = &[
    "Blue", "Golden", "Green", "Silver", "Old", "Little", "Royal", "Wild", "Red", "Sunny", "Quiet", "Happy",
];
const SECOND: &[&str] = &[
    "Spoon", "Lantern", "Anchor", "Garden", "Fox", "Kettle", "Mill", "Oven", "Rose", "Crown", "Swan", "Table", "Bell",
    "Olive", "Pepper", "Barrel",
];
const NEAR: &[&str] = &[
    "Burger Palace",
    "Castle Hotel",
    "Market Hall",
    "Opera House",
    "Rainbow Cinema",
    "Town Museum",
    "Union Station",
    "Victoria Bridge",
];

/// The attributes after the name, in the order of the challenge's files, with their values.
const VALUES: &[(&str, &[&str])] = &[
    ("eatType", &["pub", "restaurant", "coffee shop"]),
    (
        "food",
        &[
            "Italian", "French", "Chinese", "Indian", "Japanese", "English", "Greek", "Mexican", "Spanish", "Turkish",
        ],
    ),
    (
        "priceRange",
        &["cheap", "moderate", "high", "less than £10", "£15-25", "more than £40"],
    ),
    (
        "customer rating",
        &["poor", "average", "excellent", "1 out of 5", "3 out of 5", "5 out of 5"],
    ),
    ("area", &["riverside", "city centre", "old town", "harbour"]),
    ("familyFriendly", &["yes", "no"]),
    ("near", NEAR),
];

/// A meaning representation: attributes as the csv names them, with their values.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Restaurant(pub(super) Vec<(&'static str, String)>);

/// Which names are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// Three quarters of all.
    Known,
    /// The others.
    New,
    All,
}

fn name(names: Names, draw: &mut Draw) -> String {
    loop {
        let (first, second) = (draw.below(FIRST.len()), draw.below(SECOND.len()));
        let is_new = (first + 2 * second).is_multiple_of(4);
        if names == Names::All || is_new == (names == Names::New) {
            return format!("{} {}", FIRST[first], SECOND[second]);
        }
    }
}

impl Restaurant {
    /// A name and two to six attributes, what kind of place it is mostly among them.
    pub(super) fn draw(names: Names, draw: &mut Draw) -> Self {
        let mut attributes = vec![("name", name(names, draw))];
        let count = 2 + draw.below(5);
        let mut chosen = draw.some_of(count, VALUES.len());
        if draw.chance(80) && !chosen.contains(&0) {
            chosen[0] = 0;
        }
        chosen.sort_unstable();
        for index in chosen {
            let (attribute, values) = VALUES[index];
            attributes.push((attribute, (*draw.pick(values)).to_owned()));
        }
        Restaurant(attributes)
    }

    /// As the csv has it: `name[Golden Lantern], eatType[pub]`.
    pub(super) fn csv(&self) -> String {
        let parts: Vec<String> = self.0.iter().map(|(name, value)| format!("{name}[{value}]")).collect();
        parts.join(", ")
    }

    fn value(&self, attribute: &str) -> Option<&str> {
        let found = self.0.iter().find(|(name, _)| *name == attribute);
        found.map(|(_, value)| value.as_str())
    }

    /// The place, and what is said of it besides its kind.
    pub(super) fn parts(&self, draw: &mut Draw) -> (Subject, Vec<Fact>) {
        let kind = self.value("eatType");
        let known = VALUES[0].1.iter().copied().find(|noun| Some(*noun) == kind);
        let subject = Subject {
            name: self.0[0].1.clone(),
            noun: known.unwrap_or_else(|| *draw.pick(&["place", "venue"])),
            tell_noun: known.is_some(),
            gender: Gender::Thing,
        };
        let facts = self.0[1..].iter().filter(|(name, _)| *name != "eatType");
        (subject, facts.map(|(name, value)| fact(name, value)).collect())
    }

    /// A text that tells all of it.
    pub(super) fn text(&self, draw: &mut Draw) -> String {
        let (subject, facts) = self.parts(draw);
        describe::text(&subject, &facts, draw)
    }
}

/// What can be said of an attribute.
fn fact(attribute: &str, value: &str) -> Fact {
    let fact = |verbs: &[&str], phrases: &[&str], adjectives: &[&str]| Fact::new(value, verbs, phrases, adjectives);
    let number = value.contains(char::is_numeric);
    match (attribute, value) {
        ("food", _) => fact(
            &["serves {} food", "offers {} dishes", "has {} food on the menu"],
            &["with {} food", "serving {} dishes"],
            &["{}"],
        ),
        ("priceRange", _) if number => fact(
            &["has a price range of {}", "has dishes for {}", "has prices of {}"],
            &["with prices of {}", "in the price range of {}"],
            &[],
        ),
        ("priceRange", "cheap") => fact(
            &["is {}", "has low prices"],
            &["with low prices"],
            &["{}", "low-priced"],
        ),
        ("priceRange", "moderate") => fact(
            &["is moderately priced", "has a {} price range"],
            &["with {} prices"],
            &["moderately priced"],
        ),
        ("priceRange", _) => fact(
            &["is expensive", "has a {} price range"],
            &["with {} prices"],
            &["expensive", "high-priced"],
        ),
        ("customer rating", _) if number => fact(
            &["has a customer rating of {}", "is rated {} by customers"],
            &["with a customer rating of {}"],
            &[],
        ),
        ("customer rating", "excellent") => fact(
            &["has an {} customer rating", "is rated highly by customers"],
            &["with an {} customer rating"],
            &["highly rated"],
        ),
        ("customer rating", "poor") => fact(
            &["has a {} customer rating", "is not liked by customers"],
            &["with a {} customer rating"],
            &["{}ly rated"],
        ),
        ("customer rating", _) => fact(
            &["has an {} customer rating", "is rated as {} by customers"],
            &["with an {} customer rating"],
            &[],
        ),
        ("area", "riverside" | "harbour") => fact(
            &["is located by the {}", "can be found in the {} area"],
            &["by the {}", "in the {} area"],
            &[],
        ),
        ("area", _) => fact(
            &["is located in the {}", "can be found in the {}"],
            &["in the {}", "in the {} area"],
            &[],
        ),
        ("familyFriendly", "yes") => fact(
            &["is family friendly", "welcomes families with children"],
            &[],
            &["family friendly", "child friendly"],
        ),
        ("familyFriendly", _) => fact(
            &["is not family friendly", "does not welcome children"],
            &["for adults only"],
            &["adults-only"],
        ),
        _ => fact(
            &["is near the {}", "can be found close to the {}"],
            &["near the {}", "close to the {}"],
            &[],
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_or_new_and_attributes_are_the_challenges() {
        let mut draw = Draw::new(4, 0);
        let name = |names, draw: &mut Draw| Restaurant::draw(names, draw).0[0].1.clone();
        let known: Vec<String> = (0..300).map(|_| name(Names::Known, &mut draw)).collect();
        for _ in 0..100 {
            assert!(!known.contains(&name(Names::New, &mut draw)));
            let restaurant = Restaurant::draw(Names::All, &mut draw);
            assert!((3..=8).contains(&restaurant.0.len()), "{restaurant:?}");
            let order: Vec<usize> = restaurant.0[1..]
                .iter()
                .filter_map(|(name, _)| VALUES.iter().position(|(other, _)| other == name))
                .collect();
            assert!(order.is_sorted() && order.len() + 1 == restaurant.0.len());
        }
    }

    #[test]
    fn a_text_has_the_values_that_are_copied() {
        let mut draw = Draw::new(5, 0);
        for _ in 0..300 {
            let restaurant = Restaurant::draw(Names::All, &mut draw);
            let text = restaurant.text(&mut draw);
            for (name, value) in &restaurant.0 {
                let copied = matches!(*name, "name" | "eatType" | "food" | "area" | "near");
                assert!(!copied || text.contains(value.as_str()), "{name}[{value}]: {text}");
            }
        }
    }
}
