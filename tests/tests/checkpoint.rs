//! Checkpoints in every layout open, name their tensors alike and give their bytes.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use mlx_llamba::checkpoint::Layout;
use mlx_llamba::mlx::Dtype;
use mlx_llamba::quantize::{QuantizeOptions, quantize};
use mlx_llamba::{Checkpoint, Llamba};
use mlx_llamba_tests::fixtures::{self, CARTESIA, PYTORCH};
use safetensors::SafeTensors;

fn open(path: impl AsRef<Path>) -> Checkpoint {
    Checkpoint::open(path).unwrap()
}

/// Every array equals the bytes that the `safetensors` crate finds under its stored name.
fn assert_same_bytes(checkpoint: &Checkpoint, file: &Path) {
    let bytes = std::fs::read(file).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let mut seen = 0;
    for (name, tensor) in checkpoint.tensors() {
        let array = checkpoint.array(name).unwrap();
        array.eval().unwrap();
        let shape: Vec<usize> = array.shape().iter().map(|&n| n as usize).collect();
        let dtype = format!("{:?}", array.dtype()).to_lowercase();
        assert_eq!((&shape[..], dtype), (tensor.shape(), tensor.dtype_name()), "{name}");
        assert_eq!(array.nbytes(), tensor.bytes().len());
        let expected = stored.tensor(tensor.name()).unwrap();
        assert_eq!(array_bytes(&array), expected.data(), "{name}");
        seen += 1;
    }
    assert_eq!(seen, stored.len(), "every tensor is used");
}

fn array_bytes(array: &mlx_rs::Array) -> Vec<u8> {
    use mlx_rs::Dtype;
    match array.dtype() {
        Dtype::Float32 => array.as_slice::<f32>().iter().flat_map(|v| v.to_le_bytes()).collect(),
        Dtype::Uint32 => array.as_slice::<u32>().iter().flat_map(|v| v.to_le_bytes()).collect(),
        Dtype::Uint8 => array.as_slice::<u8>().to_vec(),
        _ => {
            let bits = array.view_dtype(Dtype::Uint16).unwrap();
            bits.eval().unwrap();
            bits.as_slice::<u16>().iter().flat_map(|v| v.to_le_bytes()).collect()
        }
    }
}

#[test]
fn pytorch_fixtures_open_with_every_tensor() {
    for name in PYTORCH {
        let path = fixtures::path(name);
        let checkpoint = open(&path);
        assert_eq!(checkpoint.layout(), Layout::PyTorch);
        assert_same_bytes(&checkpoint, &path.join("model.safetensors"));
    }
}

#[test]
fn cartesia_fixtures_open_by_directory_and_by_file() {
    for name in CARTESIA {
        let file = fixtures::path(name).join("model.safetensors");
        for path in [fixtures::path(name), file.clone()] {
            let checkpoint = open(&path);
            assert_eq!(checkpoint.layout(), Layout::CartesiaMlx);
            assert_eq!(checkpoint.path(), path);
            assert_same_bytes(&checkpoint, &file);
        }
    }
}

#[test]
fn cartesia_sizes_come_from_the_tensors() {
    let checkpoint = open(fixtures::path("m_mlx_4bit"));
    let config = checkpoint.config();
    let dims = config.dims();
    assert_eq!((dims.h, dims.g, dims.p, dims.n, dims.k), (4, 4, 16, 16, 4));
    assert_eq!((config.vocab_size, config.d_model, config.n_layer), (256, 64, 2));
    // head.output_dim = 50288 in the header is left over from another model.
    assert_eq!((config.padded_vocab(), config.tie_embeddings), (256, false));
    assert_eq!(config.eos, [255]);
    assert_eq!(config.tokenizer.as_deref(), Some("meta-llama/Llama-3.2-1B"));
    let scheme = checkpoint.scheme("backbone.layers.1.mlp.down_proj").unwrap();
    assert_eq!((scheme.group_size, scheme.bits), (64, 4));
    assert_eq!(checkpoint.scheme("backbone.embedding"), None);
    assert!(checkpoint.contains("lm_head.scales") && !checkpoint.contains("head.linear.scales"));
}

