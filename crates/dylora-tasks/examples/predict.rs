//! A finished run answers at several ranks; the model is loaded once.
//!
//! ```sh
//! cargo run --release -p dylora-tasks --example predict -- runs/mrpc
//! ```
#![allow(clippy::print_stdout)]

use dylora_tasks::evaluate::TrainedModel;

fn main() -> dylora_tasks::Result<()> {
    let run = std::env::args().nth(1).unwrap_or_else(|| "runs/mrpc".to_owned());
    let model = TrainedModel::open(run.as_ref(), None)?;
    let texts = [("The cat sat on the mat.", Some("On the mat there was a cat."))];
    for rank in model.settings.ranks() {
        for prediction in model.predict_texts(&texts, rank)? {
            println!("rank {rank:?}: {} {:?}", prediction.label, prediction.logits);
        }
    }
    Ok(())
}
