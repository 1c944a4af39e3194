//! Training on a GPU against training on the CPU, and against itself. Without a GPU the test says so and passes.
#![allow(clippy::print_stderr)]

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;

use dylora_tasks::classifier::Classifier;
use dylora_tasks::device::{self, DeviceChoice};
use dylora_tasks::nn::tensor::Device;
use dylora_tasks::nn::{EncoderConfig, Method, Objective, ScaleRule, Update};
use dylora_tasks::pack::{PackedBatch, pack};
use dylora_tasks::prepare::Prepared;
use dylora_tasks::settings::{DataSource, Precision, TrainSettings};
use dylora_tasks::task::{Head, Label};
use dylora_tasks::tokens::Encoded;
use dylora_tasks::trainer::Trainer;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

const STEPS: usize = 50;

fn settings(method: Method, update: Update, objective: Objective) -> TrainSettings {
    let mut settings = TrainSettings::new("own", Path::new(""), DataSource::Glue { dir: PathBuf::new() });
    settings.method = method;
    settings.update = update;
    settings.objective = objective;
    settings.lr = 2e-3;
    settings.clip = 1.0;
    settings
}

/// Rows of 1 to 99 tokens; the class is told by the second half of the vocabulary being more frequent.
fn rows() -> Prepared {
    let row = |i: usize| {
        let ids: Vec<u32> = (0..1 + i * 37 % 99)
            .map(|j| ((i * 31 + j * j * 7 + j) % 50 + i % 2 * 40) as u32)
            .collect();
        Encoded {
            token_types: vec![0; ids.len()],
            ids,
        }
    };
    Prepared {
        encoded: (0..64).map(row).collect(),
        labels: (0..64).map(|i| Label::Class(i % 2)).collect(),
    }
}

/// Losses of the steps and the logits at every rank afterwards.
fn train(choice: DeviceChoice, settings: &TrainSettings, precision: Precision) -> Outcome<(Vec<f64>, Vec<f64>)> {
    train_with(choice, settings, precision, true)
}

fn train_with(
    choice: DeviceChoice,
    settings: &TrainSettings,
    precision: Precision,
    graphs: bool,
) -> Outcome<(Vec<f64>, Vec<f64>)> {
    device::select(choice, None)?;
    let config = EncoderConfig {
        vocab_size: 100,
        hidden_size: 128,
        num_layers: 3,
        num_heads: 4,
        intermediate_size: 256,
        initializer_range: 0.05,
        ..EncoderConfig::roberta_base()
    };
    let classifier = Classifier::of(settings, &config, Head::Classify(2), None, precision)?;
    let rows = rows();
    let batches: Vec<Vec<PackedBatch>> = (0..4)
        .map(|batch| {
            let order: Vec<usize> = (0..16).map(|i| i * 4 + batch).collect();
            // More than one micro-batch.
            pack(&rows.encoded, &rows.labels, &order, classifier.position_offset(), 600)
        })
        .collect::<Result<_, _>>()?;
    let mut trainer = Trainer::new(classifier, settings, STEPS as u64)?;
    if !graphs {
        trainer.without_graphs();
    }
    let losses = (0..STEPS)
        .map(|step| Ok(trainer.step(&batches[step % batches.len()])?.loss))
        .collect::<Outcome<_>>()?;
    let mut logits = Vec::new();
    for rank in settings.ranks() {
        logits.extend(trainer.classifier.logits(&rows, rank, 1000, |_| ())?);
    }
    Ok((losses, logits))
}

