//! Prompts and targets as ids.

use std::path::Path;

use dylora_tasks::generation::prompt::{PromptEncoder, Truncated};
use dylora_tasks::generation::{GenerationTask, Group, Pair};
use dylora_tasks::task::Split;
use dylora_tasks::tokens::TokenizerSource;

use crate::common::sentence;
use crate::real_data;

/// A byte-level tokenizer without merges: every character is a token, `Ġ` the blank.
fn letters(dir: &Path, special: &[&str]) -> TokenizerSource {
    let letters = "abcdefghijklmnopqrstuvwxyz.:|Ġ"
        .chars()
        .map(|letter| letter.to_string());
    let tokens = special.iter().map(|token| (*token).to_owned()).chain(letters);
    let vocab: serde_json::Map<_, _> = tokens.enumerate().map(|(id, token)| (token, id.into())).collect();
    std::fs::write(dir.join("vocab.json"), serde_json::to_string(&vocab).unwrap()).unwrap();
    std::fs::write(dir.join("merges.txt"), "#version: 0.2\n").unwrap();
    TokenizerSource::from_model_dir(dir).unwrap()
}

fn pair<'a>(context: &str, target: &'a str) -> Pair<'a> {
    Pair {
        context: context.to_owned(),
        target: target.into(),
        category: None,
    }
}

fn group(context: &str) -> Group<'_> {
    Group {
        context: context.to_owned(),
        references: Vec::new(),
        category: None,
    }
}

/// Ids back to text, the end as `#`, the blank as `_`.
fn spell(ids: &[i32]) -> String {
    let letters: Vec<char> = "#abcdefghijklmnopqrstuvwxyz.:|_".chars().collect();
    ids.iter().map(|&id| letters[id as usize]).collect()
}

#[test]
fn the_loss_is_on_the_target_and_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = letters(dir.path(), &["<|endoftext|>"]);
    let encoder = PromptEncoder::new(&tokenizer, 32).unwrap();
    let (rows, truncated) = encoder.pairs(&[pair("a : b", "cd."), pair("x", "")]).unwrap();
    assert_eq!(truncated, Truncated::default());
    assert_eq!(spell(&rows[0].ids), "a_:_b#_cd.#");
    assert_eq!(spell(&rows[0].ids[rows[0].ids.len() - rows[0].predicted..]), "_cd.#");
    assert_eq!(spell(&rows[1].ids), "x#_#");
    let (prompts, truncated) = encoder.prompts(&[group("a : b")], 8).unwrap();
    assert_eq!(
        (spell(&prompts[0]).as_str(), truncated),
        ("a_:_b#", Truncated::default())
    );
    assert_eq!(encoder.end(), 0);
}

#[test]
fn what_does_not_fit_is_cut_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = letters(dir.path(), &["<|endoftext|>"]);
    let encoder = PromptEncoder::new(&tokenizer, 8).unwrap();
    let rows = [
        pair("abc", "xy"),
        pair("abcdef", "xy"),
        pair("ab", "uvwxyz"),
        pair("", "qrstuvwxyz"),
    ];
    let (rows, truncated) = encoder.pairs(&rows).unwrap();
    let spelled: Vec<_> = rows.iter().map(|row| (spell(&row.ids), row.predicted)).collect();
    let expected = [("abc#_xy#", 4), ("def#_xy#", 4), ("#_uvwxyz", 7), ("#_qrstuv", 7)];
    assert_eq!(spelled, expected.map(|(ids, predicted)| (ids.to_owned(), predicted)));
    // 3 of a prompt; the end of a target with 2 of its prompt; 4 letters and the end of a target.
    let counted = Truncated {
        prompts: 2,
        targets: 2,
        tokens: 3 + 1 + 2 + 5,
    };
    assert_eq!(truncated, counted);
    assert_eq!(
        truncated.to_string(),
        "2 prompts and 2 targets did not fit and lost 11 tokens"
    );
    let (prompts, truncated) = encoder.prompts(&[group("abc"), group("abcdef")], 4).unwrap();
    assert_eq!(
        (spell(&prompts[0]), spell(&prompts[1])),
        ("abc#".to_owned(), "def#".to_owned())
    );
    assert_eq!((truncated.prompts, truncated.targets, truncated.tokens), (1, 0, 3));
    assert_eq!(
        encoder.prompts(&[], 8).unwrap_err().to_string(),
        "new_tokens: 8 leaves no room for a prompt in a context of 8"
    );
}

#[test]
fn other_tokenizers_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let without = letters(dir.path(), &["<end>"]);
    assert_eq!(
        sentence(PromptEncoder::new(&without, 8)),
        "cannot load a tokenizer from tokenizer: it has no <|endoftext|>; a GPT-2 tokenizer is needed"
    );
    let roberta = letters(dir.path(), &["<s>", "</s>", "<|endoftext|>"]);
    assert!(sentence(PromptEncoder::new(&roberta, 8)).contains("special tokens around a text"));
    let tokenizer = letters(dir.path(), &["<|endoftext|>"]);
    assert!(sentence(PromptEncoder::new(&tokenizer, 1)).starts_with("max_length: 1 has no room"));
}

/// With GPT-2's own tokenizer: ids written down from its vocabulary, and no row of the real files is too long for 512 tokens.
#[test]
fn gpt2_real_files() {
    let Some(data) = real_data("GPT-2's tokenizer on the real generation files") else {
        return;
    };
    let tokenizer = TokenizerSource::from_model_dir(&data.join("tokenizers/gpt2")).unwrap();
    let encoder = PromptEncoder::new(&tokenizer, 512).unwrap();
    assert_eq!(encoder.end(), 50256);
    let (rows, _) = encoder.pairs(&[pair("Hello world", "world")]).unwrap();
    assert_eq!(
        (rows[0].ids.as_slice(), rows[0].predicted),
        ([15496, 995, 50256, 995, 50256].as_slice(), 2)
    );
    for (task, split) in [
        (GenerationTask::E2e, Split::Test),
        (GenerationTask::WebNlg, Split::Test),
        (GenerationTask::Dart, Split::Dev),
        (GenerationTask::Dart, Split::Test),
    ] {
        let corpus = task.load(&data, split).unwrap();
        let (pairs, groups) = (corpus.pairs(), corpus.groups());
        let (rows, truncated) = encoder.pairs(&pairs).unwrap();
        assert_eq!(
            (rows.len(), truncated),
            (pairs.len(), Truncated::default()),
            "{task} {split}"
        );
        assert!(
            rows.iter()
                .all(|row| row.predicted > 1 && row.ids[row.ids.len() - row.predicted - 1] == 50256)
        );
        let (prompts, truncated) = encoder.prompts(&groups, 64).unwrap();
        assert_eq!(
            (prompts.len(), truncated),
            (groups.len(), Truncated::default()),
            "{task} {split}"
        );
    }
}
