//! The laws of DyLoRA that hold whatever the weights are.

mod common;

use common::{TestResult, adapter, bits, config, distance, inputs, logits, query_value, randomise, train_step, write};
use dylora_nn::autograd::{Parameter, RankSlice, Tape, ops};
use dylora_nn::tensor::{DType, Device, Purpose, Stream};
use dylora_nn::{
    AdamW, AdamWForm, AdamWSettings, AdapterSettings, Checkpoint, Ctx, Distribution, Family, Method, RankSampler,
    Result, ScaleRule, SequenceClassifier, Target, Update, save_tensors,
};

const FAMILIES: [Family; 2] = [Family::Roberta, Family::Bert];
const LENGTHS: [usize; 4] = [3, 1, 7, 2];
const RANK: usize = 4;

/// Half the distance from 1 to the next number.
fn unit(dtype: DType) -> f64 {
    if dtype == DType::F32 {
        f64::from(f32::EPSILON) / 2.0
    } else {
        f64::EPSILON / 2.0
    }
}

fn settings(update: Update) -> AdamWSettings {
    AdamWSettings {
        weight_decay: 0.1,
        update,
        ..AdamWSettings::default()
    }
}

/// A model with adapters on query and value, all trained values random.
fn random_model(family: Family, dtype: DType, seed: u64) -> Result<SequenceClassifier> {
    let adapter = query_value(RANK);
    let model = SequenceClassifier::new(&Device::cpu(), dtype, &config(family), 3, Some(&adapter), None, seed)?;
    randomise(&model.parameters(), seed)?;
    Ok(model)
}

#[test]
fn merged_is_unmerged_and_neither_is_the_base() -> TestResult {
    let device = Device::cpu();
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("merged.safetensors");
    for family in FAMILIES {
        let config = config(family);
        let inputs = inputs(&device, &config, &LENGTHS, 5)?;
        for dtype in [DType::F64, DType::F32] {
            let some = &[Target::Query, Target::Value][..];
            let cases = ScaleRule::ALL.iter().map(|scale| (*scale, some));
            for (scale, targets) in cases.chain([(ScaleRule::OverB, Target::ALL)]) {
                let adapter = AdapterSettings {
                    scale,
                    ..adapter(RANK, targets)
                };
                let model = SequenceClassifier::new(&device, dtype, &config, 3, Some(&adapter), None, 2)?;
                randomise(&model.head_parameters(), 4)?;
                let base = logits(&model, &inputs, RANK)?;
                randomise(&model.adapter_parameters(), 3)?;
                for b in 1..=RANK {
                    save_tensors(&path, &model.merge(b)?, &[])?;
                    let source = Checkpoint::open(&path)?;
                    let plain = SequenceClassifier::new(&device, dtype, &config, 3, None, Some(&source), 9)?;
                    let unmerged = logits(&model, &inputs, b)?;
                    let merged = logits(&plain, &inputs, b)?;
                    let here = model.merged(b)?;
                    assert_eq!(
                        (here.rank(), here.num_trainable(b)),
                        (0, plain.head_parameters().iter().map(|p| p.len()).sum())
                    );
                    assert_eq!(logits(&here, &inputs, b)?, merged);
                    assert_eq!(logits(&model, &inputs, b)?, unmerged);
                    let (size, apart) = distance(&merged, &unmerged);
                    // Some forty roundings lie on the way through two blocks and a head, each enlarged by at most some
                    // tens by layer normalisation; that one constant fits both precisions, 2^29 apart, is the point.
                    assert!(
                        apart <= 2048.0 * unit(dtype) * size,
                        "{family:?} {dtype} {scale} rank {b}: {apart} of {size}"
                    );
                    for other in [&merged, &unmerged] {
                        let (_, apart) = distance(other, &base);
                        assert!(apart > 1e-3, "{family:?} {dtype} rank {b}: only {apart} from the base");
                    }
                }
            }
        }
    }
    let model = random_model(Family::Roberta, DType::F32, 1)?;
    for b in [0, RANK + 1] {
        let message = model.merge(b).map_err(|e| e.to_string()).err().unwrap_or_default();
        assert!(message.contains("rank"), "{b}: {message}");
        let refused = logits(&model, &inputs(&device, &config(Family::Roberta), &LENGTHS, 5)?, b);
        let message = refused.map_err(|e| e.to_string()).err().unwrap_or_default();
        assert!(message.contains("rank"), "{b}: {message}");
    }
    Ok(())
}

