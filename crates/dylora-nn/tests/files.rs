//! Safetensors files that are large, odd, replaced or damaged while they are open.

mod common;

use std::fs;
use std::path::Path;

use common::{TestResult, bits, config, inputs, logits, query_value, refusal, train_step, weights};
use dylora_nn::tensor::{DType, Device, Tensor};
use dylora_nn::{AdamW, AdamWSettings, Checkpoint, EncoderConfig, Family, SequenceClassifier, save_tensors};
use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView};

const VALUES: [f32; 6] = [0.0, -1.5, 0.25, 96.0, -0.0078125, 1.0];

fn named(tensors: &[(&str, &Tensor)]) -> Vec<(String, Tensor)> {
    tensors
        .iter()
        .map(|(name, tensor)| ((*name).to_owned(), (*tensor).clone()))
        .collect()
}

/// A file as another tool writes it.
fn foreign(path: &Path, dtype: Dtype, shape: &[usize], bytes: &[u8]) -> TestResult {
    let view = TensorView::new(dtype, shape.to_vec(), bytes)?;
    fs::write(path, safetensors::serialize([("w", view)], None)?)?;
    Ok(())
}

fn message<T>(result: dylora_nn::Result<T>) -> String {
    result
        .err()
        .map_or_else(|| "no error".to_owned(), |error| error.to_string())
}

#[test]
fn numbers_are_rounded_once_and_scalars_have_one_element() -> TestResult {
    let device = Device::cpu();
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("w.safetensors");
    foreign(&path, Dtype::F64, &[1], &0.1f64.to_le_bytes())?;
    let checkpoint = Checkpoint::open(&path)?;
    assert_eq!(checkpoint.tensor("w", DType::F64, &device)?.to_vec::<f64>()?, [0.1]);
    assert_eq!(checkpoint.tensor("w", DType::F32, &device)?.to_vec::<f32>()?, [0.1f32]);
    foreign(&path, Dtype::F32, &[], &2.5f32.to_le_bytes())?;
    let scalar = Checkpoint::open(&path)?.tensor("w", DType::F64, &device)?;
    assert_eq!((scalar.shape(), scalar.to_vec::<f64>()?), (&[1][..], vec![2.5]));
    foreign(&path, Dtype::I64, &[1], &7i64.to_le_bytes())?;
    let text = message(Checkpoint::open(&path)?.tensor("w", DType::F32, &device));
    assert!(text.contains("w.safetensors") && text.contains("I64"), "{text}");
    Ok(())
}

#[test]
fn a_tensor_longer_than_a_block_of_the_reader_is_whole() -> TestResult {
    let device = Device::cpu();
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a.safetensors");
    // Two blocks of a mebibyte and three elements more.
    let count = 2 * (1 << 20) / 4 + 3;
    let values: Vec<f32> = (0..count).map(|i| i as f32).collect();
    let long = Tensor::from_vec(&device, values.clone(), &[count])?;
    let w = Tensor::from_slice(&device, &VALUES, &[6])?;
    save_tensors(&path, &named(&[("first", &w), ("long", &long), ("next", &w)]), &[])?;
    let checkpoint = Checkpoint::open(&path)?;
    assert!(checkpoint.tensor("long", DType::F32, &device)?.to_vec::<f32>()? == values);
    assert_eq!(checkpoint.tensor("next", DType::F32, &device)?.to_vec::<f32>()?, VALUES);
    Ok(())
}

#[test]
fn an_open_file_is_read_as_it_was_when_it_was_opened() -> TestResult {
    let device = Device::cpu();
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a.safetensors");
    let one = Tensor::from_slice(&device, &[1.0f32], &[1])?;
    let two = Tensor::from_slice(&device, &[2.0f32], &[1])?;
    save_tensors(&path, &named(&[("w", &one)]), &[])?;
    let before = Checkpoint::open(&path)?;
    save_tensors(&path, &named(&[("w", &two)]), &[])?;
    assert_eq!(
        Checkpoint::open(&path)?
            .tensor("w", DType::F32, &device)?
            .to_vec::<f32>()?,
        [2.0]
    );
    assert_eq!(before.tensor("w", DType::F32, &device)?.to_vec::<f32>()?, [1.0]);
    Ok(())
}

