//! Places, people and things with relations: what WebNLG and DART speak of.

use super::describe::{self, Fact, Gender, Subject};
use super::draw::Draw;

const CITIES: &[&str] = &[
    "Alder", "Brinmoor", "Calden", "Dunford", "Eastby", "Fenwick", "Galton", "Ivel", "Keswell", "Lorne", "Marston",
    "Penby",
];
const COUNTRIES: &[&str] = &["Norland", "Estavia", "Sorland", "Velia", "Maroa", "Tindra"];
const WOMEN: &[&str] = &["Anna", "Clara", "Edith", "Helen", "Maria", "Nora"];
const MEN: &[&str] = &["Albert", "Daniel", "Frank", "Hugo", "Martin", "Peter"];
const SURNAMES: &[&str] = &["Berg", "Carter", "Dale", "Foster", "Holm", "Larsen", "Morgan", "Stone"];
const YEARS: &[&str] = &[
    "1901", "1908", "1914", "1922", "1927", "1933", "1939", "1945", "1951", "1958", "1963", "1969", "1974", "1980",
    "1987", "1992",
];

/// What stands at the end of a relation.
#[derive(Clone, Copy, Debug)]
enum Objects {
    Of(&'static [&'static str]),
    City,
    Country,
    Person,
    Year,
}

/// A relation: its name in WebNLG and in DART, its objects, and the forms of what it says, `{}` being the object.
struct Relation {
    name: &'static str,
    dart: &'static str,
    objects: Objects,
    verbs: &'static [&'static str],
    phrases: &'static [&'static str],
}

const fn relation(
    name: &'static str,
    dart: &'static str,
    objects: Objects,
    verbs: &'static [&'static str],
    phrases: &'static [&'static str],
) -> Relation {
    Relation {
        name,
        dart,
        objects,
        verbs,
        phrases,
    }
}

/// How the members of a category are called.
enum Called {
    /// A city's name with this after it.
    City(&'static [&'static str]),
    People,
    Of(&'static [&'static str]),
}

/// A category of WebNLG.
pub(super) struct Category {
    pub(super) name: &'static str,
    noun: &'static str,
    called: Called,
    relations: &'static [Relation],
}

