//! Training a GPT-2 on a GPU against training it on the CPU, and against itself, with every dropout on. Without a GPU the test
//! says so and passes.
#![allow(clippy::print_stderr)]

use std::path::Path;

use dylora_tasks::device::{self, DeviceChoice};
use dylora_tasks::nn::tensor::Device;
use dylora_tasks::nn::{Gpt2Config, Method, ScaleRule};
use dylora_tasks::settings::{Precision, TrainSettings};
use dylora_tasks::text2text::{EncodedPair, TextTrainer};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

const STEPS: usize = 40;
const TEXTS: usize = 48;

/// Texts of 2 to 90 tokens that count on in steps of their own; of all tokens, or of some of the last, the next is predicted.
fn texts(whole: bool) -> Vec<EncodedPair> {
    let text = |i: usize| {
        let length = 2 + i * 37 % 89;
        let ids = (0..length).map(|j| ((i * 13 + j * (1 + i % 3)) % 203) as i32).collect();
        let predicted = if whole { length - 1 } else { 1 + i % (length - 1) };
        EncodedPair { ids, predicted }
    };
    (0..TEXTS).map(text).collect()
}

/// Losses of the steps, and what was learnt.
fn train(
    choice: DeviceChoice,
    kernels: &Path,
    settings: &TrainSettings,
    precision: Precision,
    whole: bool,
    graphs: bool,
) -> Outcome<(Vec<f64>, Vec<f64>)> {
    device::select(choice, Some(kernels))?;
    let config = Gpt2Config {
        // No multiple of 8, as the published one.
        vocab_size: 203,
        max_positions: 128,
        hidden_size: 128,
        num_layers: 3,
        num_heads: 4,
        intermediate_size: 512,
        initializer_range: 0.05,
        eos_token_id: 0,
        ..Gpt2Config::small()
    };
    let settings = TrainSettings {
        precision,
        ..settings.clone()
    };
    let texts = texts(whole);
    let mut trainer = TextTrainer::over(None, &settings, &config, STEPS as u64)?;
    if !graphs {
        trainer.without_graphs();
    }
    let mut losses = Vec::new();
    for step in 0..STEPS {
        let first = step % 4 * TEXTS / 4;
        let batch: Vec<&EncodedPair> = texts[first..first + TEXTS / 4].iter().collect();
        losses.push(trainer.step(&batch)?.loss);
    }
    let mut learnt = Vec::new();
    for (_, value) in trainer.model.named_trained() {
        learnt.extend(value.to_f64_vec()?);
    }
    Ok((losses, learnt))
}

#[test]
fn forty_steps_of_a_gpt2_agree_with_the_cpu_and_repeat_bit_for_bit() -> Outcome {
    if Device::count_cuda() == 0 {
        eprintln!("skipped: no CUDA device");
        return Ok(());
    }
    let kernels = tempfile::tempdir()?;
    // All are tried before any fails the test.
    let mut wrong = Vec::new();
    for (method, adapter_dropout, whole) in [
        (Method::DyLora, 0.1, false),
        (Method::DyLora, 0.0, true),
        (Method::DyLoraFrozen, 0.1, true),
        (Method::Lora, 0.1, false),
        (Method::Full, 0.0, false),
    ] {
        let mut settings = TrainSettings::text(Path::new(""), Path::new(""), Path::new(""));
        settings.method = method;
        settings.adapter_dropout = adapter_dropout;
        if method == Method::DyLoraFrozen {
            settings.scale = ScaleRule::OverSqrtB;
        }
        settings.lr = 2e-3;
        settings.warmup_steps = Some(4);
        // More than one pass a step.
        settings.token_budget = 400;
        let what = format!("{method:?}, adapter dropout {adapter_dropout}, all tokens {whole}");
        let (cpu, _) = train(
            DeviceChoice::Cpu,
            kernels.path(),
            &settings,
            Precision::F32,
            whole,
            true,
        )?;
        for precision in [Precision::F32, Precision::Bf16] {
            if precision == Precision::Bf16 && method == Method::Full {
                continue;
            }
            let found = train(DeviceChoice::Cuda(0), kernels.path(), &settings, precision, whole, true)?;
            let off: Vec<f64> = found.0.iter().zip(&cpu).map(|(a, b)| (a - b).abs()).collect();
            let early = off[..5].iter().copied().fold(0.0, f64::max);
            let mean = off.iter().sum::<f64>() / off.len() as f64;
            eprintln!(
                "{what}, {precision:?}: first {:.4}, last {:.4} (cpu {:.4}); off by {early:.1e} in 5 steps, {mean:.1e} on average",
                found.0[0],
                found.0[STEPS - 1],
                cpu[STEPS - 1]
            );
            // Rounding grows with the steps; what is wrong is wrong at once. The first loss is about ln 203.
            let (at_once, later) = match precision {
                Precision::F32 => (2e-5, 1e-3),
                _ => (2e-2, 1e-1),
            };
            if !(early <= at_once && mean <= later) {
                wrong.push(format!("{what}, {precision:?}: {:?} against {cpu:?}", found.0));
            }
            for graphs in [true, false] {
                if found
                    != train(
                        DeviceChoice::Cuda(0),
                        kernels.path(),
                        &settings,
                        precision,
                        whole,
                        graphs,
                    )?
                {
                    wrong.push(format!(
                        "{what}, {precision:?}, graphs {graphs}: another run, other bits"
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
