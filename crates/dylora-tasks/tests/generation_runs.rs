//! Runs of the generation tasks, from official files to metrics of what was written, with a tiny GPT-2.

mod official;
mod pairs;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use dylora_nn::Method;
use dylora_tasks::experiment::PlanOptions;
use dylora_tasks::generation::GenerationTask;
use dylora_tasks::metric::text::chain::Chain;
use dylora_tasks::metric::text::files::read_hypotheses;
use dylora_tasks::metric::text::meteor::Data;
use dylora_tasks::progress::{Event, Observer};
use dylora_tasks::record::{RankName, Record};
use dylora_tasks::settings::{DataSource, TrainSettings, Writing};
use dylora_tasks::study::Plan;
use dylora_tasks::task::Split;
use dylora_tasks::text2text::{Prompts, TextCodec, TrainedText};
use dylora_tasks::train::{Outcome, RunOptions, resume, train};
use official::{Official, PROMPTS, TASKS};
use pairs::{Loaded, TestResult};

/// Asks to stop after so many steps, or so many texts, and remembers what it heard.
#[derive(Default)]
struct Watch {
    stop_after: Option<u64>,
    stop_after_texts: Option<usize>,
    steps: u64,
    texts: usize,
    heard: Vec<String>,
}

impl Observer for Watch {
    fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Step { .. } => self.steps += 1,
            Event::EvaluatedRows(rows) => self.texts += rows,
            Event::Remark(words) => self.heard.push((*words).to_owned()),
            Event::Cut { path, texts } => self.heard.push(format!("{texts} of {}", path.display())),
            Event::Experiment { name, .. } => self.heard.push((*name).to_owned()),
            _ => {}
        }
    }

    fn should_stop(&self) -> bool {
        self.stop_after.is_some_and(|after| self.steps >= after)
            || self.stop_after_texts.is_some_and(|after| self.texts >= after)
    }
}

fn finished(outcome: Outcome) -> Loaded<Record> {
    match outcome {
        Outcome::Finished(record) => Ok(*record),
        Outcome::Interrupted { step, of } => Err(format!("stopped at {step} of {of}").into()),
    }
}

fn run(settings: &TrainSettings, dir: &Path) -> Loaded<Record> {
    finished(train(settings, dir, RunOptions::default(), &mut ())?)
}

/// What a run leaves that must not depend on how often it was stopped.
fn results(dir: &Path) -> Loaded<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    files.insert("adapter".to_owned(), fs::read(dir.join("adapter.safetensors"))?);
    for entry in fs::read_dir(dir.join("texts"))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.insert(name, fs::read(path)?);
    }
    Ok(files)
}

