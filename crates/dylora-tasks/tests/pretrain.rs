//! Masked pre-training: what is hidden, that a run is the same however it is cut, and that what it leaves is a model.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use dylora_tasks::nn::tensor::{DType, Device};
use dylora_tasks::nn::{Checkpoint, EncoderConfig, SequenceClassifier, WeightFormat};
use dylora_tasks::pack::{PackedBatch, pack};
use dylora_tasks::pretrain::{
    Hidden, MASK, Masking, PretrainRecord, PretrainSettings, SPECIAL, pretrain, resume, settings_of,
};
use dylora_tasks::progress::{Event, Observer, PretrainEvent};
use dylora_tasks::task::Label;
use dylora_tasks::tokens::{Encoded, TokenizerSource};
use dylora_tasks::train::{Outcome, RunOptions};

type TestResult = Result<(), Box<dyn Error>>;

/// Texts with a little order in them, some of them pairs.
fn text() -> String {
    let (who, what) = (["the cat", "a dog", "my friend"], ["sees", "likes", "follows"]);
    let whom = ["the red ball", "a small bird", "his sister", "the old house"];
    let sentence = |n: usize| format!("{} {} {}", who[n % 3], what[n / 3 % 3], whom[n / 9 % 4]);
    (0..60)
        .map(|n| match n % 4 {
            0 => format!("{}\t{}\n", sentence(n), sentence(7 * n + 1)),
            _ => sentence(n) + "\n",
        })
        .collect()
}

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Result<Self, Box<dyn Error>> {
        let dir = tempfile::tempdir()?;
        fs::write(dir.path().join("text.txt"), text())?;
        Ok(Place { dir })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Seven steps whose batches are split, evaluated twice.
    fn settings(&self) -> PretrainSettings {
        PretrainSettings {
            vocab_size: 300,
            layers: 2,
            hidden_size: 16,
            heads: 2,
            intermediate_size: 24,
            max_positions: 40,
            steps: 7,
            batch_size: 9,
            token_budget: 60,
            lr: 1e-2,
            eval_every: 5,
            weights: WeightFormat::F32,
            ..PretrainSettings::new(&self.path("text.txt"))
        }
    }
}

/// Stops after so many steps; remembers losses and checkpoints.
#[derive(Default)]
struct Watcher {
    stop_after: Option<u64>,
    losses: Vec<f64>,
    checkpoints: Vec<u64>,
    cut: usize,
}

impl Observer for Watcher {
    fn event(&mut self, event: &Event<'_>) {
        match *event {
            Event::Pretrain(PretrainEvent::Step { loss, .. }) => self.losses.push(loss),
            Event::Pretrain(PretrainEvent::Started { text, .. }) => self.cut = text.truncated,
            Event::Checkpoint { step, .. } => self.checkpoints.push(step),
            _ => {}
        }
    }

    fn should_stop(&self) -> bool {
        self.stop_after.is_some_and(|last| self.losses.len() as u64 >= last)
    }
}

fn run(settings: &PretrainSettings, dir: &Path) -> Result<PretrainRecord, Box<dyn Error>> {
    match pretrain(settings, dir, RunOptions::default(), &mut ())? {
        Outcome::Finished(record) => Ok(*record),
        Outcome::Interrupted { .. } => Err("interrupted".into()),
    }
}

#[track_caller]
fn refused<T>(result: dylora_tasks::Result<T>, words: &[&str]) {
    let message = result.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(
        words.iter().all(|word| message.contains(word)),
        "{words:?}: {message:?}"
    );
}

/// So many batches of rows of `length` tokens between `<s>` and `</s>`.
fn batches(count: usize, rows: usize, length: usize, vocab_size: u32) -> Result<Vec<PackedBatch>, Box<dyn Error>> {
    let row = |n: usize| {
        let inner = (0..length).map(|at| 5 + ((n * 31 + at * 7) as u32) % (vocab_size - 5));
        let ids: Vec<u32> = [0].into_iter().chain(inner).chain([2]).collect();
        Encoded {
            token_types: vec![0; ids.len()],
            ids,
        }
    };
    let examples: Vec<Encoded> = (0..count * rows).map(row).collect();
    let labels = vec![Label::None; examples.len()];
    let order: Vec<usize> = (0..examples.len()).collect();
    Ok(pack(&examples, &labels, &order, 2, rows * (length + 2))?)
}

