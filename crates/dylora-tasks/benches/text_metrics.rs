//! The E2E chain on the whole test set, on one core: `cargo xtask bench metrics`.
//!
//! `DYLORA_TEST_GOLDEN` names the directory with the texts, `DYLORA_TEST_METEOR` that of METEOR's release.
#![allow(missing_docs, clippy::print_stdout)] // says what was not run

use std::hint::black_box;
use std::path::PathBuf;

use criterion::{Criterion, criterion_group, criterion_main};
use dylora_tasks::Result;
use dylora_tasks::metric::text::chain::Chain;
use dylora_tasks::metric::text::files::{read_hypotheses, read_references};
use dylora_tasks::metric::text::meteor::Data;

fn texts(dir: PathBuf, c: &mut Criterion) -> Result<()> {
    let data = dir.join("metrics/data");
    let hypotheses = read_hypotheses(&data.join("e2e_test.tgen.txt"))?;
    let references = read_references(&[data.join("e2e_test.refs.json")], hypotheses.len())?;
    let mut group = c.benchmark_group("E2E test set");
    group.sample_size(10);
    group.bench_function("without METEOR", |t| {
        t.iter(|| Chain::E2e.score(black_box(&hypotheses), &references, None));
    });
    let Some(dir) = std::env::var_os("DYLORA_TEST_METEOR").map(PathBuf::from) else {
        println!("not run: METEOR (DYLORA_TEST_METEOR is not set)");
        return Ok(());
    };
    group.bench_function("reading METEOR's lists", |t| t.iter(|| Data::open(black_box(&dir))));
    let lists = Data::open(&dir)?;
    group.bench_function("with METEOR, reading its table", |t| {
        t.iter(|| Chain::E2e.score(black_box(&hypotheses), &references, Some(&lists)));
    });
    group.finish();
    Ok(())
}

fn run(c: &mut Criterion) {
    let Some(dir) = std::env::var_os("DYLORA_TEST_GOLDEN").map(PathBuf::from) else {
        println!("not run: the metrics of text (DYLORA_TEST_GOLDEN is not set)");
        return;
    };
    if let Err(error) = texts(dir, c) {
        panic!("{error}");
    }
}

criterion_group!(benches, run);
criterion_main!(benches);
