//! What `dylora reproduce` runs on, and with which settings: the only file that tells one profile from another.
//!
//! A profile gives two directories, a recipe and words for the table. What follows is the same plan, trainer, evaluation and
//! table for all of them.

use std::path::{Path, PathBuf};

use dylora_tasks::experiment::{FULL_LR, PAPER_SEEDS, PAPER_TEXT_SEEDS};
use dylora_tasks::generation::GenerationTask;
use dylora_tasks::nn::{EncoderConfig, Family, Gpt2Config, Update};
use dylora_tasks::settings::{DataSource, Optimizer, TrainSettings};
use dylora_tasks::study::{Recipe, Sheet, Study};
use dylora_tasks::table::Caption;
use dylora_tasks::tables::{Kind, TableSpec};
use dylora_tasks::task::Split;
use serde_json::Value;

use crate::args::absolute;
use crate::embedded;
use crate::failure::Failure;
use crate::fetch::{self, Bar};

/// Passes over the training rows.
const MINI_EPOCHS: u32 = 5;
/// Peak learning rate of the adapters.
const MINI_LR: f64 = 2e-3;
/// Peak learning rate of fine-tuning.
const MINI_FULL_LR: f64 = 5e-4;
/// The first two of the paper's seeds.
const MINI_SEEDS: [u64; 2] = [PAPER_SEEDS[0], PAPER_SEEDS[1]];
/// Most tokens of a row.
const MINI_MAX_LENGTH: usize = 128;
/// The same of a generation task; so few steps want a higher rate, a shorter warm-up, ranks that move one at a time, and no
/// dropout in the base model.
const MINI_TEXT_EPOCHS: u32 = 2;
const MINI_TEXT_LR: f64 = 4e-3;
const MINI_TEXT_WARMUP_STEPS: u64 = 50;
const MINI_TEXT_BATCH_SIZE: usize = 16;
/// From the rows of GLUE, 30 epochs, 5 seeds and the rows a second of `docs/benchmarks.md`.
const PAPER_TIME: &str =
    "more than a year on two cores; a GPU, or a part such as --tasks rte,mrpc --seeds 10, takes less";

/// What a person should expect of a generation task.
const PAPER_TEXT_TIME: &str = "months on two cores; a GPU, or a part such as --seeds 10 --max-prompts 100, takes less";

/// The paper's recipe on model and data in these directories.
fn paper_recipe(kind: Kind, model: &Path, data: &Path) -> TrainSettings {
    match kind {
        Kind::Glue => TrainSettings::paper("", model, DataSource::Glue { dir: data.into() }),
        Kind::Text => TrainSettings::paper_generation(GenerationTask::E2e, model, data),
    }
}

fn paper_seeds(kind: Kind) -> &'static [u64] {
    match kind {
        Kind::Glue => &PAPER_SEEDS,
        Kind::Text => &PAPER_TEXT_SEEDS,
    }
}

/// Profiles that have a name on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Name {
    /// A small model and generated tasks, both part of this program: minutes, no download
    Mini,
    /// RoBERTa-base and GLUE, or GPT-2 Medium and the generation task, with the settings of the paper's Table 8: from --model
    /// and --data, the caches, or where they are published
    Paper,
}

/// What is run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Profile {
    /// What this program brings along.
    Mini,
    /// What the paper used; directories that were given, and the rest from cache or hub.
    Paper {
        model: Option<PathBuf>,
        data: Option<PathBuf>,
    },
    /// A person's own model and data with the paper's recipe.
    Given { model: PathBuf, data: PathBuf },
}

impl Profile {
    /// # Errors
    /// If flags contradict each other.
    pub(crate) fn choose(name: Option<Name>, model: Option<&Path>, data: Option<&Path>) -> Result<Self, Failure> {
        let (model, data) = (model.map(absolute).transpose()?, data.map(absolute).transpose()?);
        match (name, model, data) {
            (Some(Name::Paper), model, data) => Ok(Profile::Paper { model, data }),
            (None, Some(model), Some(data)) => Ok(Profile::Given { model, data }),
            (_, None, None) => Ok(Profile::Mini),
            (Some(Name::Mini), ..) => Err(Failure::Message(
                "--profile mini brings its own model and data; to use yours, give --model DIR and --data DIR without it"
                    .to_owned(),
            )),
            (None, model, _) => {
                let (given, lacking) = if model.is_some() {
                    ("--model", "--data")
                } else {
                    ("--data", "--model")
                };
                Err(Failure::Message(format!(
                    "{given} needs {lacking} DIR beside it; --profile paper gets what is missing, and with neither of them \
                     the profile mini runs"
                )))
            }
        }
    }

