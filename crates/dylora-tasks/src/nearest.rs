//! The name that somebody probably meant.

/// Names that are less alike than this (Jaro's similarity, 0 to 1) are not what was meant.
const ALIKE: f64 = 0.7;

/// The name among `known` that is most like `name`, if one alone is, and is like it at all.
///
/// ```
/// use dylora_tasks::nearest::nearest;
///
/// assert_eq!(nearest("mrcp", ["mnli", "mrpc", "rte"]), Some("mrpc"));
/// assert_eq!(nearest("zzz", ["mnli", "mrpc", "rte"]), None);
/// assert_eq!(nearest("wnli", ["mnli", "qnli", "rte"]), None);
/// ```
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let alike = |known: &str| strsim::jaro(&name.to_lowercase(), &known.to_lowercase());
    let scored = known.into_iter().map(|known| (alike(known), known));
    let mut near: Vec<(f64, &str)> = scored.filter(|(score, _)| *score > ALIKE).collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    match near[..] {
        [(best, known), ..] if near.get(1).is_none_or(|next| next.0 < best) => Some(known),
        _ => None,
    }
}

/// `; did you mean "x"?` or nothing, for the end of a sentence.
pub(crate) fn hint<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, known).map_or_else(String::new, |near| format!("; did you mean {near:?}?"))
}
