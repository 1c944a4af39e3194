//! The words that sentences are made of.

/// Singular and plural.
pub(super) type Forms = (&'static str, &'static str);

/// A noun, perhaps with a synonym.
pub(super) struct Noun {
    /// The common word.
    pub(super) forms: Forms,
    /// Another word for the same.
    pub(super) synonym: Option<Forms>,
}

const fn noun(one: &'static str, many: &'static str) -> Noun {
    Noun {
        forms: (one, many),
        synonym: None,
    }
}

const fn twin(one: &'static str, many: &'static str, other: &'static str, others: &'static str) -> Noun {
    Noun {
        forms: (one, many),
        synonym: Some((other, others)),
    }
}

/// Nouns with a common hypernym.
pub(super) struct Group {
    /// The hypernym.
    pub(super) name: Forms,
    /// Its hyponyms.
    pub(super) nouns: &'static [Noun],
}

/// Groups of people, who act.
pub(super) const PEOPLE: &[Group] = &[
    Group {
        name: ("worker", "workers"),
        nouns: &[
            noun("farmer", "farmers"),
            noun("carpenter", "carpenters"),
            noun("baker", "bakers"),
            noun("tailor", "tailors"),
            noun("plumber", "plumbers"),
            noun("driver", "drivers"),
        ],
    },
    Group {
        name: ("artist", "artists"),
        nouns: &[
            noun("singer", "singers"),
            noun("dancer", "dancers"),
            noun("poet", "poets"),
            noun("painter", "painters"),
            twin("actor", "actors", "performer", "performers"),
        ],
    },
    Group {
        name: ("athlete", "athletes"),
        nouns: &[
            noun("runner", "runners"),
            noun("swimmer", "swimmers"),
            noun("boxer", "boxers"),
            noun("skier", "skiers"),
        ],
    },
    Group {
        name: ("relative", "relatives"),
        nouns: &[
            noun("uncle", "uncles"),
            noun("cousin", "cousins"),
            noun("nephew", "nephews"),
            twin("father", "fathers", "dad", "dads"),
            twin("mother", "mothers", "mom", "moms"),
        ],
    },
    Group {
        name: ("official", "officials"),
        nouns: &[
            noun("mayor", "mayors"),
            noun("judge", "judges"),
            noun("minister", "ministers"),
            twin("soldier", "soldiers", "trooper", "troopers"),
            twin("guard", "guards", "watchman", "watchmen"),
        ],
    },
    Group {
        name: ("expert", "experts"),
        nouns: &[
            twin("doctor", "doctors", "physician", "physicians"),
            twin("lawyer", "lawyers", "attorney", "attorneys"),
            twin("teacher", "teachers", "instructor", "instructors"),
            noun("chemist", "chemists"),
        ],
    },
];

pub(super) const FRUIT: usize = 0;
pub(super) const VEHICLE: usize = 1;
pub(super) const TOOL: usize = 2;
pub(super) const FURNITURE: usize = 3;
pub(super) const GARMENT: usize = 4;
pub(super) const INSTRUMENT: usize = 5;
pub(super) const ANIMAL: usize = 6;
pub(super) const FLOWER: usize = 7;
pub(super) const WRITING: usize = 8;

/// Groups of things, to which something is done; the constants above are their indices.
pub(super) const THINGS: &[Group] = &[
    Group {
        name: ("fruit", "fruits"),
        nouns: &[
            noun("apple", "apples"),
            noun("pear", "pears"),
            noun("plum", "plums"),
            noun("lemon", "lemons"),
            noun("melon", "melons"),
        ],
    },
    Group {
        name: ("vehicle", "vehicles"),
        nouns: &[
            twin("car", "cars", "automobile", "automobiles"),
            twin("bicycle", "bicycles", "bike", "bikes"),
            noun("truck", "trucks"),
            noun("wagon", "wagons"),
            twin("boat", "boats", "vessel", "vessels"),
        ],
    },
    Group {
        name: ("tool", "tools"),
        nouns: &[
            noun("hammer", "hammers"),
            noun("ladder", "ladders"),
            noun("shovel", "shovels"),
            noun("drill", "drills"),
        ],
    },
    Group {
        name: ("furnishing", "furnishings"),
        nouns: &[
            noun("chair", "chairs"),
            noun("table", "tables"),
            noun("desk", "desks"),
            twin("sofa", "sofas", "couch", "couches"),
            twin("carpet", "carpets", "rug", "rugs"),
        ],
    },
    Group {
        name: ("garment", "garments"),
        nouns: &[
            noun("coat", "coats"),
            noun("shirt", "shirts"),
            noun("scarf", "scarves"),
            twin("hat", "hats", "cap", "caps"),
            noun("dress", "dresses"),
        ],
    },
    Group {
        name: ("instrument", "instruments"),
        nouns: &[
            noun("guitar", "guitars"),
            noun("trumpet", "trumpets"),
            noun("flute", "flutes"),
            twin("violin", "violins", "fiddle", "fiddles"),
        ],
    },
    Group {
        name: ("animal", "animals"),
        nouns: &[
            noun("horse", "horses"),
            noun("goat", "goats"),
            twin("rabbit", "rabbits", "bunny", "bunnies"),
            twin("dog", "dogs", "hound", "hounds"),
            noun("duck", "ducks"),
        ],
    },
    Group {
        name: ("flower", "flowers"),
        nouns: &[
            noun("rose", "roses"),
            noun("tulip", "tulips"),
            noun("lily", "lilies"),
            noun("daisy", "daisies"),
        ],
    },
    Group {
        name: ("text", "texts"),
        nouns: &[
            noun("letter", "letters"),
            noun("novel", "novels"),
            noun("poem", "poems"),
            noun("report", "reports"),
            twin("diary", "diaries", "journal", "journals"),
        ],
    },
];

