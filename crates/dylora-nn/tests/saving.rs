//! Safetensors files as such: every precision is read exactly, damage is refused by name, equal content gives equal
//! bytes, and a file is never half written.

mod common;

use std::fs;
use std::path::Path;

use common::{TestResult, bits, config, refusal, weights};
use dylora_nn::tensor::{DType, Device, StepCache, StepKey, Tensor, bf16};
use dylora_nn::{Checkpoint, Family, Result, WeightFormat, save_tensors, save_tensors_as};
use half::f16;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};

type Named = Vec<(String, Tensor)>;

#[test]
fn every_published_precision_loads_exactly() -> TestResult {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("w.safetensors");
    let device = Device::cpu();
    // Ordinary values, both zeros, the smallest f16, and bf16's wide range.
    let values = [1.0f64, -0.333_251_953_125, 0.0, -0.0, 5.960_464_477_539_063e-8, 65504.0];
    let bytes: [(Dtype, Vec<u8>); 4] = [
        (Dtype::F64, values.iter().flat_map(|v| v.to_le_bytes()).collect()),
        (
            Dtype::F32,
            values.iter().flat_map(|v| (*v as f32).to_le_bytes()).collect(),
        ),
        (
            Dtype::F16,
            values.iter().flat_map(|v| f16::from_f64(*v).to_le_bytes()).collect(),
        ),
        (
            Dtype::BF16,
            values.iter().flat_map(|v| bf16::from_f64(*v).to_le_bytes()).collect(),
        ),
    ];
    for (stored, bytes) in &bytes {
        let view = TensorView::new(*stored, vec![2, 3], bytes)?;
        serialize_to_file([("w", view)], None, &path)?;
        let checkpoint = Checkpoint::open(&path)?;
        assert_eq!(checkpoint.shape("w"), Some(&[2, 3][..]));
        // bf16 has 8 bits of precision, and every other type holds these values exactly.
        let exact: Vec<f64> = match stored {
            Dtype::BF16 => values.iter().map(|v| bf16::from_f64(*v).to_f64()).collect(),
            _ => values.to_vec(),
        };
        let same = |found: Vec<f64>, wanted: &[f64]| {
            let bits = |v: &[f64]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&found), bits(wanted), "{stored}");
        };
        same(checkpoint.tensor("w", DType::F64, &device)?.to_vec::<f64>()?, &exact);
        let single = checkpoint.tensor("w", DType::F32, &device)?.to_vec::<f32>()?;
        same(single.into_iter().map(f64::from).collect(), &exact);
        let half = checkpoint.tensor("w", DType::Bf16, &device)?;
        let rounded: Vec<f64> = exact.iter().map(|v| bf16::from_f64(*v).to_f64()).collect();
        same(half.to_f64_vec()?, &rounded);
        // Integers are not weights, nor weights integers.
        assert!(refusal(checkpoint.tensor("w", DType::I32, &device)).contains("w is"));
        assert!(refusal(checkpoint.integers("w")).contains("w is"));
    }
    Ok(())
}

#[test]
fn saving_twice_gives_the_same_bytes_and_other_tools_read_them() -> TestResult {
    let dir = tempfile::tempdir()?;
    let config = config(Family::Roberta);
    let device = Device::cpu();
    let mut tensors = weights(&config, 1)?;
    tensors.push(("wide".to_owned(), Tensor::from_slice(&device, &[1.5f64, -2.5], &[2])?));
    tensors.push((
        "half".to_owned(),
        Tensor::from_slice(&device, &[bf16::from_f32(0.1)], &[1])?,
    ));
    tensors.push(("counts".to_owned(), Tensor::from_slice(&device, &[7i32, -1, 3], &[3])?));
    tensors.push(("none".to_owned(), Tensor::zeros(&device, DType::F32, &[0])?));
    let notes = [
        ("b".to_owned(), "two".to_owned()),
        ("a".to_owned(), "one \"quoted\"".to_owned()),
    ];
    let path = |name: &str| dir.path().join(name);
    save_tensors(&path("1"), &tensors, &notes)?;
    save_tensors(&path("2"), &tensors, &notes)?;
    // Neither order is part of what is saved.
    let backwards: Named = tensors.iter().rev().cloned().collect();
    save_tensors(&path("3"), &backwards, &[notes[1].clone(), notes[0].clone()])?;
    let first = fs::read(path("1"))?;
    assert!(first == fs::read(path("2"))?, "saved twice, two files");
    assert!(first == fs::read(path("3"))?, "the order of the tensors shows");

    let checkpoint = Checkpoint::open(&path("1"))?;
    assert_eq!(checkpoint.names().count(), tensors.len());
    assert_eq!(checkpoint.note("a").as_deref(), Some("one \"quoted\""));
    assert_eq!(checkpoint.note("c"), None);
    assert_eq!(checkpoint.integers("counts")?, [7, -1, 3]);
    let mut again = Vec::new();
    for (name, tensor) in &tensors {
        let read = checkpoint.tensor(name, tensor.dtype(), &device)?;
        assert_eq!((read.shape(), bits(&read)?), (tensor.shape(), bits(tensor)?), "{name}");
        again.push((name.clone(), read));
    }
    save_tensors(&path("4"), &again, &notes)?;
    assert!(first == fs::read(path("4"))?, "read and saved again, another file");

    let theirs = safetensors::SafeTensors::deserialize(&first)?;
    assert_eq!(theirs.len(), tensors.len());
    let counts: Vec<u8> = [7i32, -1, 3].iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(theirs.tensor("counts")?.data(), counts);

    let twice = [tensors[0].clone(), tensors[0].clone()];
    assert!(refusal(save_tensors(&path("5"), &twice, &[])).contains(&tensors[0].0));
    assert!(!path("5").exists());
    Ok(())
}

