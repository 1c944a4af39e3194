//! Models from checkpoints: every published precision and spelling loads, and no key that is wrong goes unnamed.

mod common;

use std::fs;
use std::path::Path;

use common::{TestResult, bits, config, inputs, logits, query_value, randomise, refusal, weights};
use dylora_nn::tensor::{DType, Device, Tensor, bf16};
use dylora_nn::{Checkpoint, EncoderConfig, Error, Family, KeyReport, Result, SequenceClassifier, save_tensors};
use half::f16;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};

const FAMILIES: [Family; 2] = [Family::Roberta, Family::Bert];

type Named = Vec<(String, Tensor)>;

/// A frozen model with two labels over a checkpoint; one that borrows the file's pages has the same weights.
fn load(config: &EncoderConfig, dtype: DType, path: &Path) -> Result<SequenceClassifier> {
    let adapter = query_value(2);
    let over = |source: &Checkpoint| {
        SequenceClassifier::new(&Device::cpu(), dtype, config, 2, Some(&adapter), Some(source), 99)
    };
    let model = over(&Checkpoint::open(path)?)?;
    let mapped = over(&Checkpoint::map(path)?)?;
    assert_eq!(plain(&mapped)?, plain(&model)?);
    Ok(model)
}

fn report<T>(result: Result<T>) -> KeyReport {
    match result {
        Err(Error::Keys { keys, .. }) => keys,
        _ => KeyReport::default(),
    }
}

/// Base and head of a model by key; adapters left out.
fn plain(model: &SequenceClassifier) -> Result<Vec<(String, Vec<u64>)>> {
    let frozen = model.frozen().map(|(name, tensor)| (name.to_owned(), tensor.clone()));
    let head = model
        .head_parameters()
        .into_iter()
        .map(|p| (p.name().to_owned(), p.value().clone()));
    let mut all = frozen
        .chain(head)
        .map(|(name, tensor)| Ok((name, bits(&tensor)?)))
        .collect::<Result<Vec<_>>>()?;
    all.sort();
    Ok(all)
}

fn expected(weights: &Named) -> Result<Vec<(String, Vec<u64>)>> {
    let mut all = weights
        .iter()
        .map(|(name, t)| Ok((name.clone(), bits(t)?)))
        .collect::<Result<Vec<_>>>()?;
    all.sort();
    Ok(all)
}