    /// Its name in tables.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Profile::Mini => "mini",
            Profile::Paper { .. } => "paper",
            Profile::Given { .. } => "given",
        }
    }

    /// What it is and what else there is, for the first line that a person reads. `tables` is how the command named them.
    pub(crate) fn about(&self, kinds: &[Kind], tables: &str) -> String {
        let several = |glue: &'static str, text: &'static str| match kinds {
            [Kind::Glue] => glue.to_owned(),
            [Kind::Text] => text.to_owned(),
            _ => format!("{glue} and {text}"),
        };
        match self {
            Profile::Mini => format!(
                "mini, {}, all part of this program; minutes on two cores; the paper's setting: cargo xtask reproduce {tables} \
                 --profile paper",
                several("a small RoBERTa on generated tasks", "a small GPT-2 on generated texts")
            ),
            Profile::Paper { .. } => format!(
                "paper, {} with Table 8's settings; all of it takes {}; in minutes, on a small model: cargo xtask reproduce \
                 {tables}",
                several("RoBERTa-base on GLUE", "GPT-2 Medium on the generation tasks"),
                if kinds == [Kind::Text] {
                    PAPER_TEXT_TIME
                } else {
                    PAPER_TIME
                }
            ),
            Profile::Given { model, data } => format!(
                "given model and data directories ({}, {})",
                model.display(),
                data.display()
            ),
        }
    }

    /// Where the runs of all tables go.
    pub(crate) fn default_out(&self) -> PathBuf {
        let name = match self {
            Profile::Given { model, .. } => model.file_name().map_or_else(|| "given".into(), ToOwned::to_owned),
            named => named.name().into(),
        };
        Path::new("runs").join(name)
    }

    /// A table as this profile has it: its tasks and its seeds.
    pub(crate) fn sheet(&self, mut spec: TableSpec) -> Sheet {
        let mut seeds = paper_seeds(spec.kind).to_vec();
        match self {
            Profile::Mini => {
                if let Some(tasks) = spec.brief.tasks.take() {
                    spec.tasks = tasks;
                }
                if spec.kind == Kind::Glue {
                    seeds = MINI_SEEDS.to_vec();
                }
                seeds = spec.brief.seeds.take().unwrap_or(seeds);
            }
            // Fine-tuning a person's own model takes as long as all the rest; it is there if it is asked for.
            Profile::Given { .. } if spec.number == "Table 2" => spec.rows.retain(|row| !row.method.learns_base()),
            Profile::Paper { .. } | Profile::Given { .. } => {}
        }
        Sheet { spec, seeds }
    }

    pub(crate) fn full_lr(&self) -> f64 {
        match self {
            Profile::Mini => MINI_FULL_LR,
            Profile::Paper { .. } | Profile::Given { .. } => FULL_LR,
        }
    }

    /// Settings of every run; where model and data are is put in by [`Profile::provide`].
    pub(crate) fn recipe(&self, kind: Kind) -> TrainSettings {
        let nowhere = Path::new("");
        let mut recipe = paper_recipe(kind, nowhere, nowhere);
        match (self, kind) {
            (Profile::Mini, Kind::Glue) => {
                recipe.epochs = MINI_EPOCHS;
                recipe.lr = MINI_LR;
                recipe.max_length = MINI_MAX_LENGTH;
            }
            (Profile::Mini, Kind::Text) => {
                recipe.epochs = MINI_TEXT_EPOCHS;
                recipe.lr = MINI_TEXT_LR;
                recipe.warmup_steps = Some(MINI_TEXT_WARMUP_STEPS);
                recipe.batch_size = MINI_TEXT_BATCH_SIZE;
                recipe.dropout = Some(0.0);
                recipe.update = Update::Slice;
                recipe.optimizer = Optimizer::Torch;
            }
            _ => {}
        }
        recipe
    }

    /// Sees to it that model and data are there, and tells the study where.
    ///
    /// # Errors
    /// If they are not and cannot be had, or a file cannot be written.
    pub(crate) fn provide(&self, study: &mut Study) -> Result<(), Failure> {
        let out = absolute(&study.out)?;
        let tasks = |kind: Kind| {
            let mut tasks: Vec<String> = Vec::new();
            for sheet in study.sheets.iter().filter(|sheet| sheet.spec.kind == kind) {
                for task in &sheet.spec.tasks {
                    if !tasks.contains(task) {
                        tasks.push(task.clone());
                    }
                }
            }
            tasks
        };
        let (glue_tasks, text_tasks) = (tasks(Kind::Glue), tasks(Kind::Text));
        let mut bar = Bar::new();
        let mut report = |event: fetch::Event<'_>| bar.show(event);
        if let Some(recipe) = &mut study.glue {
            let (model, dir) = match self {
                Profile::Mini => embedded::write(&out)?,
                Profile::Given { model, data } => (model.clone(), data.clone()),
                Profile::Paper { model, data } => {
                    let tasks: Vec<&str> = glue_tasks.iter().map(String::as_str).collect();
                    fetch::paper(model.as_deref(), data.as_deref(), &tasks, &mut report)?
                }
            };
            recipe.settings.model = absolute(&model)?;
            recipe.settings.data = DataSource::Glue { dir: absolute(&dir)? };
        }
        if let Some(recipe) = &mut study.text {
            let tasks = text_tasks.iter().map(|task| GenerationTask::find(task));
            let tasks = tasks.collect::<Result<Vec<_>, _>>()?;
            let (model, dir) = match self {
                Profile::Mini => embedded::write_text(&out, &tasks)?,
                Profile::Given { model, data } => (model.clone(), data.clone()),
                Profile::Paper { model, data } => {
                    let mut found: Option<(PathBuf, PathBuf)> = None;
                    for &task in &tasks {
                        let (model, dir) = fetch::paper_text(model.as_deref(), data.as_deref(), task, &mut report)?;
                        // One directory holds the folders of all of them, in the cache as well as in --data.
                        if found.as_ref().is_some_and(|(_, known)| *known != dir) {
                            return Err(Failure::Message(format!(
                                "{task} is in another directory than the other tasks: {}; give --data DIR",
                                dir.display()
                            )));
                        }
                        found = Some((model, dir));
                    }
                    found.unwrap_or_default()
                }
            };
            recipe.settings.model = absolute(&model)?;
            recipe.settings.data = DataSource::Generation { dir: absolute(&dir)? };
        }
        Ok(())
    }

    /// Words for the table. A directory's name does not prove what it holds: the paper's setting is claimed only by the
    /// profile `paper`, and only if model and data have the paper's sizes.
    pub(crate) fn caption(&self, sheet: &Sheet, recipe: &Recipe) -> Caption {
        let Sheet { spec, seeds } = sheet;
        let settings = &recipe.settings;
        let model = &settings.model;
        let data = match &settings.data {
            DataSource::Glue { dir } | DataSource::Generation { dir } => dir,
            DataSource::Files { train, .. } | DataSource::Pairs { train, .. } => train,
        };
        let by_name = "Model and data are called by the names of their directories.";
        let (small, made) = match spec.kind {
            Kind::Glue => ("a small RoBERTa", "tasks"),
            Kind::Text => ("a small GPT-2", "texts"),
        };
        let (model, data, note, same_setting_as_paper) = match self {
            Profile::Mini => (
                format!("{small} pre-trained by this project"),
                format!("{made} generated by this project"),
                "Neither the model nor the data are the paper's, so no number here can be compared with one of the paper; how \
                 the methods differ from rank to rank can."
                    .to_owned(),
                false,
            ),
            Profile::Given { .. } => (name_of(model), name_of(data), by_name.to_owned(), false),
            Profile::Paper { .. } => {
                let tasks: Vec<&str> = spec.tasks.iter().map(String::as_str).collect();
                let (base, real, names) = match spec.kind {
                    Kind::Glue => (
                        is_roberta_base(model),
                        fetch::has_glue_rows(data, &tasks),
                        ["RoBERTa-base".to_owned(), "GLUE".to_owned()],
                    ),
                    Kind::Text => {
                        let tasks: Vec<GenerationTask> =
                            tasks.iter().filter_map(|task| GenerationTask::find(task).ok()).collect();
                        let titles: Vec<&str> = tasks.iter().map(|task| task.title()).collect();
                        (
                            is_gpt2_medium(model),
                            tasks.iter().all(|&task| is_published(task, data)),
                            ["GPT-2 Medium".to_owned(), titles.join(" and ")],
                        )
                    }
                };
                let [of_model, of_data] = names;
                let note = match (base, real) {
                    (true, true) => {
                        format!("The model has {of_model}'s sizes, the data have {of_data}'s numbers of rows.")
                    }
                    (false, true) => {
                        format!("The model has not {of_model}'s sizes; it is called by the name of its directory.")
                    }
                    (true, false) => format!(
                        "The data have not {of_data}'s numbers of rows; they are called by the name of their directory."
                    ),
                    (false, false) => by_name.to_owned(),
                };
                let model = if base { of_model } else { name_of(model) };
                let data = if real { of_data } else { name_of(data) };
                (model, data, note, base && real)
            }
        };
        let mut notes = vec![note];
        notes.extend(other_settings(spec.kind, settings, seeds));
        if spec.rows.iter().any(|row| row.method.learns_base()) {
            notes.push(format!(
                "Table 8 has no learning rate for fine-tuning; here it is {}.",
                recipe.full_lr
            ));
        }
        Caption {
            model,
            data,
            notes,
            same_setting_as_paper,
        }
    }
}

