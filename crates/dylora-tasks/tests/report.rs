//! A report's four forms, read back: the same numbers everywhere, words that mean themselves, nothing from elsewhere.
#![allow(clippy::print_stderr)] // says what was not run

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use dylora_tasks::glue;
use dylora_tasks::nn::Method;
use dylora_tasks::paper::Published;
use dylora_tasks::record::{
    CodeVersion, LossCurve, RECORD_FORMAT, RankName, RankScores, Record, Scores, Timing, Trace,
};
use dylora_tasks::report::{Report, Unrun};
use dylora_tasks::settings::{DataSource, TrainSettings};
use dylora_tasks::table::{Caption, Finding, Head, Layout, Line, Table};
use dylora_tasks::tables::Measure;
use roxmltree::{Document, Node, ParsingOptions};

const METHODS: [Method; 3] = [Method::Lora, Method::DyLora, Method::Full];
const TASKS: [&str; 2] = ["rte", "cola"];
/// What breaks a form that does not escape it.
const HOSTILE: &str = "a|b <script>alert(1)</script> & \\end{document} $x_1^2$ #1 50% ~ \"q\", 'r' `c` *d* [e](http://x.org)\nnew\u{1b}日本";

fn trace(method: Method, seed: u64) -> Trace {
    let mut trace = Trace {
        step: vec![1000, 2000, 2340],
        // The mean over seeds 10 and 42 is 0.7, 0.5, 0.4.
        loss: [0.7, 0.5, 0.4]
            .map(|loss| loss + (seed as f64 - 26.0) / 1000.0)
            .to_vec(),
        lr: vec![1e-4; 3],
        ..Trace::default()
    };
    if method == Method::DyLora {
        trace.ranks.extend([(1, 1755), (2, 585)]);
    }
    trace
}

fn record(task: &str, method: Method, seed: u64, values: &[f64]) -> Record {
    let metric = glue::find(task).unwrap().metrics[0].name().to_owned();
    let settings = TrainSettings {
        method,
        seed,
        ..TrainSettings::new(task, Path::new("model"), DataSource::Glue { dir: "data".into() })
    };
    let rank = |index: usize| match method {
        Method::Full => RankName::Full,
        _ => RankName::At(index + 1),
    };
    Record {
        format: RECORD_FORMAT,
        code: CodeVersion {
            dylora: "0.1.0".into(),
            revision: Some("0123abc".into()),
        },
        settings,
        device: "cpu, 4 threads".into(),
        train_rows: 2490,
        steps: 2340,
        trainable: (1..=values.len()).map(|rank| 1000 + 64 * rank).collect(),
        loss: LossCurve {
            epochs: vec![0.7, 0.5, 0.4],
            ..LossCurve::default()
        },
        trace: trace(method, seed),
        ranks: values
            .iter()
            .enumerate()
            .map(|(index, &value)| RankScores {
                rank: rank(index),
                scores: Scores(vec![(metric.clone(), value)]),
            })
            .collect(),
        notes: Vec::new(),
        timing: Timing {
            train_seconds: 60.0 + seed as f64,
            finished_unix: 1_769_860_800,
            ..Timing::default()
        },
    }
}

/// Two seeds of everything but of fine-tuning, which has one; no CoLA of LoRA.
fn records() -> Vec<Record> {
    vec![
        record("rte", Method::Lora, 10, &[0.5012, 0.7511]),
        record("rte", Method::Lora, 42, &[0.5434, 0.7798]),
        record("rte", Method::DyLora, 10, &[0.7003, 0.7401]),
        record("rte", Method::DyLora, 42, &[0.7209, 0.7007]),
        record("cola", Method::DyLora, 10, &[0.6111, 0.5999]),
        record("cola", Method::DyLora, 42, &[0.6244, 0.6333]),
        record("rte", Method::Full, 10, &[0.8123]),
        record("cola", Method::Full, 10, &[f64::NAN]),
    ]
}

fn caption(words: &str, same: bool) -> Caption {
    Caption {
        model: words.to_owned(),
        data: words.to_owned(),
        notes: vec![words.to_owned()],
        same_setting_as_paper: same,
    }
}

fn table(published: &Published, words: &str, same: bool) -> Table {
    let tasks = TASKS.map(|name| glue::find(name).unwrap());
    Table::glue_beside(published, "given", &tasks, &METHODS, &records()).with_caption(caption(words, same))
}

