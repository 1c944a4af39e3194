//! Shows the runs of a plan, several at a time: a bar for the whole and one for each run on a terminal, plain lines
//! elsewhere, all on stderr.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dylora_tasks::estimate::Estimate;
use dylora_tasks::progress::{Event, Observer, Observers};
use dylora_tasks::record::{RankName, Record};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::failure::Failure;
use crate::progress::{LINE_EVERY, cut, duration, watch_interrupt};

/// Watches all runs of a plan.
pub(crate) struct PlanProgress {
    stop: Arc<AtomicBool>,
    bars: Option<Bars>,
    state: Mutex<State>,
}

/// What a terminal shows: a bar per running job above the one for the whole.
struct Bars {
    all: MultiProgress,
    whole: ProgressBar,
}

/// How far the plan is. Work is counted in the seconds that the estimate gave it.
struct State {
    clock: Clock,
    /// Training and evaluation of each run that has not begun.
    waiting: BTreeMap<String, (f64, f64)>,
    running: BTreeMap<String, Running>,
    runs: usize,
    ended: usize,
    last_line: Instant,
    /// What was said of the data: runs of the same data have the same to say.
    said: BTreeSet<String>,
}

/// Time left, from the work that is done and the time it took.
struct Clock {
    started: Instant,
    jobs: f64,
    done: f64,
    left: f64,
    /// Work that the estimate itself counts for, so that the first few steps do not decide alone.
    prior: f64,
}

struct Running {
    /// Work that is left of it.
    left: f64,
    train: f64,
    eval: f64,
    place: String,
}

/// Watches one run.
struct RunProgress<'a> {
    plan: &'a PlanProgress,
    name: String,
    bar: Option<ProgressBar>,
    steps: u64,
    /// Work of a step, and of an evaluated row.
    step: f64,
    row: f64,
}

impl PlanProgress {
    /// Watches runs that were estimated, and takes over Ctrl-C.
    pub(crate) fn new(estimate: &Estimate) -> Result<Self, Failure> {
        let stop = watch_interrupt()?;
        let now = Instant::now();
        let waiting: BTreeMap<_, _> = estimate
            .runs
            .iter()
            .map(|run| (run.name.clone(), (run.train_seconds, run.eval_seconds)))
            .collect();
        let bars = (std::io::stderr().is_terminal() && !estimate.runs.is_empty()).then(|| {
            let all = MultiProgress::new();
            let whole = all.add(bar(
                estimate.runs.len() as u64,
                "{bar:30} {pos}/{len} runs  {elapsed}  {msg}",
            ));
            // The first run may be long, and time goes on.
            whole.enable_steady_tick(Duration::from_secs(1));
            Bars { all, whole }
        });
        Ok(PlanProgress {
            stop,
            bars,
            state: Mutex::new(State {
                clock: Clock::new(
                    now,
                    estimate.jobs,
                    waiting.values().map(|(train, eval)| train + eval).sum(),
                ),
                waiting,
                running: BTreeMap::new(),
                runs: estimate.runs.len(),
                ended: 0,
                last_line: now,
                said: BTreeSet::new(),
            }),
        })
    }

    /// Removes the bars, so that results stand alone.
    pub(crate) fn clear(&self) {
        if let Some(bars) = &self.bars {
            bars.whole.finish_and_clear();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, line: &str) {
        match &self.bars {
            // What cannot be shown is no reason to stop.
            Some(bars) => drop(bars.all.println(line)),
            None => anstream::eprintln!("{line}"),
        }
    }

    fn say_once(&self, state: &mut State, line: String) {
        if !state.said.contains(&line) {
            self.say(&line);
            state.said.insert(line);
        }
    }

    /// Something was done: updates the whole, or prints a line where there was none for a while.
    fn show(&self, state: &mut State) {
        match &self.bars {
            Some(bars) => {
                bars.whole.set_position(state.ended as u64);
                bars.whole.set_message(state.left());
            }
            None if state.last_line.elapsed() >= LINE_EVERY => {
                state.last_line = Instant::now();
                self.say(&state.line());
            }
            None => {}
        }
    }
}

impl Observers for PlanProgress {
    fn of_run(&self) -> Box<dyn Observer + Send + '_> {
        Box::new(RunProgress {
            plan: self,
            name: String::new(),
            bar: None,
            steps: 0,
            step: 0.0,
            row: 0.0,
        })
    }

