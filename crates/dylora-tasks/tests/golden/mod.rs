//! Values that the official scorers gave, in the directory that `DYLORA_TEST_GOLDEN` names.
#![allow(dead_code)] // every test file uses a part of it

use std::path::{Path, PathBuf};

use serde_json::Value;

/// The directory of the metrics' golden values; says that `what` is not run where there is none.
pub(crate) fn golden(what: &str) -> Option<Golden> {
    match std::env::var_os("DYLORA_TEST_GOLDEN") {
        Some(dir) => Some(Golden(Path::new(&dir).join("metrics"))),
        None => {
            println!("not run: {what} (DYLORA_TEST_GOLDEN is not set)");
            None
        }
    }
}

/// A directory with the inputs and the values of the official tools.
pub(crate) struct Golden(pub(crate) PathBuf);

/// Hypotheses beside groups of references.
pub(crate) type Texts = (Vec<String>, Vec<Vec<String>>);

impl Golden {
    pub(crate) fn json(&self, name: &str) -> Value {
        // Python writes what is not a number as JSON does not have it.
        serde_json::from_str(&self.text(name).replace("NaN", "null")).unwrap()
    }

    pub(crate) fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub(crate) fn lines(&self, name: &str) -> Vec<String> {
        self.text(name)
            .strip_suffix('\n')
            .unwrap()
            .split('\n')
            .map(str::to_owned)
            .collect()
    }

    /// The hand-made and random cases: ids and texts.
    pub(crate) fn edge_cases(&self) -> (Vec<String>, Texts) {
        let file = self.json("edge/cases.json");
        let mut ids = Vec::new();
        let mut texts = Texts::default();
        for case in array(&file["cases"]) {
            ids.push(string(&case["id"]));
            texts.0.push(string(&case["hyp"]));
            texts.1.push(strings(&case["refs"]));
        }
        (ids, texts)
    }

    /// The inputs that a file of values names in `hyps`, `refs` and `every`, each line through `prepare`; columns of references
    /// have empty lines, which are `None`.
    pub(crate) fn inputs(
        &self,
        values: &Value,
        prepare: impl Fn(&str) -> String,
    ) -> (Vec<String>, Vec<Vec<Option<String>>>) {
        let every = values.get("every").map_or(1, |every| every.as_u64().unwrap()) as usize;
        let hypotheses = self.lines(values["hyps"].as_str().unwrap());
        let names = match &values["refs"] {
            Value::String(name) => vec![name.clone()],
            list => strings(list),
        };
        let references: Vec<Vec<Option<String>>> = if names[0].ends_with(".json") {
            let groups = self.json(&names[0]);
            let group = |group| strings(group).into_iter().map(Some).collect();
            array(&groups).iter().map(group).collect()
        } else {
            let columns: Vec<Vec<String>> = names.iter().map(|name| self.lines(name)).collect();
            (0..hypotheses.len())
                .map(|row| {
                    columns
                        .iter()
                        .map(|column| Some(column[row].clone()).filter(|line| !line.is_empty()))
                        .collect()
                })
                .collect()
        };
        assert_eq!(hypotheses.len(), references.len());
        let prepare_all =
            |group: &Vec<Option<String>>| group.iter().map(|text| text.as_deref().map(&prepare)).collect();
        (
            hypotheses.iter().step_by(every).map(|text| prepare(text)).collect(),
            references.iter().step_by(every).map(prepare_all).collect(),
        )
    }
}

pub(crate) fn array(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

pub(crate) fn string(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

pub(crate) fn strings(value: &Value) -> Vec<String> {
    array(value).iter().map(string).collect()
}

/// Equal to `1e-9` of the expected value: what differs is the order of sums of at most some ten thousand doubles.
#[track_caller]
pub(crate) fn near(what: &str, value: f64, expected: &Value) {
    let expected = expected.as_f64().unwrap();
    assert!(
        (value - expected).abs() <= 1e-9 * expected.abs(),
        "{what}: {value} is not {expected}"
    );
}
