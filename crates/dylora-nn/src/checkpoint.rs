//! Files: safetensors in and out, model directories (one file or several with an index), configurations.
//!
//! Opening reads headers only; a tensor is read, and converted, when it is asked for, or borrows the file's pages where the
//! checkpoint is mapped. Source of the format: the
//! safetensors specification (8 bytes of length, a JSON header, the elements in little-endian order).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use dylora_autograd::tensor::{DType, Device, FileMap, Tensor, bf16};
use half::f16;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use crate::config::EncoderConfig;
use crate::error::{Error, KeyReport, Result};
use crate::gpt2::Gpt2Config;

/// The weights of a model directory in one file.
const SINGLE: &str = "model.safetensors";
/// Which file of several holds which weight.
const INDEX: &str = "model.safetensors.index.json";
/// The header's key for text beside the tensors.
const METADATA: &str = "__metadata__";
/// The longest header that is believed; the safetensors library has the same limit.
const MAX_HEADER: u64 = 100_000_000;
/// Bytes that are converted at a time.
const BLOCK: usize = 1 << 20;

impl EncoderConfig {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// If the file cannot be read, or as [`EncoderConfig::from_json`]; the message names the file.
    pub fn from_file(path: &Path) -> Result<Self> {
        read_config(path, Self::from_json)
    }
}

impl Gpt2Config {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// If the file cannot be read, or as [`Gpt2Config::from_json`]; the message names the file.
    pub fn from_file(path: &Path) -> Result<Self> {
        read_config(path, Self::from_json)
    }
}

fn read_config<T>(path: &Path, parse: impl FnOnce(&str) -> Result<T>) -> Result<T> {
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    parse(&text).map_err(|error| match error {
        Error::Config(message) => Error::Config(format!("{}: {message}", path.display())),
        other => other,
    })
}

/// Named tensors in one or several safetensors files.
///
/// ```
/// use dylora_nn::tensor::{DType, Device, Tensor};
/// use dylora_nn::{Checkpoint, save_tensors};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let device = Device::cpu();
/// let dir = tempfile::tempdir()?;
/// let path = dir.path().join("a.safetensors");
/// let w = Tensor::from_slice(&device, &[1.0f32, 2.0], &[2])?;
/// save_tensors(&path, &[("w".to_owned(), w)], &[("step".to_owned(), "3".to_owned())])?;
///
/// let checkpoint = Checkpoint::open(&path)?;
/// assert_eq!(checkpoint.tensor("w", DType::F64, &device)?.to_vec::<f64>()?, [1.0, 2.0]);
/// assert_eq!(checkpoint.note("step").as_deref(), Some("3"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    tensors: BTreeMap<String, Stored>,
    metadata: BTreeMap<String, String>,
    mapped: bool,
}

/// Where a tensor's elements are.
#[derive(Debug)]
struct Stored {
    file: Arc<OpenFile>,
    dtype: Dtype,
    shape: Vec<usize>,
    start: u64,
}

#[derive(Debug)]
struct OpenFile {
    path: PathBuf,
    // Kept open, so that tensors read later are those of the header even if the file is replaced meanwhile.
    file: Mutex<File>,
    map: Option<FileMap>,
}

impl Checkpoint {
    /// Opens a safetensors file, or a model directory with `model.safetensors` or `model.safetensors.index.json`.
    ///
    /// # Errors
    /// If there is no such file, or it is cut short or damaged; the file is named.
    pub fn open(path: &Path) -> Result<Self> {
        Self::of(path, false)
    }