/// LoRA trained at ranks 1 and 2, a line each, with marks and measures; lines by method.
fn marked() -> Table {
    let mut records = [
        record("rte", Method::Lora, 10, &[0.51]),
        record("rte", Method::Lora, 42, &[0.53]),
        record("rte", Method::Lora, 10, &[0.61, 0.71]),
        record("rte", Method::Lora, 42, &[0.63, 0.73]),
    ];
    for record in &mut records[..2] {
        record.settings.rank = 1;
    }
    let lines = [("rank 1", 1), ("", 2)].map(|(variant, rank)| Line {
        arms: vec![(variant.to_owned(), None)],
        ..Line::plain(Method::Lora, RankName::At(rank))
    });
    let finding = |(index, record)| Finding {
        variant: if index < 2 { "rank 1".to_owned() } else { String::new() },
        ..Finding::of_recipe(record)
    };
    let findings: Vec<Finding<'_>> = records.iter().enumerate().map(finding).collect();
    let head = Head {
        number: "Table 1".to_owned(),
        about: "LoRA at one rank after another".to_owned(),
        profile: "given".to_owned(),
        marked: true,
        measures: vec![Measure::Parameters, Measure::Seconds],
        ..Head::default()
    };
    let layout = Layout::glue(&[glue::find("rte").unwrap()]);
    Table::of(&Published::default(), layout, head, &lines, &findings).with_caption(caption("words", true))
}

fn unrun(name: &str, why: &str, failed: bool) -> Unrun {
    Unrun {
        name: name.to_owned(),
        why: why.to_owned(),
        failed,
        tables: vec!["glue".to_owned()],
    }
}

fn report() -> Report {
    Report::new(vec![table(&Published::default(), "words", false)], Vec::new())
}

/// Made up: no test may depend on a number of the paper that nobody has read.
fn published() -> Published {
    // Measured: 71.06 ± 1.46, 72.04 ± 2.79, 61.78 ± 0.94.
    let text = "table,row,rank,task,metric,published\n\
                glue,DyLoRA,1,rte,accuracy,72\n\
                glue,DyLoRA,1,cola,matthews,61\n\
                glue,DyLoRA,2,rte,accuracy,60\n\
                glue,Fine-tune,full,rte,accuracy,80\n";
    Published::parse(text, Path::new("numbers.csv")).unwrap()
}

#[test]
fn what_a_report_has_of_the_papers_numbers_is_read_again() {
    let report = Report::new(vec![table(&published(), "words", true)], Vec::new());
    let (_, text) = report.to_csv().unwrap().remove(0);
    assert_eq!(Published::parse(&text, Path::new("glue.csv")).unwrap(), published());
}

fn read(page: &str, check: impl FnOnce(&Document<'_>)) {
    let options = ParsingOptions {
        allow_dtd: true,
        ..ParsingOptions::default()
    };
    check(&Document::parse_with_options(page, options).unwrap());
}

fn named<'a, 'i: 'a>(node: Node<'a, 'i>, name: &'static str) -> impl Iterator<Item = Node<'a, 'i>> {
    node.descendants().filter(move |node| node.tag_name().name() == name)
}

