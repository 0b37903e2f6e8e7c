//! Instruction sets: which this CPU has, which one to use, and the kernels.
//!
//! `scalar` is the definition: what a kernel computes is written there. `lanes` holds the same kernels for vectors, in files of the
//! same names, over the operations of `simd`, which `avx2`, `avx512` and `neon` implement.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub(crate) mod lanes;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
pub(crate) mod scalar;
pub(crate) mod simd;

#[cfg(target_arch = "aarch64")]
use std::arch::is_aarch64_feature_detected;
use std::sync::OnceLock;

/// The environment variable that forces a tier.
const ISA_VARIABLE: &str = "POTLUCK_ISA";

/// The most rows that a tile of packed weights has on any tier.
pub(crate) const MAX_TILE_ROWS: usize = 16;

/// A tier of instructions the kernels are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Portable code: the definition of every kernel.
    Scalar,
    /// Every 64-bit ARM: Raspberry Pi 3 and 4.
    Neon,
    /// The same with dot products of bytes: Raspberry Pi 5, Apple's M1, Graviton 2, and later.
    Dotprod,
    /// The same with products of matrices of bytes: Apple's M2, Graviton 3, Snapdragon X, and later.
    I8mm,
    /// x86-64 with AVX2, FMA and F16C: nearly every PC since 2013.
    Avx2,
    /// The same with the byte products of AVX-VNNI: Intel's PCs since Alder Lake, AMD's since Zen 5.
    AvxVnni,
    /// x86-64 with AVX-512 F, BW, VL, DQ and VNNI: Ice Lake, Zen 4 and later.
    Avx512,
}

/// An instruction set that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IsaError {
    #[error(
        "{ISA_VARIABLE} is {value:?}, which is no instruction set; use one of {}, or unset it",
        Isa::ALL.map(Isa::name).join(", ")
    )]
    Unknown { value: String },
    #[error("this CPU lacks the instructions of {name}; set {ISA_VARIABLE}=scalar or unset it", name = isa.name())]
    Unavailable { isa: Isa },
}

impl Isa {
    /// From the plainest to the best of each architecture.
    pub const ALL: [Isa; 7] = [
        Isa::Scalar,
        Isa::Neon,
        Isa::Dotprod,
        Isa::I8mm,
        Isa::Avx2,
        Isa::AvxVnni,
        Isa::Avx512,
    ];

    /// The best tier this CPU has. Looked up once.
    pub fn detect() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| {
            Isa::ALL
                .into_iter()
                .rev()
                .find(|isa| isa.is_available())
                .unwrap_or(Isa::Scalar)
        })
    }

    /// The tier that `POTLUCK_ISA` names, or the best one if it is unset or empty.
    pub fn from_env() -> Result<Isa, IsaError> {
        match std::env::var_os(ISA_VARIABLE) {
            Some(value) if !value.is_empty() => Isa::from_name(&value.to_string_lossy()),
            _ => Ok(Isa::detect()),
        }
    }

    /// The tier called `name`, if this CPU has it.
    pub fn from_name(name: &str) -> Result<Isa, IsaError> {
        let isa = Isa::ALL.into_iter().find(|isa| isa.name() == name);
        let isa = isa.ok_or_else(|| IsaError::Unknown {
            value: name.to_owned(),
        })?;
        if isa.is_available() {
            Ok(isa)
        } else {
            Err(IsaError::Unavailable { isa })
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Neon => "neon",
            Isa::Dotprod => "dotprod",
            Isa::I8mm => "i8mm",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avxvnni",
            Isa::Avx512 => "avx512",
        }
    }

    #[cfg(target_arch = "x86_64")]
    pub fn is_available(self) -> bool {
        let avx2 = || {
            is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
        };
        match self {
            Isa::Scalar => true,
            Isa::Neon | Isa::Dotprod | Isa::I8mm => false,
            Isa::Avx2 => avx2(),
            Isa::AvxVnni => avx2() && is_x86_feature_detected!("avxvnni"),
            Isa::Avx512 => {
                avx2()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vnni")
            }
        }
    }

    #[cfg(target_arch = "aarch64")]
    pub fn is_available(self) -> bool {
        let neon = || is_aarch64_feature_detected!("neon");
        let dotprod = || neon() && is_aarch64_feature_detected!("dotprod");
        match self {
            Isa::Scalar => true,
            Isa::Neon => neon(),
            Isa::Dotprod => dotprod(),
            Isa::I8mm => dotprod() && is_aarch64_feature_detected!("i8mm"),
            Isa::Avx2 | Isa::AvxVnni | Isa::Avx512 => false,
        }
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub fn is_available(self) -> bool {
        self == Isa::Scalar
    }

    /// Rows of a tile of packed weights: the f32 lanes of a vector.
    pub fn tile_rows(self) -> usize {
        match self {
            Isa::Scalar | Isa::Neon | Isa::Dotprod | Isa::I8mm | Isa::Avx2 | Isa::AvxVnni => 8,
            Isa::Avx512 => 16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So that whoever sets the variable for a run of the tests knows that they test that tier.
    #[test]
    fn the_tier_of_the_environment_is_there() {
        if let Err(error) = Isa::from_env() {
            panic!("{error}");
        }
    }

    #[test]
    fn names_are_found_again() {
        assert_eq!(Isa::from_name("scalar"), Ok(Isa::Scalar));
        assert_eq!(
            Isa::from_name("mmx"),
            Err(IsaError::Unknown {
                value: "mmx".to_owned()
            })
        );
        assert!(Isa::detect().is_available());
        assert_eq!(Isa::from_name(Isa::detect().name()), Ok(Isa::detect()));
    }
}