#[test]
fn fifteen_percent_are_hidden_in_the_published_proportions() -> TestResult {
    let vocab_size = 1000;
    let plain = batches(4, 100, 50, vocab_size)?;
    let masking = Masking::new(0.15, vocab_size as usize, 10);
    let (mut chosen, mut total) = (0usize, 0usize);
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for step in 0..10 {
        let mut seen = plain.clone();
        let hidden = masking.hide(&mut seen, step);
        for ((before, after), hidden) in plain.iter().zip(&seen).zip(&hidden) {
            assert_eq!(hidden.rows.len(), hidden.targets.len());
            assert_eq!(hidden.counts.len(), before.sequences());
            let mut at = 0;
            let mut start = 0;
            for (length, count) in before.lengths.iter().zip(&hidden.counts) {
                for row in &hidden.rows[at..at + count] {
                    // Neither <s> nor </s>, and in the sequence that it is counted for.
                    assert!((start + 1..start + length - 1).contains(&(*row as usize)));
                }
                at += count;
                start += length;
            }
            assert_eq!(at, hidden.rows.len());
            for (row, target) in hidden.rows.iter().zip(&hidden.targets) {
                let (before, after) = (before.ids[*row as usize], after.ids[*row as usize]);
                assert_eq!(before, *target);
                let kind = match after {
                    MASK => "mask",
                    same if same == before => "same",
                    other => {
                        assert!((5..vocab_size as i32).contains(&other));
                        "random"
                    }
                };
                *kinds.entry(kind).or_default() += 1;
            }
            let changed = before.ids.iter().zip(&after.ids).filter(|(a, b)| a != b).count();
            assert!(changed <= hidden.rows.len(), "what is not hidden stays");
            chosen += hidden.rows.len();
            total += before.tokens() - 2 * before.sequences();
        }
    }
    // Five standard deviations of a binomial share.
    let close = |count: usize, of: usize, share: f64| {
        let found = count as f64 / of as f64;
        let limit = 5.0 * (share * (1.0 - share) / of as f64).sqrt();
        assert!((found - share).abs() < limit, "{count} of {of}, not {share}");
    };
    assert_eq!(total, 200_000);
    close(chosen, total, 0.15);
    close(kinds["mask"], chosen, 0.8);
    // One random token in 995 is the one that stood there.
    close(kinds["random"], chosen, 0.1 * 994.0 / 995.0);
    Ok(())
}

#[test]
fn every_step_hides_other_tokens_and_at_least_one() -> TestResult {
    let plain = batches(3, 1, 2, 20)?;
    let masking = Masking::new(0.01, 20, 3);
    let hide = |step| {
        let mut seen = plain.clone();
        (masking.hide(&mut seen, step), seen)
    };
    let mut places = BTreeMap::new();
    for step in 0..200 {
        let (hidden, seen) = hide(step);
        let rows: Vec<(usize, i32)> = hidden
            .iter()
            .enumerate()
            .flat_map(|(batch, hidden)| hidden.rows.iter().map(move |row| (batch, *row)))
            .collect();
        assert!(!rows.is_empty());
        assert_eq!((hidden, seen), hide(step), "a function of seed and step");
        for place in rows {
            *places.entry(place).or_insert(0) += 1;
        }
    }
    assert_eq!(places.len(), 6, "any token can be the one: {places:?}");
    // Special tokens alone: nothing to hide.
    let mut special = plain[..1].to_vec();
    special[0].ids = (0..SPECIAL.len() as i32 - 1).collect();
    let nothing = Hidden {
        counts: vec![0],
        ..Hidden::default()
    };
    assert_eq!(masking.hide(&mut special, 0), [nothing]);
    Ok(())
}

