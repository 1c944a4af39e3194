//! Where a run starts that goes on from somebody's adapter.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use dylora_nn::tensor::{DType, Device, Tensor};
use dylora_nn::{Checkpoint, ScaleRule, Target};
use serde::Deserialize;

use super::{
    Architecture, Factors, Layer, Module, OWN_KEY, PEFT_CONFIG, PEFT_PREFIX, PEFT_WEIGHTS, PeftConfig, THIRDS,
};
use crate::error::{Error, Result};
use crate::progress::{Event, Observer};
use crate::settings::TrainSettings;

/// An adapter that somebody trained, as this library's layers have it.
#[derive(Clone, Debug)]
pub struct StartingAdapter {
    /// The largest rank of its layers.
    pub rank: usize,
    /// alpha, with which `scale` gives the adapter's own factor; `None` where its file does not say (loralib).
    pub alpha: Option<f64>,
    /// The scale at each rank: what this library noted in the file, else alpha/sqrt-b for PEFT's `use_rslora` and alpha/b for
    /// any other; `None` where its file does not say (loralib).
    pub scale: Option<ScaleRule>,
    /// The layers it adapts.
    pub targets: Vec<Target>,
    path: PathBuf,
    /// Layer, factors, and their scale where the file says it.
    layers: Vec<(String, Factors, Option<f64>)>,
    head: Vec<(String, Tensor)>,
}

impl StartingAdapter {
    /// Reads a PEFT directory or a loralib file (safetensors with `lora_A` and `lora_B`) for the model in `model`.
    ///
    /// Of a loralib file that holds a whole model only adapters and head are read. A module of PEFT whose factors are zero
    /// outside one block per third of `c_attn` is taken apart again; any other gives each third all its ranks.
    ///
    /// # Errors
    /// If there is no such adapter, it is pickled, or it is none of this kind of model.
    pub fn read(path: &Path, model: &Path) -> Result<Self> {
        let architecture = Architecture::of(&model.join("config.json"))?;
        if !path.is_dir() {
            refuse_pickle(path)?;
            return Self::loralib(path, architecture);
        }
        let config = path.join(PEFT_CONFIG);
        if !config.is_file() {
            return Err(Error::file(
                path,
                format!("holds no adapter (no {PEFT_CONFIG}); for loralib name the .safetensors file itself"),
            ));
        }
        let weights = path.join(PEFT_WEIGHTS);
        if !weights.is_file() {
            let pickled = path.join("adapter_model.bin");
            if pickled.is_file() {
                refuse_pickle(&pickled)?;
            }
            return Err(Error::file(path, format!("holds no {PEFT_WEIGHTS}")));
        }
        Self::peft(path, &PeftConfig::read(&config)?, &weights, architecture)
    }

    fn peft(path: &Path, config: &PeftConfig, weights: &Path, architecture: Architecture) -> Result<Self> {
        let file = Checkpoint::open(weights)?;
        let mut reader = Reader::new(weights, &file, architecture);
        for stored in file.names() {
            // In memory PEFT names the adapter after the factor.
            let key = stored
                .replace(".default.weight", ".weight")
                .replace(".modules_to_save.default", "");
            let key = key.strip_prefix(PEFT_PREFIX).unwrap_or(&key);
            let key = reader.full(key);
            if let Some(module) = key.strip_suffix(".lora_A.weight") {
                reader.factor(module, 0, stored);
            } else if let Some(module) = key.strip_suffix(".lora_B.weight") {
                reader.factor(module, 1, stored);
            } else if architecture.is_head(&key) {
                reader.head(key, stored)?;
            } else if !key.contains(".original_module.") {
                return Err(Error::file(
                    weights,
                    format!("{stored} is neither a factor of an adapter nor of this model's head"),
                ));
            }
        }
        let rule = own_rule(weights, &file)?.unwrap_or(config.rule());
        reader.finish(path, Some(rule), |module, rank| Some(config.scale(module, rank)))
    }

