//! Numbers published in the DyLoRA paper, to stand beside ours in a table.
//!
//! "DyLoRA: Parameter-Efficient Tuning of Pretrained Models using Dynamic Search-Free Low-Rank Adaptation", Valipour,
//! Rezagholizadeh, Kobyzev, Ghodsi; EACL 2023, arXiv 2210.07558. Table 2: RoBERTa-base on GLUE. Table 6: GPT-2 Medium on
//! E2E; Table 9: on DART and WebNLG.
//!
//! **No cell of any table is filled in yet.** The tables were not found in any text open to this project, and a number that
//! nobody read in the paper does not belong here. [`table2`] therefore gives `None` for every cell, and a table printed
//! from it must leave the paper's column blank (see [`is_known`]). To fill one in, add one [`Cell`] per number, read from the
//! paper itself; nothing else changes.

/// A table of the paper: what it is of, and its numbers.
#[derive(Debug)]
pub struct PaperTable {
    /// `Table 2`.
    pub number: &'static str,
    /// The model.
    pub model: &'static str,
    /// The data.
    pub data: &'static str,
    /// What was evaluated on.
    pub split: &'static str,
    /// The numbers.
    pub cells: &'static [Cell],
}

/// RoBERTa-base on GLUE.
pub const GLUE: PaperTable = PaperTable {
    cells: TABLE_2,
    ..glue_table("Table 2")
};

/// The other tables of RoBERTa-base on GLUE.
static GLUE_TABLES: [PaperTable; 6] = [
    glue_table("Table 1"),
    glue_table("Table 3"),
    glue_table("Table 4"),
    glue_table("Table 5"),
    glue_table("Table 7"),
    glue_table("Appendix A"),
];

/// GPT-2 Medium on DART and WebNLG 2017.
pub static DART_AND_WEBNLG: PaperTable = text_table("Table 9", "DART and WebNLG");

/// The paper's table of this number, or the part of it that is of one data set; `None` if the paper has no such table.
pub fn table(number: &str, tasks: &[&str]) -> Option<&'static PaperTable> {
    match (number, tasks) {
        ("Table 2", _) => Some(&GLUE),
        ("Table 6", _) => Some(&E2E),
        ("Table 9", ["dart"]) => Some(&DART),
        ("Table 9", ["webnlg"]) => Some(&WEBNLG),
        ("Table 9", _) => Some(&DART_AND_WEBNLG),
        _ => GLUE_TABLES.iter().find(|table| table.number == number),
    }
}

/// GPT-2 Medium on E2E.
pub const E2E: PaperTable = text_table("Table 6", "E2E");

/// GPT-2 Medium on DART.
pub const DART: PaperTable = text_table("Table 9", "DART");

/// GPT-2 Medium on WebNLG 2017.
pub const WEBNLG: PaperTable = text_table("Table 9", "WebNLG");

const fn glue_table(number: &'static str) -> PaperTable {
    PaperTable {
        number,
        model: "RoBERTa-base",
        data: "GLUE",
        split: "development sets",
        cells: &[],
    }
}

const fn text_table(number: &'static str, data: &'static str) -> PaperTable {
    PaperTable {
        number,
        model: "GPT-2 Medium",
        data,
        split: "test set",
        cells: &[],
    }
}

/// A published number: percent, as printed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Published {
    /// Mean over the paper's seeds.
    pub mean: f64,
    /// Standard deviation over the seeds, where one is printed.
    pub std: Option<f64>,
}

/// Which row of a method's block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// Evaluated at this rank.
    Rank(usize),
    /// The best rank of each task ("Best (Rank)").
    Best,
    /// The worst rank of each task.
    Worst,
    /// The mean over the ranks.
    Mean,
    /// All weights fine-tuned, no adapter.
    Full,
}

/// One number of a published table and where it stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cell {
    /// `lora`, `dylora`, `dylora-frozen` or `full`.
    pub method: &'static str,
    /// The settings in which the row's runs differ from the recipe, as the table words them (`rank 16`); empty for the recipe.
    pub variant: &'static str,
    /// Row within the method's block.
    pub row: Row,
    /// A name of [`TASKS`] or [`AVERAGE`]; in the tables of a generation task the metric.
    pub task: &'static str,
    /// The number.
    pub value: Published,
}

/// The methods of Table 2.
pub const METHODS: [&str; 4] = ["lora", "dylora", "dylora-frozen", "full"];

/// The tasks of Table 2, in the order GLUE tables of this line of work have them.
pub const TASKS: [&str; 8] = ["mnli", "sst-2", "mrpc", "cola", "qnli", "qqp", "rte", "sts-b"];

/// Name of the column that averages over the tasks.
pub const AVERAGE: &str = "average";

/// Highest rank of Table 2.
pub const MAX_RANK: usize = 8;

