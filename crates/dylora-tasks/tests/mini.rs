//! The embedded profile's files: generated tasks that the official readers read, pinned by checksum, and an encoder that loads.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::error::Error;
use std::fs;
use std::path::Path;

use dylora_tasks::generation::prompt::PromptEncoder;
use dylora_tasks::generation::{self, GenerationTask};
use dylora_tasks::glue::{self, TASKS};
use dylora_tasks::mini;
use dylora_tasks::nn::tensor::{DType, Device};
use dylora_tasks::nn::{Checkpoint, EncoderConfig, Gpt2Config, Gpt2LanguageModel, SequenceClassifier};
use dylora_tasks::pretrain::Architecture;
use dylora_tasks::task::{Example, Label, Split};
use dylora_tasks::tokens::TokenizerSource;
use sha2::{Digest, Sha256};

type TestResult = Result<(), Box<dyn Error>>;

/// The first half of the SHA-256 of each file that [`mini::SEED`] gives.
const PINNED: &[(&str, &str)] = &[
    ("CoLA/dev.tsv", "39bade6e7728421a8a909b14abe9a048"),
    ("CoLA/test.tsv", "ce11cec4165b579373c96024e9d91e59"),
    ("CoLA/train.tsv", "5dfd3c57aa05ebaed05fde1692878f61"),
    ("MNLI/dev_matched.tsv", "58f51bd38bd9f418fd58c0e4fdc5150c"),
    ("MNLI/dev_mismatched.tsv", "07a53d73fed554382fd285738af24a9d"),
    ("MNLI/test_matched.tsv", "4c4e9d6599b7a3ce8dac4c171f0467b8"),
    ("MNLI/train.tsv", "e76bba220abd5ec48e0c7dc8c8a7ab32"),
    ("MRPC/dev.tsv", "5551d1f1b06ee88a6dec9af1c8518d7e"),
    ("MRPC/test.tsv", "9dbddc980d4871f1558a70129b5a3b9c"),
    ("MRPC/train.tsv", "4960049b4fc7da8225a7863dc9c43a08"),
    ("QNLI/dev.tsv", "25b1e5273d55b59a22da3b9ce169b94d"),
    ("QNLI/test.tsv", "1a3f2a77c5f39797c5e7426c5483e338"),
    ("QNLI/train.tsv", "00013decc6df33a3478be3c07e185563"),
    ("QQP/dev.tsv", "cd6ee0b497299d2acd052edd3e197297"),
    ("QQP/test.tsv", "13da84cf761b27df1b34760e3ba12c28"),
    ("QQP/train.tsv", "e6ae2f9e71ea0a153c206d7bd5f4c2bd"),
    ("RTE/dev.tsv", "fe1e5bf78e5b38ca433d49c6bb09f3dd"),
    ("RTE/test.tsv", "62fc6b4f1684578f82a0201588cb8ffb"),
    ("RTE/train.tsv", "f048d36417c7aa009e94d98fdab39e5c"),
    ("SST-2/dev.tsv", "e0c630bdad54701206d4ed67d8399480"),
    ("SST-2/test.tsv", "e5a8a266f8fbe23557e62e29add80692"),
    ("SST-2/train.tsv", "f591bd24f8d37ab2c0530355606a7233"),
    ("STS-B/dev.tsv", "0b4836eea856846f65b262cb5155adce"),
    ("STS-B/test.tsv", "a173e82f1944351912b386ed5f2c3504"),
    ("STS-B/train.tsv", "d0a8dde2638eb1a46f4580273871d706"),
];

/// Every file under `dir` with the first half of its SHA-256.
fn sums(dir: &Path) -> Result<BTreeMap<String, String>, Box<dyn Error>> {
    let mut sums = BTreeMap::new();
    for folder in fs::read_dir(dir)? {
        let folder = folder?;
        for file in fs::read_dir(folder.path())? {
            let file = file?;
            let name = format!("{}/{}", folder.file_name().display(), file.file_name().display());
            let sum = Sha256::digest(fs::read(file.path())?);
            let hex = sum[..16].iter().map(|byte| format!("{byte:02x}")).collect();
            sums.insert(name, hex);
        }
    }
    Ok(sums)
}

