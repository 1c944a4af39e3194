//! Text to text: a tiny GPT-2 learns to write, a stopped run ends with the same bytes, and what is wrong is named.

mod pairs;

use std::fs;
use std::path::{Path, PathBuf};

use dylora_nn::{Gpt2Config, Method, Objective, ScaleRule, Target};
use dylora_tasks::generate::{GenerateSettings, Strategy};
use dylora_tasks::progress::{Event, Observer};
use dylora_tasks::record::Record;
use dylora_tasks::settings::TrainSettings;
use dylora_tasks::text2text::{TextCodec, TextPair, TrainedText, read_contexts, read_pairs};
use dylora_tasks::tokens::TokenizerSource;
use dylora_tasks::train::{Outcome, RunOptions, resume, train};
use pairs::{END, Loaded, Place, TestResult};

/// Asks to stop after some steps, and remembers what was cut.
#[derive(Default)]
struct Watch {
    stop_after: Option<u64>,
    steps: u64,
    ranks: Vec<Option<usize>>,
    cut: Vec<(PathBuf, usize)>,
}

impl Observer for Watch {
    fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Step { rank, .. } => {
                self.steps += 1;
                self.ranks.push(*rank);
            }
            Event::Cut { path, texts } => self.cut.push((path.to_path_buf(), *texts)),
            _ => {}
        }
    }

    fn should_stop(&self) -> bool {
        self.stop_after.is_some_and(|after| self.steps >= after)
    }
}

fn finished(outcome: Outcome) -> Loaded<Record> {
    match outcome {
        Outcome::Finished(record) => Ok(*record),
        Outcome::Interrupted { step, of } => Err(format!("stopped at {step} of {of}").into()),
    }
}

fn run(place: &Place, settings: &TrainSettings, name: &str) -> Loaded<(Record, Vec<u8>)> {
    let dir = place.path(name);
    let record = finished(train(settings, &dir, RunOptions::default(), &mut Watch::default())?)?;
    Ok((record, fs::read(dir.join("adapter.safetensors"))?))
}

#[test]
fn a_model_learns_to_write_at_every_rank() -> TestResult {
    let place = Place::new()?;
    let settings = TrainSettings {
        // Enough for the words that all texts begin with, whatever a CPU rounds like.
        epochs: 120,
        targets: Target::ALL.to_vec(),
        ..place.settings(Method::DyLora)
    };
    let (record, _) = run(&place, &settings, "run")?;
    assert!(record.loss.last < 0.6 * record.loss.first, "{:?}", record.loss);
    assert_eq!(record.ranks.len(), 4);
    assert_eq!((record.steps, record.train_rows), (720, 24));
    // 2 blocks of a row of A and a column of B for each of 4 layers of 32 to 32, and of 2 between 32 and 64.
    assert_eq!(record.trainable, [1, 2, 3, 4].map(|rank| rank * 2 * (4 * 64 + 2 * 96)));
    let losses: Vec<f64> = record.ranks.iter().filter_map(|r| r.scores.get("loss")).collect();
    for (rank, loss) in record.ranks.iter().zip(&losses) {
        let perplexity = rank.scores.get("perplexity").unwrap_or(f64::NAN);
        assert!((perplexity - loss.exp()).abs() < 1e-9 * perplexity);
    }
    // An untrained model guesses among 257 tokens.
    assert!(losses.iter().all(|loss| *loss < 257f64.ln()), "{losses:?}");
    assert!(losses[3] < losses[0], "{losses:?}");

    let trained = TrainedText::open(&place.path("run"), None)?;
    let contexts = read_contexts(&place.path("dev.jsonl"))?;
    assert_eq!(contexts, ["k red", "k blue", "k green"]);
    let settings = GenerateSettings {
        batch: 2,
        ..GenerateSettings::paper(trained.codec().eos(), 16)
    };
    let mut heard = 0;
    let (texts, cut) = trained.write(&contexts, None, &settings, &mut |done| heard = done)?;
    assert_eq!((texts.len(), cut, heard), (3, 0, 3));
    let greedy = GenerateSettings {
        strategy: Strategy::Greedy,
        no_repeat_ngram: 0,
        ..settings
    };
    let (first, _) = trained.write(&contexts, Some(1), &greedy, &mut |_| ())?;
    let (last, _) = trained.write(&contexts, Some(4), &greedy, &mut |_| ())?;
    assert_ne!(first, last, "the rank matters");
    assert!(last.iter().all(|text| text.starts_with("it is")), "{last:?}");
    for (rank, named) in [(0, "0 is not in 1..=4"), (5, "5 is not in 1..=4")] {
        let error = trained.write(&contexts, Some(rank), &greedy, &mut |_| ()).err();
        assert!(error.is_some_and(|error| error.to_string().contains(named)));
    }
    let long = vec!["a".repeat(100)];
    assert_eq!(
        trained.write(&long, None, &greedy, &mut |_| ())?.1,
        1,
        "a cut context is counted"
    );
    Ok(())
}

