//! Shows a run: bars on a terminal, plain lines elsewhere, both on stderr. Ctrl-C asks the run to stop after its step.

use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dylora_tasks::progress::{Event, Observer, PretrainEvent};
use dylora_tasks::record::RankScores;
use indicatif::{ProgressBar, ProgressStyle};

use crate::failure::Failure;

/// Seconds between plain lines within an epoch.
pub(crate) const LINE_EVERY: Duration = Duration::from_secs(15);

/// Labels that are counted before training.
const LABELS: usize = 20;

pub(crate) struct Progress {
    stop: Arc<AtomicBool>,
    bar: Option<ProgressBar>,
    terminal: bool,
    last_line: Instant,
    steps: u64,
    pace: Pace,
}

/// How fast a pre-training goes.
#[derive(Default)]
struct Pace {
    started: Option<Instant>,
    /// Steps and tokens since then.
    steps: u64,
    tokens: u64,
}

/// Takes over Ctrl-C: the flag says that it was pressed.
pub(crate) fn watch_interrupt() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            // The second time: no checkpoint, at once. What is on disk is whole at any time.
            std::process::exit(130);
        }
        anstream::eprintln!("stopping after this step; press Ctrl-C again to stop at once");
    })
    .map_err(|error| Failure::Message(format!("cannot watch for Ctrl-C: {error}")))?;
    Ok(stop)
}

impl Progress {
    /// Watches a run and takes over Ctrl-C.
    pub(crate) fn new() -> Result<Self, Failure> {
        Ok(Progress {
            stop: watch_interrupt()?,
            bar: None,
            terminal: std::io::stderr().is_terminal(),
            last_line: Instant::now(),
            steps: 0,
            pace: Pace::default(),
        })
    }

    /// Removes the bar, so that results stand alone.
    pub(crate) fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn say(&mut self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => anstream::eprintln!("{line}"),
        }
        self.last_line = Instant::now();
    }

    fn start_bar(&mut self, length: u64, position: u64, unit: &str) {
        self.clear();
        if self.terminal {
            let bar = ProgressBar::new(length).with_position(position);
            let template = format!("{{bar:30}} {{pos}}/{{len}} {unit}  {{msg}}  {{elapsed}}, {{eta}} left");
            if let Ok(style) = ProgressStyle::with_template(&template) {
                bar.set_style(style);
            }
            bar.reset_eta();
            self.bar = Some(bar);
        }
    }

    fn pretrain(&mut self, event: PretrainEvent<'_>) {
        match event {
            PretrainEvent::Started {
                settings,
                dir,
                text,
                vocab_size,
                parameters,
                done,
            } => {
                self.steps = settings.steps;
                self.pace.started = Some(Instant::now());
                let resumed = if done > 0 {
                    format!(", from step {done}")
                } else {
                    String::new()
                };
                self.say(&format!(
                    "{} texts, {} tokens, {} texts held out, {} cut, {} empty lines; vocabulary {vocab_size}, {parameters} \
                     weights, {} steps{resumed}; model directory {}",
                    text.texts,
                    text.tokens,
                    text.held_out,
                    text.truncated,
                    text.empty_lines,
                    settings.steps,
                    dir.display()
                ));
                self.start_bar(settings.steps, done, "steps");
            }
            PretrainEvent::Step {
                step, loss, lr, tokens, ..
            } => {
                self.pace.steps += 1;
                self.pace.tokens += tokens as u64;
                let seconds = self.pace.started.map_or(0.0, |started| started.elapsed().as_secs_f64());
                let speed = self.pace.tokens as f64 / seconds.max(f64::MIN_POSITIVE);
                let words = format!("loss {loss:.4}, lr {lr:.2e}, {speed:.0} tokens/s");
                match &self.bar {
                    Some(bar) => {
                        bar.set_position(step);
                        bar.set_message(words);
                    }
                    None if self.last_line.elapsed() >= LINE_EVERY => {
                        let left = seconds / self.pace.steps as f64 * self.steps.saturating_sub(step) as f64;
                        self.say(&format!(
                            "step {step} of {}, {words}, {} left",
                            self.steps,
                            duration(left)
                        ));
                    }
                    None => {}
                }
            }
            PretrainEvent::Evaluated(evaluation) => self.say(&format!(
                "step {}: loss {:.4}, held-out loss {:.4}, accuracy {:.4}",
                evaluation.step, evaluation.train_loss, evaluation.loss, evaluation.accuracy
            )),
            PretrainEvent::Finished { record } => {
                self.clear();
                self.say(&format!(
                    "trained in {}, {:.0} tokens a second",
                    duration(record.timing.train_seconds),
                    record.timing.tokens_per_second
                ));
            }
            _ => {}
        }
    }
}