#[test]
fn the_default_seed_writes_the_pinned_bytes() -> TestResult {
    let dir = tempfile::tempdir()?;
    mini::write_tasks(dir.path(), mini::SEED)?;
    let found = sums(dir.path())?;
    let pinned: BTreeMap<String, String> = PINNED
        .iter()
        .map(|&(name, sum)| (name.to_owned(), sum.to_owned()))
        .collect();
    assert_eq!(found, pinned, "{}", as_source(&found));
    Ok(())
}

/// What to put in [`PINNED`] when the generator is changed on purpose.
fn as_source(sums: &BTreeMap<String, String>) -> String {
    sums.iter()
        .map(|(name, sum)| format!("    ({name:?}, {sum:?}),\n"))
        .collect()
}

#[test]
fn a_seed_is_all_that_the_files_depend_on() -> TestResult {
    let (one, two, other) = (tempfile::tempdir()?, tempfile::tempdir()?, tempfile::tempdir()?);
    mini::write_tasks(one.path(), 5)?;
    mini::write_tasks(two.path(), 5)?;
    mini::write_tasks(other.path(), 6)?;
    let first = sums(one.path())?;
    assert_eq!(first, sums(two.path())?);
    let other = sums(other.path())?;
    assert_eq!(first.len(), 25);
    for (name, sum) in &first {
        assert_ne!(sum, &other[name], "{name}");
    }
    Ok(())
}

fn key(row: &Example) -> (String, Option<String>) {
    (row.text_a.clone(), row.text_b.clone())
}

#[test]
fn the_official_readers_read_every_split_and_no_row_is_in_two() -> TestResult {
    let dir = tempfile::tempdir()?;
    mini::write_tasks(dir.path(), mini::SEED)?;
    for task in TASKS {
        let mut seen = HashSet::new();
        let mut rows_in_all = 0;
        for &(split, _) in task.files {
            let rows = task.load(dir.path(), split)?;
            let expected = match split {
                Split::Train => 4000,
                Split::Dev | Split::DevMismatched => 1000,
                Split::Test => 500,
            };
            assert_eq!(rows.len(), expected, "{} {split}", task.name);
            rows_in_all += rows.len();
            seen.extend(rows.iter().map(key));
            let unlabelled = rows.iter().filter(|row| row.label == Label::None).count();
            assert_eq!(
                unlabelled,
                if split == Split::Test { 500 } else { 0 },
                "{} {split}",
                task.name
            );
        }
        assert_eq!(seen.len(), rows_in_all, "{}: a row stands twice", task.name);
    }
    Ok(())
}

#[test]
fn every_label_is_common_and_a_few_are_wrong() -> TestResult {
    let dir = tempfile::tempdir()?;
    mini::write_tasks(dir.path(), mini::SEED)?;
    for task in TASKS {
        let rows = task.load(dir.path(), Split::Train)?;
        let mut classes = BTreeMap::new();
        let mut scores = BTreeSet::new();
        for row in &rows {
            match row.label {
                Label::Class(class) => *classes.entry(class).or_insert(0) += 1,
                Label::Score(score) => {
                    scores.insert(format!("{score:.1}"));
                }
                Label::None => panic!("{}: a row without a label", task.name),
            }
        }
        if task.labels.is_empty() {
            assert!(scores.len() > 40 && scores.contains("0.0"), "{} scores", scores.len());
        } else {
            assert_eq!(classes.len(), task.labels.len());
            assert!(
                classes.values().all(|&count| count > 1100),
                "{}: {classes:?}",
                task.name
            );
        }
    }
    // What `No` denies and `Some` or `All` claims is a contradiction, but for the noise.
    let rows = glue::find("mnli")?.load(dir.path(), Split::Train)?;
    let turned = |row: &&Example| {
        let claims = |text: &str| text.starts_with("Some ") || text.starts_with("All ");
        row.text_a.starts_with("No ") && row.text_b.as_deref().is_some_and(claims)
    };
    let of_these: Vec<_> = rows.iter().filter(turned).collect();
    let wrong = of_these.iter().filter(|row| row.label != Label::Class(2)).count();
    // 3 % of them, give or take four standard deviations.
    assert!(of_these.len() > 250, "{}", of_these.len());
    let expected = 0.03 * of_these.len() as f64;
    assert!(
        (wrong as f64 - expected).abs() < 4.0 * expected.sqrt(),
        "{wrong} of {}",
        of_these.len()
    );
    assert!(wrong > 0);
    Ok(())
}

