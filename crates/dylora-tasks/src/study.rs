//! Tables with recipes: which runs they need, each of them once, and what stands in them when the runs are done.
//!
//! Two tables that need the same run share it: a run's directory follows from its task, its method, the settings in which it
//! differs from the recipe, and its seed, whichever table asks for it.

use std::path::PathBuf;

use dylora_nn::Method;
use serde_json::Value;

use crate::cost::{CostOptions, Costs, costs_of};
use crate::error::{Error, Result};
use crate::estimate::{Estimate, TaskSize};
use crate::experiment::{Experiment, PlanOptions, Runs, Summary};
use crate::generation::GenerationTask;
use crate::glue;
use crate::metric::text::meteor::Data;
use crate::paper::Published;
use crate::progress::Observers;
use crate::record::{RankName, Record};
use crate::run_dir::RunDir;
use crate::settings::TrainSettings;
use crate::table::{Finding, Head, Layout, Line, Table};
use crate::tables::{Kind, Order, Pick, RowSpec, TableSpec};
use crate::text2text;

/// What the runs of one kind of task have in common.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// Settings of every run; task, method and seed are filled in.
    pub settings: TrainSettings,
    /// Peak learning rate of the methods that learn every weight.
    pub full_lr: f64,
}

/// A table and the seeds that its runs have.
#[derive(Clone, Debug, PartialEq)]
pub struct Sheet {
    /// The table.
    pub spec: TableSpec,
    /// The seeds.
    pub seeds: Vec<u64>,
}

/// Tables, and the recipes of their runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Study {
    /// The tables.
    pub sheets: Vec<Sheet>,
    /// The recipe of GLUE tasks, if a table has any.
    pub glue: Option<Recipe>,
    /// The recipe of generation tasks, if a table has any.
    pub text: Option<Recipe>,
    /// Where the runs' directories go.
    pub out: PathBuf,
    /// Name of the profile, for the tables.
    pub profile: String,
    /// What the paper's numbers are.
    pub published: Published,
}

/// One run of a row, for every task and seed.
#[derive(Clone, Debug, Default, PartialEq)]
struct Arm {
    /// The settings in which it differs from the recipe; two arms with the same are the same.
    changes: Vec<(String, Value)>,
    /// Its rank, if the row searches for one.
    rank: Option<usize>,
}

impl Study {
    /// The runs that the tables need, each once, task by task in the order of the tables.
    ///
    /// # Errors
    /// An unknown task (all names are listed), a list without entries or with one twice, a row whose settings cannot be used
    /// (the table and the row are named).
    pub fn runs(&self) -> Result<Runs> {
        let mut all: Vec<Experiment> = Vec::new();
        for sheet in &self.sheets {
            for experiment in self.of_sheet(sheet)? {
                add(&mut all, experiment)?;
            }
        }
        Ok(Runs::new(all))
    }

    /// The runs of one table, each once.
    ///
    /// # Errors
    /// As [`Study::runs`].
    pub fn of_sheet(&self, sheet: &Sheet) -> Result<Vec<Experiment>> {
        let Sheet { spec, seeds } = sheet;
        let recipe = self.recipe(spec)?;
        check_list("--tasks", &spec.tasks)?;
        check_list("--seeds", seeds)?;
        if spec.rows.is_empty() {
            return Err(Error::argument(
                "--methods",
                format!("{} has no row of these", spec.number),
            ));
        }
        let mut all = Vec::new();
        for task in &spec.tasks {
            let task = known(spec.kind, task)?;
            for (index, row) in spec.rows.iter().enumerate() {
                let arms = recipe.arms(row);
                for arm in arms {
                    for &seed in seeds {
                        let settings = recipe.settings(task, row.method, &arm, seed).map_err(|error| {
                            if arm.changes.is_empty() {
                                error
                            } else {
                                Error::argument(format!("{}, row {}", spec.name, index + 1), error.to_string())
                            }
                        })?;
                        let experiment = self.experiment(settings, &arm);
                        add(&mut all, experiment)?;
                    }
                }
            }
        }
        Ok(all)
    }