/// The categories of the train sets; of these and [`UNSEEN`] the texts to pre-train on are.
pub(super) const SEEN: &[Category] = &[
    Category {
        name: "Airport",
        noun: "airport",
        called: Called::City(&["Airport", "Airfield"]),
        relations: &[
            relation(
                "location",
                "LOCATION",
                Objects::City,
                &["is located in {}", "lies near {}"],
                &["in {}", "near {}"],
            ),
            relation(
                "runwayLength",
                "RUNWAY_LENGTH",
                Objects::Of(&["1200", "1850", "2400", "2950", "3300", "3700"]),
                &["has a runway of {} metres", "has a runway that is {} metres long"],
                &["with a runway of {} metres"],
            ),
            relation(
                "operatingOrganisation",
                "OPERATOR",
                Objects::Of(&["Northern Airways", "Civil Aviation Board", "Blue Wing Group"]),
                &["is operated by the {}", "is run by the {}"],
                &["operated by the {}"],
            ),
            relation(
                "elevation",
                "ELEVATION",
                Objects::Of(&["12", "35", "110", "240", "480"]),
                &["is {} metres above sea level", "has an elevation of {} metres"],
                &[],
            ),
            relation(
                "opened",
                "OPENED",
                Objects::Year,
                &["was opened in {}", "opened in {}"],
                &[],
            ),
        ],
    },
    Category {
        name: "Building",
        noun: "building",
        called: Called::City(&["Tower", "Hall", "Palace"]),
        relations: &[
            relation(
                "location",
                "LOCATION",
                Objects::City,
                &["is located in {}", "stands in {}"],
                &["in {}"],
            ),
            relation(
                "architect",
                "ARCHITECT",
                Objects::Person,
                &["was designed by {}", "is the work of {}"],
                &["designed by {}"],
            ),
            relation(
                "floorCount",
                "FLOORS",
                Objects::Of(&["3", "5", "8", "14", "22", "40"]),
                &["has {} floors", "is {} floors high"],
                &["with {} floors"],
            ),
            relation(
                "completionDate",
                "COMPLETED",
                Objects::Year,
                &["was completed in {}", "was finished in {}"],
                &[],
            ),
            relation(
                "owner",
                "OWNER",
                Objects::Of(&["City Council", "National Bank", "Grand Hotels"]),
                &["is owned by the {}", "belongs to the {}"],
                &["owned by the {}"],
            ),
        ],
    },
    Category {
        name: "University",
        noun: "university",
        called: Called::City(&["University", "College"]),
        relations: &[
            relation(
                "city",
                "CITY",
                Objects::City,
                &["is located in {}", "is in the city of {}"],
                &["in {}", "in the city of {}"],
            ),
            relation(
                "numberOfStudents",
                "STUDENTS",
                Objects::Of(&["900", "2100", "4500", "7800", "16000"]),
                &["has {} students", "is attended by {} students"],
                &["with {} students"],
            ),
            relation(
                "established",
                "FOUNDED",
                Objects::Year,
                &["was established in {}", "was founded in {}"],
                &["founded in {}"],
            ),
            relation(
                "president",
                "PRESIDENT",
                Objects::Person,
                &["is led by {}", "has {} as its president"],
                &["led by {}"],
            ),
            relation(
                "nickname",
                "NICKNAME",
                Objects::Of(&["Eagles", "Wolves", "Bears", "Hawks"]),
                &["is nicknamed the {}", "is also known as the {}"],
                &[],
            ),
        ],
    },
    Category {
        name: "SportsTeam",
        noun: "team",
        called: Called::City(&["United", "Rovers", "Athletic"]),
        relations: &[
            relation(
                "ground",
                "GROUND",
                Objects::City,
                &["plays in {}", "has its ground in {}"],
                &["from {}"],
            ),
            relation(
                "manager",
                "COACH",
                Objects::Person,
                &["is managed by {}", "is coached by {}"],
                &["managed by {}"],
            ),
            relation(
                "league",
                "LEAGUE",
                Objects::Of(&["Premier Division", "Coast League", "National Cup"]),
                &["plays in the {}", "competes in the {}"],
                &["in the {}"],
            ),
            relation(
                "numberOfMembers",
                "CAPACITY",
                Objects::Of(&["900", "4500", "7800", "16000"]),
                &["has {} members", "counts {} members"],
                &["with {} members"],
            ),
            relation(
                "season",
                "CHAMPION",
                Objects::Year,
                &["won the title in {}", "became champion in {}"],
                &[],
            ),
        ],
    },
    Category {
        name: "Food",
        noun: "dish",
        called: Called::Of(&[
            "Amberry Pie",
            "Borvik Stew",
            "Corla",
            "Damask Pudding",
            "Fennel Soup",
            "Lemon Cake",
            "Pastella",
            "Risotta",
        ]),
        relations: &[
            relation(
                "country",
                "ORIGIN",
                Objects::Country,
                &["comes from {}", "is found in {}"],
                &["from {}"],
            ),
            relation(
                "ingredient",
                "INGREDIENT",
                Objects::Of(&["rice", "honey", "cheese", "onion", "garlic", "almonds"]),
                &["contains {}", "is made with {}"],
                &["made with {}", "containing {}"],
            ),
            relation(
                "course",
                "COURSE",
                Objects::Of(&["starter", "main course", "dessert"]),
                &["is served as a {}", "is eaten as a {}"],
                &["served as a {}"],
            ),
            relation(
                "creator",
                "CREATOR",
                Objects::Person,
                &["was created by {}", "was invented by {}"],
                &["created by {}"],
            ),
        ],
    },
    Category {
        name: "Astronaut",
        noun: "astronaut",
        called: Called::People,
        relations: &[
            relation(
                "birthPlace",
                "BIRTH_PLACE",
                Objects::City,
                &["was born in {}", "comes from {}"],
                &["from {}"],
            ),
            relation("birthDate", "BORN", Objects::Year, &["was born in {}"], &["born in {}"]),
            relation(
                "mission",
                "MISSION",
                Objects::Of(&["Orion 4", "Selene 7", "Argo 2"]),
                &["was a crew member of {}", "flew on {}"],
                &["of the crew of {}"],
            ),
            relation(
                "almaMater",
                "SCHOOL",
                Objects::Of(&["Keswell College", "Alder University", "Lorne College"]),
                &["graduated from {}", "studied at {}"],
                &[],
            ),
            relation(
                "timeInSpace",
                "TIME_IN_SPACE",
                Objects::Of(&["90", "150", "270", "410"]),
                &["spent {} hours in space", "was in space for {} hours"],
                &[],
            ),
        ],
    },
];

