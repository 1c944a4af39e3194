//! Text to pre-train a causal model on: descriptions, the same ones in other words, and lists in other orders. Nowhere is a
//! list followed by its text, which is what the tasks are about.

use super::draw::Draw;
use super::entities::{Entity, Naming, SEEN, UNSEEN};
use super::restaurants::{Names, Restaurant};
use crate::generation::{GenerationTask, Meaning, Triple, e2e};

/// One line: a text, or a pair with a tab between.
pub(super) fn line(draw: &mut Draw) -> String {
    let about = About::draw(draw);
    match draw.below(100) {
        0..20 => about.text(draw),
        20..60 => format!("{}\t{}", about.text(draw), about.text(draw)),
        60..90 => format!("{}\t{}", about.list(draw), about.list(draw)),
        _ => titles(draw),
    }
}

/// What a line is about.
enum About {
    /// In the spelling of E2E's targets, or as people write.
    Restaurant(Restaurant, bool),
    Entity(Entity, Naming),
}

impl About {
    fn draw(draw: &mut Draw) -> Self {
        if draw.chance(45) {
            let restaurant = Restaurant::draw(Names::All, draw);
            return About::Restaurant(restaurant, draw.chance(80));
        }
        let entity = Entity::draw(draw.below(SEEN.len() + UNSEEN.len()), 4, draw);
        let naming = if draw.chance(50) { Naming::WebNlg } else { Naming::Dart };
        About::Entity(entity, naming)
    }

    fn text(&self, draw: &mut Draw) -> String {
        match self {
            About::Restaurant(restaurant, true) => e2e::tokenise(&restaurant.text(draw)),
            About::Restaurant(restaurant, false) => restaurant.text(draw),
            About::Entity(entity, _) => entity.text(draw),
        }
    }

    /// What it is about as a list in random order, in the form that a prompt has.
    fn list(&self, draw: &mut Draw) -> String {
        let (task, meaning) = match self {
            About::Restaurant(restaurant, _) => {
                let Restaurant(attributes) = restaurant;
                let order = draw.some_of(attributes.len(), attributes.len());
                let shuffled = order.into_iter().map(|index| &attributes[index]);
                let owned = shuffled.map(|(name, value)| ((*name).to_owned(), value.clone()));
                (GenerationTask::E2e, Meaning::Attributes(owned.collect()))
            }
            About::Entity(entity, naming) => {
                let task = match naming {
                    Naming::WebNlg => GenerationTask::WebNlg,
                    Naming::Dart => GenerationTask::Dart,
                };
                let triples = entity.triples(*naming);
                let order = draw.some_of(triples.len(), triples.len());
                let shuffled = order.into_iter().map(|index| triples[index].clone());
                let triple = |[subject, property, object]: [String; 3]| Triple {
                    subject,
                    property,
                    object,
                };
                let meaning = Meaning::Triples {
                    triples: shuffled.map(triple).collect(),
                    original: Vec::new(),
                };
                (task, meaning)
            }
        };
        task.context(&meaning)
    }
}

/// Names as titles, with underscores, and as people write them.
fn titles(draw: &mut Draw) -> String {
    let number = draw.below(SEEN.len() + UNSEEN.len());
    let entity = Entity::draw(number, 4, draw);
    let names = entity.names();
    let titles: Vec<String> = names.iter().map(|name| name.replace(' ', "_")).collect();
    format!("{}\t{}", titles.join(" , "), names.join(" , "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_list_is_followed_by_its_text() {
        let mut draw = Draw::new(7, 0);
        let is_list = |text: &str| text.contains(" : ");
        let mut lists = 0;
        for _ in 0..2000 {
            let line = line(&mut draw);
            assert!(!line.contains("  ") && !line.contains('\n'), "{line}");
            if let Some((one, two)) = line.split_once('\t') {
                assert!(!two.contains('\t'), "{line}");
                assert_eq!(is_list(one), is_list(two), "{line}");
                lists += usize::from(is_list(one));
            }
        }
        assert!((500..700).contains(&lists), "{lists}");
    }
}
