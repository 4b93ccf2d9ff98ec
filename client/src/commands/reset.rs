//! `highwater reset`: the next pull is a full one.

use highwater_client::Store;

use super::print;
use crate::cli::ResetOptions;

pub(crate) fn run(options: &ResetOptions) -> anyhow::Result<()> {
    let store = Store::open(&options.store.store)?;
    let reset = store.reset(&options.entities)?;
    if options.quiet {
        return Ok(());
    }
    if reset.is_empty() {
        return print("there was nothing to reset");
    }
    let names: Vec<&str> = reset.iter().map(highwater_client::EntityName::as_str).collect();
    print(&format!(
        "reset {}; the next pull is a full one",
        names.join(", ")
    ))
}