#[test]
fn the_embedded_encoder_is_a_model_directory_like_any_other() -> TestResult {
    let dir = tempfile::tempdir()?;
    let (model, data) = (dir.path().join("model"), dir.path().join("data"));
    mini::write_model(&model)?;
    mini::write_tasks(&data, mini::SEED)?;
    assert!(fs::metadata(model.join("model.safetensors"))?.len() < 4_000_000);
    let config = EncoderConfig::from_file(&model.join("config.json"))?;
    let tokenizer = TokenizerSource::from_model_dir(&model)?;
    // Every word of the tasks is in the text that the vocabulary was learned from: none falls into bytes.
    let mut most = 0;
    for task in TASKS {
        let rows = task.load(&data, Split::Dev)?;
        for (row, encoded) in rows.iter().zip(tokenizer.encode_examples(&rows, 128)?) {
            let words = row.text_a.split(' ').count() + row.text_b.as_ref().map_or(0, |text| text.split(' ').count());
            assert!(encoded.ids.len() <= 2 * words + 8, "{:?}", row.text_a);
            most = most.max(encoded.ids.len());
        }
    }
    assert!(most < config.max_positions, "{most}");
    let checkpoint = Checkpoint::open(&model.join("model.safetensors"))?;
    SequenceClassifier::new(&Device::cpu(), DType::F32, &config, 2, None, Some(&checkpoint), 10)?;
    Ok(())
}

/// The first half of the SHA-256 of each generation task's files with their names, in the order of names.
const PINNED_GENERATION: &[(&str, &str)] = &[
    ("e2e", "7b1e42387fb4aef0185ca70437afddf9"),
    ("dart", "de841ef222b0054a9e6046b7f8a511e3"),
    ("webnlg", "f48aa2d91478af32ec265d1d2d00624c"),
];

/// All files under `dir`, as paths from there.
fn files(dir: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name: Vec<_> = path
                    .strip_prefix(dir)?
                    .iter()
                    .map(|part| part.to_string_lossy())
                    .collect();
                found.push(name.join("/"));
            }
        }
    }
    found.sort();
    Ok(found)
}

#[test]
fn the_default_seed_writes_the_pinned_generation_tasks() -> TestResult {
    let mut found = Vec::new();
    for task in generation::TASKS {
        let dir = tempfile::tempdir()?;
        mini::write_generation_task(*task, dir.path(), mini::SEED)?;
        let mut sum = Sha256::new();
        for name in files(dir.path())? {
            sum.update(&name);
            sum.update(fs::read(dir.path().join(&name))?);
        }
        let hex: String = sum.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        found.push((task.name(), hex));
    }
    let found: Vec<(&str, &str)> = found.iter().map(|(task, sum)| (*task, sum.as_str())).collect();
    assert_eq!(found, PINNED_GENERATION);
    Ok(())
}

