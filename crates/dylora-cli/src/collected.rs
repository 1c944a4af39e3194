//! What a report is made of: tables, and the runs of them that have no record.

use dylora_tasks::experiment::Summary;
use dylora_tasks::metric::text::meteor::Data;
use dylora_tasks::report::Unrun;
use dylora_tasks::study::{Sheet, Study};
use dylora_tasks::table::Table;
use dylora_tasks::tables::{self, Kind};

use crate::failure::Failure;
use crate::profile::Profile;

/// Tables, and the runs of them that have no record.
#[derive(Default)]
pub(crate) struct Collected {
    pub(crate) tables: Vec<Table>,
    pub(crate) unrun: Vec<Unrun>,
}

impl Collected {
    /// Adds a table, if any of its runs has a record.
    pub(crate) fn add(
        &mut self,
        study: &Study,
        sheet: &Sheet,
        profile: &Profile,
        meteor: Option<&Data>,
        summary: &Summary,
    ) -> Result<(), Failure> {
        let recipe = match sheet.spec.kind {
            Kind::Glue => &study.glue,
            Kind::Text => &study.text,
        };
        let Some(recipe) = recipe else { return Ok(()) };
        let found = study.found(sheet, meteor)?;
        let mut caption = profile.caption(sheet, recipe);
        let missing = || found.iter().filter(|(_, record)| record.is_none());
        let names: Vec<&str> = missing().map(|(experiment, _)| experiment.name.as_str()).collect();
        if !names.is_empty() {
            caption
                .notes
                .push(format!("Runs without a record: {}.", names.join("; ")));
        }
        let table = study.table(sheet, &found)?.with_caption(caption);
        for name in names {
            let failure = summary.failed.iter().find(|(failed, _)| failed == name);
            match self.unrun.iter_mut().find(|unrun| unrun.name == name) {
                Some(known) => known.tables.push(table.table.clone()),
                None => self.unrun.push(Unrun {
                    name: name.to_owned(),
                    why: failure.map_or_else(|| "It has no record yet.".to_owned(), |(_, error)| error.to_string()),
                    failed: failure.is_some(),
                    tables: vec![table.table.clone()],
                }),
            }
        }
        if !table.rows.is_empty() {
            self.tables.push(table);
        }
        Ok(())
    }

    /// Adds the tables that were not asked for and whose runs are there: earlier commands left them.
    pub(crate) fn add_others(&mut self, study: &Study, profile: &Profile) {
        for spec in tables::all().unwrap_or_default() {
            if study.sheets.iter().any(|sheet| sheet.spec.number == spec.number) {
                continue;
            }
            let unrun = |why: String| Unrun {
                name: spec.to_string(),
                why,
                failed: false,
                tables: Vec::new(),
            };
            let command = format!("cargo xtask reproduce {}", spec.name);
            let mut other = Collected::default();
            let sheet = profile.sheet(spec.clone());
            match other.add(study, &sheet, profile, None, &Summary::default()) {
                // Runs of other settings than this command's are another report's matter.
                Err(Failure::Message(words)) => self.unrun.push(unrun(format!("{words}."))),
                Err(_) => {}
                Ok(()) if other.tables.is_empty() => {
                    self.unrun.push(unrun(format!("It was not asked for: {command}.")));
                }
                Ok(()) => {
                    self.tables.append(&mut other.tables);
                    self.unrun.append(&mut other.unrun);
                }
            }
        }
    }
}