#[test]
fn a_file_cut_short_anywhere_is_named() -> TestResult {
    let device = Device::cpu();
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("model.safetensors");
    let w = Tensor::from_slice(&device, &VALUES, &[6])?;
    save_tensors(&path, &named(&[("a", &w), ("b", &w)]), &[])?;
    let whole = fs::read(&path)?;
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length])?;
        let text = message(Checkpoint::open(&path));
        assert!(
            text.contains("model.safetensors") && text.contains(&length.to_string()),
            "{length}: {text}"
        );
        let text = message(Checkpoint::open(dir.path()));
        assert!(text.contains("model.safetensors"), "{length}: {text}");
    }
    fs::write(&path, [&whole[..], &[0]].concat())?;
    assert!(message(Checkpoint::open(&path)).contains("model.safetensors"));
    // A header that promises more than memory holds.
    fs::write(&path, [&u64::MAX.to_le_bytes()[..], b"{}"].concat())?;
    assert!(message(Checkpoint::open(&path)).contains("model.safetensors"));
    fs::remove_file(&path)?;
    assert!(message(Checkpoint::open(&path)).contains("model.safetensors"));
    Ok(())
}

#[test]
fn a_file_that_shrinks_after_it_was_opened_is_an_error() -> TestResult {
    let device = Device::cpu();
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a.safetensors");
    let w = Tensor::from_slice(&device, &VALUES, &[6])?;
    save_tensors(&path, &named(&[("w", &w)]), &[])?;
    let checkpoint = Checkpoint::open(&path)?;
    let file = fs::OpenOptions::new().write(true).open(&path)?;
    file.set_len(file.metadata()?.len() - 1)?;
    assert!(message(checkpoint.tensor("w", DType::F32, &device)).contains("a.safetensors"));
    Ok(())
}

/// A model with adapters over a checkpoint.
fn adapted(source: &Checkpoint, config: &EncoderConfig) -> dylora_nn::Result<SequenceClassifier> {
    SequenceClassifier::new(
        &Device::cpu(),
        DType::F32,
        config,
        2,
        Some(&query_value(2)),
        Some(source),
        7,
    )
}

#[test]
fn a_mapped_checkpoint_is_borrowed_where_it_is_aligned_and_read_where_it_is_not() -> TestResult {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("model.safetensors");
    let config = config(Family::Roberta);
    let (device, weights) = (Device::cpu(), weights(&config, 3)?);
    save_tensors(&path, &weights, &[])?;
    let bytes = fs::read(&path)?;
    let inputs = inputs(&device, &config, &[5, 2], 4)?;
    let read = adapted(&Checkpoint::open(&path)?, &config)?;
    let whole = logits(&read, &inputs, 2)?;

    // One blank more after the header: no element is aligned.
    let header = u64::from_le_bytes(bytes[..8].try_into()?);
    let mut shifted = (header + 1).to_le_bytes().to_vec();
    shifted.extend_from_slice(&bytes[8..8 + header as usize]);
    shifted.push(b' ');
    shifted.extend_from_slice(&bytes[8 + header as usize..]);

    for (contents, borrowed) in [(&bytes, cfg!(target_endian = "little")), (&shifted, false)] {
        fs::write(&path, contents)?;
        let mapped = adapted(&Checkpoint::map(&path)?, &config)?;
        assert_eq!(logits(&mapped, &inputs, 2)?, whole);
        let before = mapped
            .frozen()
            .map(|(_, tensor)| bits(tensor))
            .collect::<dylora_nn::Result<Vec<_>>>()?;
        // Where the system shows changes of a file in its pages, they show what borrows them.
        if cfg!(target_os = "linux") {
            use std::io::{Seek as _, Write as _};
            let mut file = fs::OpenOptions::new().write(true).open(&path)?;
            let start = 8 + contents[..8]
                .iter()
                .rev()
                .fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
            file.seek(std::io::SeekFrom::Start(start))?;
            file.write_all(&vec![0; contents.len() - start as usize])?;
            for ((name, tensor), before) in mapped.frozen().zip(&before) {
                let zeros = tensor.to_f64_vec()?.iter().all(|value| *value == 0.0);
                assert_eq!(zeros, borrowed, "{name}");
                assert!(borrowed || bits(tensor)? == *before, "{name}");
            }
            // What learns has memory of its own.
            assert!(mapped.parameters().iter().all(|p| {
                p.mask().is_none()
                    || p.name().contains("lora_B")
                    || p.value()
                        .to_f64_vec()
                        .is_ok_and(|values| values.iter().any(|value| *value != 0.0))
            }));
            let head = mapped.head_parameters();
            assert_eq!(bits(head[0].value())?, bits(read.head_parameters()[0].value())?);
        }
    }
    Ok(())
}