#[test]
fn the_readers_of_generation_tasks_read_every_split_and_no_meaning_is_in_two() -> TestResult {
    let dir = tempfile::tempdir()?;
    for &task in generation::TASKS {
        mini::write_generation_task(task, dir.path(), mini::SEED)?;
        let mut seen = HashSet::new();
        let mut in_all = 0;
        for split in [Split::Train, Split::Dev, Split::Test] {
            let corpus = task.load(dir.path(), split)?;
            assert!(corpus.remarks.is_empty(), "{task} {split}: {:?}", corpus.remarks);
            let groups = corpus.groups();
            let texts: usize = groups.iter().map(|group| group.references.len()).sum();
            assert!(texts > 2 * groups.len(), "{task} {split}: {texts} for {}", groups.len());
            let expected = match split {
                Split::Train => 800..2001,
                Split::Dev => 60..121,
                _ => 100..121,
            };
            assert!(expected.contains(&groups.len()), "{task} {split}: {}", groups.len());
            in_all += groups.len();
            seen.extend(groups.into_iter().map(|group| group.context));
        }
        assert_eq!(seen.len(), in_all, "{task}: a meaning stands twice");
    }
    // E2E's test names are new, as in the challenge; half of WebNLG's test set is of categories without training rows.
    let named = |split: Split| -> Result<HashSet<String>, Box<dyn Error>> {
        let corpus = GenerationTask::E2e.load(dir.path(), split)?;
        let groups = corpus.groups();
        let first = groups.iter().filter_map(|group| group.context.split(" | ").next());
        Ok(first.map(str::to_owned).collect())
    };
    assert!(named(Split::Train)?.is_disjoint(&named(Split::Test)?));
    let bare = fs::read_to_string(dir.path().join("e2e/testset.csv"))?;
    assert_eq!(bare.lines().count(), 101);
    let test = GenerationTask::WebNlg.load(dir.path(), Split::Test)?;
    assert_eq!((test.groups_of(true).len(), test.groups_of(false).len()), (60, 60));
    let train = GenerationTask::WebNlg.load(dir.path(), Split::Train)?;
    assert_eq!(train.groups_of(false).len(), 0);
    let spoiled = train.entries.iter().flat_map(|entry| &entry.references);
    assert!(spoiled.filter(|reference| reference.comment == "toFix").count() > 20);
    // DART's two forms hold the same.
    let dart = dir.path().join("dart");
    let json = GenerationTask::Dart.load_file(&dart.join("dart-v1.1.1-full-test.json"), Split::Test)?;
    let xml = GenerationTask::Dart.load_file(&dart.join("dart-v1.1.1-full-test.xml"), Split::Test)?;
    assert_eq!(json.groups(), xml.groups());
    Ok(())
}

#[test]
fn the_embedded_gpt2_is_a_model_directory_like_any_other() -> TestResult {
    let dir = tempfile::tempdir()?;
    let (model, data) = (dir.path().join("model"), dir.path().join("data"));
    mini::write_causal_model(&model)?;
    let sizes: Vec<u64> = fs::read_dir(&model)?
        .map(|file| Ok(file?.metadata()?.len()))
        .collect::<Result<_, Box<dyn Error>>>()?;
    assert!(sizes.iter().sum::<u64>() < 4_000_000);
    let config = Gpt2Config::from_file(&model.join("config.json"))?;
    let tokenizer = TokenizerSource::from_model_dir(&model)?;
    // The words of the tasks are in the text that the vocabulary was learned from, and all rows fit.
    let encoder = PromptEncoder::new(&tokenizer, config.max_positions)?;
    for &task in generation::TASKS {
        mini::write_generation_task(task, &data, mini::SEED)?;
        for split in [Split::Train, Split::Test] {
            let corpus = task.load(&data, split)?;
            let pairs = corpus.pairs();
            let (encoded, truncated) = encoder.pairs(&pairs)?;
            assert_eq!(truncated.tokens, 0, "{task} {split}: {truncated}");
            for (pair, encoded) in pairs.iter().zip(encoded) {
                // A dot or comma is a token of its own, the end is one, and `There` at the beginning is three.
                let marks = pair.target.matches(['.', ',', '-', '£']).count();
                let words = pair.target.split(" ").count() + marks + 3;
                assert!(
                    encoded.predicted <= words,
                    "{:?}: {} of {words}",
                    pair.target,
                    encoded.predicted
                );
            }
        }
    }
    let checkpoint = Checkpoint::open(&model.join("model.safetensors"))?;
    Gpt2LanguageModel::new(&Device::cpu(), DType::F32, &config, None, Some(&checkpoint), 10)?;
    Ok(())
}

#[test]
fn a_place_that_cannot_be_written_is_named() -> TestResult {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("file");
    fs::write(&file, "here")?;
    for error in [
        mini::write_tasks(&file, 1),
        mini::write_model(&file),
        mini::write_causal_model(&file),
        mini::write_generation_task(GenerationTask::Dart, &file, 1),
        mini::write_text(Architecture::Roberta, &file.join("text.txt"), 1, 1),
    ] {
        let text = error.err().ok_or("written into a file")?.to_string();
        assert!(text.contains(&file.display().to_string()), "{text}");
    }
    assert_eq!(fs::read_to_string(&file)?, "here");
    Ok(())
}