/// A rule at rank b of r with alpha is alpha / b with the alpha that gives the same factor, bit for bit.
#[test]
fn a_scale_rule_is_another_alpha_at_each_rank() -> Result<()> {
    let device = Device::cpu();
    for family in FAMILIES {
        let config = config(family);
        let inputs = inputs(&device, &config, &LENGTHS, 5)?;
        // 8 / 4 ranks, so that all factors but those of the roots are exact.
        let at = |scale: ScaleRule, alpha: f64, b: usize| -> Result<Vec<f64>> {
            let adapter = AdapterSettings {
                scale,
                alpha,
                ..query_value(RANK)
            };
            let model = SequenceClassifier::new(&device, DType::F64, &config, 3, Some(&adapter), None, 2)?;
            randomise(&model.parameters(), 3)?;
            logits(&model, &inputs, b)
        };
        for b in 1..=RANK {
            let plain = |alpha: f64| at(ScaleRule::OverB, alpha, b);
            assert_eq!(
                at(ScaleRule::OverR, 8.0, b)?,
                plain(2.0 * b as f64)?,
                "{family:?} rank {b}"
            );
            let (size, apart) = distance(&at(ScaleRule::OverSqrtB, 8.0, b)?, &plain(8.0 * (b as f64).sqrt())?);
            assert!(
                apart <= 64.0 * unit(DType::F64) * size,
                "{family:?} rank {b}: {apart} of {size}"
            );
        }
        // 8 / 1 is 8 / √1, and 8 / 4 is 8 / r; elsewhere the rules differ.
        assert_eq!(at(ScaleRule::OverSqrtB, 8.0, 1)?, at(ScaleRule::OverB, 8.0, 1)?);
        assert_eq!(at(ScaleRule::OverR, 8.0, RANK)?, at(ScaleRule::OverB, 8.0, RANK)?);
        assert_ne!(at(ScaleRule::OverR, 8.0, 2)?, at(ScaleRule::OverB, 8.0, 2)?);
        assert_ne!(at(ScaleRule::OverSqrtB, 8.0, 2)?, at(ScaleRule::OverB, 8.0, 2)?);
    }
    Ok(())
}

/// Overwrites the ranks above `b` of every factor.
fn scramble_above(model: &SequenceClassifier, b: usize, junk: f64) -> Result<()> {
    for parameter in model.adapter_parameters() {
        let axis = parameter.mask().map_or(0, |mask| mask.axis);
        let width = parameter.value().width();
        let mut values = parameter.value().to_f64_vec()?;
        for (i, value) in values.iter_mut().enumerate() {
            let rank = if axis == 0 { i / width } else { i % width };
            if rank >= b {
                *value = junk;
            }
        }
        write(parameter.value(), &values)?;
    }
    Ok(())
}

#[test]
fn the_output_at_a_rank_ignores_the_ranks_above_it() -> Result<()> {
    let device = Device::cpu();
    for family in FAMILIES {
        let config = config(family);
        let inputs = inputs(&device, &config, &LENGTHS, 6)?;
        for targets in [&[Target::Query, Target::Value][..], Target::ALL] {
            let adapter = adapter(RANK, targets);
            let model = SequenceClassifier::new(&device, DType::F32, &config, 3, Some(&adapter), None, 2)?;
            randomise(&model.parameters(), 8)?;
            let before = (1..RANK)
                .map(|b| logits(&model, &inputs, b))
                .collect::<Result<Vec<_>>>()?;
            for b in (1..RANK).rev() {
                let above = logits(&model, &inputs, b + 1)?;
                for junk in [1e6, -0.0, f64::NAN] {
                    scramble_above(&model, b, junk)?;
                    let bits = |values: &[f64]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                    assert_eq!(
                        bits(&logits(&model, &inputs, b)?),
                        bits(&before[b - 1]),
                        "{family:?} rank {b}"
                    );
                    // The scramble was felt where it should be.
                    assert_ne!(
                        bits(&logits(&model, &inputs, b + 1)?),
                        bits(&above),
                        "{family:?} rank {b} + 1"
                    );
                }
            }
        }
    }
    Ok(())
}