/// Table 2. Empty: see the top of this file.
pub const TABLE_2: &[Cell] = &[];

/// The published number of Table 2 at `method` (a name of [`METHODS`]), `row` and `task` (a name of [`TASKS`], or
/// [`AVERAGE`]); `None` if there is no such cell or it is not known here.
pub fn table2(method: &str, row: Row, task: &str) -> Option<Published> {
    look_up(TABLE_2, method, "", row, task)
}

/// Whether any cell of Table 2 is known, so that a column for it is worth printing.
pub fn is_known() -> bool {
    !TABLE_2.is_empty()
}

/// Name of the metric that stands for `task` (a name of [`TASKS`]) in one number.
///
/// This is the convention of Table 2 of the LoRA paper (arXiv 2106.09685), whose code DyLoRA extends: Matthews for CoLA,
/// Pearson for STS-B, accuracy otherwise; MNLI over the matched and mismatched rows together. That DyLoRA's Table 2
/// follows it has not been checked against the paper.
pub fn metric(task: &str) -> Option<&'static str> {
    match task {
        "cola" => Some("matthews"),
        "sts-b" => Some("pearson"),
        _ if TASKS.contains(&task) => Some("accuracy"),
        _ => None,
    }
}

/// As [`table2`], of other cells than [`TABLE_2`].
pub fn look_up(cells: &[Cell], method: &str, variant: &str, row: Row, task: &str) -> Option<Published> {
    cells
        .iter()
        .find(|cell| cell.method == method && cell.variant == variant && cell.row == row && cell.task == task)
        .map(|cell| cell.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong with a table, if anything: names, ranks, ranges, or a cell that stands twice.
    fn fault(cells: &[Cell]) -> Option<String> {
        cells.iter().enumerate().find_map(|(index, cell)| {
            let named = METHODS.contains(&cell.method)
                && (TASKS.contains(&cell.task) || cell.task == AVERAGE)
                && row_fits(cell);
            let sane = (-100.0..=100.0).contains(&cell.value.mean) && cell.value.std.is_none_or(|std| std >= 0.0);
            let first = cells
                .iter()
                .position(|other| (other.method, other.row, other.task) == (cell.method, cell.row, cell.task));
            (!named || !sane || first != Some(index)).then(|| format!("{cell:?}"))
        })
    }

    fn row_fits(cell: &Cell) -> bool {
        match cell.row {
            Row::Rank(rank) => cell.method != "full" && (1..=MAX_RANK).contains(&rank),
            Row::Best | Row::Worst | Row::Mean => cell.method != "full",
            Row::Full => cell.method == "full",
        }
    }

    /// A made-up cell: no test may depend on a number of the paper that nobody has read.
    const MADE_UP: Cell = Cell {
        method: "dylora",
        variant: "",
        row: Row::Rank(3),
        task: "rte",
        value: Published {
            mean: 1.5,
            std: Some(0.25),
        },
    };

    #[test]
    fn the_table_is_well_formed() {
        assert_eq!(fault(TABLE_2), None);
        assert_eq!(fault(&[MADE_UP]), None);
        assert!(fault(&[MADE_UP, MADE_UP]).is_some());
        assert!(
            fault(&[Cell {
                row: Row::Rank(9),
                ..MADE_UP
            }])
            .is_some()
        );
        assert!(fault(&[Cell { task: "RTE", ..MADE_UP }]).is_some());
        assert!(
            fault(&[Cell {
                row: Row::Full,
                ..MADE_UP
            }])
            .is_some()
        );
    }

    #[test]
    fn a_cell_is_found_by_its_place() {
        assert_eq!(
            look_up(&[MADE_UP], "dylora", "", Row::Rank(3), "rte"),
            Some(MADE_UP.value)
        );
        assert_eq!(look_up(&[MADE_UP], "dylora", "", Row::Rank(2), "rte"), None);
        assert_eq!(look_up(&[MADE_UP], "lora", "", Row::Rank(3), "rte"), None);
        assert_eq!(look_up(&[MADE_UP], "dylora", "", Row::Best, "rte"), None);
    }

    #[test]
    fn what_is_not_known_is_none() {
        assert_eq!(table2("dylora", Row::Rank(1), "no such task"), None);
        assert_eq!(table2("no such method", Row::Full, "rte"), None);
        if !is_known() {
            assert!(
                METHODS
                    .iter()
                    .all(|method| table2(method, Row::Best, AVERAGE).is_none())
            );
        }
    }

    #[test]
    fn every_task_has_a_metric() {
        assert_eq!(TASKS.map(|task| metric(task).is_some()), [true; 8]);
        assert_eq!(metric("cola"), Some("matthews"));
        assert_eq!(metric("wnli"), None);
    }
}