    fn experiment(&self, settings: TrainSettings, arm: &Arm) -> Experiment {
        let TrainSettings { task, method, seed, .. } = &settings;
        let mut dir = self.out.join(task).join(method.to_string());
        let mut words = vec![task.clone(), method.to_string()];
        if !arm.changes.is_empty() {
            dir = dir.join(arm.folder());
            words.push(arm.variant());
        }
        words.push(format!("seed {seed}"));
        Experiment {
            number: 0,
            name: words.join(" "),
            dir: dir.join(format!("seed-{seed}")),
            settings,
        }
    }

    /// The recipe of a table's tasks.
    fn recipe(&self, spec: &TableSpec) -> Result<&Recipe> {
        let recipe = match spec.kind {
            Kind::Glue => &self.glue,
            Kind::Text => &self.text,
        };
        recipe
            .as_ref()
            .ok_or_else(|| Error::argument("recipe", format!("there is none for {}", spec.number)))
    }

    /// Where each run of a table is and, if it has ended, its record. Those of runs that are judged by their texts get METEOR
    /// if they lack it and `meteor` is given: the texts are kept, so nothing has to be written again.
    ///
    /// # Errors
    /// As [`Study::runs`]; a record, or what METEOR is computed from, that cannot be read; a directory with a run of other
    /// settings.
    pub fn found(&self, sheet: &Sheet, meteor: Option<&Data>) -> Result<Vec<(Experiment, Option<Record>)>> {
        let mut prompts = None;
        let mut all = Vec::new();
        for experiment in self.of_sheet(sheet)? {
            experiment.check_settings()?;
            let mut record = experiment.record()?;
            if let (Some(record), Some(data)) = (&mut record, meteor) {
                text2text::add_meteor(&RunDir::open(&experiment.dir)?, record, data, &mut prompts)?;
            }
            all.push((experiment, record));
        }
        Ok(all)
    }

    /// Measures what each rank takes on this machine, for the runs of a table that shows it and that have a record; what was
    /// measured before is kept.
    ///
    /// # Errors
    /// As [`costs_of`].
    pub fn measure_costs(&self, sheet: &Sheet) -> Result<()> {
        if has_costs(&sheet.spec) {
            for experiment in self.of_sheet(sheet)? {
                if experiment.record()?.is_some() {
                    costs_of(&experiment.dir, &CostOptions::default())?;
                }
            }
        }
        Ok(())
    }

    /// The table of what was found for it.
    ///
    /// # Errors
    /// An unknown task; costs that cannot be read.
    pub fn table(&self, sheet: &Sheet, found: &[(Experiment, Option<Record>)]) -> Result<Table> {
        let spec = &sheet.spec;
        let recipe = self.recipe(spec)?;
        let findings: Vec<Finding<'_>> = found
            .iter()
            .filter_map(|(experiment, record)| {
                let finding = Finding {
                    variant: recipe.variant_of(&experiment.settings)?,
                    record: record.as_ref()?,
                    costs: Vec::new(),
                };
                Some((experiment, finding))
            })
            .map(|(experiment, finding)| {
                let costs = match has_costs(spec) {
                    true => Costs::read(&experiment.dir)?.map_or_else(Vec::new, |costs| costs.ranks),
                    false => Vec::new(),
                };
                Ok(Finding { costs, ..finding })
            })
            .collect::<Result<_>>()?;
        let records: Vec<&Record> = findings.iter().map(|finding| finding.record).collect();
        let mut layout = match spec.kind {
            Kind::Glue => {
                let tasks = spec
                    .tasks
                    .iter()
                    .map(|task| glue::find(task))
                    .collect::<Result<Vec<_>>>()?;
                Layout::glue(&tasks)
            }
            Kind::Text => {
                let tasks = spec.tasks.iter().map(|task| GenerationTask::find(task));
                Layout::generation(&tasks.collect::<Result<Vec<_>>>()?, &records)
            }
        };
        layout.name = spec.name.clone();
        layout.has_average = spec.average;
        let head = Head {
            number: spec.number.clone(),
            about: spec.about.clone(),
            profile: self.profile.clone(),
            by_rank: spec.order == Order::Rank,
            marked: spec.mark,
            measures: spec.measures.clone(),
        };
        Ok(Table::of(&self.published, layout, head, &recipe.lines(spec), &findings))
    }
}