/// The forms of a verb: infinitive, third person, past, past participle, -ing.
pub(super) type VerbForms = [&'static str; 5];

/// A transitive verb and what it is done to.
pub(super) struct Verb {
    /// The common word.
    pub(super) forms: VerbForms,
    /// Another word for the same.
    pub(super) synonym: Option<VerbForms>,
    /// Indices into [`THINGS`].
    pub(super) takes: &'static [usize],
}

const ANY: &[usize] = &[
    FRUIT, VEHICLE, TOOL, FURNITURE, GARMENT, INSTRUMENT, ANIMAL, FLOWER, WRITING,
];
const MADE: &[usize] = &[VEHICLE, TOOL, FURNITURE, GARMENT, INSTRUMENT];

const fn verb(forms: VerbForms, takes: &'static [usize]) -> Verb {
    Verb {
        forms,
        synonym: None,
        takes,
    }
}

const fn verbs(forms: VerbForms, synonym: VerbForms, takes: &'static [usize]) -> Verb {
    Verb {
        forms,
        synonym: Some(synonym),
        takes,
    }
}

/// Transitive verbs. Every group of things is taken by at least three of them.
pub(super) const VERBS: &[Verb] = &[
    verbs(
        ["buy", "buys", "bought", "bought", "buying"],
        ["purchase", "purchases", "purchased", "purchased", "purchasing"],
        ANY,
    ),
    verb(["sell", "sells", "sold", "sold", "selling"], ANY),
    verbs(
        ["find", "finds", "found", "found", "finding"],
        ["discover", "discovers", "discovered", "discovered", "discovering"],
        ANY,
    ),
    verb(["lose", "loses", "lost", "lost", "losing"], ANY),
    verb(["steal", "steals", "stole", "stolen", "stealing"], ANY),
    verbs(
        ["hide", "hides", "hid", "hidden", "hiding"],
        ["conceal", "conceals", "concealed", "concealed", "concealing"],
        ANY,
    ),
    verb(["describe", "describes", "described", "described", "describing"], ANY),
    verbs(
        ["fix", "fixes", "fixed", "fixed", "fixing"],
        ["repair", "repairs", "repaired", "repaired", "repairing"],
        MADE,
    ),
    verb(["clean", "cleans", "cleaned", "cleaned", "cleaning"], MADE),
    verb(["break", "breaks", "broke", "broken", "breaking"], MADE),
    verb(["eat", "eats", "ate", "eaten", "eating"], &[FRUIT]),
    verb(["peel", "peels", "peeled", "peeled", "peeling"], &[FRUIT]),
    verb(["drive", "drives", "drove", "driven", "driving"], &[VEHICLE]),
    verb(["wear", "wears", "wore", "worn", "wearing"], &[GARMENT]),
    verb(["sew", "sews", "sewed", "sewn", "sewing"], &[GARMENT]),
    verb(["play", "plays", "played", "played", "playing"], &[INSTRUMENT]),
    verb(["tune", "tunes", "tuned", "tuned", "tuning"], &[INSTRUMENT]),
    verb(["feed", "feeds", "fed", "fed", "feeding"], &[ANIMAL]),
    verb(["train", "trains", "trained", "trained", "training"], &[ANIMAL]),
    verb(["water", "waters", "watered", "watered", "watering"], &[FLOWER]),
    verb(["smell", "smells", "smelled", "smelled", "smelling"], &[FLOWER, FRUIT]),
    verbs(
        ["write", "writes", "wrote", "written", "writing"],
        ["compose", "composes", "composed", "composed", "composing"],
        &[WRITING],
    ),
    verb(["read", "reads", "read", "read", "reading"], &[WRITING]),
];

/// An adjective, perhaps with a synonym.
pub(super) type Adjective = (&'static str, Option<&'static str>);

/// What people are.
pub(super) const OF_PEOPLE: &[Adjective] = &[
    ("old", Some("elderly")),
    ("young", None),
    ("tall", None),
    ("clever", Some("smart")),
    ("rich", Some("wealthy")),
    ("tired", None),
    ("famous", None),
    ("happy", Some("glad")),
];

/// What things are.
pub(super) const OF_THINGS: &[Adjective] = &[
    ("big", Some("large")),
    ("small", Some("little")),
    ("red", None),
    ("blue", None),
    ("green", None),
    ("white", None),
    ("cheap", None),
    ("heavy", None),
    ("pretty", Some("beautiful")),
];

/// Where something happens.
pub(super) const PLACES: &[&str] = &[
    "in the garden",
    "near the river",
    "in the kitchen",
    "at the market",
    "behind the school",
    "in the park",
    "near the bridge",
    "at the station",
    "in the library",
    "beside the church",
    "in the village",
    "near the lake",
];

/// When something happened.
pub(super) const TIMES: &[&str] = &[
    "on Monday",
    "on Tuesday",
    "on Friday",
    "on Sunday",
    "yesterday",
    "last week",
    "last summer",
    "this morning",
    "in March",
    "in July",
    "in October",
    "in winter",
];

/// Parts of a film or a play, with the verb that follows.
pub(super) const ASPECTS: &[(&str, &str)] = &[
    ("plot", "is"),
    ("acting", "is"),
    ("music", "is"),
    ("ending", "is"),
    ("script", "is"),
    ("camera work", "is"),
    ("cast", "is"),
    ("dialogue", "is"),
    ("story", "is"),
    ("jokes", "are"),
    ("costumes", "are"),
    ("songs", "are"),
];

/// What is judged as a whole.
pub(super) const WORKS: &[&str] = &["film", "movie", "play", "show", "comedy", "drama", "musical"];

/// Words of praise.
pub(super) const GOOD: &[&str] = &[
    "charming",
    "funny",
    "moving",
    "brilliant",
    "clever",
    "warm",
    "lively",
    "superb",
    "fresh",
    "elegant",
    "gripping",
    "honest",
    "delightful",
    "wonderful",
    "witty",
    "rich",
];

/// Words of blame.
pub(super) const BAD: &[&str] = &[
    "dull", "boring", "clumsy", "awful", "weak", "silly", "flat", "tedious", "stale", "ugly", "shallow", "lazy",
    "dreadful", "terrible", "hollow", "poor",
];

/// Verbs of a viewer who is pleased: infinitive and past.
pub(super) const LIKES: &[(&str, &str)] = &[
    ("like", "liked"),
    ("enjoy", "enjoyed"),
    ("love", "loved"),
    ("admire", "admired"),
];

/// Verbs of a viewer who is not.
pub(super) const DISLIKES: &[(&str, &str)] = &[
    ("dislike", "disliked"),
    ("hate", "hated"),
    ("regret", "regretted"),
    ("despise", "despised"),
];

/// Words that make a judgement stronger or weaker without turning it.
pub(super) const DEGREES: &[&str] = &["very", "really", "truly", "rather", "quite", "extremely"];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_grammar_has_a_few_hundred_words() {
        let mut words = BTreeSet::new();
        for group in PEOPLE.iter().chain(THINGS) {
            for forms in group
                .nouns
                .iter()
                .flat_map(|noun| [Some(noun.forms), noun.synonym])
                .flatten()
                .chain([group.name])
            {
                words.extend([forms.0, forms.1]);
            }
        }
        for verb in VERBS {
            words.extend(verb.forms);
            words.extend(verb.synonym.into_iter().flatten());
        }
        words.extend(
            OF_PEOPLE
                .iter()
                .chain(OF_THINGS)
                .flat_map(|word| [Some(word.0), word.1])
                .flatten(),
        );
        words.extend(GOOD.iter().chain(BAD).chain(DEGREES).chain(WORKS));
        assert!((300..600).contains(&words.len()), "{}", words.len());
    }

    #[test]
    fn every_group_of_things_is_taken_by_three_verbs_and_no_index_is_wrong() {
        for (group, things) in THINGS.iter().enumerate() {
            let count = VERBS.iter().filter(|verb| verb.takes.contains(&group)).count();
            assert!(count >= 3, "{}", things.name.0);
        }
        assert_eq!(THINGS[WRITING].name.0, "text");
        assert_eq!(THINGS[INSTRUMENT].name.0, "instrument");
        assert_eq!(THINGS[ANIMAL].name.0, "animal");
    }
}
