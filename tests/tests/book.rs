//! The book stays true: chapters are all listed and all run, links lead somewhere, what a table names is in the file it names,
//! error messages are those of the program, pictures can be read by a machine and in the dark.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use dylora_nn::ScaleRule;
use dylora_tasks::settings::{DataSource, TrainSettings};
use serde_json::Value;

type TestResult = Result<(), Box<dyn Error>>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn book() -> PathBuf {
    root().join("docs/src")
}

/// Cells of the tables in a chapter, row by row.
fn cells(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let rows = text
        .lines()
        .filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'));
    rows.map(|row| row.split('|').map(str::trim).collect())
}

/// Every setting has a row with the defaults that it has.
#[test]
fn settings_are_listed_with_their_defaults() -> TestResult {
    let text = fs::read_to_string(book().join("settings.md"))?;
    let place = Path::new("x");
    let glue = TrainSettings::new("mrpc", place, DataSource::Glue { dir: "x".into() });
    let texts = TrainSettings::text(place, place, place);
    // What is not written where it has its default.
    let unsaid = [
        ("scale", "alpha/b"),
        ("label_smoothing", "0"),
        ("target_sparsity", "0.55"),
        ("sparsity_warmup", "0.4"),
        ("gate_init", "0.05"),
        ("gate_lr", "40 / steps"),
        ("lambda_lr", "12 / steps"),
    ];
    let nothing = Value::Null;
    let same = |cell: &str, value: &Value, unsaid: Option<&str>| match value {
        Value::Null => unsaid.map_or(["none", "all", "the model's"].contains(&cell), |word| cell == word),
        Value::Number(number) => cell.parse::<f64>().ok() == number.as_f64(),
        Value::String(word) => cell == word,
        Value::Array(words) => cell.split(',').eq(words.iter().filter_map(Value::as_str)),
        _ => false,
    };
    let mut listed = BTreeSet::new();
    for row in cells(&text) {
        let names: Vec<String> = row[0]
            .split(", ")
            .filter_map(|name| Some(name.strip_prefix("`--")?.strip_suffix('`')?.replace('-', "_")))
            .collect();
        if let [name] = names.as_slice()
            && !["precision", "adapter"].contains(&name.as_str())
        {
            for (settings, cell) in [(&glue, row[1]), (&texts, row[2])] {
                let fields = serde_json::to_value(settings)?;
                let unsaid = unsaid.iter().find(|(known, _)| known == name).map(|(_, word)| *word);
                let value = fields.get(name).unwrap_or(&nothing);
                assert!(
                    same(cell, value, unsaid),
                    "settings.md says {name} is {cell}, not {value}"
                );
            }
        }
        listed.extend(names);
    }
    let full = TrainSettings {
        scale: ScaleRule::OverR,
        eval_ranks: Some(vec![1]),
        label_smoothing: 0.1,
        target_sparsity: 0.1,
        sparsity_warmup: 0.1,
        gate_init: 0.1,
        gate_lr: Some(0.1),
        lambda_lr: Some(0.1),
        ..glue
    };
    let fields = serde_json::to_value(&full)?;
    let fields = fields.as_object().ok_or("settings are no object")?;
    let missing: Vec<_> = fields.keys().filter(|name| !listed.contains(*name)).collect();
    assert!(missing.is_empty(), "settings.md has no row for {missing:?}");
    Ok(())
}

/// A Markdown file of the book.
struct Chapter {
    name: String,
    /// With `{{#include ..}}` replaced by what it includes.
    text: String,
    /// Whether it is a document of `docs/` that the book only shows.
    included: bool,
}

fn chapters() -> Result<Vec<Chapter>, Box<dyn Error>> {
    let mut chapters = Vec::new();
    for entry in fs::read_dir(book())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.ends_with(".md") || name == "SUMMARY.md" {
            continue;
        }
        let (mut text, mut included) = (fs::read_to_string(&path)?, false);
        if let Some(target) = text
            .trim()
            .strip_prefix("{{#include ")
            .and_then(|rest| rest.strip_suffix("}}"))
        {
            text = fs::read_to_string(book().join(target)).map_err(|error| format!("{name}: {target}: {error}"))?;
            included = true;
        }
        assert!(!text.contains("{{#"), "{name}: only a whole chapter may be included");
        chapters.push(Chapter { name, text, included });
    }
    chapters.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(chapters.len() > 10);
    Ok(chapters)
}