#[test]
fn every_task_is_trained_written_and_judged_as_its_official_chain_judges() -> TestResult {
    let official = Official::new()?;
    for task in TASKS {
        let dir = official.path(&format!("runs/{task}"));
        let mut watch = Watch::default();
        let settings = official.settings(task, Method::DyLora);
        let record = finished(train(&settings, &dir, RunOptions::default(), &mut watch)?)?;
        assert_eq!((record.steps, record.train_rows), (6, 12), "{task}");
        assert_eq!(watch.texts, 2 * PROMPTS);
        assert!(
            watch
                .heard
                .iter()
                .any(|words| words.contains("the test split of") && words.contains("partial: 136 of")),
            "{:?}",
            watch.heard
        );
        let corpus = task.load(&official.path("data"), Split::Test)?;
        let groups = corpus.groups();
        let references: Vec<Vec<&str>> = groups.iter().map(|group| group.references.clone()).collect();
        for rank in 1..=2 {
            let texts = read_hypotheses(&dir.join(format!("texts/rank-{rank}.txt")))?;
            assert_eq!(texts.len(), PROMPTS);
            let expected = Chain::of(task).judge(&texts, &references, None)?;
            let row = &record.ranks[rank - 1];
            assert_eq!(row.rank, RankName::At(rank));
            for metric in Chain::of(task)
                .metrics()
                .iter()
                .filter(|metric| metric.name != "METEOR")
            {
                let value = expected.value(metric.name).map(f64::to_bits);
                assert_eq!(
                    row.scores.get(metric.name).map(f64::to_bits),
                    value,
                    "{task} {}",
                    metric.name
                );
            }
            assert_eq!(row.scores.get("METEOR"), None);
            assert_eq!(row.scores.get("BLEU_unseen").is_some(), task == GenerationTask::WebNlg);
        }
        assert_ne!(
            fs::read(dir.join("texts/rank-1.txt"))?,
            fs::read(dir.join("texts/rank-2.txt"))?,
            "the rank matters"
        );
        assert!(
            record.notes.iter().any(|note| note.contains("METEOR is not computed")),
            "{:?}",
            record.notes
        );
        assert!(!dir.join("texts/rank-2.begun").exists());

        // What a finished run writes again is what it was judged by.
        let trained = TrainedText::open(&dir, None)?;
        let writing = settings.writing.ok_or("no writing")?;
        let prompts = trained.prompts(&trained.corpus(None, Split::Test, None, None)?, &writing)?;
        let again = trained.write_all(&prompts, Some(1), &writing.generate(trained.codec().eos()), &mut ())?;
        assert_eq!(again, Some(read_hypotheses(&dir.join("texts/rank-1.txt"))?));
        let other = TASKS.into_iter().find(|other| *other != task);
        assert!(
            trained.corpus(other, Split::Test, None, None).is_err(),
            "the run is of one task"
        );
    }
    Ok(())
}

#[test]
fn seen_and_unseen_categories_are_judged_apart() -> TestResult {
    let official = Official::new()?;
    let settings = TrainSettings {
        method: Method::Lora,
        epochs: 1,
        ..official.settings(GenerationTask::WebNlg, Method::Lora)
    };
    let record = run(&settings, &official.path("run"))?;
    let texts = read_hypotheses(&official.path("run/texts/rank-2.txt"))?;
    let corpus = GenerationTask::WebNlg.load(&official.path("data"), Split::Test)?;
    for (seen, suffix) in [(true, "seen"), (false, "unseen")] {
        let groups = corpus.groups_of(seen);
        let place = |group: &dylora_tasks::generation::Group<'_>| {
            corpus.groups().iter().position(|other| other.context == group.context)
        };
        let own: Vec<&str> = groups.iter().filter_map(place).map(|at| texts[at].as_str()).collect();
        let references: Vec<Vec<&str>> = groups.iter().map(|group| group.references.clone()).collect();
        assert_eq!(own.len(), if seen { 45 } else { 23 });
        let expected = Chain::Webnlg.judge(&own, &references, None)?;
        for name in ["BLEU", "TER"] {
            let found = record.ranks[1].scores.get(&format!("{name}_{suffix}"));
            assert_eq!(
                found.map(f64::to_bits),
                expected.value(name).map(f64::to_bits),
                "{name} {suffix}"
            );
        }
    }
    Ok(())
}

