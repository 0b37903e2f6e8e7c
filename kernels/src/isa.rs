//! Instruction sets: which this CPU has, which one to use, and one folder of kernels for each, with the same file names.
//!
//! `scalar` is the definition; the others reproduce its bits. What a kernel computes is written in the scalar file.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
pub(crate) mod scalar;

use std::sync::OnceLock;

/// The environment variable that forces a tier.
const ISA_VARIABLE: &str = "POTLUCK_ISA";

/// A tier of instructions the kernels are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Portable code: the definition of every kernel.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C: nearly every PC since 2013.
    Avx2,
}

/// An instruction set that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IsaError {
    #[error(
        "{ISA_VARIABLE} is {value:?}, which is no instruction set; use one of scalar, avx2, or unset it"
    )]
    Unknown { value: String },
    #[error("this CPU lacks the instructions of {name}; set {ISA_VARIABLE}=scalar or unset it", name = isa.name())]
    Unavailable { isa: Isa },
}

impl Isa {
    pub const ALL: [Isa; 2] = [Isa::Scalar, Isa::Avx2];

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
            Isa::Avx2 => "avx2",
        }
    }

    pub fn is_available(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