    fn loralib(path: &Path, architecture: Architecture) -> Result<Self> {
        let file = Checkpoint::open(path)?;
        let mut reader = Reader::new(path, &file, architecture);
        for stored in file.names() {
            let key = reader.full(stored.strip_prefix("module.").unwrap_or(stored));
            if let Some(module) = key.strip_suffix(".lora_A") {
                reader.factor(module, 0, stored);
            } else if let Some(module) = key.strip_suffix(".lora_B") {
                reader.factor(module, 1, stored);
            } else if architecture.is_head(&key) {
                reader.head(key, stored)?;
            }
        }
        if reader.factors.is_empty() {
            return Err(Error::file(
                path,
                "has no lora_A and lora_B; it is no loralib checkpoint",
            ));
        }
        reader.finish(path, None, |_, _| None)
    }

    /// Puts the adapter's own rank, alpha, scale and layers into settings that nothing else has been put into. Where the file
    /// says no alpha the settings keep theirs.
    pub fn suggest(&self, settings: &mut TrainSettings) {
        settings.rank = self.rank;
        settings.alpha = self.alpha.unwrap_or(settings.alpha);
        settings.scale = self.scale.unwrap_or(settings.scale);
        settings.targets = self.targets.clone();
        settings.initial_adapter = Some(self.path.clone());
    }

    /// Writes the adapter over what a new model of these settings starts with; whether its head fitted too. At the
    /// adapter's own rank the model then computes what the adapter's library does, whatever alpha and scale the settings have.
    ///
    /// # Errors
    /// If the settings leave no room for it: a smaller rank, or layers that are not among the targets.
    pub fn write_into(&self, trained: &[(String, Tensor)], settings: &TrainSettings) -> Result<bool> {
        let fail = |argument: &str, message: String| Err(Error::argument(argument, message));
        if settings.method.learns_base() {
            return fail("--adapter", "a run that trains every weight has no adapters".to_owned());
        }
        if settings.rank < self.rank {
            return fail(
                "--rank",
                format!(
                    "{} is below the rank {} of the adapter in {}",
                    settings.rank,
                    self.rank,
                    self.path.display()
                ),
            );
        }
        if let Some(target) = self.targets.iter().find(|target| !settings.targets.contains(target)) {
            return fail(
                "--targets",
                format!("the adapter in {} is on {target} too", self.path.display()),
            );
        }
        for (layer, factors, scale) in &self.layers {
            // The alpha that would be right at the adapter's rank, over the one that is used.
            let alpha = |scale: f64| settings.scale.alpha_for(scale, self.rank, settings.rank);
            let factor = scale.map_or(1.0, |scale| alpha(scale) / settings.alpha);
            for (which, name) in ["lora_A", "lora_B"].iter().enumerate() {
                let key = format!("{layer}.{name}.weight");
                let wide = settings.rank;
                let place = trained
                    .iter()
                    .find(|(known, _)| *known == key)
                    .map(|(_, tensor)| tensor);
                let theirs = [factors.rank * factors.inputs(), factors.outputs() * factors.rank][which];
                let Some(tensor) = place.filter(|tensor| tensor.len() / wide == theirs / factors.rank) else {
                    return Err(Error::file(
                        &self.path,
                        format!(
                            "the adapter of {layer} does not fit the model: its {name} has {theirs} numbers at rank {}",
                            factors.rank
                        ),
                    ));
                };
                let mut values = tensor.to_f64_vec()?;
                if which == 0 {
                    values[..theirs].copy_from_slice(&factors.a);
                } else {
                    for (row, stored) in values.chunks_exact_mut(wide).zip(factors.b.chunks_exact(factors.rank)) {
                        for (value, stored) in row.iter_mut().zip(stored) {
                            *value = if factor == 1.0 { *stored } else { stored * factor };
                        }
                    }
                }
                overwrite(tensor, values)?;
            }
        }
        let fits = |(key, value): &(String, Tensor)| {
            trained
                .iter()
                .find(|(known, place)| known == key && place.shape() == value.shape())
        };
        // One part of another task's head is of no use.
        let places: Vec<_> = self.head.iter().map(fits).collect();
        let fitted = !places.is_empty() && places.iter().all(Option::is_some);
        if fitted {
            for ((_, value), (_, place)) in self.head.iter().zip(places.into_iter().flatten()) {
                overwrite(place, value.to_f64_vec()?)?;
            }
        }
        Ok(fitted)
    }
}

