//! Tests of the settings: JSON, differences, bad values.

use super::*;

fn settings() -> TrainSettings {
    TrainSettings::new("mrpc", Path::new("model"), DataSource::Glue { dir: "data".into() })
}

#[test]
fn settings_survive_json_bit_for_bit() -> std::result::Result<(), serde_json::Error> {
    let mut before = settings();
    before.lr = 0.1 + 0.2;
    before.distribution = Distribution::Geometric { p: 0.15 };
    before.seed = u64::MAX;
    let after: TrainSettings = serde_json::from_str(&serde_json::to_string(&before)?)?;
    assert_eq!(before, after);
    assert_eq!(before.difference(&after), None);
    Ok(())
}

#[test]
fn the_first_different_setting_is_named() {
    let other = TrainSettings { lr: 1e-3, ..settings() };
    let found = settings().difference(&other);
    assert_eq!(found, Some(("lr".into(), "0.0004".into(), "0.001".into())));
    // A setting that only one of them has written down does not push the others out of step.
    let other = TrainSettings {
        writing: Some(Writing::paper()),
        ..settings()
    };
    let found = other.difference(&settings()).map(|(name, _, theirs)| (name, theirs));
    assert_eq!(found, Some(("writing".into(), "null".into())));
    assert_eq!(
        settings().difference(&other).map(|(name, ..)| name),
        Some("writing".into())
    );
}

#[test]
fn each_bad_setting_is_named() {
    type Change = fn(&mut TrainSettings);
    let cases: [(&str, Change); 18] = [
        ("--rank:", |s| s.rank = 0),
        ("--rank-min", |s| s.rank_min = 0),
        ("--rank-min", |s| s.rank_min = 9),
        ("--targets", |s| s.targets.clear()),
        ("--targets", |s| s.targets.push(Target::Query)),
        ("--alpha", |s| s.alpha = 0.0),
        ("--epochs", |s| s.epochs = 0),
        ("--batch-size", |s| s.batch_size = 0),
        ("--token-budget", |s| s.token_budget = 0),
        ("--max-length", |s| s.max_length = 0),
        ("--lr", |s| s.lr = f64::NAN),
        ("--clip", |s| s.clip = -1.0),
        ("--warmup-ratio", |s| s.warmup_ratio = 1.5),
        ("--dropout", |s| s.dropout = Some(1.0)),
        ("--eval-ranks", |s| s.eval_ranks = Some(vec![])),
        ("--eval-ranks", |s| s.eval_ranks = Some(vec![1, 9])),
        ("--eval-ranks", |s| s.eval_ranks = Some(vec![1, 4, 4])),
        ("--eval-ranks", |s| (s.rank_min, s.eval_ranks) = (2, Some(vec![1, 4]))),
    ];
    assert!(settings().validate().is_ok());
    for (name, change) in cases {
        let mut bad = settings();
        change(&mut bad);
        let message = bad.validate().err().map(|e| e.to_string()).unwrap_or_default();
        assert!(message.starts_with(name), "{name}: {message:?}");
    }
}

#[test]
fn settings_that_have_their_default_are_not_written_and_not_missed() -> std::result::Result<(), serde_json::Error> {
    let text = serde_json::to_string(&settings())?;
    assert!(!text.contains("eval_ranks") && !text.contains("scale"), "{text}");
    assert_eq!(serde_json::from_str::<TrainSettings>(&text)?, settings());
    let some = TrainSettings {
        eval_ranks: Some(vec![1, 4, 8]),
        scale: ScaleRule::OverSqrtB,
        ..settings()
    };
    assert_eq!(some.validate().map_err(|error| error.to_string()), Ok(()));
    assert_eq!(some.ranks(), [1, 4, 8].map(Some));
    assert_eq!(settings().ranks(), [1, 2, 3, 4, 5, 6, 7, 8].map(Some));
    assert!(some.to_toml().contains("eval-ranks = [1,4,8]"), "{}", some.to_toml());
    assert!(
        some.to_toml().contains("scale = \"alpha/sqrt-b\""),
        "{}",
        some.to_toml()
    );
    let full = TrainSettings {
        method: Method::Full,
        ..some.clone()
    };
    assert_eq!(full.ranks(), [None]);
    assert_eq!(
        serde_json::from_str::<TrainSettings>(&serde_json::to_string(&some)?)?,
        some
    );
    Ok(())
}

#[test]
fn settings_of_flop_are_checked_and_written_where_they_differ() -> std::result::Result<(), serde_json::Error> {
    let before = settings();
    let text = serde_json::to_string(&before)?;
    assert!(
        !text.contains("sparsity") && !text.contains("gate") && !text.contains("lambda"),
        "{text}"
    );
    assert_eq!(serde_json::from_str::<TrainSettings>(&text)?, before);
    let flop = TrainSettings {
        method: Method::Flop,
        target_sparsity: 0.3,
        gate_lr: Some(0.5),
        // Adapters' settings are of no account.
        rank: 0,
        ..settings()
    };
    assert_eq!(
        serde_json::from_str::<TrainSettings>(&serde_json::to_string(&flop)?)?,
        flop
    );
    assert!(flop.validate().is_ok());
    assert_eq!((flop.ranks(), flop.adapter()), (vec![None], None));
    assert_eq!(flop.gate_rates(400), (0.5, 0.03));
    assert!(
        flop.to_toml().contains("target-sparsity = 0.3\ngate-lr = 0.5\n"),
        "{}",
        flop.to_toml()
    );
    type Change = fn(&mut TrainSettings);
    let cases: [(&str, Change); 7] = [
        ("--target-sparsity", |s| s.target_sparsity = 1.0),
        ("--target-sparsity", |s| s.target_sparsity = -0.1),
        ("--sparsity-warmup", |s| s.sparsity_warmup = 1.1),
        ("--gate-init", |s| s.gate_init = 0.0),
        ("--gate-lr", |s| s.gate_lr = Some(f64::NAN)),
        ("--lambda-lr", |s| s.lambda_lr = Some(-1.0)),
        ("--method", |s| s.data = DataSource::Generation { dir: "data".into() }),
    ];
    for (name, change) in cases {
        let mut bad = flop.clone();
        change(&mut bad);
        let message = bad.validate().err().map(|e| e.to_string()).unwrap_or_default();
        assert!(message.starts_with(name), "{name}: {message:?}");
        bad.method = Method::Lora;
        bad.rank = 8;
        assert!(bad.validate().is_ok(), "{name} is a setting of flop alone");
    }
    Ok(())
}

#[test]
fn warm_up_is_rounded_up_and_can_be_given() {
    let mut settings = settings();
    assert_eq!(settings.warmup(3450), 207);
    assert_eq!(settings.warmup(3451), 208);
    settings.warmup_steps = Some(5);
    assert_eq!(settings.warmup(3450), 5);
}
