//! Kernel sources, compiled by NVRTC for the device at hand and cached by the caller.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::{PoisonError, RwLock};

use cudarc::driver::{result as driver, sys};
use cudarc::nvrtc::{result as nvrtc, sys as nvrtc_sys};

use super::context::{DECLARED, driver_error};
use crate::error::{Error, Result};

/// Where compiled kernels are kept between runs; the crate itself knows no files.
pub trait KernelCache: Send + Sync {
    /// What was stored under this name, if it is still there.
    fn load(&self, name: &str) -> Option<Vec<u8>>;
    /// Stores a compiled module; a cache that cannot is not an error.
    fn store(&self, name: &str, image: &[u8]);
}

/// A source file and the element type it is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    Elementwise,
    Gates,
    Norm,
    Rows,
    Lora,
    LoraMma,
    LoraDrop,
    Loss,
    Optim,
    Attention,
    /// By head size, because each takes the compiler seconds.
    AttentionMma32,
    AttentionMma64,
    AttentionMma128,
    Decode,
    Residual,
    Vocabulary,
}

/// A kernel: its file, element type and name.
pub(crate) type Kernel = (Source, Kind, &'static str);

/// Element type of a module's activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    F32,
    Bf16,
}

const COMMON: &str = include_str!("../../kernels/common.cuh");

impl Source {
    const ALL: [Source; 16] = [
        Source::Elementwise,
        Source::Gates,
        Source::Norm,
        Source::Rows,
        Source::Lora,
        Source::LoraMma,
        Source::LoraDrop,
        Source::Loss,
        Source::Optim,
        Source::Attention,
        Source::AttentionMma32,
        Source::AttentionMma64,
        Source::AttentionMma128,
        Source::Decode,
        Source::Residual,
        Source::Vocabulary,
    ];

    fn text(self) -> &'static str {
        match self {
            Source::Elementwise => include_str!("../../kernels/elementwise.cu"),
            Source::Gates => include_str!("../../kernels/gates.cu"),
            Source::Norm => include_str!("../../kernels/norm.cu"),
            Source::Rows => include_str!("../../kernels/rows.cu"),
            Source::Lora => include_str!("../../kernels/lora.cu"),
            Source::LoraMma => include_str!("../../kernels/lora_mma.cu"),
            Source::LoraDrop => include_str!("../../kernels/lora_drop.cu"),
            Source::Loss => include_str!("../../kernels/loss.cu"),
            Source::Optim => include_str!("../../kernels/optim.cu"),
            Source::Attention => include_str!("../../kernels/attention.cu"),
            Source::Decode => include_str!("../../kernels/decode.cu"),
            Source::AttentionMma32 | Source::AttentionMma64 | Source::AttentionMma128 => {
                include_str!("../../kernels/attention_mma.cu")
            }
            Source::Residual => include_str!("../../kernels/residual.cu"),
            Source::Vocabulary => include_str!("../../kernels/vocabulary.cu"),
        }
    }

    /// The head size that the source is compiled for.
    fn head(self) -> Option<usize> {
        match self {
            Source::AttentionMma32 => Some(32),
            Source::AttentionMma64 => Some(64),
            Source::AttentionMma128 => Some(128),
            _ => None,
        }
    }

    /// Attention on tensor cores for a head size, if there is one.
    pub(crate) fn attention_mma(dim: usize) -> Option<Self> {
        Source::ALL.into_iter().find(|source| source.head() == Some(dim))
    }

    fn kinds(self) -> &'static [Kind] {
        match self {
            Source::Optim | Source::Gates => &[Kind::F32],
            Source::LoraMma | Source::LoraDrop => &[Kind::Bf16],
            _ if self.head().is_some() => &[Kind::Bf16],
            _ => &[Kind::F32, Kind::Bf16],
        }
    }

    fn options(self, kind: Kind, architecture: &str) -> Vec<String> {
        let mut options = vec![format!("--gpu-architecture={architecture}"), "--std=c++17".to_owned()];
        if kind == Kind::Bf16 {
            options.push("-DNARROW".to_owned());
        }
        if let Some(head) = self.head() {
            options.push(format!("-DHEAD={head}"));
        }
        if self == Source::Optim {
            options.push("--fmad=false".to_owned());
        }
        options
    }
}