/// Starts a new run's model from the adapter that its settings name, if they name one.
///
/// # Errors
/// As [`StartingAdapter::read`] and [`StartingAdapter::write_into`].
pub fn start(settings: &TrainSettings, trained: &[(String, Tensor)], observer: &mut dyn Observer) -> Result<()> {
    let Some(path) = &settings.initial_adapter else {
        return Ok(());
    };
    let adapter = StartingAdapter::read(path, &settings.model)?;
    let head = adapter.write_into(trained, settings)?;
    observer.event(&Event::Adapter {
        path,
        rank: adapter.rank,
        layers: adapter.layers.len(),
        head,
    });
    Ok(())
}

fn overwrite(place: &Tensor, values: Vec<f64>) -> Result<()> {
    let tensor = Tensor::from_vec(&Device::cpu(), values, place.shape())?.to_dtype(place.dtype())?;
    Ok(place.copy_from(&tensor.to_device(place.device())?)?)
}

/// The rule that this library noted beside an adapter; PEFT knows only the factor at the adapter's rank.
fn own_rule(path: &Path, file: &Checkpoint) -> Result<Option<ScaleRule>> {
    #[derive(Deserialize)]
    struct Own {
        scale: Option<ScaleRule>,
    }
    let Some(note) = file.note(OWN_KEY) else {
        return Ok(None);
    };
    let own: Own = serde_json::from_str(&note)
        .map_err(|error| Error::file(path, format!("its note {OWN_KEY:?} cannot be read: {error}")))?;
    Ok(own.scale)
}

/// Says how a pickled file becomes one that can be read without running what is in it.
fn refuse_pickle(path: &Path) -> Result<()> {
    let mut begin = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read(&mut begin));
    let count = read.map_err(Error::io("read", path))?;
    // A zip archive (PyTorch from 1.6 on) or a bare pickle of protocol 2 and later.
    if begin[..count].starts_with(b"PK\x03\x04") || (count > 1 && begin[0] == 0x80 && begin[1] <= 5) {
        let to = path.with_extension("safetensors");
        return Err(Error::file(
            path,
            format!(
                "is pickled, and reading a pickle runs code; convert it where you trust it with: python -c \"import torch, \
                 safetensors.torch as s; s.save_file({{k: v.contiguous() for k, v in torch.load({:?}, weights_only=True).items()}}, {:?})\"",
                path.display().to_string(),
                to.display().to_string(),
            ),
        ));
    }
    Ok(())
}

/// Collects what a file has.
struct Reader<'a> {
    path: &'a Path,
    file: &'a Checkpoint,
    architecture: Architecture,
    /// The keys of A and B by module.
    factors: BTreeMap<String, [Option<String>; 2]>,
    head: Vec<(String, Tensor)>,
}

impl<'a> Reader<'a> {
    fn new(path: &'a Path, file: &'a Checkpoint, architecture: Architecture) -> Self {
        Reader {
            path,
            file,
            architecture,
            factors: BTreeMap::new(),
            head: Vec::new(),
        }
    }

    /// A key with what stands before a bare model's.
    fn full(&self, key: &str) -> String {
        let bare = key.starts_with(self.architecture.bare());
        let before = if bare { self.architecture.prefix() } else { "" };
        format!("{before}{key}")
    }

    fn tensor(&self, stored: &str) -> Result<Tensor> {
        Ok(self.file.tensor(stored, DType::F64, &Device::cpu())?)
    }

    fn factor(&mut self, module: &str, which: usize, stored: &str) {
        self.factors.entry(module.to_owned()).or_default()[which] = Some(stored.to_owned());
    }

    fn head(&mut self, key: String, stored: &str) -> Result<()> {
        let value = self.tensor(stored)?;
        self.head.push((key, value));
        Ok(())
    }

