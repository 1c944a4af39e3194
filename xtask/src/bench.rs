//! `cargo xtask bench ..`: a whole training step by default, single kernels or the metrics of text on request; always in
//! release mode.

use crate::run::{self, Done};

/// `bench kernels ARGS` and `bench metrics ARGS` are `cargo bench` of one target, `bench gpu` and `bench generate` are tables;
/// everything else is `dylora bench ARGS`.
pub(crate) fn run(args: &[String]) -> Done {
    match args.split_first() {
        Some((first, rest)) if first == "kernels" => target("dylora-tensor", "kernels", rest),
        Some((first, rest)) if first == "metrics" => target("dylora-tasks", "text_metrics", rest),
        Some((first, rest)) if first == "gpu" => crate::gpu::run(rest),
        Some((first, rest)) if first == "generate" => crate::generate::run(rest),
        _ => run::dylora("bench", args),
    }
}

fn target(package: &str, name: &str, args: &[String]) -> Done {
    let mut command = run::cargo("bench");
    // The one target by name: `cargo bench` alone would start the unit tests too, and list them as ignored.
    command.args(["--package", package, "--bench", name]).args(args);
    run::status(command)
}