#[test]
fn a_run_is_the_same_wherever_it_is_stopped_and_on_any_number_of_threads() -> TestResult {
    let place = Place::new()?;
    let settings = place.settings();
    let whole = place.path("whole");
    let mut watched = Watcher::default();
    let Outcome::Finished(expected) = pretrain(&settings, &whole, RunOptions::default(), &mut watched)? else {
        return Err("interrupted".into());
    };
    assert_eq!(watched.losses.len(), 7);
    assert_eq!(expected.evaluations.iter().map(|e| e.step).collect::<Vec<_>>(), [5, 7]);
    let files = [
        "model.safetensors",
        "tokenizer.json",
        "config.json",
        "tokenizer_config.json",
    ];
    let same = |dir: &Path| -> TestResult {
        for file in files {
            assert_eq!(
                fs::read(dir.join(file))?,
                fs::read(whole.join(file))?,
                "{file} of {}",
                dir.display()
            );
        }
        Ok(())
    };

    for stops in [&[1u64, 5][..], &[6]] {
        let dir = place.path(&format!("stopped-{}", stops[0]));
        let mut losses = Vec::new();
        let mut done = 0;
        let mut last = None;
        for stop in stops.iter().map(|stop| Some(*stop)).chain([None]) {
            let mut seen = Watcher {
                stop_after: stop.map(|stop| stop - done),
                ..Watcher::default()
            };
            let options = RunOptions::default();
            let outcome = match done {
                0 => pretrain(&settings, &dir, options, &mut seen)?,
                _ => resume(&dir, Some(&settings), options, &mut seen)?,
            };
            losses.extend(seen.losses);
            match outcome {
                Outcome::Interrupted { step, of } => {
                    assert_eq!((Some(step), of), (stop, 7));
                    assert_eq!(seen.checkpoints, [step]);
                    assert_eq!(settings_of(&dir)?, settings);
                    done = step;
                }
                Outcome::Finished(record) => last = Some(record),
            }
        }
        let record = last.ok_or("never finished")?;
        assert_eq!(losses, watched.losses);
        assert_eq!(record.evaluations, expected.evaluations);
        assert_eq!(
            (record.tokens_seen, record.hidden_seen),
            (expected.tokens_seen, expected.hidden_seen)
        );
        assert_eq!(record.timing.resumed as usize, stops.len());
        same(&dir)?;
        let mut left: Vec<_> = fs::read_dir(&dir)?
            .map(|entry| Ok(entry?.file_name()))
            .collect::<std::io::Result<_>>()?;
        left.sort();
        let mut all: Vec<_> = files
            .iter()
            .copied()
            .chain(["pretrain.json", "pretrain.toml"])
            .collect();
        all.sort_unstable();
        assert_eq!(left, all);
        // Finished: only read.
        let again = resume(&dir, Some(&settings), RunOptions::default(), &mut ())?;
        assert_eq!(again, Outcome::Finished(record));
    }

    for threads in [1, 2, 3] {
        let dir = place.path(&format!("threads-{threads}"));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        pool.install(|| pretrain(&settings, &dir, RunOptions::default(), &mut ()))?;
        same(&dir)?;
    }
    let other = PretrainSettings { seed: 11, ..settings };
    run(&other, &place.path("other-seed"))?;
    assert_ne!(
        fs::read(place.path("other-seed/model.safetensors"))?,
        fs::read(whole.join("model.safetensors"))?
    );
    Ok(())
}

#[test]
fn a_killed_run_goes_on_from_its_last_checkpoint() -> TestResult {
    let place = Place::new()?;
    let settings = place.settings();
    run(&settings, &place.path("whole"))?;
    let dir = place.path("killed");
    let options = RunOptions {
        checkpoint_every: Some(2),
        ..RunOptions::default()
    };
    let mut seen = Watcher {
        stop_after: Some(3),
        ..Watcher::default()
    };
    pretrain(&settings, &dir, options.clone(), &mut seen)?;
    assert_eq!(seen.checkpoints, [2, 3]);
    // Killed before the first checkpoint was whole.
    fs::rename(
        dir.join("checkpoint.safetensors"),
        dir.join(".checkpoint.safetensors.tmp"),
    )?;
    resume(&dir, None, options, &mut ())?;
    assert_eq!(
        fs::read(dir.join("model.safetensors"))?,
        fs::read(place.path("whole/model.safetensors"))?
    );
    assert!(!dir.join(".checkpoint.safetensors.tmp").exists());
    Ok(())
}