/// Trains some steps with ranks from `sampler`; the bits of everything trained, and the losses.
fn train(method: Method, update: Update, sampler: &RankSampler, dtype: DType) -> Result<(Vec<Vec<u64>>, Vec<u64>)> {
    let device = Device::cpu();
    let model = random_model(Family::Roberta, dtype, 12)?;
    let inputs = inputs(&device, &config(Family::Roberta), &LENGTHS, 6)?;
    let mut optimizer = AdamW::new(&model.parameters(), settings(update))?;
    let ranks = Stream::new(5, Purpose::Rank);
    let losses = (0..6)
        .map(|step| {
            let slice = method.slice(sampler.draw(&mut ranks.at(step)), RANK);
            Ok(train_step(&model, &mut optimizer, &inputs, &slice, (5, step))?.to_bits())
        })
        .collect::<Result<_>>()?;
    let values = model
        .parameters()
        .iter()
        .map(|p| bits(p.value()))
        .collect::<Result<_>>()?;
    Ok((values, losses))
}

#[test]
fn dylora_at_the_full_rank_is_lora() -> Result<()> {
    let full = RankSampler::new(Distribution::Uniform, RANK, RANK)?;
    for dtype in [DType::F32, DType::F64] {
        // Plain LoRA with an ordinary AdamW over whole matrices.
        let lora = train(Method::Lora, Update::Dense, &full, dtype)?;
        for update in [Update::Slice, Update::Dense] {
            assert_eq!(train(Method::DyLora, update, &full, dtype)?, lora, "{update} {dtype}");
        }
        let any = RankSampler::new(Distribution::Uniform, 1, RANK)?;
        assert_ne!(train(Method::DyLora, Update::Slice, &any, dtype)?, lora);
    }
    Ok(())
}

/// Values, moments and counts of each index along the rank axis.
fn by_rank(optimizer: &AdamW, parameter: &Parameter) -> Result<Vec<(Vec<u64>, u64)>> {
    let Some((m, v, counts)) = optimizer.moments(parameter.name()) else {
        return Ok(Vec::new());
    };
    let axis = parameter.mask().map_or(0, |mask| mask.axis);
    let width = parameter.value().width();
    let all = [bits(parameter.value())?, bits(m)?, bits(v)?];
    let of = |rank: usize| -> Vec<u64> {
        let inside = |i: &usize| {
            if axis == 0 {
                i / width == rank
            } else {
                i % width == rank
            }
        };
        (0..parameter.len())
            .filter(inside)
            .flat_map(|i| all.iter().map(move |values| values[i]))
            .collect()
    };
    Ok(counts
        .iter()
        .enumerate()
        .map(|(rank, count)| (of(rank), *count))
        .collect())
}