impl Recipe {
    /// A row's runs: one, or one for each rank that it searches.
    fn arms(&self, row: &RowSpec) -> Vec<Arm> {
        if row.search.is_empty() {
            return vec![self.arm(row, row.set.clone().into_iter().collect(), None)];
        }
        let arm = |&rank: &usize| {
            let mut set: Vec<(String, Value)> = row.set.clone().into_iter().collect();
            set.push(("rank".to_owned(), rank.into()));
            self.arm(row, set, Some(rank))
        };
        row.search.iter().map(arm).collect()
    }

    fn arm(&self, row: &RowSpec, mut set: Vec<(String, Value)>, rank: Option<usize>) -> Arm {
        let value = |name: &str| {
            set.iter()
                .find(|(each, _)| each == name)
                .map(|(_, value)| value.clone())
        };
        let own = value("rank").and_then(|rank| rank.as_u64());
        // LoRA of another rank than the recipe's is there for that rank alone.
        if let Some(own) = own.filter(|&own| own > 1 && row.method == Method::Lora)
            && own != self.settings.rank as u64
            && value("eval_ranks").is_none()
        {
            set.push(("eval_ranks".to_owned(), vec![own].into()));
        }
        let recipe = serde_json::to_value(&self.settings).unwrap_or_default();
        let mut changes: Vec<(String, Value)> = set
            .into_iter()
            .filter(|(name, value)| !same(recipe.get(name), value))
            .collect();
        changes.sort_by(|(a, _), (b, _)| a.cmp(b));
        Arm { changes, rank }
    }

    /// The settings of one run.
    fn settings(&self, task: &str, method: Method, arm: &Arm, seed: u64) -> Result<TrainSettings> {
        let base = TrainSettings {
            task: task.to_owned(),
            method,
            seed,
            lr: if method.learns_base() {
                self.full_lr
            } else {
                self.settings.lr
            },
            precision: self.settings.precision.that_learns(method),
            ..self.settings.clone()
        };
        let settings = if arm.changes.is_empty() {
            base
        } else {
            let wrong = |error: serde_json::Error| Error::argument("set", error.to_string());
            let mut all = serde_json::to_value(&base).map_err(wrong)?;
            if let Value::Object(all) = &mut all {
                all.extend(arm.changes.iter().cloned());
            }
            serde_json::from_value(all).map_err(wrong)?
        };
        settings.validate()?;
        Ok(settings)
    }

    /// The lines of a table.
    fn lines(&self, spec: &TableSpec) -> Vec<Line> {
        let mut lines = Vec::new();
        for row in &spec.rows {
            let arms = self.arms(row);
            let line = |pick: RankName| Line {
                label: row.label.clone(),
                block: row.block.clone(),
                method: row.method,
                arms: arms.iter().map(|arm| (arm.variant(), arm.rank)).collect(),
                rank: pick,
                is_reference: row.reference,
            };
            // A row without a usable setting has no run either, so no line of it is filled.
            let ranks: Vec<usize> = arms
                .first()
                .and_then(|arm| self.settings(spec.tasks.first()?, row.method, arm, 0).ok())
                .map(|settings| settings.ranks().into_iter().flatten().collect())
                .unwrap_or_default();
            for pick in &row.ranks {
                match pick {
                    Pick::Rank(rank) => lines.push(line(RankName::At(*rank))),
                    Pick::Own => lines.extend(ranks.last().map(|&rank| line(RankName::At(rank)))),
                    Pick::Each => lines.extend(ranks.iter().map(|&rank| line(RankName::At(rank)))),
                    Pick::Best => lines.push(line(RankName::Best)),
                    Pick::Worst => lines.push(line(RankName::Worst)),
                    Pick::Mean => lines.push(line(RankName::Mean)),
                    Pick::Full => lines.push(line(RankName::Full)),
                }
            }
        }
        if spec.order == Order::Rank {
            lines.sort_by_key(|line| line.rank);
        }
        lines
    }