#[test]
fn a_mapped_model_outlives_its_file_and_training_changes_no_file() -> TestResult {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("model.safetensors");
    let config = config(Family::Bert);
    let (device, first) = (Device::cpu(), weights(&config, 5)?);
    save_tensors(&path, &first, &[])?;
    let bytes = fs::read(&path)?;
    let inputs = inputs(&device, &config, &[4, 3], 8)?;
    let model = adapted(&Checkpoint::map(&path)?, &config)?;
    let before = logits(&model, &inputs, 1)?;
    // Replaced as this crate replaces files, and then gone.
    save_tensors(&path, &weights(&config, 6)?, &[])?;
    assert_eq!(logits(&model, &inputs, 1)?, before);
    fs::remove_file(&path)?;
    assert_eq!(logits(&model, &inputs, 1)?, before);

    fs::write(&path, &bytes)?;
    let source = Checkpoint::map(&path)?;
    let full = SequenceClassifier::new(&device, DType::F32, &config, 2, None, Some(&source), 7)?;
    let mut optimizer = AdamW::new(&full.parameters(), AdamWSettings::default())?;
    let slice = dylora_nn::autograd::RankSlice::full(0);
    train_step(&full, &mut optimizer, &inputs, &slice, (1, 0))?;
    assert!(fs::read(&path)? == bytes);
    assert_ne!(bits(full.parameters()[0].value())?, bits(&first[0].1)?);

    // Damage is found when the file is opened, and a shorter file is named when it is read.
    fs::write(&path, &bytes[..bytes.len() - 1])?;
    assert!(refusal(Checkpoint::map(&path)).contains("cut short"));
    Ok(())
}

#[test]
fn a_configuration_file_is_named_in_its_errors() -> TestResult {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("config.json");
    assert!(message(EncoderConfig::from_file(&path)).contains("config.json"));
    let good = EncoderConfig::roberta_base();
    fs::write(&path, good.to_json())?;
    assert_eq!(EncoderConfig::from_file(&path)?, good);
    fs::write(&path, good.to_json().replace("roberta", "t5"))?;
    let text = message(EncoderConfig::from_file(&path));
    assert!(text.contains("config.json") && text.contains("t5"), "{text}");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_damaged_header_never_panics(place in 0usize..200, byte: u8) {
        let device = Device::cpu();
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("a.safetensors");
        let w = Tensor::from_slice(&device, &VALUES, &[2, 3])?;
        save_tensors(&path, &named(&[("a", &w), ("b", &w)]), &[("k".to_owned(), "v".to_owned())])?;
        let mut bytes = fs::read(&path)?;
        let place = place % bytes.len();
        bytes[place] = byte;
        fs::write(&path, bytes)?;
        // Whether it still opens is the byte's affair; what opens can be asked for everything.
        for checkpoint in [Checkpoint::open(&path), Checkpoint::map(&path)].into_iter().flatten() {
            for name in checkpoint.names() {
                let _ = checkpoint.tensor(name, DType::F32, &device);
            }
        }
    }
}