    /// [`Checkpoint::open`], and models built from it on the CPU borrow the weights that they do not train from the files'
    /// pages, where type and alignment allow, in place of copying them: a model is there at once, and programs that use one
    /// share its memory.
    ///
    /// The files must not be changed in place while such a model is in use: its weights would change, and cutting a file
    /// short ends the process ([`FileMap`]). Renaming another file over one is safe.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn map(path: &Path) -> Result<Self> {
        Self::of(path, true)
    }

    fn of(path: &Path, mapped: bool) -> Result<Self> {
        let mut checkpoint = Checkpoint {
            path: path.to_owned(),
            tensors: BTreeMap::new(),
            metadata: BTreeMap::new(),
            mapped,
        };
        if !path.is_dir() {
            checkpoint.add(path)?;
        } else if path.join(SINGLE).is_file() {
            checkpoint.add(&path.join(SINGLE))?;
        } else if path.join(INDEX).is_file() {
            checkpoint.add_indexed(path)?;
        } else {
            return Err(damaged(path, format!("the directory has neither {SINGLE} nor {INDEX}")));
        }
        Ok(checkpoint)
    }

    /// Adds the tensors of one file.
    fn add(&mut self, path: &Path) -> Result<()> {
        let (file, data, header) = read_header(path)?;
        let file = Arc::new(OpenFile {
            path: path.to_owned(),
            // A file system that does not map files is read from.
            map: if self.mapped { FileMap::new(&file).ok() } else { None },
            file: Mutex::new(file),
        });
        for (name, info) in header.tensors() {
            let stored = Stored {
                file: file.clone(),
                dtype: info.dtype,
                shape: info.shape.clone(),
                start: data + info.data_offsets.0 as u64,
            };
            if self.tensors.insert(name.clone(), stored).is_some() {
                return Err(damaged(
                    path,
                    format!("{name} is in another file of the checkpoint too"),
                ));
            }
        }
        self.metadata.extend(header.metadata().clone().unwrap_or_default());
        Ok(())
    }

    /// Adds the files that a directory's index names.
    fn add_indexed(&mut self, dir: &Path) -> Result<()> {
        #[derive(serde::Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let path = dir.join(INDEX);
        let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        let index: Index = serde_json::from_str(&text).map_err(|error| damaged(&path, error.to_string()))?;
        let files: BTreeSet<&String> = index.weight_map.values().collect();
        for file in files {
            if Path::new(file).file_name() != Some(file.as_ref()) {
                return Err(damaged(
                    &path,
                    format!("{file:?} is not the name of a file beside the index"),
                ));
            }
            self.add(&dir.join(file))?;
        }
        for (name, file) in &index.weight_map {
            if self
                .tensors
                .get(name)
                .is_none_or(|stored| stored.file.path != dir.join(file))
            {
                return Err(damaged(&path, format!("{name} is not in {file}, where the index says")));
            }
        }
        Ok(())
    }

    /// What was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensors' names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// A tensor's dimensions, if there is such a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|stored| stored.shape.as_slice())
    }

    /// How a tensor is stored, if there is such a tensor: the type of its elements as the format names it, and its bytes.
    pub fn stored_as(&self, name: &str) -> Option<(String, usize)> {
        let stored = self.tensors.get(name)?;
        let bits = stored.shape.iter().product::<usize>() * stored.dtype.bitsize();
        Some((stored.dtype.to_string(), bits / 8))
    }

    /// The texts stored beside the tensors.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The text that [`save_tensors`] stored under `key`.
    pub fn note(&self, key: &str) -> Option<String> {
        self.metadata.get(key).cloned()
    }

    fn stored(&self, name: &str) -> Result<&Stored> {
        let missing = || damaged(&self.path, format!("has no tensor {name}"));
        self.tensors.get(name).ok_or_else(missing)
    }

    /// Reads a tensor; a scalar has one dimension of size 1. f64, f32, f16 and bf16 convert to the f64, f32 or bf16
    /// asked for; i32 is read as i32.
    ///
    /// # Errors
    /// If there is no such tensor, its type does not convert, or the file cannot be read.
    pub fn tensor(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let stored = self.stored(name)?;
        Ok(match (stored.dtype, dtype) {
            (Dtype::I32, DType::I32) => stored.tensor(device, i32::from_le_bytes)?,
            (Dtype::F64, DType::F64) => stored.tensor(device, f64::from_le_bytes)?,
            (Dtype::F64, DType::F32) => stored.tensor(device, |b| f64::from_le_bytes(b) as f32)?,
            (Dtype::F64, DType::Bf16) => stored.tensor(device, |b| bf16::from_f64(f64::from_le_bytes(b)))?,
            (Dtype::F32, DType::F64) => stored.tensor(device, |b| f64::from(f32::from_le_bytes(b)))?,
            (Dtype::F32, DType::F32) => stored.tensor(device, f32::from_le_bytes)?,
            (Dtype::F32, DType::Bf16) => stored.tensor(device, |b| bf16::from_f32(f32::from_le_bytes(b)))?,
            (Dtype::F16, DType::F64) => stored.tensor(device, |b| f16::from_le_bytes(b).to_f64())?,
            (Dtype::F16, DType::F32) => stored.tensor(device, |b| f16::from_le_bytes(b).to_f32())?,
            (Dtype::F16, DType::Bf16) => stored.tensor(device, |b| bf16::from_f32(f16::from_le_bytes(b).to_f32()))?,
            (Dtype::BF16, DType::F64) => stored.tensor(device, |b| bf16::from_le_bytes(b).to_f64())?,
            (Dtype::BF16, DType::F32) => stored.tensor(device, |b| bf16::from_le_bytes(b).to_f32())?,
            (Dtype::BF16, DType::Bf16) => stored.tensor(device, bf16::from_le_bytes)?,
            (found, wanted) => {
                let message = format!("{name} is {found}, which does not convert to {wanted}");
                return Err(damaged(&stored.file.path, message));
            }
        })
    }

    /// [`Checkpoint::tensor`] for one that is not going to be written: it borrows the file's pages where the checkpoint is
    /// mapped and they hold it as it is wanted.
    pub(crate) fn lasting(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let stored = self.stored(name)?;
        let same = matches!(
            (stored.dtype, dtype),
            (Dtype::F64, DType::F64) | (Dtype::F32, DType::F32) | (Dtype::BF16, DType::Bf16)
        );
        let start = usize::try_from(stored.start);
        if let (true, Some(map), Ok(start)) = (same, &stored.file.map, start)
            // What is wrong with the file is said by reading it.
            && let Ok(Some(borrowed)) = map.tensor(device, dtype, start, stored.dims())
        {
            return Ok(borrowed);
        }
        self.tensor(name, dtype, device)
    }

    /// Writes the stored values over `tensors`. Keys that begin with one of `others` are another's.
    ///
    /// # Errors
    /// If keys are missing, unexpected or misshapen (all are named, and nothing is changed), or the file cannot be read.
    pub fn restore(&self, tensors: &[(String, Tensor)], others: &[&str]) -> Result<()> {
        let theirs = self.names();
        let theirs = theirs.filter(|name| !others.iter().any(|prefix| name.starts_with(prefix)));
        let report = KeyReport::compare(self, theirs, tensors);
        if !report.is_empty() {
            return Err(Error::Keys {
                path: self.path.clone(),
                keys: report,
            });
        }
        for (name, value) in tensors {
            value.copy_from(&self.tensor(name, value.dtype(), value.device())?)?;
        }
        Ok(())
    }

    /// Reads a tensor of 32-bit integers.
    ///
    /// # Errors
    /// If it is not there, of another type, or cannot be read.
    pub fn integers(&self, name: &str) -> Result<Vec<i32>> {
        let stored = self.stored(name)?;
        if stored.dtype != Dtype::I32 {
            return Err(damaged(
                &stored.file.path,
                format!("{name} is {}, not i32", stored.dtype),
            ));
        }
        stored.read(i32::from_le_bytes)
    }
}

