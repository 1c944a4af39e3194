//! Elements that a device copies to the host while nobody waits.

use crate::cuda;
use crate::error::Result;

/// Elements on their way to the host: what [`Tensor::to_host_later`](crate::Tensor::to_host_later) gives.
pub struct Later(pub(super) Arrival);

pub(super) enum Arrival {
    Here(Vec<f64>),
    OnItsWay(cuda::Arriving),
}

impl Later {
    /// Whether the elements are here already, as they always are from the CPU.
    pub fn is_here(&self) -> bool {
        matches!(self.0, Arrival::Here(_))
    }

    /// Waits for the elements, as f64.
    ///
    /// # Errors
    /// What a GPU reports about the work before the copy.
    pub fn wait(self) -> Result<Vec<f64>> {
        match self.0 {
            Arrival::Here(values) => Ok(values),
            Arrival::OnItsWay(arriving) => Ok(arriving.wait()?.into_iter().map(f64::from).collect()),
        }
    }
}

impl std::fmt::Debug for Later {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Arrival::Here(_) => "elements on the host",
            Arrival::OnItsWay(_) => "elements on their way to the host",
        })
    }
}