#[test]
fn what_is_left_is_an_encoder_and_a_tokenizer() -> TestResult {
    let place = Place::new()?;
    let dir = place.path("f32");
    let record = run(&place.settings(), &dir)?;
    let device = Device::cpu();
    let config = EncoderConfig::from_file(&dir.join("config.json"))?;
    assert_eq!(
        (config.vocab_size, config.max_positions, config.position_offset),
        (record.vocab_size, 40, 2)
    );
    assert_eq!((config.hidden_dropout, config.attention_dropout), (0.1, 0.1));
    let encoder = |dir: &Path| -> Result<BTreeMap<String, Vec<f64>>, Box<dyn Error>> {
        let checkpoint = Checkpoint::open(dir)?;
        let model = SequenceClassifier::new(&device, DType::F32, &config, 2, None, Some(&checkpoint), 0)?;
        let named = model
            .named_trained()
            .into_iter()
            .filter(|(key, _)| key.starts_with("roberta."));
        Ok(named
            .map(|(key, t)| Ok((key, t.to_f64_vec()?)))
            .collect::<Result<_, dylora_tasks::Error>>()?)
    };
    let exact = encoder(&dir)?;
    let stored = Checkpoint::open(&dir)?;
    assert_eq!(
        stored.names().filter(|key| !key.starts_with("lm_head.")).count(),
        exact.len()
    );
    for (name, values) in &exact {
        assert_eq!(
            *values,
            stored.tensor(name, DType::F32, &device)?.to_f64_vec()?,
            "{name}"
        );
    }
    // Rounding to the nearest: half a unit of the last of 11 (8) bits, or of the smallest f16.
    for (format, name, relative) in [
        (WeightFormat::F16, "f16", 2f64.powi(-11)),
        (WeightFormat::Bf16, "bf16", 2f64.powi(-8)),
    ] {
        let dir = place.path(name);
        let weights = PretrainSettings {
            weights: format,
            ..place.settings()
        };
        let rounded = run(&weights, &dir)?;
        assert_eq!(rounded.evaluations, record.evaluations);
        let found = encoder(&dir)?;
        let mut differences = 0;
        for (name, values) in &exact {
            for (a, b) in values.iter().zip(&found[name]) {
                assert!((a - b).abs() <= relative * a.abs() + 2f64.powi(-25), "{name}: {a} {b}");
                differences += usize::from(a != b);
            }
        }
        assert!(differences > 1000, "{differences} values are rounded");
    }
    assert_eq!(
        Checkpoint::open(&dir)?.note("format").as_deref(),
        Some("pt"),
        "transformers wants it"
    );

    let tokenizer = TokenizerSource::from_model_dir(&dir)?;
    assert_eq!(tokenizer.vocab_size(), record.vocab_size);
    let ids = tokenizer.encode("the cat", Some("a dog"), 40)?.ids;
    assert_eq!((ids[0], ids.last().copied()), (0, Some(2)));
    assert_eq!(
        ids.iter().filter(|id| **id == 2).count(),
        3,
        "<s> a </s></s> b </s>: {ids:?}"
    );
    assert_eq!(record.text.texts + record.text.held_out, 60);
    assert_eq!(record.text.held_out, 1);
    let read: PretrainRecord = serde_json::from_str(&fs::read_to_string(dir.join("pretrain.json"))?)?;
    assert_eq!(read, record);
    Ok(())
}

#[test]
fn the_loss_falls() -> TestResult {
    let place = Place::new()?;
    let settings = PretrainSettings {
        steps: 120,
        batch_size: 16,
        token_budget: 1000,
        dropout: 0.0,
        eval_every: 30,
        ..place.settings()
    };
    let record = run(&settings, &place.path("longer"))?;
    assert!(
        (record.first_loss - (record.vocab_size as f64).ln()).abs() < 0.5,
        "at first all tokens are as likely"
    );
    let losses: Vec<f64> = record.evaluations.iter().map(|e| e.train_loss).collect();
    assert!(losses.is_sorted_by(|a, b| a > b) && losses[3] < 2.5, "{losses:?}");
    let hidden = record.evaluations.iter().map(|e| e.hidden);
    assert!(
        hidden
            .clone()
            .all(|count| count > 0 && Some(count) == hidden.clone().next())
    );
    Ok(())
}