fn name_of(dir: &Path) -> String {
    let name = dir.file_name().unwrap_or(dir.as_os_str());
    name.to_string_lossy().into_owned()
}

fn is_roberta_base(model: &Path) -> bool {
    EncoderConfig::from_file(&model.join("config.json")).is_ok_and(|config| {
        let sizes = (
            config.num_layers,
            config.hidden_size,
            config.num_heads,
            config.vocab_size,
        );
        config.family == Family::Roberta && sizes == (12, 768, 12, 50265)
    })
}

fn is_gpt2_medium(model: &Path) -> bool {
    Gpt2Config::from_file(&model.join("config.json")).is_ok_and(|config| {
        let sizes = (
            config.num_layers,
            config.hidden_size,
            config.num_heads,
            config.vocab_size,
        );
        sizes == (24, 1024, 16, 50257)
    })
}

/// Whether a generation task's train and test files have the published numbers of rows.
fn is_published(task: GenerationTask, data: &Path) -> bool {
    [Split::Train, Split::Test]
        .into_iter()
        .all(|split| task.load(data, split).is_ok_and(|corpus| corpus.coverage().is_whole()))
}

/// Settings that are not those of the paper's recipe, as a sentence.
fn other_settings(kind: Kind, recipe: &TrainSettings, seeds: &[u64]) -> Option<String> {
    let paper = TrainSettings {
        model: recipe.model.clone(),
        data: recipe.data.clone(),
        ..paper_recipe(kind, Path::new(""), Path::new(""))
    };
    let (Ok(Value::Object(ours)), Ok(Value::Object(paper))) =
        (serde_json::to_value(recipe), serde_json::to_value(&paper))
    else {
        return None;
    };
    // The study fills in what the recipe leaves open.
    let open = ["task", "method", "seed"];
    let mut words: Vec<String> = ours
        .iter()
        .filter(|(name, _)| !open.contains(&name.as_str()))
        .flat_map(|(name, value)| {
            let theirs = paper.get(name).unwrap_or(&Value::Null);
            match (value, theirs) {
                // The settings of the texts, one by one.
                (Value::Object(ours), Value::Object(theirs)) => ours
                    .iter()
                    .filter_map(|(name, value)| differs(name, value, theirs.get(name).unwrap_or(&Value::Null)))
                    .collect::<Vec<_>>(),
                _ => differs(name, value, theirs).into_iter().collect(),
            }
        })
        .collect();
    if seeds != paper_seeds(kind) {
        words.push(format!("seeds {} ({})", list(seeds), list(paper_seeds(kind))));
    }
    (!words.is_empty()).then(|| {
        format!(
            "Settings that are not the paper's, with the paper's in brackets: {}.",
            words.join(", ")
        )
    })
}