fn words(node: Node<'_, '_>) -> String {
    let all: String = node
        .descendants()
        .filter(|node| node.is_text())
        .filter_map(|node| node.text())
        .collect();
    all.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The lines of a table of the page, each with its cells.
fn page_lines(page: &str, class: &str) -> Vec<Vec<String>> {
    let mut lines = Vec::new();
    read(page, |page| {
        let table = named(page.root(), "table")
            .find(|table| table.attribute("class") == Some(class))
            .unwrap();
        lines = named(table, "tr")
            .map(|line| named(line, "td").map(words).collect())
            .filter(|line: &Vec<String>| !line.is_empty())
            .collect();
    });
    lines
}

/// The values of a table by row, rank, task and metric.
fn values(report: &Report) -> BTreeMap<[String; 4], csv::StringRecord> {
    let (_, text) = report.to_csv().unwrap().remove(0);
    assert!(text.lines().count() > 1 && text.matches('\n').count() == text.matches("\r\n").count());
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let heads = reader.headers().unwrap().clone();
    assert_eq!(
        heads.iter().take(10).collect::<Vec<_>>(),
        [
            "table",
            "row",
            "rank",
            "task",
            "metric",
            "mean",
            "std",
            "seeds",
            "published",
            "difference"
        ]
    );
    let key = |record: &csv::StringRecord| [1, 2, 3, 4].map(|index| record[index].to_owned());
    reader
        .records()
        .map(|record| record.unwrap())
        .map(|record| (key(&record), record))
        .collect()
}

#[test]
fn every_number_is_the_same_in_all_four_forms() {
    let report = Report::new(vec![table(&published(), "words", true)], Vec::new());
    let (page, markdown, latex) = (report.to_html().unwrap(), report.to_markdown(), report.to_latex());
    let (page, values) = (page_lines(&page, "results"), values(&report));
    let table_of = |text: &str, start: &str, end: &str| -> Vec<String> {
        let from = text.find(start).unwrap();
        let rest = &text[from..];
        rest[..rest.find(end).unwrap()].lines().map(str::to_owned).collect()
    };
    let markdown: Vec<String> = table_of(&markdown, "| Rank | Method | RTE", "\n\n")
        .into_iter()
        .skip(2)
        .collect();
    let latex: Vec<String> = table_of(&latex, "Rank & Method & RTE", "\\bottomrule")
        .into_iter()
        .filter(|line| line.starts_with("{}"))
        .collect();
    let table = table(&published(), "words", true);
    assert_eq!([page.len(), markdown.len(), latex.len()], [table.rows.len(); 3]);
    let (mut filled, mut compared) = (0, 0);
    for (index, row) in table.rows.iter().enumerate() {
        let rank = match row.rank {
            RankName::Full => String::new(),
            rank => rank.to_string(),
        };
        let label = ["LoRA", "DyLoRA", "Fine-tune"][METHODS.iter().position(|m| *m == row.method).unwrap()];
        let in_markdown: Vec<&str> = markdown[index].trim_matches('|').split(" | ").collect();
        let in_latex: Vec<&str> = latex[index].trim_end_matches(" \\\\").split(" & ").collect();
        let mut places: Vec<_> = row
            .tasks
            .iter()
            .map(|(task, cell)| {
                let metric = glue::find(task).unwrap().metrics[0].name();
                let std = cell.as_ref().filter(|cell| cell.runs > 1).map(|cell| cell.std);
                let paper = cell.as_ref().and_then(|cell| cell.paper);
                (task.as_str(), metric, cell.as_ref().map(|cell| cell.mean), std, paper)
            })
            .collect();
        places.push(("", "average", row.average, None, row.paper_average));
        for (column, (task, metric, mean, std, paper)) in places.into_iter().enumerate() {
            let forms = [
                page[index][column].as_str(),
                in_markdown[column + 2],
                in_latex[column + 2],
            ];
            let value = &values[&[label, &rank, task, metric].map(str::to_owned)];
            for form in forms {
                let plain = form
                    .replace("$\\pm$", "±")
                    .replace("\\textbf{", "")
                    .replace("**", "")
                    .replace('}', "");
                match mean {
                    Some(mean) => {
                        assert!(plain.trim().starts_with(&format!("{mean:.2}")), "{form}");
                        let std = std.map(|std| format!(" ± {std:.2}"));
                        assert_eq!(plain.contains('±'), std.is_some(), "{form}");
                        assert!(plain.contains(&std.unwrap_or_default()), "{form}");
                    }
                    None => assert!(
                        plain.trim().starts_with('–') || plain.trim().starts_with("--"),
                        "{form}"
                    ),
                }
                if let Some(paper) = paper {
                    let both = format!("[{paper:.2}] {:+.2}", mean.unwrap() - paper);
                    let plain = plain.replace("-{", "-").replace("\\[", "[").replace("\\]", "]");
                    assert!(plain.contains(&both), "{form}: {both}");
                }
            }
            let number = |index: usize| value[index].parse::<f64>().ok();
            let near = |a: Option<f64>, b: Option<f64>| match (a, b) {
                (Some(a), Some(b)) => (a - b).abs() < 1e-6 || (a.is_nan() && b.is_nan()),
                (a, b) => a.is_none() && b.is_none(),
            };
            assert!(
                near(number(5), mean) && near(number(6), std) && near(number(8), paper),
                "{value:?}"
            );
            assert!(
                near(number(9), paper.and_then(|paper| Some(mean? - paper))),
                "{value:?}"
            );
            filled += usize::from(mean.is_some());
            compared += usize::from(paper.is_some());
        }
    }
    assert_eq!((filled, compared), (15, 4));
}

#[test]
fn a_difference_is_judged_by_the_deviation() {
    let signs = |same: bool| {
        let report = Report::new(vec![table(&published(), "words", same)], Vec::new());
        let page = report.to_html().unwrap();
        let lines = page_lines(&page, "results");
        let overview = page_lines(&page, "overview");
        let signs: String = lines
            .concat()
            .join(" ")
            .chars()
            .filter(|c| "≈≠?".contains(*c))
            .collect();
        (signs, overview[0][2].clone())
    };
    // Rank 1: RTE within, CoLA within; rank 2: RTE beyond; fine-tuning has one seed.
    let (found, summary) = signs(true);
    assert_eq!(found, "≈≈≠?");
    assert_eq!(summary, "2 ≈ within, 1 ≠ beyond, 1 ? without the deviation");
    let (found, summary) = signs(false);
    assert_eq!(
        (found.as_str(), summary.starts_with("not comparable")),
        ("", true),
        "{summary}"
    );
}

#[test]
fn no_published_number_is_said_once_and_plainly() {
    let both = Report::new(
        vec![
            table(&Published::default(), "words", false),
            table(&Published::default(), "words", false),
        ],
        Vec::new(),
    );
    for form in [both.to_html().unwrap(), both.to_markdown(), both.to_latex()] {
        let told = form.matches("none of them is known to this program").count();
        assert_eq!(told, 1, "{form}");
        assert!(!form.contains("[–]"));
    }
}

#[test]
fn a_setting_that_is_not_the_papers_is_seen_beside_the_numbers() {
    for same in [false, true] {
        let report = Report::new(vec![table(&Published::default(), "words", same)], Vec::new());
        let page = report.to_html().unwrap();
        for form in [&page, &report.to_markdown(), &report.to_latex()] {
            assert_eq!(
                form.contains("another model or other data than RoBERTa"),
                !same,
                "{form}"
            );
        }
        read(&page, |page| {
            let badge = page
                .descendants()
                .find(|node| node.attribute("class") == Some("badge"))
                .map(words);
            assert_eq!(badge.unwrap().contains("not the paper's"), !same);
        });
    }
}

#[test]
fn a_missing_run_is_named_with_its_reason() {
    let lacks = vec![
        unrun("rte lora seed 4242", "not begun", false),
        unrun("cola lora seed 10", "the loss is not a number", true),
    ];
    let report = Report::new(vec![table(&Published::default(), "words", true)], lacks);
    for form in [report.to_html().unwrap(), report.to_markdown(), report.to_latex()] {
        for word in [
            "rte lora seed 4242",
            "not begun",
            "cola lora seed 10",
            "the loss is not a number",
        ] {
            assert!(form.contains(word), "{word}: {form}");
        }
        assert!(form.contains("8 runs, 1 failed, 1 not run"), "{form}");
        let (failed, not_run) = (form.find("failed (1)").unwrap(), form.find("not run (1)").unwrap());
        assert!(failed < not_run);
        assert!(!form.contains("every planned run"));
    }
    assert!(self::report().to_markdown().contains("every planned run has a record"));
}

#[test]
fn nothing_comes_from_elsewhere() {
    let page = report().to_html().unwrap();
    // The name of the language of charts is no address.
    let without = page.replace("http://www.w3.org/2000/svg", "");
    for word in [
        "http:", "https:", "//www", "url(", "@import", "<script", "<link", "<iframe", "src=",
    ] {
        assert!(!without.contains(word), "{word}");
    }
    read(&page, |page| {
        for link in page.descendants().filter_map(|node| node.attribute("href")) {
            let target = link.strip_prefix('#').unwrap();
            assert!(
                page.descendants().any(|node| node.attribute("id") == Some(target)),
                "{link}"
            );
        }
        let mut ids: Vec<_> = page.descendants().filter_map(|node| node.attribute("id")).collect();
        let all = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all);
        for chart in named(page.root(), "figure").flat_map(|figure| named(figure, "svg")) {
            assert_eq!(chart.attribute("role"), Some("img"));
            let title = named(chart, "title").next().map(words).unwrap();
            assert_eq!(chart.attribute("aria-label"), Some(title.as_str()));
        }
    });
}

