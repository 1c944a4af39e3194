//! Which device models are built on: chosen once for the whole program, before the first model.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use dylora_nn::tensor::{Device, KernelCache};

use crate::error::{Error, Result};
use crate::settings::Precision;

/// A device by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU where there is an NVIDIA driver with one, the CPU otherwise.
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU with this number.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        let number = word.strip_prefix("cuda:").and_then(|number| number.parse().ok());
        match (word, number) {
            ("auto", _) => Ok(DeviceChoice::Auto),
            ("cpu", _) => Ok(DeviceChoice::Cpu),
            ("cuda", _) => Ok(DeviceChoice::Cuda(0)),
            (_, Some(number)) => Ok(DeviceChoice::Cuda(number)),
            _ => Err(Error::argument(
                "--device",
                format!("{word:?} is not auto, cpu or cuda:N"),
            )),
        }
    }
}

/// What was chosen; the CPU until then.
static CHOSEN: Mutex<Chosen> = Mutex::new(Chosen {
    cuda: None,
    kernels: None,
});

struct Chosen {
    cuda: Option<usize>,
    kernels: Option<PathBuf>,
}

/// Chooses the device of all models that are built from now on. `kernels` is the directory that keeps compiled GPU
/// kernels between runs.
///
/// # Errors
/// One sentence about what a GPU needs and is not there: the driver, NVRTC or cuBLAS by the library's name, or the device.
pub fn select(choice: DeviceChoice, kernels: Option<&Path>) -> Result<()> {
    let cuda = match choice {
        DeviceChoice::Cpu => None,
        DeviceChoice::Auto if Device::count_cuda() == 0 => None,
        DeviceChoice::Auto => Some(0),
        DeviceChoice::Cuda(number) => Some(number),
    };
    if let Some(number) = cuda {
        // What is missing is said before any file is read.
        Device::probe_cuda(number)?;
    }
    *CHOSEN.lock().unwrap_or_else(PoisonError::into_inner) = Chosen {
        cuda,
        kernels: kernels.map(Path::to_owned),
    };
    Ok(())
}

/// What models compute in where nobody says: f32 on the CPU, bf16 on a GPU.
pub fn default_precision() -> Precision {
    match CHOSEN.lock().unwrap_or_else(PoisonError::into_inner).cuda {
        Some(_) => Precision::Bf16,
        None => Precision::F32,
    }
}

/// The precision in which a trained run is used here: its own, or f32 where a GPU's was chosen and there is none.
pub(crate) fn to_use(trained: Precision) -> Precision {
    let cuda = CHOSEN.lock().unwrap_or_else(PoisonError::into_inner).cuda;
    match (cuda, trained) {
        (None, Precision::Bf16 | Precision::Tf32) | (Some(_), Precision::F64) => Precision::F32,
        _ => trained,
    }
}

/// A device for one model: what is counted per device is counted for that model alone.
///
/// # Errors
/// If the device cannot be had, or does not compute in this precision.
pub(crate) fn open(precision: Precision) -> Result<Device> {
    let (cuda, kernels) = {
        let chosen = CHOSEN.lock().unwrap_or_else(PoisonError::into_inner);
        (chosen.cuda, chosen.kernels.clone())
    };
    let Some(number) = cuda else {
        return match precision {
            Precision::F32 | Precision::F64 => Ok(Device::cpu()),
            Precision::Tf32 | Precision::Bf16 => Err(Error::argument(
                "--precision",
                "tf32 and bf16 need a GPU; the CPU computes in f32 and f64",
            )),
        };
    };
    if precision == Precision::F64 {
        return Err(Error::argument(
            "--precision",
            "f64 is computed on the CPU only; use --device cpu",
        ));
    }
    let cache = kernels.map(|dir| Kernels { dir });
    let device = Device::cuda(number, cache.as_ref().map(|cache| cache as &dyn KernelCache))?;
    if let Device::Cuda(cuda) = &device {
        cuda.set_tf32(precision == Precision::Tf32);
    }
    Ok(device)
}

/// Compiled kernels as files of a directory.
struct Kernels {
    dir: PathBuf,
}

impl KernelCache for Kernels {
    fn load(&self, name: &str) -> Option<Vec<u8>> {
        fs::read(self.dir.join(name)).ok()
    }

    /// Written under another name and renamed; a directory that cannot be written costs seconds at the next start.
    fn store(&self, name: &str, image: &[u8]) {
        let write = || -> std::io::Result<()> {
            fs::create_dir_all(&self.dir)?;
            let part = self.dir.join(format!("{name}.{}.part", std::process::id()));
            fs::write(&part, image)?;
            fs::rename(part, self.dir.join(name))
        };
        if let Err(error) = write() {
            tracing::debug!("compiled kernels are not kept in {}: {error}", self.dir.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_named_auto_cpu_or_cuda_with_a_number() {
        let parse = |word: &str| word.parse::<DeviceChoice>().ok();
        assert_eq!(parse("auto"), Some(DeviceChoice::Auto));
        assert_eq!(parse("cpu"), Some(DeviceChoice::Cpu));
        assert_eq!(parse("cuda"), Some(DeviceChoice::Cuda(0)));
        assert_eq!(parse("cuda:3"), Some(DeviceChoice::Cuda(3)));
        for bad in ["", "tpu", "cuda:", "cuda:x", "cuda:-1", "gpu"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_cpu_says_what_it_does_not_compute_in() {
        for precision in [Precision::Tf32, Precision::Bf16] {
            assert!(open(precision).is_err_and(|error| error.to_string().contains("need a GPU")));
        }
        assert!(open(Precision::F64).is_ok());
    }

    #[test]
    fn a_run_of_a_gpu_is_used_on_the_cpu_in_f32() {
        assert_eq!(to_use(Precision::Bf16), Precision::F32);
        assert_eq!(to_use(Precision::Tf32), Precision::F32);
        assert_eq!(to_use(Precision::F64), Precision::F64);
        assert_eq!(default_precision(), Precision::F32);
    }

    #[test]
    fn compiled_kernels_are_found_again() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let kernels = Kernels {
            dir: dir.path().join("new/kernels"),
        };
        assert_eq!(kernels.load("a.cubin"), None);
        kernels.store("a.cubin", b"image");
        assert_eq!(kernels.load("a.cubin").as_deref(), Some(&b"image"[..]));
        assert_eq!(fs::read_dir(&kernels.dir)?.count(), 1);
        Ok(())
    }
}
