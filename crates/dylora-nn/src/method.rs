//! The named choices of a training run: method, update policy, objective and adapter targets.

use std::fmt;
use std::str::FromStr;

use dylora_autograd::RankSlice;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

macro_rules! named {
    ($(#[$doc:meta])* $type:ident, $setting:literal { $($(#[$variant_doc:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $type {
            $($(#[$variant_doc])* #[serde(rename = $name)] $variant,)*
        }

        impl $type {
            /// Every choice, in the order of the documentation.
            pub const ALL: &'static [$type] = &[$($type::$variant,)*];

            /// The name used on the command line and in records.
            pub fn name(self) -> &'static str {
                match self { $($type::$variant => $name,)* }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl FromStr for $type {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                Self::ALL.iter().copied().find(|v| v.name() == text).ok_or_else(|| {
                    let names: Vec<_> = Self::ALL.iter().map(|v| v.name()).collect();
                    Error::setting($setting, format!("{text:?} is not one of {}", names.join(", ")))
                })
            }
        }
    };
}

named! {
    /// How a model is adapted.
    Method, "method" {
        /// Low-rank adapters trained at their full rank.
        Lora = "lora",
        /// A rank b is drawn each step; ranks 1 to b learn.
        DyLora = "dylora",
        /// A rank b is drawn each step; only rank b learns.
        DyLoraFrozen = "dylora-frozen",
        /// No adapter; every weight learns.
        Full = "full",
        /// Linear layers as sums of gated rank-1 components, of which training drops a share; every weight learns.
        Flop = "flop",
    }
}

named! {
    /// What the optimizer touches of an adapter.
    Update, "update" {
        /// Values, moments, decay and step counts move only inside the slice of the step (Algorithm 1).
        Slice = "slice",
        /// The gradient is zero outside the slice, but the optimizer walks over the whole matrix (the released code).
        Dense = "dense",
    }
}

named! {
    /// What one training step minimises.
    Objective, "objective" {
        /// The loss at the drawn rank (equation 9).
        Individual = "individual",
        /// The expectation of the loss over all ranks (nested dropout, Table 7).
        Summation = "summation",
    }
}

named! {
    /// A linear layer of a block that gets an adapter.
    Target, "targets" {
        /// The query projection.
        Query = "query",
        /// The key projection.
        Key = "key",
        /// The value projection.
        Value = "value",
        /// The projection after attention.
        AttentionOutput = "attention_output",
        /// The first layer of the feed-forward part.
        Intermediate = "intermediate",
        /// The second layer of the feed-forward part.
        Output = "output",
    }
}

named! {
    /// How A starts; B always starts at zero.
    AdapterInit, "adapter_init" {
        /// Uniform in ±1 / sqrt(d): Kaiming with a = sqrt(5), as in the released code.
        KaimingUniform = "kaiming-uniform",
        /// Normal with standard deviation 1 / sqrt(d), after the paper's text.
        Gaussian = "gaussian",
    }
}

named! {
    /// What an adapter's path is multiplied by where its first b of r ranks are read.
    #[derive(Default)]
    ScaleRule, "scale" {
        /// alpha / b, so that a rank counts for more where there are fewer (DyLoRA, equation 5).
        #[default]
        OverB = "alpha/b",
        /// alpha / r, whatever b is: a cut adapter computes with the part of the sum that is left.
        OverR = "alpha/r",
        /// alpha / √b, the scale of rsLoRA (Kalajdzievski 2023, arXiv 2312.03732) at each rank.
        OverSqrtB = "alpha/sqrt-b",
    }
}

impl ScaleRule {
    /// The factor at rank `b` of `r`.
    pub fn at(self, alpha: f64, b: usize, r: usize) -> f64 {
        match self {
            ScaleRule::OverB => alpha / b as f64,
            ScaleRule::OverR => alpha / r as f64,
            ScaleRule::OverSqrtB => alpha / (b as f64).sqrt(),
        }
    }

    /// The alpha with which the factor at rank `b` of `r` is `scale`.
    pub fn alpha_for(self, scale: f64, b: usize, r: usize) -> f64 {
        match self {
            ScaleRule::OverB => scale * b as f64,
            ScaleRule::OverR => scale * r as f64,
            ScaleRule::OverSqrtB => scale * (b as f64).sqrt(),
        }
    }
}

impl Method {
    /// What a step at rank `b` of `r` reads and changes. Methods without adapters have no ranks; their slice is never used.
    pub fn slice(self, b: usize, r: usize) -> RankSlice {
        match self {
            Method::Lora | Method::Full | Method::Flop => RankSlice::full(r),
            Method::DyLora => RankSlice::prefix(b),
            Method::DyLoraFrozen => RankSlice::only(b),
        }
    }

    /// Whether the pretrained weights themselves learn, so that there is no rank.
    pub fn learns_base(self) -> bool {
        matches!(self, Method::Full | Method::Flop)
    }

    /// Whether a rank is drawn each step.
    pub fn is_dynamic(self) -> bool {
        matches!(self, Method::DyLora | Method::DyLoraFrozen)
    }
}