#[test]
fn charts_show_ranks_and_losses() {
    read(&report().to_html().unwrap(), |page| {
        let titles: Vec<String> = named(page.root(), "figure")
            .filter_map(|figure| named(figure, "title").next())
            .map(words)
            .collect();
        assert_eq!(titles.len(), 6, "{titles:?}");
        assert!(
            titles[0].starts_with("RTE against rank: LoRA from 52.23 at rank 1 to 76.55 at rank 2; DyLoRA from"),
            "{}",
            titles[0]
        );
        assert!(
            titles[3].starts_with("Training loss of RTE: LoRA from 0.700 to 0.400 at step 2340"),
            "{}",
            titles[3]
        );
    });
}

#[test]
fn costs_come_from_the_records() {
    let report = report();
    let values = values(&report);
    let cost = |row: &str, rank: &str, metric: &str| values[&[row, rank, "", metric].map(str::to_owned)][5].to_owned();
    assert_eq!(cost("DyLoRA", "2", "parameters"), "1128");
    assert_eq!(cost("DyLoRA", "1", "train_seconds_per_run"), "86");
    for form in [report.to_html().unwrap(), report.to_markdown(), report.to_latex()] {
        assert!(form.contains("1,128") && form.contains("1 min 26 s"), "{form}");
    }
}