#[test]
fn a_stopped_run_ends_with_the_same_bytes_in_every_method() -> TestResult {
    let place = Place::new()?;
    let summation = TrainSettings {
        objective: Objective::Summation,
        scale: ScaleRule::OverSqrtB,
        ..place.settings(Method::DyLora)
    };
    let mut cases = vec![("summation", summation)];
    for method in [Method::Lora, Method::DyLora, Method::DyLoraFrozen, Method::Full] {
        cases.push((method.name(), place.settings(method)));
    }
    for (name, settings) in cases {
        let (whole, bytes) = run(&place, &settings, &format!("{name}-whole"))?;
        let dir = place.path(&format!("{name}-parts"));
        let mut watch = Watch {
            stop_after: Some(9),
            ..Watch::default()
        };
        let stopped = train(&settings, &dir, RunOptions::default(), &mut watch)?;
        assert_eq!(stopped, Outcome::Interrupted { step: 9, of: 24 });
        let other = TrainSettings {
            seed: 11,
            ..settings.clone()
        };
        let error = resume(&dir, Some(&other), RunOptions::default(), &mut watch).err();
        assert!(error.is_some_and(|error| error.to_string().contains("seed 10")));
        watch.stop_after = None;
        let record = finished(resume(&dir, Some(&settings), RunOptions::default(), &mut watch)?)?;
        assert_eq!(fs::read(dir.join("adapter.safetensors"))?, bytes, "{name}");
        assert_eq!((&record.loss, &record.ranks), (&whole.loss, &whole.ranks), "{name}");
        assert_eq!(record.timing.resumed, 1);
        match name {
            "dylora" | "dylora-frozen" => {
                assert!(
                    (1..=4).all(|rank| watch.ranks.contains(&Some(rank))),
                    "{:?}",
                    watch.ranks
                );
            }
            "lora" => assert!(watch.ranks.iter().all(|rank| *rank == Some(4))),
            _ => assert!(watch.ranks.iter().all(Option::is_none)),
        }
        assert!(!dir.join("checkpoint.safetensors").exists());
        // A finished run opens, and is only read again.
        TrainedText::open(&dir, None)?;
        finished(resume(&dir, None, RunOptions::default(), &mut watch)?)?;
    }
    Ok(())
}