/// Lines with a flag that says whether they stand in a fenced block, and the word behind the fence.
fn lines(text: &str) -> Vec<(&str, Option<&str>)> {
    let mut fence = None;
    text.lines()
        .map(|line| match (line.strip_prefix("```"), fence) {
            (Some(word), None) => {
                fence = Some(word.trim());
                (line, fence)
            }
            (Some(_), Some(_)) => (line, fence.take()),
            (None, _) => (line, fence),
        })
        .collect()
}

/// The targets of inline links and pictures outside code.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (line, fence) in lines(text) {
        if fence.is_some() {
            continue;
        }
        // Code spans have no links.
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join(" ");
        for (at, _) in prose.match_indices("](") {
            let rest = &prose[at + 2..];
            found.extend(rest.split_once(')').map(|(target, _)| target.to_owned()));
        }
    }
    found
}

/// The address of a heading, as mdBook and others make it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn anchors(text: &str) -> BTreeSet<String> {
    let headings = lines(text)
        .into_iter()
        .filter(|(line, fence)| fence.is_none() && line.starts_with('#'));
    headings.map(|(line, _)| anchor(line.trim_start_matches('#'))).collect()
}

#[test]
fn every_chapter_is_listed_and_every_one_with_rust_is_run() -> TestResult {
    let summary = fs::read_to_string(book().join("SUMMARY.md"))?;
    let listed: BTreeSet<String> = links(&summary).into_iter().collect();
    let there: BTreeSet<String> = chapters()?.into_iter().map(|chapter| chapter.name).collect();
    assert_eq!(listed, there);

    let run = fs::read_to_string(root().join("tests/src/book.rs"))?;
    for Chapter { name, text, .. } in chapters()?.into_iter().filter(|chapter| !chapter.included) {
        let mut rust = false;
        let mut opened = None;
        for (line, fence) in lines(&text) {
            if let (Some(word), None) = (fence, opened) {
                assert!(
                    ["rust", "sh", "text", "toml", "json"].contains(&word),
                    "{name}: a block opens with {line:?}; say rust (it is run), sh, text, toml or json"
                );
                rust |= word == "rust";
            }
            opened = fence.filter(|_| !(opened.is_some() && line.starts_with("```")));
        }
        let included = run.contains(&format!("include_str!(\"../../docs/src/{name}\")"));
        assert!(included || !rust, "{name} has Rust that tests/src/book.rs does not run");
    }
    Ok(())
}

#[test]
fn links_lead_somewhere() -> TestResult {
    let chapters = chapters()?;
    let mut pictures = BTreeSet::new();
    for Chapter { name, text, .. } in &chapters {
        for link in links(text) {
            if link.starts_with("https://") {
                continue;
            }
            let (file, fragment) = link.split_once('#').unwrap_or((&link, ""));
            if file.starts_with("images/") {
                pictures.insert(file.to_owned());
                assert!(book().join(file).is_file(), "{name}: {file} is not there");
                continue;
            }
            let target = if file.is_empty() { name.as_str() } else { file };
            let Some(target) = chapters.iter().find(|chapter| chapter.name == target) else {
                panic!("{name}: {link} is no chapter");
            };
            assert!(
                fragment.is_empty() || anchors(&target.text).contains(fragment),
                "{name}: {link} names no heading"
            );
        }
    }
    let there: BTreeSet<String> = fs::read_dir(book().join("images"))?
        .map(|entry| Ok(format!("images/{}", entry?.file_name().to_string_lossy())))
        .collect::<Result<_, std::io::Error>>()?;
    assert_eq!(pictures, there, "pictures that no chapter shows, or that are not there");
    Ok(())
}