#[test]
fn a_run_that_was_stopped_anywhere_ends_with_the_same_bytes() -> TestResult {
    let official = Official::new()?;
    let settings = official.settings(GenerationTask::E2e, Method::DyLoraFrozen);
    let whole = official.path("whole");
    let record = run(&settings, &whole)?;
    let dir = official.path("parts");
    let options = RunOptions::default;
    let mut watch = Watch {
        stop_after: Some(4),
        ..Watch::default()
    };
    let stopped = train(&settings, &dir, options(), &mut watch)?;
    assert_eq!(stopped, Outcome::Interrupted { step: 4, of: 6 });
    // In the first rank's texts, after a part of them.
    let mut watch = Watch {
        stop_after_texts: Some(1),
        ..Watch::default()
    };
    let stopped = resume(&dir, Some(&settings), options(), &mut watch)?;
    assert_eq!(stopped, Outcome::Interrupted { step: 6, of: 6 });
    let begun = read_hypotheses(&dir.join("texts/rank-1.begun"))?;
    assert!(begun.len() < PROMPTS && !begun.is_empty(), "{}", begun.len());
    // In the second rank's, of which a kill leaves less than a part.
    let mut watch = Watch {
        stop_after_texts: Some(PROMPTS + 1),
        ..Watch::default()
    };
    resume(&dir, Some(&settings), options(), &mut watch)?;
    assert!(dir.join("texts/rank-1.txt").is_file() && !dir.join("texts/rank-1.begun").exists());
    fs::write(dir.join("texts/rank-2.begun"), "torn\n")?;
    let first = fs::metadata(dir.join("texts/rank-1.txt"))?.modified()?;
    let mut watch = Watch::default();
    let resumed = finished(resume(&dir, Some(&settings), options(), &mut watch)?)?;
    assert_eq!(
        fs::metadata(dir.join("texts/rank-1.txt"))?.modified()?,
        first,
        "not written again"
    );
    assert_eq!(watch.texts, 2 * PROMPTS, "what is there counts as done");
    assert_eq!(results(&dir)?, results(&whole)?);
    assert_eq!(
        (&resumed.ranks, &resumed.loss, &resumed.notes),
        (&record.ranks, &record.loss, &record.notes)
    );
    Ok(())
}

#[test]
fn a_plan_of_each_task_becomes_its_table() -> TestResult {
    let official = Official::new()?;
    let meteor = Arc::new(Data::open(&official.path("meteor"))?);
    for task in TASKS {
        let plan = Plan {
            recipe: official.settings(task, Method::Lora),
            full_lr: 1e-4,
            tasks: vec![task.name().to_owned()],
            methods: vec![Method::Lora, Method::DyLora],
            seeds: vec![10, 42],
            out: official.path(&format!("out/{task}")),
            profile: "given".to_owned(),
        };
        let sizes = plan.check_data()?;
        assert_eq!((sizes[0].train.rows, sizes[0].eval.rows), (12, PROMPTS));
        let estimate = plan.measure(&sizes, 2)?;
        assert_eq!((estimate.runs.len(), estimate.eval_per_second[0].0), (4, "texts"));
        assert!(
            estimate
                .runs
                .iter()
                .all(|run| run.train_seconds > 0.0 && run.eval_seconds > 0.0)
        );
        // Stopped in the second run; the same plan goes on.
        let stopping = Mutex::new(Watch {
            stop_after: Some(8),
            ..Watch::default()
        });
        let summary = plan.run(PlanOptions::default(), &stopping)?;
        assert!(summary.interrupted && summary.ran == 1, "{summary:?}");
        let options = PlanOptions {
            jobs: 2,
            ..PlanOptions::default()
        };
        let summary = plan.run(options, &())?;
        assert_eq!((summary.ran, summary.skipped, summary.failed.len()), (3, 1, 0));

        let without = plan.table(None)?;
        let text = without.to_text();
        assert!(
            text.contains("METEOR is not computed") && text.contains("METEOR "),
            "{text}"
        );
        let table = plan.table(Some(&*meteor))?;
        let text = table.to_text();
        let number = if task == GenerationTask::E2e {
            "Table 6"
        } else {
            "Table 9"
        };
        for words in [number, "GPT-2 Medium", "exact, stem only", "synonym needs ", "DyLoRA"] {
            assert!(text.contains(words), "{words:?} is not in {text}");
        }
        assert!(
            !text.contains("METEOR is not computed") && !text.contains("Avg"),
            "{text}"
        );
        let json = serde_json::to_value(&table)?;
        assert_eq!(
            (&json["table"], &json["rows"][0]["rank"]),
            (&task.name().into(), &1.into())
        );
        // Two ranks and the best, of two methods.
        assert_eq!(json["rows"].as_array().map(Vec::len), Some(6));
        let study = plan.study()?;
        let found = study.found(&study.sheets[0], Some(&*meteor))?;
        let records: Vec<Record> = found.into_iter().filter_map(|(_, record)| record).collect();
        for metric in Chain::of(task).metrics() {
            for (index, rank) in [(0, 1), (2, 2)] {
                let of_lora = records.iter().filter(|record| record.settings.method == Method::Lora);
                let values: Vec<f64> = of_lora
                    .filter_map(|record| record.ranks[rank - 1].scores.get(metric.name))
                    .map(|value| metric.scale * value)
                    .collect();
                assert_eq!(values.len(), 2, "{task} {}", metric.name);
                let cell = &json["rows"][index]["tasks"][task.name()][metric.name];
                let near = |value: &serde_json::Value, expected: f64| match value.as_f64() {
                    Some(value) => (value - expected).abs() <= 1e-9 * expected.abs().max(1.0),
                    None => expected.is_nan() && value == "nan",
                };
                let mean = (values[0] + values[1]) / 2.0;
                let std = (values[0] - values[1]).abs() / 2f64.sqrt();
                assert!(
                    near(&cell["mean"], mean) && near(&cell["std"], std),
                    "{cell} {values:?}"
                );
            }
            // The best of the ranks' means, the least one of errors.
            let mean = |row: usize| json["rows"][row]["tasks"][task.name()][metric.name]["mean"].as_f64();
            if let (Some(first), Some(second), Some(best)) = (mean(0), mean(2), mean(4)) {
                let expected = if metric.is_error {
                    first.min(second)
                } else {
                    first.max(second)
                };
                assert_eq!(best, expected, "{}", metric.name);
            }
        }
        assert_eq!(json["rows"][0]["tasks"][task.name()]["metric"], "BLEU");
        let page = table.to_html()?;
        let heading = if task == GenerationTask::E2e {
            "ROUGE-L"
        } else {
            "TER ↓"
        };
        assert!(page.contains(heading) && !page.contains("Average"));
    }
    Ok(())
}