    fn should_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl State {
    fn left(&self) -> String {
        let longest = self.running.values().map(|run| run.left).fold(0.0, f64::max);
        format!("about {} left", duration(self.clock.left(Instant::now(), longest)))
    }

    /// `12 of 64 runs done in 3 min, about 12 min left; mrpc dylora seed 10: step 34 of 115`.
    fn line(&self) -> String {
        let running: Vec<_> = self
            .running
            .iter()
            .map(|(name, run)| format!("{name}: {}", run.place))
            .collect();
        format!(
            "{} of {} runs done in {}, {}; {}",
            self.ended,
            self.runs,
            duration(self.clock.started.elapsed().as_secs_f64()),
            self.left(),
            running.join("; ")
        )
    }

    /// Counts work of a run that is under way.
    fn advance(&mut self, name: &str, work: f64, place: impl FnOnce() -> String) {
        if let Some(run) = self.running.get_mut(name) {
            let work = work.min(run.left);
            run.left -= work;
            run.place = place();
            self.clock.done += work;
            self.clock.left -= work;
        }
    }

    /// A run is not for us, or not yet.
    fn pass_over(&mut self, name: &str) {
        if let Some((train, eval)) = self.waiting.remove(name) {
            self.ended += 1;
            self.clock.left -= train + eval;
        }
    }

    /// A run is over; what is left of it will not be done.
    fn end(&mut self, name: &str) {
        self.ended += 1;
        if let Some(run) = self.running.remove(name) {
            self.clock.left -= run.left;
        }
    }
}

impl Clock {
    fn new(started: Instant, jobs: usize, left: f64) -> Self {
        Clock {
            started,
            jobs: jobs.max(1) as f64,
            done: 0.0,
            left,
            prior: (left / 50.0).min(60.0),
        }
    }

    /// Seconds left; the run under way with most to do, which no other job helps with, has `longest` left.
    fn left(&self, now: Instant, longest: f64) -> f64 {
        let elapsed = now.duration_since(self.started).as_secs_f64() + self.prior / self.jobs;
        let done = self.done + self.prior;
        if done <= 0.0 {
            return 0.0;
        }
        let per_work = elapsed / done;
        (self.left * per_work).max(longest * self.jobs * per_work).max(0.0)
    }
}

impl Observer for RunProgress<'_> {
    fn event(&mut self, event: &Event<'_>) {
        let mut state = self.plan.state();
        match *event {
            Event::Experiment { name, .. } => {
                self.name = name.to_owned();
                let (train, eval) = state.waiting.remove(name).unwrap_or_default();
                let run = Running {
                    left: train + eval,
                    train,
                    eval,
                    place: "loading".to_owned(),
                };
                state.running.insert(self.name.clone(), run);
            }
            Event::Started { steps, done, .. } => {
                self.steps = steps;
                let train = state.running.get(&self.name).map_or(0.0, |run| run.train);
                self.step = train / steps.saturating_sub(done).max(1) as f64;
                self.bar = self.plan.bars.as_ref().map(|bars| {
                    let style = "{prefix:30} {bar:20} {pos}/{len} {msg}";
                    let bar = bars.all.insert_before(&bars.whole, bar(steps, style));
                    bar.set_prefix(self.name.clone());
                    bar.set_position(done);
                    bar
                });
            }
            Event::Cut { path, texts } => self.plan.say_once(&mut state, cut(path, texts)),
            Event::Remark(words) => self.plan.say_once(&mut state, words.to_owned()),
            Event::Step { step, epoch, loss, .. } => {
                let of = self.steps;
                state.advance(&self.name, self.step, || format!("step {step} of {of}"));
                if let Some(bar) = &self.bar {
                    bar.set_position(step);
                    bar.set_message(format!("steps, epoch {epoch}, loss {loss:.4}"));
                }
            }
            Event::Evaluating { ranks, rows } => {
                let eval = state.running.get(&self.name).map_or(0.0, |run| run.eval);
                self.row = eval / (ranks * rows).max(1) as f64;
                if let Some(bar) = &self.bar {
                    bar.set_length((ranks * rows) as u64);
                    bar.set_position(0);
                    bar.set_message("rows evaluated");
                }
            }
            Event::EvaluatedRows(rows) => {
                state.advance(&self.name, self.row * rows as f64, || "evaluating".to_owned());
                if let Some(bar) = &self.bar {
                    bar.inc(rows as u64);
                }
            }
            Event::Finished { record } => {
                state.end(&self.name);
                self.close();
                self.plan.say(&format!("{}: {}", self.name, outcome(record)));
            }
            Event::ExperimentElsewhere { name, by } => {
                state.pass_over(name);
                match by {
                    Some(by) => self.plan.say_once(&mut state, format!("{name}: {by} is at it")),
                    None => self.plan.say(&format!("{name}: ended elsewhere")),
                }
            }
            Event::ExperimentFailed { name, error } => {
                state.end(name);
                self.close();
                self.plan.say(&format!("{name} failed: {error}"));
            }
            _ => return,
        }
        self.plan.show(&mut state);
    }