/// The categories that only the test set of WebNLG has.
pub(super) const UNSEEN: &[Category] = &[
    Category {
        name: "Artist",
        noun: "singer",
        called: Called::People,
        relations: &[
            relation(
                "hometown",
                "HOMETOWN",
                Objects::City,
                &["lives in {}", "comes from {}"],
                &["from {}"],
            ),
            relation(
                "genre",
                "GENRE",
                Objects::Of(&["jazz", "folk", "rock", "opera"]),
                &["performs {} music", "sings {}"],
                &["of {} music"],
            ),
            relation(
                "instrument",
                "INSTRUMENT",
                Objects::Of(&["piano", "guitar", "violin", "trumpet"]),
                &["plays the {}"],
                &[],
            ),
            relation(
                "activeYearsStart",
                "DEBUT",
                Objects::Year,
                &["started performing in {}", "has been active since {}"],
                &[],
            ),
        ],
    },
    Category {
        name: "Politician",
        noun: "politician",
        called: Called::People,
        relations: &[
            relation(
                "party",
                "PARTY",
                Objects::Of(&["Labour Party", "Green Party", "Farmers Party"]),
                &["is a member of the {}", "belongs to the {}"],
                &["of the {}"],
            ),
            relation(
                "birthPlace",
                "BIRTH_PLACE",
                Objects::City,
                &["was born in {}", "comes from {}"],
                &["from {}"],
            ),
            relation(
                "office",
                "OFFICE",
                Objects::Of(&["mayor", "senator", "governor", "minister"]),
                &["worked as a {}", "served as a {}"],
                &[],
            ),
            relation(
                "inOfficeSince",
                "ELECTED",
                Objects::Year,
                &["was elected in {}", "has been in office since {}"],
                &[],
            ),
        ],
    },
    Category {
        name: "CelestialBody",
        noun: "planet",
        called: Called::Of(&[
            "Aurelia", "Borealis", "Ceto", "Dione", "Elara", "Hermia", "Ithaca", "Lysithea",
        ]),
        relations: &[
            relation(
                "discoverer",
                "DISCOVERER",
                Objects::Person,
                &["was discovered by {}", "was found by {}"],
                &["discovered by {}"],
            ),
            relation(
                "discovered",
                "DISCOVERED",
                Objects::Year,
                &["was discovered in {}", "has been known since {}"],
                &[],
            ),
            relation(
                "orbitalPeriod",
                "PERIOD",
                Objects::Of(&["90", "150", "270", "410"]),
                &["has an orbital period of {} days", "orbits its star in {} days"],
                &["with an orbital period of {} days"],
            ),
            relation(
                "temperature",
                "TEMPERATURE",
                Objects::Of(&["120", "180", "240", "310"]),
                &["has a temperature of {} kelvins", "is {} kelvins warm"],
                &[],
            ),
        ],
    },
];

/// What a city has, when something else is in it.
const OF_CITY: &[Relation] = &[
    relation(
        "country",
        "COUNTRY",
        Objects::Country,
        &["is in {}", "is a city in {}"],
        &[],
    ),
    relation(
        "leader",
        "MAYOR",
        Objects::Person,
        &["is led by {}", "has {} as its mayor"],
        &[],
    ),
    relation(
        "population",
        "POPULATION",
        Objects::Of(&["2100", "4500", "7800", "16000"]),
        &["has {} inhabitants", "has a population of {}"],
        &[],
    ),
];

/// The names of both kinds of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    /// `Alder_Airport | runwayLength | 1200`.
    WebNlg,
    /// `Alder Airport | RUNWAY_LENGTH | 1200`.
    Dart,
}

/// What is said of one subject.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Told {
    relation: usize,
    object: String,
}

/// A subject with its relations, and perhaps those of the city that one of them names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Entity {
    category: usize,
    name: String,
    told: Vec<Told>,
    city: Option<(String, Vec<Told>)>,
}

/// Categories by number: the seen ones, then the others.
pub(super) fn category(number: usize) -> &'static Category {
    SEEN.get(number)
        .unwrap_or_else(|| &UNSEEN[(number - SEEN.len()) % UNSEEN.len()])
}

fn person(draw: &mut Draw) -> String {
    let first = if draw.chance(50) {
        draw.pick(WOMEN)
    } else {
        draw.pick(MEN)
    };
    format!("{first} {}", draw.pick(SURNAMES))
}

fn object(objects: Objects, draw: &mut Draw) -> String {
    let word = match objects {
        Objects::Of(list) => draw.pick(list),
        Objects::City => draw.pick(CITIES),
        Objects::Country => draw.pick(COUNTRIES),
        Objects::Year => draw.pick(YEARS),
        Objects::Person => return person(draw),
    };
    (*word).to_owned()
}