/// FNV-1a over the text and options: another source is another name.
fn fingerprint(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Compiles one source.
fn compile(source: Source, kind: Kind, architecture: &str) -> Result<Vec<u8>> {
    const OP: &str = "NVRTC";
    let failed = |message: String| Error::Cuda { op: OP, message };
    let text = format!("{COMMON}\n#line 1 \"{source:?}\"\n{}", source.text());
    let text = CString::new(text).map_err(|e| failed(e.to_string()))?;
    let program = nvrtc::create_program(&text, None).map_err(|e| failed(format!("{e:?}")))?;
    let options = source.options(kind, architecture);
    // SAFETY: the program was just created and is destroyed below, once.
    let image = unsafe {
        match nvrtc::compile_program(program, &options) {
            Ok(()) => {
                let mut size = 0;
                nvrtc_sys::nvrtcGetCUBINSize(program, &raw mut size)
                    .result()
                    .and_then(|()| {
                        let mut image = vec![0u8; size];
                        nvrtc_sys::nvrtcGetCUBIN(program, image.as_mut_ptr().cast()).result()?;
                        Ok(image)
                    })
                    .map_err(|e| failed(format!("{e:?}")))
            }
            Err(error) => {
                let log = nvrtc::get_program_log(program).unwrap_or_default();
                let log: String = log
                    .iter()
                    .map(|&c| char::from(c as u8))
                    .filter(|&c| c != '\0')
                    .collect();
                Err(failed(format!("{source:?} for {architecture}: {error:?}: {log}")))
            }
        }
    };
    // SAFETY: as above.
    let destroyed = unsafe { nvrtc::destroy_program(program) };
    destroyed.map_err(|e| failed(format!("{e:?}")))?;
    image
}

/// All modules of a device, and the functions looked up so far.
pub(crate) struct Modules {
    modules: HashMap<(Source, Kind), sys::CUmodule>,
    functions: RwLock<HashMap<(Source, Kind, &'static str), sys::CUfunction>>,
    /// Bytes of shared memory that a block may ask for beside what its kernel declares.
    pub(crate) shared: i32,
}

impl Modules {
    /// Loads every module, compiling side by side what the cache does not hold. The context must be current.
    pub(crate) fn load(architecture: &str, shared: i32, cache: Option<&dyn KernelCache>) -> Result<Self> {
        let wanted: Vec<(Source, Kind)> = Source::ALL
            .iter()
            .flat_map(|source| source.kinds().iter().map(|kind| (*source, *kind)))
            .collect();
        let name = |(source, kind): (Source, Kind)| {
            let options = source.options(kind, architecture).join(" ");
            let print = fingerprint(&[COMMON, source.text(), &options]);
            format!("{source:?}-{kind:?}-{architecture}-{print:016x}.cubin").to_lowercase()
        };
        let images: Vec<Result<Vec<u8>>> = std::thread::scope(|scope| {
            let handles: Vec<_> = wanted
                .iter()
                .map(|&(source, kind)| {
                    let name = name((source, kind));
                    scope.spawn(move || {
                        if let Some(image) = cache.and_then(|cache| cache.load(&name)) {
                            return Ok(image);
                        }
                        let image = compile(source, kind, architecture)?;
                        if let Some(cache) = cache {
                            cache.store(&name, &image);
                        }
                        Ok(image)
                    })
                })
                .collect();
            let panicked = || {
                Err(Error::Cuda {
                    op: "NVRTC",
                    message: "the compiling thread ended early".to_owned(),
                })
            };
            handles
                .into_iter()
                .map(|handle| handle.join().unwrap_or_else(|_| panicked()))
                .collect()
        });
        let mut modules = HashMap::new();
        for (key, image) in wanted.into_iter().zip(images) {
            let image = image?;
            // SAFETY: the image is a complete cubin that NVRTC made (the cache's names hold its fingerprint).
            let module = unsafe { driver::module::load_data(image.as_ptr().cast()) };
            modules.insert(key, module.map_err(|e| driver_error("load_module", e))?);
        }
        Ok(Modules {
            modules,
            functions: RwLock::default(),
            shared,
        })
    }

    /// A kernel by name.
    pub(crate) fn function(&self, source: Source, kind: Kind, name: &'static str) -> Result<sys::CUfunction> {
        let key = (source, kind, name);
        if let Some(function) = self.functions.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(*function);
        }
        let missing = || Error::Cuda {
            op: name,
            message: "there is no such kernel for this element type".to_owned(),
        };
        let module = *self.modules.get(&(source, kind)).ok_or_else(missing)?;
        let symbol = CString::new(name).map_err(|_| missing())?;
        // SAFETY: modules are never unloaded; the attribute only raises a limit that every supported device has.
        let function = unsafe {
            let function = driver::module::get_function(module, symbol).map_err(|e| driver_error(name, e))?;
            let most = match source {
                Source::Attention | Source::LoraMma | Source::LoraDrop | Source::Vocabulary => self.shared,
                _ if source.head().is_some() => self.shared + DECLARED,
                _ => 0,
            };
            if most > 0 {
                let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                driver::function::set_function_attribute(function, attribute, most)
                    .map_err(|e| driver_error(name, e))?;
            }
            function
        };
        let mut functions = self.functions.write().unwrap_or_else(PoisonError::into_inner);
        functions.insert(key, function);
        Ok(function)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_source_or_option_has_another_fingerprint() {
        assert_ne!(fingerprint(&["ab", "c"]), fingerprint(&["a", "bc"]));
        assert_ne!(fingerprint(&["a"]), fingerprint(&["b"]));
    }

    #[test]
    fn every_file_has_its_kinds() {
        for source in Source::ALL {
            assert!(
                !source.kinds().is_empty() && source.text().contains("__global__"),
                "{source:?}"
            );
        }
    }
}