impl Stored {
    fn tensor<const N: usize, T: dylora_autograd::tensor::Elem>(
        &self,
        device: &Device,
        convert: impl Fn([u8; N]) -> T,
    ) -> Result<Tensor> {
        Ok(Tensor::from_vec(device, self.read(convert)?, self.dims())?)
    }

    /// The dimensions as a tensor has them: a scalar has one.
    fn dims(&self) -> &[usize] {
        if self.shape.is_empty() { &[1] } else { &self.shape }
    }

    /// The elements, converted a block at a time: the file's bytes are never in memory as a whole.
    fn read<const N: usize, T>(&self, convert: impl Fn([u8; N]) -> T) -> Result<Vec<T>> {
        let count: usize = self.shape.iter().product();
        let mut file = self.file.file.lock().unwrap_or_else(PoisonError::into_inner);
        let read = Error::io("read", &self.file.path);
        let mut values = Vec::with_capacity(count);
        let mut block = vec![0; BLOCK];
        let mut fill = || {
            file.seek(SeekFrom::Start(self.start))?;
            let mut left = count * N;
            while left > 0 {
                let bytes = &mut block[..left.min(BLOCK)];
                file.read_exact(bytes)?;
                let (elements, _) = bytes.as_chunks::<N>();
                values.extend(elements.iter().map(|bytes| convert(*bytes)));
                left -= bytes.len();
            }
            Ok(())
        };
        fill().map_err(read)?;
        Ok(values)
    }
}