/// Whether a word is a path of this repository.
fn is_path(span: &str) -> bool {
    let starts = ["crates/", "tests/", "xtask/", "docs/"]
        .iter()
        .any(|folder| span.starts_with(folder));
    starts && !span.contains(' ')
}

#[test]
fn files_that_are_named_exist_and_have_the_functions_beside_them() -> TestResult {
    let (mut files, mut functions) = (0, 0);
    for Chapter { name, text, .. } in chapters()?.into_iter().filter(|chapter| !chapter.included) {
        for (line, fence) in lines(&text) {
            if fence.is_some() {
                continue;
            }
            let spans: Vec<&str> = line.split('`').skip(1).step_by(2).collect();
            let mut source: Option<(String, String)> = None;
            for span in spans {
                if is_path(span) {
                    let path = root().join(span);
                    assert!(path.exists(), "{name}: {span} is not there");
                    files += 1;
                    source = path
                        .is_file()
                        .then(|| fs::read_to_string(&path).map(|text| (span.to_owned(), text)))
                        .transpose()?;
                    continue;
                }
                // In a row of a table, what follows a source is in it.
                let (true, Some((path, source))) = (line.starts_with('|'), &source) else {
                    continue;
                };
                let function = span.rsplit("::").next().unwrap_or(span);
                let plain = !function.is_empty() && function.chars().all(|c| c.is_alphanumeric() || c == '_');
                if plain && path.ends_with(".rs") && span.split("::").all(|part| !part.is_empty()) {
                    let definition = [format!("fn {function}("), format!("fn {function}<")];
                    assert!(
                        definition.iter().any(|definition| source.contains(definition)),
                        "{name}: {path} has no {function}"
                    );
                    functions += 1;
                }
            }
        }
    }
    assert!(files > 40 && functions > 30, "{files} files, {functions} functions");
    Ok(())
}