#[test]
fn a_sliced_update_leaves_everything_outside_the_slice_as_it_was() -> Result<()> {
    let device = Device::cpu();
    let inputs = inputs(&device, &config(Family::Bert), &LENGTHS, 6)?;
    for form in [AdamWForm::Torch, AdamWForm::HuggingFace4] {
        for method in [Method::DyLora, Method::DyLoraFrozen] {
            let model = random_model(Family::Bert, DType::F32, 3)?;
            let mut optimizer = AdamW::new(
                &model.parameters(),
                AdamWSettings {
                    form,
                    ..settings(Update::Slice)
                },
            )?;
            let parameters = model.adapter_parameters();
            let mut counts = [0; RANK];
            // The first step makes all moments nonzero, so that decay and momentum would show.
            let steps = [RANK, 2, 1, 3, 4, 2];
            for (step, b) in steps.into_iter().enumerate() {
                let before = parameters
                    .iter()
                    .map(|p| by_rank(&optimizer, p))
                    .collect::<Result<Vec<_>>>()?;
                let slice = if step == 0 {
                    RankSlice::full(RANK)
                } else {
                    method.slice(b, RANK)
                };
                train_step(&model, &mut optimizer, &inputs, &slice, (1, step as u32))?;
                slice.write.clone().for_each(|rank| counts[rank] += 1);
                for (parameter, before) in parameters.iter().zip(before) {
                    let after = by_rank(&optimizer, parameter)?;
                    assert_eq!(after.len(), RANK);
                    for (rank, (before, after)) in before.iter().zip(&after).enumerate() {
                        let name = format!("{method} step {step} at rank {b}, {} index {rank}", parameter.name());
                        assert_eq!(before != after, slice.write.contains(&rank), "{name}");
                        assert_eq!(after.1, counts[rank], "{name}");
                    }
                }
            }
        }
    }
    Ok(())
}

/// Logits at every rank, in bits.
fn everywhere(model: &SequenceClassifier, inputs: &dylora_nn::Inputs) -> Result<Vec<Vec<u64>>> {
    (1..=RANK)
        .map(|b| Ok(logits(model, inputs, b)?.into_iter().map(f64::to_bits).collect()))
        .collect()
}

/// Steps of the frozen mode at each of `ranks`, with the head held: which ranks' outputs did each step change?
fn changed(family: Family, update: Update, ranks: &[usize]) -> Result<Vec<Vec<usize>>> {
    let inputs = inputs(&Device::cpu(), &config(family), &LENGTHS, 6)?;
    let model = random_model(family, DType::F32, 21)?;
    let mut optimizer = AdamW::new(&model.adapter_parameters(), settings(update))?;
    let mut before = everywhere(&model, &inputs)?;
    let mut found = Vec::new();
    for (step, b) in ranks.iter().enumerate() {
        train_step(
            &model,
            &mut optimizer,
            &inputs,
            &Method::DyLoraFrozen.slice(*b, RANK),
            (2, step as u32),
        )?;
        let after = everywhere(&model, &inputs)?;
        found.push((1..=RANK).filter(|rank| before[rank - 1] != after[rank - 1]).collect());
        before = after;
    }
    Ok(found)
}

#[test]
fn a_frozen_sliced_step_at_a_rank_leaves_the_outputs_below_it_untouched() -> Result<()> {
    for family in FAMILIES {
        let ranks = [1, 2, 3, 4, 4, 3, 2, 1, 3, 3];
        let found = changed(family, Update::Slice, &ranks)?;
        for (b, changed) in ranks.into_iter().zip(found) {
            assert_eq!(changed, (b..=RANK).collect::<Vec<_>>(), "{family:?} step at rank {b}");
        }
    }
    Ok(())
}

#[test]
fn a_frozen_dense_step_does_change_the_outputs_below_it() -> Result<()> {
    for family in FAMILIES {
        // The first step gives rank 1 momentum; the second, at rank 4, moves it on, and decays every rank.
        let found = changed(family, Update::Dense, &[1, RANK])?;
        assert_eq!(found[1], (1..=RANK).collect::<Vec<_>>(), "{family:?}");
    }
    Ok(())
}

#[test]
fn packed_sequences_do_not_see_each_other() -> Result<()> {
    let device = Device::cpu();
    for family in FAMILIES {
        let config = config(family);
        for dtype in [DType::F64, DType::F32] {
            let model = random_model(family, dtype, 4)?;
            let packed = inputs(&device, &config, &LENGTHS, 7)?;
            let together = logits(&model, &packed, 3)?;
            let mut start = 0;
            let mut apart = Vec::new();
            for length in LENGTHS {
                let mut single = inputs(&device, &config, &[length], 0)?;
                let rows = start..start + length;
                single.ids = packed.ids.rows(rows.clone())?;
                single.token_types = packed.token_types.rows(rows)?;
                apart.extend(logits(&model, &single, 3)?);
                start += length;
            }
            let (size, difference) = distance(&together, &apart);
            assert!(
                difference <= 2048.0 * unit(dtype) * size,
                "{family:?} {dtype}: {difference} of {size}"
            );
        }
    }
    Ok(())
}

