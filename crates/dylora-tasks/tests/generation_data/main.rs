//! Readers of the generation tasks on small literal files and, where `DYLORA_TEST_DATA` and `DYLORA_TEST_GOLDEN` name
//! them, on the real ones.
#![allow(clippy::print_stdout, clippy::print_stderr)] // says what was not run

#[path = "../common/mod.rs"]
mod common;
mod e2e;
mod prompts;
mod triples;

use std::path::PathBuf;

use serde_json::Value;

fn real_data(what: &str) -> Option<PathBuf> {
    let dir = std::env::var_os("DYLORA_TEST_DATA").map(PathBuf::from);
    if dir.is_none() {
        println!("not run: {what} (DYLORA_TEST_DATA is not set)");
    }
    dir
}

/// A list of the metrics' inputs, which were taken from the real files by other people's code.
fn golden_json(name: &str, what: &str) -> Option<Vec<Value>> {
    let Some(dir) = std::env::var_os("DYLORA_TEST_GOLDEN").map(PathBuf::from) else {
        println!("not run: {what} (DYLORA_TEST_GOLDEN is not set)");
        return None;
    };
    let text = std::fs::read_to_string(dir.join("metrics/data").join(name)).unwrap();
    Some(serde_json::from_str(&text).unwrap())
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|text| text.as_str().unwrap())
        .collect()
}