#[test]
fn what_is_wrong_is_named_and_leaves_no_directory() -> TestResult {
    let official = Official::new()?;
    let data = |name: &str| official.path("data").join(name);
    let message = |settings: &TrainSettings| -> Loaded<String> {
        let dir = official.path("nothing");
        let error = train(settings, &dir, RunOptions::default(), &mut ()).err();
        assert!(!dir.exists());
        Ok(error.ok_or("it was taken")?.to_string())
    };
    type Change = fn(&mut TrainSettings);
    let cases: [(&str, Change); 6] = [
        ("--max-new-tokens", |s| s.max_length = 12),
        ("--beams", |s| {
            s.writing.iter_mut().for_each(|writing| writing.beams = 0)
        }),
        ("--max-prompts", |s| {
            s.writing.iter_mut().for_each(|writing| writing.max_prompts = Some(0))
        }),
        ("--length-penalty", |s| {
            s.writing
                .iter_mut()
                .for_each(|writing| writing.length_penalty = f64::NAN);
        }),
        ("no train split of dart here", |s| {
            s.task = "dart".to_owned();
            s.data = DataSource::Generation { dir: s.model.clone() };
        }),
        ("unknown task", |s| s.task = "rte".to_owned()),
    ];
    for (named, change) in cases {
        let mut settings = official.settings(GenerationTask::E2e, Method::Lora);
        change(&mut settings);
        let found = message(&settings)?;
        assert!(found.contains(named), "{named}: {found}");
    }
    // A bad row of the test split is found before the first step, with its line.
    let (test, good) = (
        data("e2e/testset_w_refs.csv"),
        fs::read_to_string(data("e2e/testset_w_refs.csv"))?,
    );
    let settings = official.settings(GenerationTask::E2e, Method::Lora);
    for (row, named) in [
        ("\"name[A], colour[red]\",A is red.\r\n", "colour"),
        ("\"name[A], food[Thai\",A.\r\n", "line 138"),
        ("\"name[A], food[Thai]\",\r\n", "line 138"),
    ] {
        fs::write(&test, format!("{good}{row}"))?;
        let found = message(&settings)?;
        assert!(
            found.contains("testset_w_refs.csv") && found.contains(named),
            "{named}: {found}"
        );
    }
    fs::write(&test, &good)?;
    let broken = data("webnlg_challenge_2017/train/1triples/Food.xml");
    let xml = fs::read_to_string(&broken)?;
    fs::write(&broken, xml.replacen("</entry>", "</entri>", 1))?;
    let found = message(&official.settings(GenerationTask::WebNlg, Method::Lora))?;
    assert!(found.contains("Food.xml, line "), "{found}");
    fs::write(&broken, xml.replace("Thai", "<br/>"))?;
    assert!(message(&official.settings(GenerationTask::WebNlg, Method::Lora))?.contains("Food.xml, line "));
    Ok(())
}

