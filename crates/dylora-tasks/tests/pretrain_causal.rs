//! Pre-training of a causal model: what is predicted, that a stopped run ends in the same bytes, and that what it leaves is GPT-2.

use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use dylora_tasks::nn::autograd::{RankSlice, Tape};
use dylora_tasks::nn::tensor::{DType, Device};
use dylora_tasks::nn::{CausalInputs, Checkpoint, Ctx, Gpt2Config, Gpt2LanguageModel, WeightFormat};
use dylora_tasks::pretrain::{Architecture, END, PretrainRecord, PretrainSettings, pretrain, resume};
use dylora_tasks::progress::{Event, Observer, PretrainEvent};
use dylora_tasks::tokens::TokenizerSource;
use dylora_tasks::train::{Outcome, RunOptions};

type TestResult = Result<(), Box<dyn Error>>;

/// Texts and pairs; of 200 lines the last two are held out.
fn lines() -> Vec<String> {
    let (who, what) = (["the cat", "a dog", "my friend"], ["sees", "likes", "follows"]);
    let sentence = |n: usize| {
        format!(
            "{} {} the {} ball",
            who[n % 3],
            what[n / 3 % 3],
            ["red", "old"][n / 9 % 2]
        )
    };
    (0..200)
        .map(|n| match n % 3 {
            0 => format!("{}\t{}", sentence(n), sentence(n + 1)),
            _ => sentence(n * 5),
        })
        .collect()
}

fn settings(dir: &Path) -> Result<PretrainSettings, Box<dyn Error>> {
    let path = dir.join("text.txt");
    fs::write(&path, lines().join("\n"))?;
    Ok(PretrainSettings {
        model_type: Architecture::Gpt2,
        vocab_size: 290,
        layers: 2,
        hidden_size: 32,
        heads: 2,
        intermediate_size: 64,
        max_positions: 64,
        steps: 60,
        batch_size: 8,
        token_budget: 100,
        lr: 1e-2,
        dropout: 0.1,
        eval_every: 30,
        weights: WeightFormat::F32,
        ..PretrainSettings::new(&path)
    })
}

fn finished(outcome: Outcome<PretrainRecord>) -> Result<PretrainRecord, Box<dyn Error>> {
    match outcome {
        Outcome::Finished(record) => Ok(*record),
        Outcome::Interrupted { step, .. } => Err(format!("interrupted at {step}").into()),
    }
}

/// Counts steps and stops after so many.
struct Stop(u64);

impl Observer for Stop {
    fn event(&mut self, event: &Event<'_>) {
        if let Event::Pretrain(PretrainEvent::Step { .. }) = event {
            self.0 = self.0.saturating_sub(1);
        }
    }

    fn should_stop(&self) -> bool {
        self.0 == 0
    }
}

/// Ids as the layout says, made without the code under test: `A end`, or `A end B end` with a blank before B.
fn by_hand(tokenizer: &TokenizerSource, line: &str) -> Result<Vec<i32>, Box<dyn Error>> {
    let end = tokenizer.token_id(END).ok_or("no end token")?;
    let mut ids = Vec::new();
    for (place, part) in line.split('\t').enumerate() {
        let mut text = String::new();
        write!(text, "{}{part}", if place > 0 { " " } else { "" })?;
        ids.extend(tokenizer.encode(&text, None, usize::MAX)?.ids);
        ids.push(end);
    }
    Ok(ids.into_iter().map(|id| id as i32).collect())
}

#[test]
fn the_held_out_loss_is_that_of_the_published_model_on_every_next_token() -> TestResult {
    let place = tempfile::tempdir()?;
    let dir = place.path().join("model");
    let settings = settings(place.path())?;
    let record = finished(pretrain(&settings, &dir, RunOptions::default(), &mut ())?)?;
    let (first, last) = (
        &record.evaluations[0],
        record.evaluations.last().ok_or("no evaluation")?,
    );
    assert!(
        last.loss < first.loss && last.loss < 0.5 * record.first_loss,
        "{:?}",
        record.evaluations
    );

    let config = Gpt2Config::from_file(&dir.join("config.json"))?;
    let tokenizer = TokenizerSource::from_model_dir(&dir)?;
    assert_eq!(Some(config.eos_token_id as u32), tokenizer.token_id(END));
    let (device, checkpoint) = (Device::cpu(), Checkpoint::open(&dir.join("model.safetensors"))?);
    let model = Gpt2LanguageModel::new(&device, DType::F64, &config, None, Some(&checkpoint), 1)?;
    let (mut loss, mut right, mut count) = (0.0, 0, 0);
    for line in &lines()[198..] {
        let ids = by_hand(&tokenizer, line)?;
        let mut tape = Tape::inference();
        let mut ctx = Ctx {
            tape: &mut tape,
            slice: RankSlice::full(0),
            dropout: None,
        };
        let inputs = CausalInputs::new(&device, &[(&ids[..ids.len() - 1], ids.len() - 1)])?;
        let logits = model.forward(&mut ctx, &inputs)?.value().to_f64_vec()?;
        for (row, target) in logits.chunks_exact(config.vocab_size).zip(&ids[1..]) {
            let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let log_sum = most + row.iter().map(|x| (x - most).exp()).sum::<f64>().ln();
            let target = *target as usize;
            loss += log_sum - row[target];
            right += usize::from(row[target] == most);
            count += 1;
        }
    }
    assert_eq!(last.hidden, count);
    // f32 against f64: a few hundred roundings of 6e-8 in logits of at most a few tens.
    assert!(
        (last.loss - loss / count as f64).abs() < 1e-3,
        "{} {}",
        last.loss,
        loss / count as f64
    );
    assert!((last.accuracy - right as f64 / count as f64).abs() < 1e-12);
    Ok(())
}

#[test]
fn a_stopped_run_ends_in_the_same_bytes() -> TestResult {
    let place = tempfile::tempdir()?;
    let settings = PretrainSettings {
        steps: 12,
        ..settings(place.path())?
    };
    let (whole, cut) = (place.path().join("whole"), place.path().join("cut"));
    finished(pretrain(&settings, &whole, RunOptions::default(), &mut ())?)?;
    let outcome = pretrain(&settings, &cut, RunOptions::default(), &mut Stop(5))?;
    assert!(
        matches!(outcome, Outcome::Interrupted { step: 5, of: 12 }),
        "{outcome:?}"
    );
    finished(resume(&cut, Some(&settings), RunOptions::default(), &mut ())?)?;
    for file in [
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        assert_eq!(fs::read(whole.join(file))?, fs::read(cut.join(file))?, "{file}");
    }
    Ok(())
}

#[test]
fn a_word_that_is_no_architecture_is_named() {
    let message = "bert".parse::<Architecture>().err().map(|error| error.to_string());
    assert!(message.is_some_and(|text| text.contains("\"bert\" is not roberta or gpt2")));
}