#[test]
fn long_texts_are_cut_and_counted_and_empty_lines_passed_over() -> TestResult {
    let place = Place::new()?;
    let long = format!(
        "{}\n\n  \n{}\t{}\r\n",
        "the cat ".repeat(80),
        "a dog ".repeat(50),
        "sees ".repeat(50)
    );
    fs::write(place.path("text.txt"), format!("{long}{}", text()))?;
    let mut watched = Watcher::default();
    let outcome = pretrain(
        &place.settings(),
        &place.path("cut"),
        RunOptions::default(),
        &mut watched,
    )?;
    let Outcome::Finished(record) = outcome else {
        return Err("interrupted".into());
    };
    assert_eq!((record.text.truncated, record.text.empty_lines, watched.cut), (2, 2, 2));
    assert_eq!(record.text.texts + record.text.held_out, 62);
    Ok(())
}

#[test]
fn bad_texts_are_named_with_their_line() -> TestResult {
    let place = Place::new()?;
    let with = |text: &[u8]| -> Result<_, Box<dyn Error>> {
        fs::write(place.path("text.txt"), text)?;
        Ok(pretrain(
            &place.settings(),
            &place.path("run"),
            RunOptions::default(),
            &mut (),
        ))
    };
    refused(with(b"")?, &["text.txt is empty"]);
    refused(with(b"\n \n")?, &["text.txt: has 0 texts"]);
    refused(with(b"one\n")?, &["text.txt: has 1 texts"]);
    refused(with(b"one\na\tb\tc\n")?, &["text.txt, line 2: 2 tabs"]);
    refused(with(b"one\n\na\t \n")?, &["text.txt, line 3: no text on one side"]);
    refused(with(b"one\n\xff\n")?, &["text.txt, line 2: not valid UTF-8"]);
    fs::remove_file(place.path("text.txt"))?;
    let missing = pretrain(&place.settings(), &place.path("run"), RunOptions::default(), &mut ());
    refused(missing, &["cannot read", "text.txt"]);
    assert!(
        !place.path("run").exists(),
        "nothing is left of a run that did not begin"
    );
    Ok(())
}

#[test]
fn bad_settings_and_directories_are_named() -> TestResult {
    type Change = fn(&mut PretrainSettings);
    let place = Place::new()?;
    let cases: [(&str, Change); 13] = [
        ("--vocab-size: 260 is not at least 261", |s| s.vocab_size = 260),
        ("--heads: 3 heads do not divide a hidden size of 16", |s| s.heads = 3),
        ("--heads: must be at least 1", |s| s.heads = 0),
        ("--layers", |s| s.layers = 0),
        ("--steps", |s| s.steps = 0),
        ("--batch-size", |s| s.batch_size = 0),
        ("--max-positions: 5", |s| s.max_positions = 5),
        ("--lr", |s| s.lr = f64::NAN),
        ("--dropout", |s| s.dropout = 1.0),
        ("--mask-share", |s| s.mask_share = -0.1),
        ("--beta2", |s| s.beta2 = 1.0),
        ("--warmup-steps: 8 are more than the 7 steps", |s| {
            s.warmup_steps = Some(8)
        }),
        ("--eval-every", |s| s.eval_every = 0),
    ];
    for (words, change) in cases {
        let mut settings = place.settings();
        change(&mut settings);
        refused(
            pretrain(&settings, &place.path("run"), RunOptions::default(), &mut ()),
            &[words],
        );
    }
    assert!(!place.path("run").exists());

    let settings = place.settings();
    refused(
        resume(&place.path("run"), None, RunOptions::default(), &mut ()),
        &["holds no pre-training"],
    );
    let mut seen = Watcher {
        stop_after: Some(2),
        ..Watcher::default()
    };
    pretrain(&settings, &place.path("run"), RunOptions::default(), &mut seen)?;
    let again = pretrain(&settings, &place.path("run"), RunOptions::default(), &mut ());
    refused(again, &["already holds a pre-training", "--resume"]);
    let other = PretrainSettings {
        layers: 3,
        ..settings.clone()
    };
    let resumed = resume(&place.path("run"), Some(&other), RunOptions::default(), &mut ());
    refused(resumed, &["layers 2", "layers 3"]);
    fs::write(place.path("text.txt"), text() + "one more\n")?;
    let resumed = resume(&place.path("run"), None, RunOptions::default(), &mut ());
    refused(resumed, &["text.txt: is not the text"]);
    fs::create_dir_all(place.path("full/other"))?;
    let full = pretrain(&settings, &place.path("full"), RunOptions::default(), &mut ());
    refused(full, &["is not empty"]);
    Ok(())
}