    fn should_stop(&self) -> bool {
        self.plan.should_stop()
    }
}

impl RunProgress<'_> {
    fn close(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// A run that was stopped leaves no bar behind.
impl Drop for RunProgress<'_> {
    fn drop(&mut self) {
        self.close();
    }
}

fn bar(length: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// `accuracy 0.6838, 0.7010, 0.7034 at ranks 1, 4, 8; 18 s`: the metric of the table at the lowest, middle and highest rank.
fn outcome(record: &Record) -> String {
    let ranks = &record.ranks;
    let mut shown = vec![0, ranks.len().saturating_sub(1) / 2, ranks.len().saturating_sub(1)];
    shown.dedup();
    let shown: Vec<_> = shown.into_iter().filter_map(|index| ranks.get(index)).collect();
    let metric = shown
        .first()
        .and_then(|row| row.scores.0.first())
        .map_or("", |(name, _)| name);
    let values: Vec<_> = shown
        .iter()
        .filter_map(|row| row.scores.get(metric))
        .map(|value| format!("{value:.4}"))
        .collect();
    let at: Vec<_> = shown
        .iter()
        .filter(|row| row.rank != RankName::Full)
        .map(|row| row.rank.to_string())
        .collect();
    let at = match at.len() {
        0 => String::new(),
        1 => format!(" at rank {}", at[0]),
        _ => format!(" at ranks {}", at.join(", ")),
    };
    let seconds = record.timing.train_seconds + record.timing.eval_seconds;
    format!("{metric} {}{at}; {}", values.join(", "), duration(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_follows_what_was_seen() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut clock = Clock::new(start, 2, 1000.0);
        // Nothing is done: the estimate, two at a time.
        assert_eq!(clock.left(after(0), 0.0), 500.0);
        // Half is done, at half the speed that was measured.
        (clock.done, clock.left) = (500.0, 500.0);
        let left = clock.left(after(500), 100.0);
        assert!((480.0..500.0).contains(&left), "{left}");
        // The last run of all is alone: 10 s of work, each of which takes 2 s.
        (clock.done, clock.left) = (990.0, 10.0);
        let left = clock.left(after(990), 10.0);
        assert!((19.0..20.0).contains(&left), "{left}");
        assert_eq!(Clock::new(start, 2, 0.0).left(after(1), 0.0), 0.0);
    }
}