#[test]
fn pairs_become_context_end_completion_end_and_lose_their_ends_where_they_are_too_long() -> TestResult {
    let place = Place::new()?;
    let tokenizer = TokenizerSource::from_model_dir(&place.path("model"))?;
    let config = Gpt2Config::from_file(&place.path("model/config.json"))?;
    let pair = |context: &str, completion: &str| TextPair {
        context: context.to_owned(),
        completion: completion.to_owned(),
    };
    let codec = TextCodec::new(tokenizer.clone(), &config, 10)?;
    let ids = |text: &str| -> Loaded<Vec<i32>> {
        Ok(tokenizer
            .encode(text, None, 99)?
            .ids
            .iter()
            .map(|id| *id as i32)
            .collect())
    };
    let end = END as i32;
    let (encoded, cut) = codec.encode(&[pair("abc", "xyz"), pair("abcdefgh", "xyz"), pair("ab", "0123456789")])?;
    assert_eq!(cut, 2);
    let whole = [ids("abc")?, vec![end], ids(" xyz")?, vec![end]].concat();
    assert_eq!((&encoded[0].ids, encoded[0].predicted), (&whole, 5));
    // The context is cut to what the completion leaves, and keeps one token.
    assert_eq!(
        encoded[1].ids,
        [ids("abcd")?, vec![end], ids(" xyz")?, vec![end]].concat()
    );
    assert_eq!(encoded[2].ids, [ids("a")?, vec![end], ids(" 0123456")?].concat());
    assert_eq!((encoded[1].predicted, encoded[2].predicted), (5, 8));

    let contexts = ["abc".to_owned(), "abcdefgh".to_owned()];
    let (prompts, cut) = codec.prompts(&contexts, 5)?;
    assert_eq!(
        (prompts, cut),
        (
            vec![[ids("abc")?, vec![end]].concat(), [ids("abcd")?, vec![end]].concat()],
            1
        )
    );
    assert!(codec.prompts(&contexts, 10).is_err());
    let written = [ids(" xyz é")?, vec![end], ids("more")?].concat();
    assert_eq!(codec.decode(&written)?, "xyz é");
    assert!(TextCodec::new(tokenizer, &config, 3).is_err());

    // A run reports what it cut, with the file.
    let settings = TrainSettings {
        max_length: 12,
        epochs: 1,
        ..place.settings(Method::DyLora)
    };
    let mut watch = Watch::default();
    finished(train(&settings, &place.path("cut"), RunOptions::default(), &mut watch)?)?;
    assert_eq!(
        watch.cut,
        [(place.path("train.jsonl"), 24), (place.path("dev.jsonl"), 3)]
    );
    Ok(())
}

#[test]
fn what_is_wrong_is_named_and_leaves_no_directory() -> TestResult {
    let place = Place::new()?;
    let good = "{\"context\": \"a\", \"completion\": \"b\"}";
    let message = |text: &[u8]| -> Loaded<String> {
        let path = place.path("bad.jsonl");
        fs::write(&path, text)?;
        let error = read_pairs(&path)
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        let settings = TrainSettings::text(&place.path("model"), &path, &path);
        let run = place.path("nothing");
        assert!(train(&settings, &run, RunOptions::default(), &mut Watch::default()).is_err());
        assert!(!run.exists());
        Ok(error)
    };
    let cases: [(String, &str); 6] = [
        (format!("{good}\n{{\"context\": \"a\"}}\n"), "line 2"),
        (format!("{good}\n\n{good}\n"), "line 2"),
        (
            format!("{good}\r\n{{\"context\": \" \", \"completion\": \"b\"}}"),
            "the context is blank",
        ),
        ("{\"context\": \"a\", \"completion\": \"\\n\"}\n".to_owned(), "line 1"),
        ("not json\n".to_owned(), "bad.jsonl, line 1"),
        (String::new(), "is empty"),
    ];
    for (text, named) in cases {
        let found = message(text.as_bytes())?;
        assert!(found.contains(named), "{text:?}: {found:?}");
    }
    assert!(message(b"{\"context\": \"\xff\"}")?.contains("not valid UTF-8"));
    fs::write(place.path("two.jsonl"), format!("{good}\r\n{good}"))?;
    assert_eq!(read_pairs(&place.path("two.jsonl"))?.len(), 2);

    // A run for labels is told apart.
    let settings = TrainSettings {
        epochs: 1,
        ..place.settings(Method::Lora)
    };
    run(&place, &settings, "own")?;
    let classes = dylora_tasks::evaluate::TrainedModel::open(&place.path("own"), None).err();
    assert!(classes.is_some_and(|error| error.to_string().contains("--task text")));
    let missing = TrainedText::open(Path::new(&place.path("model")), None).err();
    assert!(missing.is_some_and(|error| error.to_string().contains("holds no run")));
    Ok(())
}