#[test]
fn a_model_loads_from_half_precision_files() -> TestResult {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("model.safetensors");
    for family in FAMILIES {
        let config = config(family);
        let weights = weights(&config, 3)?;
        for stored in [Dtype::F16, Dtype::BF16] {
            let mut files = Vec::new();
            let mut rounded = Vec::new();
            for (name, tensor) in &weights {
                let values = tensor.to_f64_vec()?;
                let (bytes, read): (Vec<u8>, Vec<f64>) = if stored == Dtype::F16 {
                    let halves: Vec<f16> = values.iter().map(|v| f16::from_f64(*v)).collect();
                    (
                        halves.iter().flat_map(|h| h.to_le_bytes()).collect(),
                        halves.iter().map(|h| h.to_f64()).collect(),
                    )
                } else {
                    let halves: Vec<bf16> = values.iter().map(|v| bf16::from_f64(*v)).collect();
                    (
                        halves.iter().flat_map(|h| h.to_le_bytes()).collect(),
                        halves.iter().map(|h| h.to_f64()).collect(),
                    )
                };
                files.push((name.clone(), tensor.shape().to_vec(), bytes));
                rounded.push((name.clone(), read.into_iter().map(f64::to_bits).collect::<Vec<u64>>()));
            }
            let views = files
                .iter()
                .map(|(name, shape, bytes)| Ok((name.clone(), TensorView::new(stored, shape.clone(), bytes)?)))
                .collect::<std::result::Result<Vec<_>, safetensors::SafeTensorError>>()?;
            serialize_to_file(views, None, &path)?;
            rounded.sort();
            for dtype in [DType::F32, DType::F64] {
                assert_eq!(
                    plain(&load(&config, dtype, dir.path())?)?,
                    rounded,
                    "{family:?} {stored} as {dtype}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn all_keys_that_do_not_fit_are_named_in_one_message() -> TestResult {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("wrong.safetensors");
    let device = Device::cpu();
    for family in FAMILIES {
        let config = config(family);
        let prefix = family.prefix();
        let missing = [
            format!("{prefix}.embeddings.LayerNorm.bias"),
            format!("{prefix}.encoder.layer.1.attention.self.key.weight"),
        ];
        let misshapen = [
            format!("{prefix}.embeddings.word_embeddings.weight"),
            format!("{prefix}.encoder.layer.0.intermediate.dense.bias"),
        ];
        let unexpected = [
            format!("{prefix}.encoder.layer.2.output.dense.weight"),
            "adapter.nonsense".to_owned(),
        ];
        let mut weights: Named = weights(&config, 1)?
            .into_iter()
            .filter(|(name, _)| !missing.contains(name))
            .collect();
        for (name, tensor) in &mut weights {
            if misshapen.contains(name) {
                *tensor = Tensor::zeros(&device, DType::F32, &[5, 2])?;
            }
        }
        for name in &unexpected {
            weights.push((name.clone(), Tensor::zeros(&device, DType::F32, &[1])?));
        }
        save_tensors(&path, &weights, &[])?;
        let message = refusal(load(&config, DType::F32, &path));
        assert!(message.contains("wrong.safetensors"), "{message}");
        for (what, names) in [
            ("missing", &missing),
            ("unexpected", &unexpected),
            ("misshapen", &misshapen),
        ] {
            assert!(message.contains(what), "{what}: {message}");
            for name in names {
                assert!(message.contains(name), "{what} {name}: {message}");
            }
        }
        assert!(
            message.contains("[5, 2]") && message.contains("[23, 8]") && message.contains("[12]"),
            "{message}"
        );
        assert!(!message.contains('\n'));
        // And nothing else is blamed.
        let sorted = |names: &mut Vec<String>| {
            names.sort();
            names.clone()
        };
        let mut keys = report(load(&config, DType::F32, &path));
        assert_eq!(sorted(&mut keys.missing), sorted(&mut missing.to_vec()));
        assert_eq!(sorted(&mut keys.unexpected), sorted(&mut unexpected.to_vec()));
        let mut shapes: Vec<String> = keys.misshapen.into_iter().map(|(name, _, _)| name).collect();
        assert_eq!(sorted(&mut shapes), sorted(&mut misshapen.to_vec()));
    }
    Ok(())
}

#[test]
fn bare_and_prefixed_keys_and_old_spellings_are_one_model() -> TestResult {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("model.safetensors");
    for family in FAMILIES {
        let config = config(family);
        let weights = weights(&config, 7)?;
        let wanted = expected(&weights)?;
        let prefix = format!("{}.", family.prefix());
        let bare = |name: &str| name.strip_prefix(&prefix).unwrap_or(name).to_owned();
        let old = |name: &str| {
            let gamma = name.replace("LayerNorm.weight", "LayerNorm.gamma");
            gamma.replace("LayerNorm.bias", "LayerNorm.beta")
        };
        let spellings: [&dyn Fn(&str) -> String; 4] = [&|name| name.to_owned(), &bare, &old, &|name| old(&bare(name))];
        for (which, spelling) in spellings.iter().enumerate() {
            let renamed: Named = weights
                .iter()
                .map(|(name, tensor)| (spelling(name), tensor.clone()))
                .collect();
            save_tensors(&path, &renamed, &[])?;
            assert_eq!(
                plain(&load(&config, DType::F32, dir.path())?)?,
                wanted,
                "{family:?} spelling {which}"
            );
        }
        // The other family's prefix is no spelling of this one's.
        let other = if family == Family::Roberta { "bert." } else { "roberta." };
        let renamed: Named = weights
            .iter()
            .map(|(name, tensor)| (name.replacen(&prefix, other, 1), tensor.clone()))
            .collect();
        save_tensors(&path, &renamed, &[])?;
        let keys = report(load(&config, DType::F32, dir.path()));
        assert!(!keys.missing.is_empty() && !keys.unexpected.is_empty(), "{family:?}");
    }
    Ok(())
}

#[test]
fn a_weight_that_is_there_under_two_names_is_reported() -> TestResult {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("model.safetensors");
    let config = config(Family::Roberta);
    let mut weights = weights(&config, 7)?;
    let twin = weights
        .iter()
        .find(|(name, _)| name.contains("word_embeddings"))
        .map(|(_, t)| t.clone());
    weights.push((
        "embeddings.word_embeddings.weight".to_owned(),
        twin.ok_or("no word embeddings")?,
    ));
    save_tensors(&path, &weights, &[])?;
    let keys = report(load(&config, DType::F32, &path));
    assert_eq!(keys.unexpected, ["embeddings.word_embeddings.weight"]);
    Ok(())
}

#[test]
fn what_published_files_hold_besides_is_accepted() -> TestResult {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("model.safetensors");
    let device = Device::cpu();
    for family in FAMILIES {
        let config = config(family);
        let prefix = family.prefix();
        let known = weights(&config, 2)?;
        let mut more = known.clone();
        let mut extra = vec![
            format!("{prefix}.embeddings.position_ids"),
            "lm_head.bias".to_owned(),
            "lm_head.dense.weight".to_owned(),
            "lm_head.layer_norm.weight".to_owned(),
            "cls.predictions.transform.dense.weight".to_owned(),
            "cls.seq_relationship.bias".to_owned(),
        ];
        if family == Family::Roberta {
            extra.extend([
                "roberta.pooler.dense.weight".to_owned(),
                "roberta.pooler.dense.bias".to_owned(),
            ]);
        }
        for name in extra {
            more.push((name, Tensor::zeros(&device, DType::I32, &[3])?));
        }
        save_tensors(&path, &more, &[])?;
        assert_eq!(
            plain(&load(&config, DType::F32, dir.path())?)?,
            expected(&known)?,
            "{family:?}"
        );
    }
    // BERT reads its pooler.
    let config = config(Family::Bert);
    let known = weights(&config, 2)?;
    save_tensors(&path, &known, &[])?;
    let pooler =
        |named: Vec<(String, Vec<u64>)>| named.into_iter().find(|(name, _)| name == "bert.pooler.dense.weight");
    let read = pooler(plain(&load(&config, DType::F32, &path)?)?);
    assert!(read.is_some());
    assert_eq!(read, pooler(expected(&known)?));
    Ok(())
}

#[test]
fn a_head_that_does_not_fit_or_is_not_there_is_replaced() -> TestResult {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("model.safetensors");
    let device = Device::cpu();
    for family in FAMILIES {
        let config = config(family);
        let weights = weights(&config, 2)?;
        let projection = if family == Family::Roberta {
            "classifier.out_proj"
        } else {
            "classifier"
        };
        let (weight, bias) = (format!("{projection}.weight"), format!("{projection}.bias"));
        let without: Named = weights
            .iter()
            .filter(|(name, _)| *name != weight && *name != bias)
            .cloned()
            .collect();
        for (tensors, labels) in [(&weights, 5), (&without, 2)] {
            save_tensors(&path, tensors, &[])?;
            let source = Checkpoint::open(&path)?;
            let build = |seed: u64| {
                SequenceClassifier::new(
                    &device,
                    DType::F32,
                    &config,
                    labels,
                    Some(&query_value(2)),
                    Some(&source),
                    seed,
                )
            };
            let model = build(1)?;
            let trained = model.named_trained();
            let of = |name: &str| {
                trained
                    .iter()
                    .find(|(n, _)| n == name)
                    .map(|(_, t)| t.clone())
                    .ok_or(name.to_owned())
            };
            let fresh = of(&weight)?;
            assert_eq!(fresh.shape(), [labels, 8]);
            let values = fresh.to_f64_vec()?;
            // New: normal(0, 0.4), all different, none further out than six deviations.
            assert!(
                values
                    .iter()
                    .all(|v| *v != 0.0 && v.abs() < 6.0 * config.initializer_range),
                "{values:?}"
            );
            assert_eq!(of(&bias)?.to_f64_vec()?, vec![0.0; labels]);
            let seeded = |seed| Ok::<_, Error>(plain(&build(seed)?)?.into_iter().find(|(name, _)| *name == weight));
            assert_eq!(seeded(1)?, seeded(1)?);
            assert_ne!(seeded(1)?, seeded(2)?);
            // All else is the file's, the other layer of the head included.
            let kept: Named = without.clone();
            let found: Vec<_> = plain(&model)?
                .into_iter()
                .filter(|(name, _)| *name != weight && *name != bias)
                .collect();
            assert_eq!(found, expected(&kept)?);
        }
    }
    Ok(())
}

#[test]
fn a_sharded_directory_is_one_checkpoint() -> TestResult {
    let dir = tempfile::tempdir()?;
    let config = config(Family::Bert);
    let weights = weights(&config, 4)?;
    let shard = |index: usize| format!("model-0000{}-of-00003.safetensors", index + 1);
    let mut map = serde_json::Map::new();
    for index in 0..3 {
        let part: Named = weights.iter().skip(index).step_by(3).cloned().collect();
        save_tensors(&dir.path().join(shard(index)), &part, &[])?;
        part.iter()
            .for_each(|(name, _)| drop(map.insert(name.clone(), shard(index).into())));
    }
    let index_path = dir.path().join("model.safetensors.index.json");
    let index = serde_json::json!({ "metadata": { "total_size": 1 }, "weight_map": map });
    fs::write(&index_path, index.to_string())?;
    assert_eq!(plain(&load(&config, DType::F32, dir.path())?)?, expected(&weights)?);

    // A key in another shard than the index says, a path out of the directory, no map, no JSON.
    let mut moved = map.clone();
    moved.insert(weights[0].0.clone(), shard(1).into());
    let outside = serde_json::json!({ "weight_map": { "w": "../w.safetensors" } });
    for (wrong, named) in [
        (
            serde_json::json!({ "weight_map": moved }).to_string(),
            weights[0].0.as_str(),
        ),
        (outside.to_string(), "../w.safetensors"),
        ("{}".to_owned(), "index.json"),
        ("{".to_owned(), "index.json"),
    ] {
        fs::write(&index_path, &wrong)?;
        let message = refusal(Checkpoint::open(dir.path()));
        assert!(
            message.contains("index.json") && message.contains(named),
            "{wrong}: {message}"
        );
    }

    // A damaged and an absent shard are named.
    fs::write(&index_path, index.to_string())?;
    let bytes = fs::read(dir.path().join(shard(1)))?;
    fs::write(dir.path().join(shard(1)), &bytes[..bytes.len() - 1])?;
    assert!(refusal(Checkpoint::open(dir.path())).contains(&shard(1)));
    fs::remove_file(dir.path().join(shard(1)))?;
    assert!(refusal(Checkpoint::open(dir.path())).contains(&shard(1)));

    // A whole file goes before shards; a directory with neither says so.
    save_tensors(&dir.path().join("model.safetensors"), &weights, &[])?;
    assert_eq!(plain(&load(&config, DType::F32, dir.path())?)?, expected(&weights)?);
    let empty = tempfile::tempdir()?;
    assert!(refusal(Checkpoint::open(empty.path())).contains("model.safetensors"));
    Ok(())
}

#[test]
fn an_adapter_file_goes_back_into_its_model_or_not_at_all() -> TestResult {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("adapter.safetensors");
    let device = Device::cpu();
    for family in FAMILIES {
        let config = config(family);
        let new = |rank: usize, seed: u64| {
            SequenceClassifier::new(&device, DType::F32, &config, 2, Some(&query_value(rank)), None, seed)
        };
        let (trained, other) = (new(3, 1)?, new(3, 1)?);
        randomise(&trained.parameters(), 5)?;
        save_tensors(&path, &trained.named_trained(), &[])?;
        let inputs = inputs(&device, &config, &[4, 1], 3)?;
        assert_ne!(logits(&trained, &inputs, 2)?, logits(&other, &inputs, 2)?);
        other.load_trained(&Checkpoint::open(&path)?, &[])?;
        for b in 1..=3 {
            assert_eq!(logits(&trained, &inputs, b)?, logits(&other, &inputs, b)?);
        }

        // Another rank: every factor is named, and the model stays as it was.
        let larger = new(4, 1)?;
        let before = logits(&larger, &inputs, 4)?;
        let keys = report(larger.load_trained(&Checkpoint::open(&path)?, &[]));
        assert_eq!(keys.misshapen.len(), larger.adapter_parameters().len());
        assert_eq!(logits(&larger, &inputs, 4)?, before);

        // Foreign keys are errors unless their prefix is named.
        let mut more = trained.named_trained();
        more.push(("optimizer.m.x".to_owned(), Tensor::zeros(&device, DType::F32, &[1])?));
        save_tensors(&path, &more, &[])?;
        let checkpoint = Checkpoint::open(&path)?;
        assert_eq!(
            report(other.load_trained(&checkpoint, &[])).unexpected,
            ["optimizer.m.x"]
        );
        other.load_trained(&checkpoint, &["optimizer."])?;
    }
    Ok(())
}