#[test]
fn a_file_cut_anywhere_is_refused_by_name() -> TestResult {
    let dir = tempfile::tempdir()?;
    let whole = dir.path().join("whole.safetensors");
    let cut = dir.path().join("cut.safetensors");
    save_tensors(&whole, &weights(&config(Family::Bert), 1)?, &[])?;
    let bytes = fs::read(&whole)?;
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into()?) as usize;
    assert!(header > 100 && bytes.len() > header + 100);
    for length in [
        0,
        1,
        7,
        8,
        9,
        header / 2,
        header - 1,
        header,
        header + 1,
        bytes.len() / 2,
        bytes.len() - 1,
    ] {
        fs::write(&cut, &bytes[..length])?;
        let message = refusal(Checkpoint::open(&cut));
        assert!(message.contains("cut.safetensors"), "cut at {length}: {message:?}");
        assert!(message.contains(&length.to_string()), "cut at {length}: {message:?}");
    }
    // More than there should be is damage too.
    let mut longer = bytes.clone();
    longer.push(0);
    fs::write(&cut, &longer)?;
    assert!(refusal(Checkpoint::open(&cut)).contains("cut.safetensors"));
    assert!(refusal(Checkpoint::open(&dir.path().join("absent"))).contains("absent"));
    Ok(())
}

