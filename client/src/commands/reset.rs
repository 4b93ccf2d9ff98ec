//! `highwater reset`: the next pull is a full one.

use highwater_client::{EntityName, Reset, reset};

use super::print;
use crate::cli::ResetOptions;

pub(crate) fn run(options: &ResetOptions) -> anyhow::Result<()> {
    let store = &options.store.store;
    let is_missing = !store.exists();
    let reset = reset(store, &options.entities)?;
    if options.quiet {
        return Ok(());
    }
    if is_missing {
        return print(&format!("there is no {}, so nothing to reset", store.display()));
    }
    print(&as_text(&reset))
}

fn as_text(reset: &Reset) -> String {
    if let Some(moved_to) = &reset.moved_to {
        return format!(
            "the store was damaged; it is now {}, with all that is left in it; an empty one is in its place, and the next pull is a full one",
            moved_to.display()
        );
    }
    if reset.entities.is_empty() {
        return "there was nothing to reset".to_owned();
    }
    let names: Vec<&str> = reset.entities.iter().map(EntityName::as_str).collect();
    let mut lines = vec![format!("reset {}; the next pull is a full one", names.join(", "))];
    if reset.rows_stay {
        lines.push("the disk is full: the rows stay until that pull".to_owned());
    }
    for dropped in &reset.dropped {
        lines.push(format!("{dropped} does not fit the table, and was dropped"));
    }
    for broken in &reset.broken {
        lines.push(format!(
            "{broken} does not fit the table; it was kept, and cannot be read until it is mended"
        ));
    }
    lines.join("\n")
}