#[test]
fn new_adapters_change_nothing() -> TestResult {
    let device = Device::cpu();
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("base.safetensors");
    for family in FAMILIES {
        let config = config(family);
        let base = SequenceClassifier::new(&device, DType::F32, &config, 3, None, None, 6)?;
        randomise(&base.parameters(), 3)?;
        save_tensors(&path, &base.named_trained(), &[])?;
        let source = Checkpoint::open(&path)?;
        let inputs = inputs(&device, &config, &LENGTHS, 7)?;
        let expected = logits(&base, &inputs, 1)?;
        for targets in [&[Target::Query, Target::Value][..], Target::ALL] {
            let settings = adapter(RANK, targets);
            let model = SequenceClassifier::new(&device, DType::F32, &config, 3, Some(&settings), Some(&source), 1)?;
            for b in 1..=RANK {
                assert_eq!(logits(&model, &inputs, b)?, expected, "{family:?} rank {b}");
            }
        }
    }
    Ok(())
}

#[test]
fn the_same_seed_gives_the_same_bytes() -> TestResult {
    let dir = tempfile::tempdir()?;
    let run = |seed: u64, name: &str| -> std::result::Result<Vec<u8>, Box<dyn std::error::Error>> {
        let device = Device::cpu();
        let config = config(Family::Bert);
        let model = SequenceClassifier::new(&device, DType::F32, &config, 3, Some(&query_value(RANK)), None, seed)?;
        let inputs = inputs(&device, &config, &LENGTHS, 6)?;
        let mut optimizer = AdamW::new(&model.parameters(), settings(Update::Slice))?;
        let sampler = RankSampler::new(Distribution::Geometric { p: 0.3 }, 1, RANK)?;
        for step in 0..5 {
            let b = sampler.draw(&mut Stream::new(seed, Purpose::Rank).at(step));
            train_step(
                &model,
                &mut optimizer,
                &inputs,
                &Method::DyLora.slice(b, RANK),
                (seed, step),
            )?;
        }
        let mut tensors = model.named_trained();
        tensors.extend(optimizer.state()?);
        let path = dir.path().join(name);
        save_tensors(&path, &tensors, &[("seed".to_owned(), "same".to_owned())])?;
        Ok(std::fs::read(path)?)
    };
    let first = run(42, "a")?;
    assert!(first == run(42, "b")?, "two runs differ");
    assert!(first != run(43, "c")?, "the seed does nothing");
    Ok(())
}

#[test]
fn first_tokens_are_rows_of_all_tokens() -> Result<()> {
    let device = Device::cpu();
    for family in FAMILIES {
        let config = config(family);
        let inputs = inputs(&device, &config, &LENGTHS, 7)?;
        for dtype in [DType::F64, DType::F32] {
            let model = random_model(family, dtype, 4)?;
            for b in 1..=RANK {
                let mut tape = Tape::inference();
                let mut ctx = Ctx {
                    tape: &mut tape,
                    slice: RankSlice::prefix(b),
                    dropout: None,
                };
                let first = model.encoder().first_tokens(&mut ctx, &inputs)?;
                let all = model.encoder().all_tokens(&mut ctx, &inputs)?;
                assert_eq!(all.value().shape(), [LENGTHS.iter().sum(), 8]);
                let rows = ops::gather_rows(&mut tape, &all, &inputs.first.rows)?;
                let (size, apart) = distance(&first.value().to_f64_vec()?, &rows.value().to_f64_vec()?);
                assert!(
                    apart <= 1024.0 * unit(dtype) * size,
                    "{family:?} {dtype} rank {b}: {apart} of {size}"
                );
            }
        }
    }
    Ok(())
}
