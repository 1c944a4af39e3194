//! A report as a LaTeX document that needs no package beyond booktabs, amssymb, graphicx and what every installation has.

use super::overview::Summary;
use super::sheet::{Line, Place, costs};
use super::words::{escape_latex, one_line, rank_words};
use super::{ABOUT_COSTS, COST_HEADS, HOW_TO_READ, Part, Report};

/// Lines of a tabular; a longer table goes on in another one.
const LINES: usize = 40;

const HEAD: &str = r"\documentclass[10pt]{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage{textcomp}
\usepackage[a4paper,margin=18mm]{geometry}
\usepackage{booktabs}
\usepackage{graphicx}
\usepackage{amssymb}
\setlength{\parindent}{0pt}
\setlength{\parskip}{4pt}
\setlength{\emergencystretch}{3em}
\newsavebox{\wide}
% Shrinks what is wider than the page.
\newcommand{\fit}[1]{\sbox{\wide}{#1}\ifdim\wd\wide>\linewidth\resizebox{\linewidth}{!}{\usebox{\wide}}\else\usebox{\wide}\fi}
\begin{document}
";

impl Report {
    /// A report as a LaTeX document with booktabs tables, for `pdflatex`; the same numbers as the page and without its charts.
    pub fn to_latex(&self) -> String {
        let parts: Vec<Part<'_>> = self.parts().collect();
        let mut text = format!("{HEAD}\\section*{{Report: tables of the DyLoRA paper}}\n\n");
        for (name, words) in self.facts() {
            text.push_str(&format!("{}: {}\\\\\n", escaped(name), escaped(&words)));
        }
        text.push_str(&format!(
            "\n{}\n\n\\subsection*{{Overview}}\n\n",
            escaped(self.about_paper())
        ));
        if parts.is_empty() {
            text.push_str("There is no table.\n");
        } else {
            let lines = parts.iter().map(|part| {
                let summary = Summary::of(part);
                let there = format!("{}, {}", summary.state.words(), summary.number_words());
                [
                    summary.title.clone(),
                    part.profile_words(),
                    there,
                    summary.run_words(),
                    summary.paper.words(),
                ]
                .map(|words| escaped(&words))
                .to_vec()
            });
            let heads = ["Table", "Profile", "There", "Runs", "Against the paper"];
            text.push_str(&tabulars("lllll", &heads.map(str::to_owned), &[lines.collect()]));
        }
        text.push_str("\n\\subsection*{Not run or failed}\n\n");
        let lacks = self.lacks();
        if lacks.is_empty() {
            text.push_str("Nothing: every planned run has a record.\n");
        }
        for lack in &lacks {
            let names = lack.runs.iter().map(|unrun| match unrun.tables.as_slice() {
                [] => escaped(&unrun.name),
                tables => format!("{} ({})", escaped(&unrun.name), escaped(&tables.join(", "))),
            });
            text.push_str(&format!(
                "\\textbf{{{}}} {} \\emph{{{}}}\n\n",
                escaped(&lack.words()),
                escaped(&lack.why),
                names.collect::<Vec<_>>().join("; ")
            ));
        }
        text.push_str(&format!(
            "\n\\subsection*{{How to read the tables}}\n\n{}\n",
            escaped(HOW_TO_READ)
        ));
        for part in &parts {
            text.push_str(&section(part));
        }
        text.push_str("\\end{document}\n");
        text
    }
}

fn section(part: &Part<'_>) -> String {
    let table = part.table;
    let mut text = format!("\n\\clearpage\n\\subsection*{{{}}}\n\n", escaped(&part.heading()));
    for warning in part.warnings() {
        text.push_str(&format!("\\textbf{{{}}}\n\n", escaped(&warning)));
    }
    text.push_str(&format!("{}\n\n", escaped(&part.about_numbers())));
    for note in table.notes() {
        text.push_str(&format!("Note: {}\n\n", escaped(note)));
    }
    let mut heads = vec!["Rank".to_owned(), "Method".to_owned()];
    heads.extend(part.sheet.heads.iter().map(|head| escaped(&head.words())));
    let blocks: Vec<Vec<Vec<String>>> = part
        .sheet
        .blocks()
        .map(|block| {
            let line = |line: &Line| {
                let mut cells = vec![escaped(&rank_words(line.rank)), escaped(&line.label)];
                cells.extend(line.places.iter().map(|place| cell(part, place)));
                cells
            };
            block.iter().map(line).collect()
        })
        .collect();
    let columns = format!("ll{}", "r".repeat(part.sheet.heads.len()));
    text.push_str(&tabulars(&columns, &heads, &blocks));
    let costs: Vec<Vec<String>> = costs(table)
        .into_iter()
        .map(|(name, cost)| {
            let runs = cost.runs.to_string();
            [name, cost.parameter_words(), cost.time_words(), runs]
                .map(|words| escaped(&words))
                .to_vec()
        })
        .collect();
    if !costs.is_empty() {
        text.push_str(&format!(
            "\n\\subsubsection*{{Time and parameters}}\n\n{}\n\n",
            escaped(ABOUT_COSTS)
        ));
        text.push_str(&tabulars("lrrr", &COST_HEADS.map(str::to_owned), &[costs]));
    }
    text.push_str("\n\\subsubsection*{Settings}\n\n");
    for (name, values) in &table.settings().differing {
        let each = values.iter().map(|(value, methods)| {
            let methods: Vec<String> = methods.iter().map(ToString::to_string).collect();
            format!("{} ({})", escaped(value), escaped(&methods.join(", ")))
        });
        text.push_str(&format!(
            "{}: {}\\\\\n",
            escaped(name),
            each.collect::<Vec<_>>().join("; ")
        ));
    }
    let shared = table.settings().shared.iter();
    let shared: Vec<String> = shared
        .map(|(name, value)| escaped(&format!("{name} {value}")))
        .collect();
    if !shared.is_empty() {
        text.push_str(&format!("The same in all runs: {}.\n", shared.join("; ")));
    }
    text
}

/// `\textbf{86.03} $\pm$ 0.31 (7) [85.55] +0.48 $\approx$`.
fn cell(part: &Part<'_>, place: &Place) -> String {
    let mut words = escaped(&place.mean_words());
    if place.leads {
        words = format!("\\textbf{{{words}}}");
    }
    if let Some(std) = place.std_words() {
        words.push_str(&format!(" $\\pm$ {std}"));
    }
    if place.star {
        words.push_str("$^\\star$");
    }
    if let Some(rank) = place.chosen {
        words.push_str(&format!(" ({rank})"));
    }
    if let Some(sign) = place.mark_sign() {
        words.push_str(&escaped(sign));
    }
    let beside = part.beside(place);
    if !beside.is_empty() {
        words.push_str(&format!(" {}", escaped(&beside)));
    }
    words
}

/// Blocks of lines with rules between them, cut into tabulars that fit on a page.
fn tabulars(columns: &str, heads: &[String], blocks: &[Vec<Vec<String>>]) -> String {
    let mut text = String::new();
    let mut pages: Vec<Vec<&[Vec<String>]>> = Vec::new();
    let mut used = 0;
    for lines in blocks.iter().flat_map(|block| block.chunks(LINES)) {
        if used + lines.len() > LINES || pages.is_empty() {
            pages.push(Vec::new());
            used = 0;
        }
        used += lines.len();
        if let Some(page) = pages.last_mut() {
            page.push(lines);
        }
    }
    for page in pages {
        text.push_str(&format!(
            "\\fit{{\\begin{{tabular}}{{{columns}}}\n\\toprule\n{} \\\\\n",
            // What begins a line must not be taken for an option of the rule above.
            heads.join(" & ")
        ));
        for block in page {
            text.push_str("\\midrule\n");
            for line in block {
                text.push_str(&format!("{{}}{} \\\\\n", line.join(" & ")));
            }
        }
        text.push_str("\\bottomrule\n\\end{tabular}}\n\n");
    }
    text
}

fn escaped(words: &str) -> String {
    escape_latex(&one_line(words))
}