#[test]
fn marks_and_measures_stand_in_every_form() {
    let report = Report::new(vec![marked()], Vec::new());
    let (page, markdown, latex) = (report.to_html().unwrap(), report.to_markdown(), report.to_latex());
    assert_eq!(
        page_lines(&page, "results"),
        [
            ["52.00 ± 1.41 ▼", "52.00", "1064", "86.0 ± 22.6"],
            ["72.00 ± 1.41 ▲", "72.00", "1128", "86.0 ± 22.6"]
        ]
    );
    assert!(
        markdown.contains("| 1 | LoRA | 52.00 ± 1.41 ▼ | 52.00 | 1064 | 86.0 ± 22.6 |"),
        "{markdown}"
    );
    assert!(
        latex.contains("1 & LoRA & 52.00 $\\pm$ 1.41$\\blacktriangledown$ & 52.00 & 1064 &"),
        "{latex}"
    );
    for form in [&page, &markdown, &latex] {
        assert!(form.contains("Table 1: LoRA at one rank after another"), "{form}");
    }
    let values = values(&report);
    let of = |rank: &str, metric: &str| values[&["LoRA", rank, "", metric].map(str::to_owned)].clone();
    assert_eq!((&of("1", "parameters")[5], &of("2", "parameters")[5]), ("1064", "1128"));
    assert_eq!((&of("1", "seconds")[5], &of("1", "seconds")[11]), ("86", "rank 1"));
    // Each line is of runs of its own, so the chart has their own ranks only.
    read(&page, |page| {
        let title = named(page.root(), "figure")
            .find_map(|figure| named(figure, "title").next())
            .map(words);
        assert_eq!(
            title.as_deref(),
            Some("RTE against rank: LoRA from 52.00 at rank 1 to 72.00 at rank 2")
        );
    });
}

#[test]
fn a_long_note_is_folded_and_whole() {
    let long = format!("Runs without a record: {}.", ["rte lora seed 10"; 40].join("; "));
    let mut table = table(&Published::default(), "words", true);
    table.remarks.push(long.clone());
    read(&Report::new(vec![table], Vec::new()).to_html().unwrap(), |page| {
        let note = named(page.root(), "details")
            .find(|node| node.attribute("class") == Some("note"))
            .unwrap();
        assert_eq!(words(note), format!("Runs without a record …{long}"));
    });
}

fn hostile() -> Report {
    let mut all = table(&published(), HOSTILE, false);
    all.table = HOSTILE.to_owned();
    all.profile = HOSTILE.to_owned();
    all.about = HOSTILE.to_owned();
    for row in &mut all.rows {
        row.label = HOSTILE.to_owned();
        row.variant = HOSTILE.to_owned();
    }
    for run in &mut all.runs {
        run.device = HOSTILE.to_owned();
    }
    let mut lack = unrun(HOSTILE, HOSTILE, true);
    lack.tables = vec![HOSTILE.to_owned()];
    Report::new(vec![all], vec![lack])
}

