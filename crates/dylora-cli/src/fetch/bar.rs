//! Shows a fetch on stderr: a bar for every file on a terminal, a line elsewhere.

use std::io::IsTerminal as _;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use super::Event;

/// Takes the events of a fetch; what it draws is gone when it is dropped.
pub(crate) struct Bar {
    terminal: bool,
    bar: Option<ProgressBar>,
    /// The file that is being sent.
    file: String,
}

impl Bar {
    pub(crate) fn new() -> Self {
        Bar {
            terminal: std::io::stderr().is_terminal(),
            bar: None,
            file: String::new(),
        }
    }

    pub(crate) fn show(&mut self, event: Event<'_>) {
        match event {
            Event::Download {
                repo,
                file,
                done,
                total,
            } => {
                if self.file != file {
                    self.clear();
                    self.start(repo, file, total);
                }
                if let Some(bar) = &self.bar {
                    bar.set_position(done);
                }
            }
            Event::Convert { task } => self.say(&format!("writing the tab-separated files of {task}")),
            Event::Unpack { file } => self.say(&format!("unpacking {file}")),
            Event::Blanked { file, texts } => self.say(&format!(
                "{file}: {texts} texts hold a tab or a line break, which became a blank"
            )),
        }
    }

    fn start(&mut self, repo: &str, file: &str, total: u64) {
        file.clone_into(&mut self.file);
        if self.terminal {
            let bar = ProgressBar::new(total).with_message(file.to_owned());
            let template = "{msg}  {bar:30} {bytes}/{total_bytes}  {bytes_per_sec}, {eta} left";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            self.bar = Some(bar);
        } else {
            self.say(&format!("{file} of {repo}, {}", HumanBytes(total)));
        }
    }

    fn say(&mut self, line: &str) {
        self.clear();
        anstream::eprintln!("{line}");
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}