/// A share of rows.
pub(crate) fn percent(part: usize, whole: usize) -> String {
    format!("{:.1} %", part as f64 * 100.0 / whole.max(1) as f64)
}

impl Observer for Progress {
    fn event(&mut self, event: &Event<'_>) {
        match *event {
            Event::Started {
                settings,
                run,
                steps,
                done,
                rows,
                tokens,
            } => {
                self.steps = steps;
                let resumed = if done > 0 {
                    format!(", from step {done}")
                } else {
                    String::new()
                };
                self.say(&format!(
                    "{} with {}: {rows} rows, {tokens} tokens, {steps} steps{resumed}; run directory {}",
                    settings.task,
                    settings.method,
                    run.display()
                ));
                self.start_bar(steps, done, "steps");
            }
            Event::Data {
                labels,
                lengths,
                max_length,
                at_limit,
            } => {
                let mut parts: Vec<_> = labels
                    .labels
                    .iter()
                    .take(LABELS)
                    .map(|(name, rows)| format!("{name} {rows} ({})", percent(*rows, labels.rows)))
                    .collect();
                if let Some(more) = labels.labels.len().checked_sub(LABELS + 1) {
                    parts.push(format!("and {} more", more + 1));
                }
                self.say(&format!("training rows by label: {}", parts.join(", ")));
                let cut = match at_limit {
                    0 => String::new(),
                    rows => format!("; {rows} rows reach the limit of {max_length} and may be cut"),
                };
                self.say(&format!("{lengths}{cut}"));
            }
            Event::Adapter {
                path,
                rank,
                layers,
                head,
            } => self.say(&format!(
                "starts from {}: rank {rank} on {layers} layers{}",
                path.display(),
                if head { ", and its head" } else { "; the head is new" }
            )),
            Event::Step {
                step,
                epoch,
                loss,
                lr,
                rank,
                ..
            } => {
                let rank = rank.map(|rank| format!(", rank {rank}")).unwrap_or_default();
                let words = format!("epoch {epoch}, loss {loss:.4}, lr {lr:.2e}{rank}");
                match &self.bar {
                    Some(bar) => {
                        bar.set_position(step);
                        bar.set_message(words);
                    }
                    None if self.last_line.elapsed() >= LINE_EVERY => {
                        self.say(&format!("step {step} of {}, {words}", self.steps));
                    }
                    None => {}
                }
            }
            Event::Cut { path, texts } => self.say(&cut(path, texts)),
            Event::Remark(words) => self.say(words),
            Event::EpochEnd { epoch, loss } if !self.terminal => {
                self.say(&format!("epoch {epoch}: mean loss {loss:.4}"));
            }
            Event::Evaluating { ranks, rows } => self.start_bar((ranks * rows) as u64, 0, "rows evaluated"),
            Event::EvaluatedRows(rows) => {
                if let Some(bar) = &self.bar {
                    bar.inc(rows as u64);
                }
            }
            Event::Evaluated { rank, scores } if !self.terminal => {
                let row = RankScores {
                    rank,
                    scores: scores.clone(),
                };
                self.say(&crate::eval::as_text(&[row]));
            }
            Event::Finished { record } => {
                self.clear();
                self.say(&format!(
                    "trained in {}, {:.1} rows and {:.0} tokens a second",
                    duration(record.timing.train_seconds),
                    record.timing.rows_per_second,
                    record.timing.tokens_per_second
                ));
            }
            Event::Pretrain(event) => self.pretrain(event),
            _ => {}
        }
    }

    fn should_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// That texts of a file were cut.
pub(crate) fn cut(path: &Path, texts: usize) -> String {
    format!(
        "{}: {texts} texts were longer than the model or --max-length allow and were cut",
        path.display()
    )
}

/// `438 days`, `2 h 05 min`, `12 min`, `8 s`.
pub(crate) fn duration(seconds: f64) -> String {
    let minutes = (seconds / 60.0).round() as u64;
    match minutes {
        0..2 => format!("{seconds:.0} s"),
        2..120 => format!("{minutes} min"),
        120..5760 => format!("{} h {:02} min", minutes / 60, minutes % 60),
        _ => format!("{} days", (minutes + 720) / 1440),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_the_unit_that_a_person_would_use() {
        let hours = 3600.0;
        for (seconds, text) in [
            (8.4, "8 s"),
            (12.0 * 60.0, "12 min"),
            (2.0 * hours + 300.0, "2 h 05 min"),
            (95.0 * hours, "95 h 00 min"),
            (4.0 * 24.0 * hours, "4 days"),
            (438.4 * 24.0 * hours, "438 days"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }
}