#[test]
fn the_misnamed_projections_of_the_mlp_are_told_apart() {
    let checkpoint = open(fixtures::path("m_mlx_f32"));
    let stored = |part: &str| {
        let name = format!("backbone.layers.1.mlp.{part}_proj.weight");
        checkpoint.tensor(&name).unwrap().name().to_owned()
    };
    assert_eq!(stored("gate"), "model.layers.3.layer.in_proj.weight");
    assert_eq!(stored("up"), "model.layers.3.layer.gate_proj.weight");
    assert_eq!(stored("down"), "model.layers.3.layer.out_proj.weight");
}

#[test]
fn convolutions_have_two_axes_in_every_layout() {
    for name in ["a_base", "m_mlx_f32"] {
        let array = open(fixtures::path(name)).array("backbone.layers.0.mixer.conv1d.weight");
        assert_eq!(array.unwrap().shape(), [192, 4]);
    }
}

#[test]
fn arrays_outlive_their_checkpoint_and_can_be_read_again() {
    let checkpoint = open(fixtures::path("a_base"));
    let name = "backbone.embedding.weight";
    let (first, second) = (checkpoint.array(name).unwrap(), checkpoint.array(name).unwrap());
    drop(checkpoint);
    assert_eq!(array_bytes(&first), array_bytes(&second));
}

#[test]
fn a_sharded_checkpoint_is_the_same_checkpoint() {
    let whole = open(fixtures::path("a_base"));
    let directory = fixtures::copy("a_base");
    shard(directory.path(), 3);
    let sharded = open(directory.path());
    assert_eq!(sharded.files().count(), 3);
    assert_eq!(sharded.fingerprint(), whole.fingerprint());
    for (name, _) in whole.tensors() {
        let (a, b) = (whole.array(name).unwrap(), sharded.array(name).unwrap());
        assert_eq!(array_bytes(&a), array_bytes(&b));
    }
}

/// Deals the tensors of `model.safetensors` out to `count` files with an index.
fn shard(directory: &Path, count: usize) {
    let file = directory.join("model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut map = serde_json::Map::new();
    for i in 0..count {
        let name = format!("model-{:05}-of-{count:05}.safetensors", i + 1);
        let mine: Vec<_> = tensors.iter().skip(i).step_by(count).collect();
        map.extend(mine.iter().map(|(tensor, _)| ((*tensor).to_owned(), name.clone().into())));
        safetensors::serialize_to_file(mine, None, &directory.join(name)).unwrap();
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": map});
    std::fs::write(directory.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

#[test]
fn fingerprints_tell_models_apart() {
    let mut prints: Vec<String> = PYTORCH
        .iter()
        .chain(&CARTESIA)
        .map(|name| open(fixtures::path(name)).fingerprint())
        .collect();
    // a_base and m_mlx_f32 were made from the same seed: the same arrays, in two layouts.
    assert_eq!(prints[0], prints[5]);
    prints.sort_unstable();
    prints.dedup();
    assert_eq!(prints.len(), PYTORCH.len() + CARTESIA.len() - 1);

    let directory = fixtures::copy("a_base");
    fixtures::edit(&directory.path().join("model.safetensors"), |_, data| {
        let last = data.len() - 1;
        data[last] ^= 1;
    });
    let edited = open(directory.path()).fingerprint();
    assert!(!prints.contains(&edited));
}

#[test]
fn the_size_of_weights_follows_from_the_configuration() {
    for (name, bits, float_bytes) in [("a_base", None, 4), ("b_grouped", None, 4)] {
        let checkpoint = open(fixtures::path(name));
        let bytes = checkpoint.config().weight_bytes(bits, float_bytes);
        assert_eq!(bytes, checkpoint.tensor_bytes(), "{name}");
    }
    // The published form of a quantized model: groups of 64, everything else in half precision.
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("small");
    let options = QuantizeOptions::default().requantize(true).dtype(Dtype::Float16);
    quantize(&Llamba::embedded().checkpoint().unwrap(), &output, &options).unwrap();
    let checkpoint = open(&output);
    assert_eq!(checkpoint.config().weight_bytes(Some(4), 2), checkpoint.tensor_bytes());
}