fn furthest(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

fn mean_off(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f64>() / a.len() as f64
}

/// Which device models are made on is the process's choice, and one test counts its memory.
static ALONE: Mutex<()> = Mutex::new(());

/// Bytes of the device's memory that are in use.
fn in_use() -> Outcome<usize> {
    match Device::cuda(0, None)? {
        Device::Cuda(cuda) => Ok(cuda.memory()?.0),
        Device::Cpu(_) => Err("no CUDA device was made".into()),
    }
}

#[test]
fn models_side_by_side_do_as_each_alone_and_give_their_memory_back() -> Outcome {
    if Device::count_cuda() == 0 {
        eprintln!("skipped: no CUDA device");
        return Ok(());
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    const THREADS: usize = 4;
    const EACH: usize = 3;
    // A workspace of cuBLAS is 32 MiB, and every model has one.
    const LEAST_OF_A_MODEL: usize = 32 << 20;
    let settings = settings(Method::DyLora, Update::Slice, Objective::Individual);
    let run = || train(DeviceChoice::Cuda(0), &settings, Precision::Bf16).map_err(|error| error.to_string());
    let alone = run()?;
    let before = in_use()?;
    let outcomes: Vec<Result<_, String>> = thread::scope(|scope| {
        let several = || (0..EACH).map(|_| run()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(several)).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined
            .flat_map(|all| all.unwrap_or_else(|_| vec![Err("a thread panicked".to_owned())]))
            .collect()
    });
    assert_eq!(outcomes.len(), THREADS * EACH);
    for outcome in outcomes {
        assert!(outcome? == alone, "side by side it is other bits");
    }
    let more = in_use()?.saturating_sub(before);
    eprintln!("{THREADS} x {EACH} models: {} MiB more in use afterwards", more >> 20);
    assert!(
        more < THREADS * EACH * LEAST_OF_A_MODEL / 2,
        "{more} bytes were not given back"
    );
    Ok(())
}

#[test]
fn fifty_steps_agree_with_the_cpu_and_repeat_bit_for_bit() -> Outcome {
    if Device::count_cuda() == 0 {
        eprintln!("skipped: no CUDA device");
        return Ok(());
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // All are tried before any fails the test.
    let mut wrong = Vec::new();
    for (method, update, objective, scale) in [
        (Method::DyLora, Update::Slice, Objective::Individual, ScaleRule::OverB),
        (Method::DyLora, Update::Dense, Objective::Individual, ScaleRule::OverR),
        (
            Method::DyLoraFrozen,
            Update::Slice,
            Objective::Individual,
            ScaleRule::OverB,
        ),
        (
            Method::DyLora,
            Update::Slice,
            Objective::Summation,
            ScaleRule::OverSqrtB,
        ),
        (Method::Lora, Update::Dense, Objective::Individual, ScaleRule::OverB),
        (Method::Full, Update::Dense, Objective::Individual, ScaleRule::OverB),
        (Method::Flop, Update::Dense, Objective::Individual, ScaleRule::OverB),
    ] {
        let settings = TrainSettings {
            scale,
            ..settings(method, update, objective)
        };
        let what = format!("{method:?} {update:?} {objective:?} {scale}");
        let gpu = DeviceChoice::Cuda(0);
        let (cpu, _) = train(DeviceChoice::Cpu, &settings, Precision::F32)?;
        for precision in [Precision::F32, Precision::Tf32, Precision::Bf16] {
            if precision == Precision::Bf16 && method.learns_base() {
                continue;
            }
            let (losses, logits) = train(gpu, &settings, precision)?;
            let (early, mean) = (furthest(&losses[..5], &cpu[..5]), mean_off(&losses, &cpu));
            eprintln!(
                "{what} {precision:?}: first {:.4}, last {:.4} (cpu {:.4}); off by {early:.1e} in 5 steps, {mean:.1e} on average",
                losses[0],
                losses[STEPS - 1],
                cpu[STEPS - 1]
            );
            // Rounding grows with the steps; what is wrong is wrong at once.
            let (at_once, later) = match precision {
                Precision::F32 => (1e-5, 1e-3),
                _ => (2e-2, 1e-1),
            };
            if !(early <= at_once && mean <= later) {
                wrong.push(format!("{what} {precision:?}: {losses:?} against {cpu:?}"));
            }
            let first = (losses, logits);
            if first != train(gpu, &settings, precision)? {
                wrong.push(format!("{what} {precision:?}: another run, other bits"));
            }
            // Ranks, rates and places of dropout changed under the graphs; run one by one, the same work gives the same bits.
            if first != train_with(gpu, &settings, precision, false)? {
                wrong.push(format!(
                    "{what} {precision:?}: replayed passes differ from passes that ran"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