/// A file of this header and this many bytes of data.
fn forged(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

#[test]
fn headers_that_lie_are_refused_by_name() -> TestResult {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("forged.safetensors");
    let tensor = |dtype: &str, shape: &str, from: u64, to: u64| {
        format!(r#""{dtype}{from}":{{"dtype":"{dtype}","shape":[{shape}],"data_offsets":[{from},{to}]}}"#)
    };
    let cases = [
        ("no JSON", "hello, world".to_owned(), 0),
        ("half an object", "{\"".to_owned(), 0),
        (
            "shape larger than its bytes",
            format!("{{{}}}", tensor("F32", "4", 0, 8)),
            8,
        ),
        (
            "shape smaller than its bytes",
            format!("{{{}}}", tensor("F32", "1", 0, 8)),
            8,
        ),
        (
            "a shape that overflows",
            format!("{{{}}}", tensor("F32", "4294967296,4294967296", 0, 8)),
            8,
        ),
        (
            "overlap",
            format!("{{{},{}}}", tensor("F32", "2", 0, 8), tensor("F64", "1", 4, 12)),
            12,
        ),
        (
            "a hole",
            format!("{{{},{}}}", tensor("F32", "1", 0, 4), tensor("F64", "1", 8, 16)),
            16,
        ),
        ("backwards", format!("{{{}}}", tensor("F32", "1", 8, 4)), 8),
        ("unknown type", format!("{{{}}}", tensor("F33", "1", 0, 4)), 4),
    ];
    for (what, header, data) in cases {
        fs::write(&path, forged(&header, data))?;
        let message = refusal(Checkpoint::open(&path));
        assert!(message.contains("forged.safetensors"), "{what}: {message:?}");
    }
    // A length that no file has, and a text file that happens to be longer than eight bytes.
    let mut huge = u64::MAX.to_le_bytes().to_vec();
    huge.extend([b' '; 64]);
    for bytes in [huge, b"version https://git-lfs.github.com/spec/v1\n".to_vec()] {
        fs::write(&path, bytes)?;
        assert!(refusal(Checkpoint::open(&path)).contains("forged.safetensors"));
    }
    Ok(())
}

/// What lies in a directory, hidden files included.
fn listing(dir: &Path) -> std::io::Result<Vec<String>> {
    let mut names = fs::read_dir(dir)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<std::io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

#[test]
fn a_failed_save_leaves_no_trace() -> TestResult {
    let dir = tempfile::tempdir()?;
    let device = Device::cpu();
    let tensors = vec![("w".to_owned(), Tensor::from_slice(&device, &[1f32, 2.0], &[2])?)];
    let path = dir.path().join("w.safetensors");
    save_tensors(&path, &tensors, &[])?;
    let old = fs::read(&path)?;
    assert_eq!(listing(dir.path())?, ["w.safetensors"], "a temporary stayed behind");

    // No such directory, a directory that is a file, and a target that is a directory.
    let absent = dir.path().join("absent").join("w.safetensors");
    assert!(refusal(save_tensors(&absent, &tensors, &[])).contains("absent"));
    assert!(refusal(save_tensors(&path.join("w.safetensors"), &tensors, &[])).contains("w.safetensors"));
    let taken = dir.path().join("taken");
    fs::create_dir(&taken)?;
    fs::write(taken.join("inside"), "kept")?;
    assert!(refusal(save_tensors(&taken, &tensors, &[])).contains("taken"));
    assert_eq!(fs::read_to_string(taken.join("inside"))?, "kept");
    assert_eq!(listing(dir.path())?, ["taken", "w.safetensors"]);

    // Failure half-way through writing: the second tensor cannot be read, because a step is running.
    let key = StepKey {
        kind: 0,
        tokens: 0,
        sequences: 0,
        longest: 0,
        read: 0,
    };
    let new = vec![
        ("v".to_owned(), Tensor::zeros(&device, DType::F32, &[70_000])?),
        tensors[0].clone(),
    ];
    let mut message = String::new();
    StepCache::new(&device).run(key, &mut || -> Result<()> {
        message = refusal(save_tensors(&path, &new, &[]));
        Ok(())
    })?;
    assert!(!message.is_empty());
    assert!(fs::read(&path)? == old, "the old file was touched");
    assert_eq!(listing(dir.path())?, ["taken", "w.safetensors"]);

    // And a save that succeeds replaces the file.
    save_tensors(&path, &new, &[])?;
    assert_eq!(Checkpoint::open(&path)?.names().collect::<Vec<_>>(), ["v", "w"]);
    Ok(())
}

#[test]
fn floats_are_rounded_once_to_the_format_asked_for_and_integers_stay() -> TestResult {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("w.safetensors");
    let device = Device::cpu();
    // The second lies between two f16 and two bf16 values, the third is below the smallest normal f16.
    let values = [1.0f32, 0.1, 3.0e-5, -65504.0];
    let tensors: Named = vec![
        ("floats".to_owned(), Tensor::from_slice(&device, &values, &[2, 2])?),
        ("integers".to_owned(), Tensor::from_slice(&device, &[7, -70_000], &[2])?),
    ];
    type Round = fn(f32) -> f32;
    let cases: [(WeightFormat, usize, Round); 3] = [
        (WeightFormat::F16, 2, |v| f16::from_f32(v).to_f32()),
        (WeightFormat::Bf16, 2, |v| bf16::from_f32(v).to_f32()),
        (WeightFormat::F32, 4, |v| v),
    ];
    let sizes = cases.map(|(format, bytes, rounded)| -> Result<usize> {
        save_tensors_as(&path, &tensors, &[], format)?;
        let checkpoint = Checkpoint::open(&path)?;
        let found = checkpoint.tensor("floats", DType::F32, &device)?.to_vec::<f32>()?;
        assert_eq!(found, values.map(rounded), "{format:?}");
        assert_eq!(checkpoint.integers("integers")?, [7, -70_000]);
        let length = fs::metadata(&path).map_or(0, |file| file.len() as usize);
        Ok(length - 4 * bytes)
    });
    let sizes = sizes.into_iter().collect::<Result<Vec<_>>>()?;
    // Headers are padded to 8 bytes and differ by a letter or two.
    assert!(sizes.iter().all(|size| size.abs_diff(sizes[0]) <= 8), "{sizes:?}");

    let large: Named = vec![("wide".to_owned(), Tensor::from_slice(&device, &[1.0f32, 7e4], &[2])?)];
    let before = fs::read(&path)?;
    let message = refusal(save_tensors_as(&path, &large, &[], WeightFormat::F16));
    assert!(message.contains("wide has 70000"), "{message}");
    assert_eq!(fs::read(&path)?, before, "the earlier file stays");
    save_tensors_as(&path, &large, &[], WeightFormat::Bf16)?;
    let infinite: Named = vec![("all".to_owned(), Tensor::from_slice(&device, &[f32::INFINITY], &[1])?)];
    save_tensors_as(&path, &infinite, &[], WeightFormat::F16)?;
    Ok(())
}