#[test]
fn a_prompt_longer_than_the_context_is_cut_and_counted() -> TestResult {
    let official = Official::new()?;
    let path = official.path("data/e2e/testset_w_refs.csv");
    let long = format!("\"name[{}], food[Thai]\",It is long.\n", "A".repeat(150));
    // Line ends of two kinds in one file.
    fs::write(&path, format!("{}{long}", fs::read_to_string(&path)?))?;
    let settings = TrainSettings {
        epochs: 1,
        ..official.settings(GenerationTask::E2e, Method::Lora)
    };
    let mut watch = Watch::default();
    let record = finished(train(
        &settings,
        &official.path("run"),
        RunOptions::default(),
        &mut watch,
    )?)?;
    let lost = format!("of the test split, 1 of {} prompts did not fit", PROMPTS + 1);
    assert!(
        record.notes.iter().any(|note| note.starts_with(&lost)),
        "{:?}",
        record.notes
    );
    let cut = format!("1 of {}", path.display());
    assert!(watch.heard.contains(&cut), "{:?}", watch.heard);
    let texts = read_hypotheses(&official.path("run/texts/rank-2.txt"))?;
    assert_eq!(texts.len(), PROMPTS + 1);
    // Where the model and the tokenizer do not agree on the end, nothing is written.
    let config = official.path("model/config.json");
    let text = fs::read_to_string(&config)?;
    fs::write(&config, text.replace("\"eos_token_id\": 256", "\"eos_token_id\": 255"))?;
    let error = train(&settings, &official.path("other"), RunOptions::default(), &mut ()).err();
    assert!(error.is_some_and(|error| error.to_string().contains("<|endoftext|> is token 256")));
    Ok(())
}

#[test]
fn prompts_are_the_first_ones_and_texts_must_be_as_many() -> TestResult {
    let official = Official::new()?;
    let config = dylora_nn::Gpt2Config::from_file(&official.path("model/config.json"))?;
    let tokenizer = dylora_tasks::tokens::TokenizerSource::from_model_dir(&official.path("model"))?;
    let codec = TextCodec::new(tokenizer, &config, 128)?;
    let corpus = GenerationTask::E2e.load(&official.path("data"), Split::Test)?;
    let writing = Writing {
        max_prompts: Some(3),
        ..Writing::paper()
    };
    let prompts = Prompts::new(&corpus, &codec, 128, &writing)?;
    assert_eq!((prompts.len(), prompts.references.len()), (3, 3));
    let texts = prompts
        .references
        .iter()
        .map(|group| group[0].clone())
        .collect::<Vec<_>>();
    assert!(
        prompts
            .judge(&texts, None)?
            .scores
            .get("BLEU")
            .is_some_and(|bleu| bleu > 0.99)
    );
    assert!(prompts.judge(&texts[..2], None).is_err());
    // What holds no word has no BLEU and no NIST; that is said, and nothing fails.
    let nothing = prompts.judge(&vec![String::new(); 3], None)?;
    assert!(
        nothing.scores.get("NIST").is_some_and(f64::is_nan),
        "{:?}",
        nothing.scores
    );
    assert!(
        nothing.notes.iter().any(|note| note.contains("nist is not defined")),
        "{:?}",
        nothing.notes
    );
    Ok(())
}