    /// In which settings a run differs from the recipe; `None` if it cannot be told.
    fn variant_of(&self, settings: &TrainSettings) -> Option<String> {
        let base = self
            .settings(&settings.task, settings.method, &Arm::default(), settings.seed)
            .ok()?;
        let (base, own) = (serde_json::to_value(base).ok()?, serde_json::to_value(settings).ok()?);
        let own = own.as_object()?;
        let changes = own
            .iter()
            .filter(|(name, value)| !same(base.get(name.as_str()), value))
            .map(|(name, value)| (name.clone(), value.clone()));
        let mut arm = Arm {
            changes: changes.collect(),
            rank: None,
        };
        arm.changes.sort_by(|(a, _), (b, _)| a.cmp(b));
        Some(arm.variant())
    }
}

impl Arm {
    /// The changes that a name tells. Which ranks are evaluated follows from the others.
    fn named(&self) -> impl Iterator<Item = &(String, Value)> {
        self.changes.iter().filter(|(name, _)| name != "eval_ranks")
    }

    /// `rank 16`, `distribution geometric:0.15`, several with commas between them.
    fn variant(&self) -> String {
        let words = self
            .named()
            .map(|(name, value)| format!("{} {}", name.replace('_', " "), word(value)));
        words.collect::<Vec<_>>().join(", ")
    }

    /// The same as the name of a folder: `rank-16`, `distribution-geometric-0.15`.
    fn folder(&self) -> String {
        let plain = |text: String| -> String {
            let mut plain: String = text
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' })
                .collect();
            while plain.contains("--") {
                plain = plain.replace("--", "-");
            }
            plain.trim_matches('-').to_owned()
        };
        let words = self
            .named()
            .map(|(name, value)| plain(format!("{name}-{}", word(value))));
        words.collect::<Vec<_>>().join("_")
    }
}

/// Adds a run that is not there yet.
///
/// # Errors
/// If its directory is that of a run with other settings.
fn add(all: &mut Vec<Experiment>, experiment: Experiment) -> Result<()> {
    match all.iter().find(|known| known.dir == experiment.dir) {
        None => all.push(experiment),
        Some(known) if known.settings == experiment.settings => {}
        Some(known) => {
            return Err(Error::file(
                &known.dir,
                "two runs of different settings would stand here",
            ));
        }
    }
    Ok(())
}

/// Numbers are equal if their values are: TOML tells 16 from 16.0.
fn same(ours: Option<&Value>, theirs: &Value) -> bool {
    match (ours.and_then(Value::as_f64), theirs.as_f64()) {
        (Some(ours), Some(theirs)) => ours == theirs,
        _ => ours == Some(theirs),
    }
}

fn word(value: &Value) -> String {
    match value {
        Value::String(word) => word.clone(),
        Value::Array(values) => values.iter().map(word).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// A task's own spelling.
fn known(kind: Kind, task: &str) -> Result<&'static str> {
    match kind {
        Kind::Text => GenerationTask::find(task).map(GenerationTask::name),
        Kind::Glue => glue::find(task).map(|task| task.name),
    }
}

/// Tasks times methods times seeds: a study of one table, laid out as Table 2, 6 or 9.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Settings of every run; task, method and seed are filled in.
    pub recipe: TrainSettings,
    /// Peak learning rate of `full` runs.
    pub full_lr: f64,
    /// Names of tasks, in the order of the table's columns.
    pub tasks: Vec<String>,
    /// Methods.
    pub methods: Vec<Method>,
    /// Seeds.
    pub seeds: Vec<u64>,
    /// Where the runs' directories go.
    pub out: PathBuf,
    /// Name of the profile, for the table.
    pub profile: String,
}