/// An open safetensors file, where its elements begin, and its header, checked against the file's length.
fn read_header(path: &Path) -> Result<(File, u64, Metadata)> {
    let read = || Error::io("read", path);
    let mut file = File::open(path).map_err(read())?;
    let length = file.metadata().map_err(read())?.len();
    let mut prefix = [0; 8];
    if length < 8 {
        return Err(damaged(path, format!("{length} bytes are no safetensors file")));
    }
    file.read_exact(&mut prefix).map_err(read())?;
    let header = u64::from_le_bytes(prefix);
    if header > MAX_HEADER {
        return Err(damaged(
            path,
            format!("no safetensors file (a header of {header} bytes)"),
        ));
    }
    if 8 + header > length {
        return Err(damaged(
            path,
            format!("cut short: {length} bytes end within the header"),
        ));
    }
    let mut text = vec![0; header as usize];
    file.read_exact(&mut text).map_err(read())?;
    let metadata: Metadata =
        serde_json::from_slice(&text).map_err(|error| damaged(path, format!("no safetensors header: {error}")))?;
    let end = metadata
        .tensors()
        .values()
        .map(|info| info.data_offsets.1 as u64)
        .max()
        .unwrap_or(0);
    let expected = 8 + header + end;
    if length < expected {
        return Err(damaged(path, format!("cut short: {length} bytes of {expected}")));
    }
    if length > expected {
        return Err(damaged(
            path,
            format!("{length} bytes where the header says {expected}"),
        ));
    }
    Ok((file, 8 + header, metadata))
}

/// How floats are stored in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightFormat {
    /// 16 bits, 11 of them precision; up to 65504.
    F16,
    /// 16 bits, 8 of them precision; the range of f32.
    Bf16,
    /// 32 bits.
    F32,
}

impl std::str::FromStr for WeightFormat {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        match word {
            "f16" => Ok(WeightFormat::F16),
            "bf16" => Ok(WeightFormat::Bf16),
            "f32" => Ok(WeightFormat::F32),
            _ => Err(Error::setting("weights", format!("{word:?} is not f16, bf16 or f32"))),
        }
    }
}

impl WeightFormat {
    fn dtype(self) -> Dtype {
        match self {
            WeightFormat::F16 => Dtype::F16,
            WeightFormat::Bf16 => Dtype::BF16,
            WeightFormat::F32 => Dtype::F32,
        }
    }
}

/// Writes a safetensors file: under another name in the same directory first, so that it is never half there.
///
/// Equal tensors and metadata give equal bytes.
///
/// # Errors
/// If two tensors have one name, or the file cannot be written.
pub fn save_tensors(path: &Path, tensors: &[(String, Tensor)], metadata: &[(String, String)]) -> Result<()> {
    save(path, tensors, metadata, None)
}

/// [`save_tensors`] with every float rounded to `format`; integers stay what they are.
///
/// # Errors
/// As [`save_tensors`], or if a finite value is too large for the format; the tensor is named.
pub fn save_tensors_as(
    path: &Path,
    tensors: &[(String, Tensor)],
    metadata: &[(String, String)],
    format: WeightFormat,
) -> Result<()> {
    save(path, tensors, metadata, Some(format))
}

fn save(
    path: &Path,
    tensors: &[(String, Tensor)],
    metadata: &[(String, String)],
    format: Option<WeightFormat>,
) -> Result<()> {
    let metadata: BTreeMap<&str, &str> = metadata
        .iter()
        .map(|(key, text)| (key.as_str(), text.as_str()))
        .collect();
    let mut order: Vec<Outgoing<'_>> = tensors
        .iter()
        .map(|(name, tensor)| Outgoing {
            name,
            tensor,
            dtype: stored_dtype(tensor, format),
        })
        .collect();
    // Wide elements first, so that every tensor is aligned; then by name.
    order.sort_by_key(|each| (std::cmp::Reverse(each.dtype), each.name));
    let header = header(path, &order, &metadata)?;

    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let temporary = path.with_file_name(format!(".{name}.tmp"));
    let written = write_all(&temporary, &header, &order)
        .and_then(|()| fs::rename(&temporary, path).map_err(Error::io("write", path)));
    if written.is_err() {
        // The write's own error is the one worth reporting.
        let _ = fs::remove_file(&temporary);
        return written;
    }
    sync_directory(path);
    Ok(())
}

