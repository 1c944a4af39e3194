//! GPT-2's configuration as published, what is refused, and how many numbers are trained.

use dylora_nn::tensor::{DType, Device};
use dylora_nn::{AdapterSettings, Gelu, Gpt2Config, Gpt2LanguageModel, Result};

/// The published file of the medium size, with some fields replaced.
fn json(more: &str) -> String {
    format!(
        r#"{{"activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
            "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02,
            "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 1024, "n_head": 16,
            "n_layer": 24, "n_positions": 1024, "n_special": 0, "predict_special_tokens": true, "resid_pdrop": 0.1,
            "summary_activation": null, "vocab_size": 50257{more}}}"#
    )
}

#[test]
fn the_published_configuration_is_medium() -> Result<()> {
    let config = Gpt2Config::from_json(&json(""))?;
    assert_eq!(config, Gpt2Config::medium());
    assert_eq!((config.intermediate_size, config.activation), (4096, Gelu::Tanh));
    for config in [Gpt2Config::small(), Gpt2Config::large(), Gpt2Config::xl()] {
        assert_eq!(Gpt2Config::from_json(&config.to_json())?, config);
        assert_eq!(config.hidden_size / config.num_heads, 64);
    }
    let narrow = Gpt2Config {
        intermediate_size: 7,
        activation: Gelu::Erf,
        scale_by_layer: true,
        ..config.with_dropout(0.0)
    };
    assert_eq!(Gpt2Config::from_json(&narrow.to_json())?, narrow);
    Ok(())
}

#[test]
fn bad_values_are_named() {
    let cases = [
        (
            r#""n_head": 16"#,
            r#""n_head": 15"#,
            "n_head 15 does not divide n_embd 1024",
        ),
        (r#""n_layer": 24"#, r#""n_layer": 0"#, "n_layer 0"),
        (r#""vocab_size": 50257"#, r#""vocab_size": 100"#, "eos_token_id 50256"),
        (r#""attn_pdrop": 0.1"#, r#""attn_pdrop": 1.0"#, "attn_pdrop 1"),
        (
            r#""layer_norm_epsilon": 1e-05"#,
            r#""layer_norm_epsilon": -1"#,
            "layer_norm_epsilon -1",
        ),
        ("gelu_new", "swish", "activation_function \"swish\""),
        (
            r#""model_type": "gpt2""#,
            r#""model_type": "opt""#,
            "model_type \"opt\"",
        ),
        (r#""n_embd": 1024"#, r#""width": 1024"#, "n_embd"),
        (
            r#""n_special": 0"#,
            r#""tie_word_embeddings": false"#,
            "tie_word_embeddings",
        ),
        (
            r#""n_special": 0"#,
            r#""add_cross_attention": true"#,
            "add_cross_attention",
        ),
    ];
    for (from, to, named) in cases {
        let text = json("");
        assert!(text.contains(from), "{from}");
        let error = Gpt2Config::from_json(&text.replace(from, to)).err();
        let message = error.map(|e| e.to_string()).unwrap_or_default();
        assert!(message.contains(named), "{to}: {message:?}");
    }
    assert!(Gpt2Config::from_json("{").is_err());
}

#[test]
fn gpt2_medium_trains_393216_numbers_at_rank_4() -> Result<()> {
    // Vocabulary, positions and feed-forward width are frozen and enter no count; small ones save memory and time.
    let config = Gpt2Config {
        vocab_size: 5,
        max_positions: 6,
        intermediate_size: 4,
        eos_token_id: 4,
        ..Gpt2Config::medium()
    };
    assert_eq!((config.hidden_size, config.num_layers), (1024, 24));
    let settings = AdapterSettings::query_value(4, 32.0);
    let model = Gpt2LanguageModel::new(&Device::cpu(), DType::F32, &config, Some(&settings), None, 1)?;
    assert_eq!(model.num_trainable(4), 393_216);
    assert_eq!(model.num_trainable(1), 98_304);
    assert_eq!(model.parameters().len(), 24 * 2 * 2);
    assert_eq!(model.parameters().iter().map(|p| p.len()).sum::<usize>(), 393_216);
    Ok(())
}