#[test]
fn hostile_names_mean_themselves() {
    let report = hostile();
    let shown =
        "a|b <script>alert(1)</script> & \\end{document} $x_1^2$ #1 50% ~ \"q\", 'r' `c` *d* [e](http://x.org) new日本";
    let page = report.to_html().unwrap();
    assert!(!page.contains("<script"));
    read(&page, |page| {
        let all = words(page.root());
        assert!(all.matches(shown).count() > 5, "{all}");
    });

    let markdown = report.to_markdown();
    let grids = markdown.split("\n\n").filter(|part| part.contains("| ---"));
    let mut count = 0;
    for grid in grids {
        let pipes = |line: &str| line.replace("\\|", "").matches('|').count();
        let lines: Vec<&str> = grid.lines().filter(|line| line.starts_with('|')).collect();
        assert!(lines.iter().all(|line| pipes(line) == pipes(lines[0])), "{grid}");
        count += 1;
    }
    assert_eq!(count, 3);
    assert!(
        !markdown.contains("<script") || markdown.contains("\\<script"),
        "{markdown}"
    );
    assert!(!markdown.contains("[e]("), "{markdown}");

    let latex = report.to_latex();
    assert_eq!(latex.matches("\\end{document}").count(), 1);
    assert!(latex.contains("\\textbackslash{}end\\{document\\}"), "{latex}");
    assert!(latex.contains("[U+65E5]"));
    // Braces outside of escapes come in pairs.
    let bare = latex.replace("\\{", "").replace("\\}", "");
    assert_eq!(bare.matches('{').count(), bare.matches('}').count());

    let (name, text) = report.to_csv().unwrap().remove(0);
    assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), "{name}");
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    for line in reader.records() {
        let line = line.unwrap();
        assert_eq!(
            (&line[0], &line[1], &line[11], &line[12], line.len()),
            (shown, shown, shown, shown, 13)
        );
    }
}

#[test]
fn files_are_written_whole_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("report");
    let two = Report::new(
        vec![
            table(&Published::default(), "words", true),
            table(&Published::default(), "words", true),
        ],
        Vec::new(),
    );
    for _ in 0..2 {
        two.write(&out).unwrap();
        let names = |dir: &Path| {
            let mut names: Vec<String> = fs::read_dir(dir)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
                .collect();
            names.sort();
            names
        };
        assert_eq!(names(&out), ["index.html", "report.md", "report.tex", "tables"]);
        assert_eq!(names(&out.join("tables")), ["glue-2.csv", "glue.csv"]);
    }
    assert_eq!(
        fs::read_to_string(out.join("index.html")).unwrap(),
        two.to_html().unwrap()
    );
    let blocked = dir.path().join("file");
    fs::write(&blocked, "").unwrap();
    let error = two.write(&blocked).unwrap_err().to_string();
    assert!(error.contains("file"), "{error}");
}

#[test]
fn a_report_without_tables_says_so() {
    let report = Report::new(Vec::new(), vec![unrun("all", "nothing was begun", false)]);
    for form in [report.to_html().unwrap(), report.to_markdown(), report.to_latex()] {
        assert!(
            form.contains("There is no table.") && form.contains("nothing was begun"),
            "{form}"
        );
    }
}

#[test]
fn latex_compiles() {
    let compiler = |dir: &Path, args: &[&str]| {
        let run = Command::new("pdflatex")
            .args(args)
            .current_dir(dir)
            .stdin(Stdio::null())
            .output();
        run.map(|output| {
            (
                output.status.success(),
                String::from_utf8_lossy(&output.stdout).into_owned(),
            )
        })
    };
    let dir = tempfile::tempdir().unwrap();
    if compiler(dir.path(), &["-version"]).is_err() {
        eprintln!("not run: there is no pdflatex");
        return;
    }
    for report in [report(), hostile(), Report::new(Vec::new(), Vec::new())] {
        fs::write(dir.path().join("report.tex"), report.to_latex()).unwrap();
        let (done, log) = compiler(
            dir.path(),
            &["-interaction=nonstopmode", "-halt-on-error", "report.tex"],
        )
        .unwrap();
        assert!(done, "{log}");
    }
}
