//! How far a long command is.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar on the terminal; nothing is drawn elsewhere. `total`: the whole, where it is known.
pub fn bar(name: &str, total: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::new(total.unwrap_or(0)).with_message(name.to_owned());
    if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:30}] {human_pos}/{human_len} {elapsed}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}