/// What the chapter on errors shows is what the libraries say.
#[test]
fn error_messages_are_the_programs_own() -> TestResult {
    use dylora_tasks::settings::{DataSource, TrainSettings};
    use dylora_tasks::tabular::{self, Columns};
    use dylora_tasks::{Error as TaskError, evaluate, glue, mini, train};

    let text = fs::read_to_string(book().join("troubleshooting.md"))?;
    let dir = tempfile::tempdir()?;
    let here = |name: &str| dir.path().join(name);
    let mut shown = 0;
    // Paths are those of this test's directory; the book leaves the directory out.
    let mut holds = |message: String| {
        let message = message.replace(&format!("{}/", dir.path().display()), "");
        assert!(text.contains(&message), "the book does not have: {message}");
        shown += 1;
    };

    let columns = Columns::parse("text", Some("label"), false)?;
    let own = "text,label\nThe soup was warm.,good\nA slow evening.,bad\n";
    fs::write(here("own.csv"), own)?;
    let title = Columns::parse("title", Some("label"), false)?;
    holds(tabular::load_train(&here("own.csv"), &title).unwrap_err().to_string());
    fs::write(here("dev.csv"), "text,label\nA,good\nB,worse\n")?;
    holds(
        tabular::load(&here("own.csv"), &here("dev.csv"), &columns)
            .unwrap_err()
            .to_string(),
    );
    fs::write(here("own.csv"), "text,label\nA,good\nB\n")?;
    holds(tabular::load_train(&here("own.csv"), &columns).unwrap_err().to_string());
    holds(glue::find("mrp").unwrap_err().to_string());

    // The model directory.
    fs::write(here("own.csv"), own)?;
    mini::write_model(&here("model"))?;
    let data = DataSource::Files {
        train: here("own.csv"),
        dev: here("own.csv"),
        columns,
    };
    let settings = TrainSettings {
        epochs: 1,
        ..TrainSettings::new("csv", &here("model"), data)
    };
    let run = |settings: &TrainSettings, out: &str| {
        train::train(settings, &here(out), train::RunOptions::default(), &mut ()).map(drop)
    };
    let with = |change: fn(&mut TrainSettings)| {
        let mut settings = settings.clone();
        change(&mut settings);
        settings
    };
    let nowhere = TrainSettings {
        model: here("nowhere"),
        ..settings.clone()
    };
    holds(run(&nowhere, "runs/a").unwrap_err().to_string());
    let cut = here("cut");
    mini::write_model(&cut)?;
    let weights = fs::read(cut.join("model.safetensors"))?;
    fs::write(cut.join("model.safetensors"), &weights[..100_000])?;
    let message = run(
        &TrainSettings {
            model: cut,
            ..settings.clone()
        },
        "runs/a",
    )
    .unwrap_err()
    .to_string();
    holds(message.replace("/cut/", "/").replace("cut/model", "model"));
    holds(
        TaskError::Vocabulary {
            tokenizer: 30522,
            largest: 30521,
            model: 1218,
        }
        .to_string(),
    );
    let t5 = r#"{"model_type":"t5","vocab_size":1,"hidden_size":1,"num_hidden_layers":1,"num_attention_heads":1,
        "intermediate_size":1,"max_position_embeddings":9}"#;
    holds(dylora_nn::EncoderConfig::from_json(t5).unwrap_err().to_string());

    // The run directory.
    run(&settings, "runs/own")?;
    holds(run(&settings, "runs/own").unwrap_err().to_string());
    let resumed = |settings: &TrainSettings, out: &str| {
        train::resume(&here(out), Some(settings), train::RunOptions::default(), &mut ()).map(drop)
    };
    holds(resumed(&with(|s| s.lr = 0.5), "runs/own").unwrap_err().to_string());
    holds(resumed(&settings, "runs/nowhere").unwrap_err().to_string());

    let busy = TaskError::Busy {
        path: here("runs/own"),
        by: "another process".into(),
    };
    holds(busy.to_string());

    // Ranks and settings.
    let trained = evaluate::TrainedModel::open(&here("runs/own"), None)?;
    for rank in [9, 0] {
        holds(trained.ranks(&[rank]).unwrap_err().to_string());
    }
    holds(
        with(|s| (s.rank, s.rank_min) = (4, 5))
            .validate()
            .unwrap_err()
            .to_string(),
    );
    holds(
        "geometric:2"
            .parse::<dylora_nn::Distribution>()
            .unwrap_err()
            .to_string(),
    );
    let diverged = TaskError::Diverged {
        what: "loss",
        value: f64::NAN,
        step: 3,
        epoch: Some(3),
    };
    holds(diverged.to_string());
    holds(
        run(
            &with(|s| s.precision = dylora_tasks::settings::Precision::Bf16),
            "runs/b",
        )
        .unwrap_err()
        .to_string(),
    );
    holds(
        dylora_nn::tensor::Error::OutOfMemory {
            wanted: 1_048_576,
            free: 1024,
            total: 8192,
        }
        .to_string(),
    );
    assert!(shown > 15, "{shown}");
    Ok(())
}

#[test]
fn pictures_are_well_formed_and_legible_in_light_and_dark() -> TestResult {
    for entry in fs::read_dir(book().join("images"))? {
        let path = entry?.path();
        let name = path.display();
        let text = fs::read_to_string(&path)?;
        let picture = roxmltree::Document::parse(&text).map_err(|error| format!("{name}: {error}"))?;
        let svg = picture.root_element();
        assert!(svg.has_tag_name(("http://www.w3.org/2000/svg", "svg")), "{name}");
        assert!(svg.attribute("viewBox").is_some(), "{name} has no viewBox");
        let title = svg.children().find(|node| node.tag_name().name() == "title");
        assert!(
            title
                .and_then(|title| title.text())
                .is_some_and(|title| !title.is_empty()),
            "{name}"
        );
        // A ground of its own in both schemes: legible whatever the page around it is.
        assert!(
            text.contains("prefers-color-scheme:dark") && text.contains("class=\"bg\""),
            "{name}"
        );
        assert!(
            !text.contains("<script") && !text.contains("href"),
            "{name} reaches out"
        );
    }
    Ok(())
}