fn differs(name: &str, ours: &Value, theirs: &Value) -> Option<String> {
    (ours != theirs).then(|| format!("{} {} ({})", name.replace('_', " "), word(ours), word(theirs)))
}

fn word(value: &Value) -> String {
    match value {
        Value::Null => "not set".to_owned(),
        Value::String(word) => word.clone(),
        other => other.to_string(),
    }
}

fn list(seeds: &[u64]) -> String {
    seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use dylora_tasks::nn::Method;
    use dylora_tasks::tables;

    use super::*;

    /// The sizes of the published model, but for these.
    fn write_config(model: &Path, hidden_size: usize) {
        let config = serde_json::json!({
            "model_type": "roberta", "vocab_size": 50265, "hidden_size": hidden_size, "num_hidden_layers": 12,
            "num_attention_heads": 12, "intermediate_size": 3072, "max_position_embeddings": 514, "type_vocab_size": 1,
            "pad_token_id": 1, "layer_norm_eps": 1e-5, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
            "hidden_act": "gelu"
        });
        fs::create_dir_all(model).unwrap();
        fs::write(model.join("config.json"), config.to_string()).unwrap();
    }

    fn write_rte(data: &Path, train: usize) {
        fs::create_dir_all(data.join("RTE")).unwrap();
        for (file, rows) in [("train.tsv", train), ("dev.tsv", 277)] {
            let rows = (0..rows).map(|row| format!("{row}\tleft\tright\tentailment\n"));
            let text = format!("index\tsentence1\tsentence2\tlabel\n{}", rows.collect::<String>());
            fs::write(data.join("RTE").join(file), text).unwrap();
        }
    }

    fn plan(profile: &Profile, model: &Path, data: &Path) -> (Sheet, Recipe) {
        let mut settings = profile.recipe(Kind::Glue);
        settings.model = model.to_owned();
        settings.data = DataSource::Glue { dir: data.to_owned() };
        let mut sheet = profile.sheet(tables::find("glue").unwrap());
        sheet.spec.tasks = vec!["rte".to_owned()];
        sheet.spec.rows.retain(|row| row.method != Method::Full);
        let full_lr = profile.full_lr();
        (sheet, Recipe { settings, full_lr })
    }

    #[test]
    fn the_papers_setting_is_claimed_by_what_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (model, data) = (dir.path().join("m"), dir.path().join("d"));
        let paper = Profile::Paper {
            model: None,
            data: None,
        };
        let (sheet, recipe) = plan(&paper, &model, &data);
        let said = |profile: &Profile| {
            let caption = profile.caption(&sheet, &recipe);
            (caption.model, caption.data, caption.same_setting_as_paper)
        };
        let words = |model: &str, data: &str, same| (model.to_owned(), data.to_owned(), same);
        write_config(&model, 768);
        write_rte(&data, 2490);
        assert_eq!(said(&paper), words("RoBERTa-base", "GLUE", true));
        assert_eq!(
            paper.caption(&sheet, &recipe).notes.len(),
            1,
            "nothing differs from the paper's settings"
        );
        // Two rows of 2490 are within one in a thousand, three are not.
        write_rte(&data, 2488);
        assert_eq!(said(&paper), words("RoBERTa-base", "GLUE", true));
        write_rte(&data, 2487);
        assert_eq!(said(&paper), words("RoBERTa-base", "d", false));
        write_config(&model, 384);
        assert_eq!(said(&paper), words("m", "d", false));
        write_rte(&data, 2490);
        assert_eq!(said(&paper), words("m", "GLUE", false));
        // Nothing is claimed for a person's own directories.
        write_config(&model, 768);
        let given = Profile::Given {
            model: model.clone(),
            data: data.clone(),
        };
        assert_eq!(said(&given), words("m", "d", false));
    }

    #[test]
    fn a_caption_lists_what_is_not_the_papers() {
        let (mut sheet, mut recipe) = plan(&Profile::Mini, Path::new("m"), Path::new("d"));
        sheet.spec.rows[0].method = Method::Full;
        recipe.settings.epochs = 7;
        let caption = Profile::Mini.caption(&sheet, &recipe);
        let settings = &caption.notes[1];
        for words in ["epochs 7 (30)", "lr ", " (0.0004)", "max length 128 (512)"] {
            assert!(settings.contains(words), "{settings}");
        }
        assert!(
            !settings.contains("batch size") && !settings.contains("model"),
            "{settings}"
        );
        assert_eq!(caption.notes.len(), 3, "and fine-tuning's rate");
        assert!(!caption.same_setting_as_paper);
    }

    #[test]
    fn directories_and_names_choose_the_profile() {
        let some = Some(Path::new("x"));
        let chosen = |name, model, data| Profile::choose(name, model, data).ok().map(|profile| profile.name());
        assert_eq!(chosen(None, None, None), Some("mini"));
        assert_eq!(chosen(Some(Name::Mini), None, None), Some("mini"));
        assert_eq!(chosen(None, some, some), Some("given"));
        for (model, data) in [(None, None), (some, None), (None, some), (some, some)] {
            assert_eq!(chosen(Some(Name::Paper), model, data), Some("paper"));
        }
        for (name, model, data) in [
            (None, some, None),
            (None, None, some),
            (Some(Name::Mini), some, some),
            (Some(Name::Mini), None, some),
        ] {
            assert_eq!(chosen(name, model, data), None);
        }
    }
}