impl Plan {
    /// The plan as a study.
    ///
    /// # Errors
    /// No methods, or one twice.
    pub fn study(&self) -> Result<Study> {
        check_list("--methods", &self.methods)?;
        let recipe = Some(Recipe {
            settings: self.recipe.clone(),
            full_lr: self.full_lr,
        });
        let (glue, text) = if self.recipe.data.is_text() {
            (None, recipe)
        } else {
            (recipe, None)
        };
        let rows = self.methods.iter().map(|&method| RowSpec {
            label: None,
            block: String::new(),
            method,
            set: Default::default(),
            search: Vec::new(),
            ranks: if method.learns_base() {
                vec![Pick::Full]
            } else {
                vec![Pick::Each, Pick::Best]
            },
            reference: false,
        });
        let (name, number) = match (&text, self.tasks.as_slice()) {
            (None, _) => ("glue", "Table 2"),
            (Some(_), [task]) if task == GenerationTask::E2e.name() => (task.as_str(), "Table 6"),
            (Some(_), [task]) => (task.as_str(), "Table 9"),
            (Some(_), _) => ("table9", "Table 9"),
        };
        let spec = TableSpec {
            name: name.to_owned(),
            number: number.to_owned(),
            about: String::new(),
            kind: if text.is_some() { Kind::Text } else { Kind::Glue },
            tasks: self.tasks.clone(),
            order: Order::Rank,
            average: text.is_none(),
            mark: false,
            measures: Vec::new(),
            brief: Default::default(),
            rows: rows.collect(),
        };
        Ok(Study {
            sheets: vec![Sheet {
                spec,
                seeds: self.seeds.clone(),
            }],
            glue,
            text,
            out: self.out.clone(),
            profile: self.profile.clone(),
            published: Published::embedded(),
        })
    }

    /// Its runs; see [`Study::runs`].
    ///
    /// # Errors
    /// As [`Study::runs`].
    pub fn runs(&self) -> Result<Runs> {
        self.study()?.runs()
    }

    /// See [`Runs::run`].
    ///
    /// # Errors
    /// As there.
    pub fn run(&self, options: PlanOptions, observers: &dyn Observers) -> Result<Summary> {
        self.runs()?.run(options, observers)
    }

    /// See [`Runs::check_data`].
    ///
    /// # Errors
    /// As there.
    pub fn check_data(&self) -> Result<Vec<TaskSize>> {
        self.runs()?.check_data()
    }

    /// See [`Runs::measure`].
    ///
    /// # Errors
    /// As there.
    pub fn measure(&self, sizes: &[TaskSize], jobs: usize) -> Result<Estimate> {
        self.runs()?.measure(sizes, jobs)
    }

    /// The table of all records that are there, with METEOR as in [`Study::found`].
    ///
    /// # Errors
    /// As [`Study::found`] and [`Study::table`].
    pub fn table(&self, meteor: Option<&Data>) -> Result<Table> {
        let study = self.study()?;
        let sheet = &study.sheets[0];
        study.table(sheet, &study.found(sheet, meteor)?)
    }
}

/// Whether a table shows what is measured on finished runs.
fn has_costs(spec: &TableSpec) -> bool {
    spec.measures.iter().any(|measure| measure.is_cost())
}

/// Something, and nothing twice.
fn check_list<T: PartialEq + std::fmt::Display>(flag: &str, list: &[T]) -> Result<()> {
    if list.is_empty() {
        return Err(Error::argument(flag, "nothing is named"));
    }
    for (index, item) in list.iter().enumerate() {
        if list[..index].contains(item) {
            return Err(Error::argument(flag, format!("{item} is named twice")));
        }
    }
    Ok(())
}