/// `count` of the relations, each with an object.
fn told(relations: &[Relation], count: usize, draw: &mut Draw) -> Vec<Told> {
    let chosen = draw.some_of(count, relations.len());
    let told = chosen.into_iter().map(|relation| Told {
        relation,
        object: object(relations[relation].objects, draw),
    });
    told.collect()
}

impl Entity {
    /// An entity of a category with at most `most` triples.
    pub(super) fn draw(number: usize, most: usize, draw: &mut Draw) -> Self {
        let kind = category(number);
        let name = match kind.called {
            Called::City(after) => format!("{} {}", draw.pick(CITIES), draw.pick(after)),
            Called::People => person(draw),
            Called::Of(names) => (*draw.pick(names)).to_owned(),
        };
        let count = 1 + draw.below(most);
        let own = told(kind.relations, count, draw);
        let in_city = own
            .iter()
            .find(|told| matches!(kind.relations[told.relation].objects, Objects::City));
        let city = in_city.map(|told| told.object.clone());
        let rest = most - own.len().min(most);
        let city = match city {
            Some(city) if rest > 0 && draw.chance(50) => {
                let more = 1 + draw.below(rest.min(2));
                Some((city, told(OF_CITY, more, draw)))
            }
            _ => None,
        };
        Entity {
            category: number,
            name,
            told: own,
            city,
        }
    }

    /// `subject, property, object` of every triple.
    pub(super) fn triples(&self, naming: Naming) -> Vec<[String; 3]> {
        let spell = |text: &str| match naming {
            Naming::WebNlg => text.replace(' ', "_"),
            Naming::Dart => text.to_owned(),
        };
        let triple = |subject: &str, relation: &Relation, object: &str| {
            let name = match naming {
                Naming::WebNlg => relation.name,
                Naming::Dart => relation.dart,
            };
            [spell(subject), name.to_owned(), spell(object)]
        };
        let relations = category(self.category).relations;
        let own = self.told.iter();
        let own = own.map(|told| triple(&self.name, &relations[told.relation], &told.object));
        let of_city = self.city.iter().flat_map(|(city, told)| {
            let told = told.iter();
            told.map(|told| triple(city, &OF_CITY[told.relation], &told.object))
        });
        own.chain(of_city).collect()
    }

    /// The names that stand in it.
    pub(super) fn names(&self) -> Vec<&str> {
        let own = self.told.iter().map(|told| told.object.as_str());
        [self.name.as_str()].into_iter().chain(own).collect()
    }

    pub(super) fn category(&self) -> &'static str {
        category(self.category).name
    }

    /// A text that tells all of it.
    pub(super) fn text(&self, draw: &mut Draw) -> String {
        let kind = category(self.category);
        let first = self.name.split(' ').next().unwrap_or_default();
        let gender = match kind.called {
            Called::People if WOMEN.contains(&first) => Gender::She,
            Called::People => Gender::He,
            Called::City(_) | Called::Of(_) => Gender::Thing,
        };
        let subject = Subject {
            name: self.name.clone(),
            noun: kind.noun,
            tell_noun: false,
            gender,
        };
        let mut text = describe::text(&subject, &facts(&self.told, kind.relations), draw);
        if let Some((city, told)) = &self.city {
            let verbs = facts(told, OF_CITY);
            let verbs: Vec<String> = verbs.iter().map(|fact| draw.pick(&fact.verbs).clone()).collect();
            let who = if draw.chance(70) {
                city.clone()
            } else {
                format!("The city of {city}")
            };
            text.push_str(&format!(" {who} {}.", verbs.join(" and ")));
        }
        text
    }
}

fn facts(told: &[Told], relations: &[Relation]) -> Vec<Fact> {
    let fact = |told: &Told| {
        let relation = &relations[told.relation];
        Fact::new(&told.object, relation.verbs, relation.phrases, &[])
    };
    told.iter().map(fact).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generation::webnlg;

    #[test]
    fn categories_are_seen_or_not_as_in_the_challenge() {
        assert!(SEEN.iter().all(|kind| webnlg::SEEN_2017.contains(&kind.name)));
        assert!(UNSEEN.iter().all(|kind| webnlg::UNSEEN_2017.contains(&kind.name)));
    }

    #[test]
    fn a_text_has_every_object_of_its_triples() {
        let mut draw = Draw::new(6, 0);
        for turn in 0..600 {
            let entity = Entity::draw(turn % 9, 5, &mut draw);
            let triples = entity.triples(Naming::Dart);
            assert!((1..=5).contains(&triples.len()), "{triples:?}");
            let text = entity.text(&mut draw);
            for [subject, property, object] in triples {
                assert!(text.contains(&subject) && text.contains(&object), "{property}: {text}");
            }
        }
    }
}