    /// `scale` is that of a module's factors of some rank, `rule` what it is at smaller ones.
    fn finish(
        self,
        path: &Path,
        rule: Option<ScaleRule>,
        scale: impl Fn(&str, usize) -> Option<f64>,
    ) -> Result<StartingAdapter> {
        let wrong = |message: String| Error::file(self.path, message);
        let mut layers = Vec::new();
        let mut targets = Vec::new();
        for (module, keys) in &self.factors {
            let [Some(a), Some(b)] = keys else {
                return Err(wrong(format!("{module} has only one of lora_A and lora_B")));
            };
            let Some((_, layer)) = self.architecture.layer(module) else {
                return Err(wrong(format!("{module} is no layer that can have an adapter here")));
            };
            let (a, b) = (self.tensor(a)?, self.tensor(b)?);
            let shapes = || {
                wrong(format!(
                    "{module} has factors {:?} and {:?}, which have no rank in common",
                    a.shape(),
                    b.shape()
                ))
            };
            match layer {
                Layer::One(target) => {
                    let factors = Factors::new(&a, &b).ok_or_else(shapes)??;
                    let scale = scale(module, factors.rank);
                    layers.push((module.clone(), target, factors, scale));
                }
                Layer::Thirds => {
                    let (thirds, scale) = match Factors::new(&a, &b).transpose()? {
                        Some(whole) if whole.outputs() % 3 == 0 && whole.inputs() * 3 == whole.outputs() => {
                            (Module::split(module, &whole), scale(module, whole.rank))
                        }
                        _ => (grouped(module, &a, &b)?.ok_or_else(shapes)?, None),
                    };
                    for (part, factors) in thirds.adapters {
                        let (name, target) = THIRDS[part];
                        layers.push((format!("{module}.{name}"), target, factors, scale));
                    }
                }
            }
        }
        for (_, target, ..) in &layers {
            if !targets.contains(target) {
                targets.push(*target);
            }
        }
        targets.sort();
        let rank = layers.iter().map(|(_, _, factors, _)| factors.rank).max();
        let rank = rank.ok_or_else(|| wrong("has no adapters".to_owned()))?;
        // Where layers differ, the first of the largest rank decides and the others' B is scaled.
        let scale = layers
            .iter()
            .find(|(_, _, factors, _)| factors.rank == rank)
            .and_then(|(.., scale)| *scale);
        Ok(StartingAdapter {
            rank,
            alpha: scale.map(|scale| rule.unwrap_or_default().alpha_for(scale, rank, rank)),
            scale: rule,
            targets,
            path: path.to_owned(),
            layers: layers
                .into_iter()
                .map(|(name, _, factors, scale)| (name, factors, scale))
                .collect(),
            head: self.head,
        })
    }
}

/// loralib's merged layer: A `[n r, d]` and B `[n d, r]` of n thirds, the i-th rows of each belonging together. Two are
/// query and value, as all its published scripts have it.
fn grouped(module: &str, a: &Tensor, b: &Tensor) -> Result<Option<Module>> {
    let (&[stacked, d], &[outputs, rank]) = (a.shape(), b.shape()) else {
        return Ok(None);
    };
    if rank == 0 || d == 0 || stacked % rank != 0 || outputs != stacked / rank * d {
        return Ok(None);
    }
    let parts: &[usize] = match stacked / rank {
        2 => &[0, 2],
        3 => &[0, 1, 2],
        _ => return Ok(None),
    };
    let (a, b) = (a.to_f64_vec()?, b.to_f64_vec()?);
    let adapter = |(place, part): (usize, &usize)| {
        let factors = Factors {
            rank,
            a: a[place * rank * d..][..rank * d].to_vec(),
            b: b[place * d * rank..][..d * rank].to_vec(),
        };
        (*part, factors)
    };
    Ok(Some(Module {
        name: module.to_owned(),
        parts: 3,
        adapters: parts.iter().enumerate().map(adapter).collect(),
    }))
}