/// A tensor on its way into a file.
struct Outgoing<'a> {
    name: &'a str,
    tensor: &'a Tensor,
    dtype: Dtype,
}

fn header(path: &Path, tensors: &[Outgoing<'_>], metadata: &BTreeMap<&str, &str>) -> Result<Vec<u8>> {
    let json = |error: serde_json::Error| damaged(path, error.to_string());
    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        header.insert(METADATA.to_owned(), serde_json::to_value(metadata).map_err(json)?);
    }
    let mut offset = 0;
    for Outgoing { name, tensor, dtype } in tensors {
        let bytes = tensor.len() * dtype.bitsize() / 8;
        let info = TensorInfo {
            dtype: *dtype,
            shape: tensor.shape().to_vec(),
            data_offsets: (offset, offset + bytes),
        };
        offset += bytes;
        if header
            .insert((*name).to_owned(), serde_json::to_value(info).map_err(json)?)
            .is_some()
        {
            return Err(Error::setting("tensors", format!("two are named {name}")));
        }
    }
    let mut text = serde_json::to_vec(&header).map_err(json)?;
    text.resize(text.len().next_multiple_of(8), b' ');
    Ok(text)
}

fn stored_dtype(tensor: &Tensor, format: Option<WeightFormat>) -> Dtype {
    match (tensor.dtype(), format) {
        (DType::I32, _) => Dtype::I32,
        (_, Some(format)) => format.dtype(),
        (DType::F64, None) => Dtype::F64,
        (DType::F32, None) => Dtype::F32,
        (DType::Bf16, None) => Dtype::BF16,
    }
}

fn write_all(path: &Path, header: &[u8], tensors: &[Outgoing<'_>]) -> Result<()> {
    let write = || Error::io("write", path);
    let mut out = BufWriter::with_capacity(BLOCK, File::create(path).map_err(write())?);
    out.write_all(&(header.len() as u64).to_le_bytes()).map_err(write())?;
    out.write_all(header).map_err(write())?;
    for Outgoing { name, tensor, dtype } in tensors {
        // Every f32 and bf16 is an f64, so going through f64 rounds once.
        let fitting = |values: Vec<f64>| match values
            .iter()
            .find(|v| v.is_finite() && f16::from_f64(**v).is_infinite())
        {
            None => Ok(values),
            Some(value) => Err(Error::setting(
                "weights",
                format!("{name} has {value}, which is too large for f16; use bf16 or f32"),
            )),
        };
        match (tensor.dtype(), *dtype) {
            (DType::I32, _) => write_elements(&mut out, &tensor.to_vec::<i32>()?, i32::to_le_bytes),
            (DType::F64, Dtype::F64) => write_elements(&mut out, &tensor.to_vec::<f64>()?, f64::to_le_bytes),
            (DType::F32, Dtype::F32) => write_elements(&mut out, &tensor.to_vec::<f32>()?, f32::to_le_bytes),
            (DType::Bf16, Dtype::BF16) => write_elements(&mut out, &tensor.to_vec::<bf16>()?, bf16::to_le_bytes),
            (_, Dtype::F16) => write_elements(&mut out, &fitting(tensor.to_f64_vec()?)?, |value| {
                f16::from_f64(value).to_le_bytes()
            }),
            (_, Dtype::BF16) => write_elements(&mut out, &tensor.to_f64_vec()?, |value| {
                bf16::from_f64(value).to_le_bytes()
            }),
            _ => write_elements(&mut out, &tensor.to_f64_vec()?, |value| (value as f32).to_le_bytes()),
        }
        .map_err(write())?;
    }
    let file = out.into_inner().map_err(|error| write()(error.into_error()))?;
    file.sync_all().map_err(write())
}

fn write_elements<const N: usize, T: Copy>(
    out: &mut impl Write,
    values: &[T],
    bytes: impl Fn(T) -> [u8; N],
) -> std::io::Result<()> {
    values.iter().try_for_each(|value| out.write_all(&bytes(*value)))
}

/// Makes a rename last through a loss of power, where the system lets a directory be synchronised.
fn sync_directory(path: &Path) {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    // Systems that refuse this order their renames by other means.
    let _ = File::open(parent.unwrap_or(Path::new("."))).and_then(|dir| dir.sync_all());
}

fn damaged(path: &Path, message: impl Into<String>) -> Error {
    Error::Checkpoint {
        path: path.to_owned(),
        message: message.into(),
    }
}
