//! What the last line of a page may claim.

use highwater_shared::{EntityName, Trailer};

use crate::error::Error;
use crate::plan::Ask;

/// The longest cursor that is kept: it has to fit into an address, which has 64 KiB.
const CURSOR_BYTES_MAX: usize = 60 * 1024;

/// The most entities of a page. Each SyncHelper names all that its cursor covers.
const ENTITIES_MAX: usize = 4_096;

/// Refuses a trailer that does not go with the question, or with the entities that the page holds.
pub(super) fn check<'e>(
    trailer: &Trailer,
    ask: &'e Ask,
    held: impl IntoIterator<Item = &'e EntityName>,
) -> Result<(), Error> {
    check_entities(trailer.entities.len())?;
    if trailer.next.is_empty() || trailer.next.len() > CURSOR_BYTES_MAX {
        return Err(Error::Malformed(format!(
            "its cursor is empty, or longer than {CURSOR_BYTES_MAX} bytes"
        )));
    }
    if trailer.more
        && ask
            .since
            .as_ref()
            .is_some_and(|since| since.as_str() == trailer.next)
    {
        return Err(Error::Stalled);
    }
    let malformed = |entity: &EntityName, what: &str| {
        Err(Error::Malformed(format!(
            "its trailer {what} the entity {entity}"
        )))
    };
    let asked = ask.entities.iter().flatten();
    if let Some(entity) = held
        .into_iter()
        .chain(asked)
        .find(|entity| !trailer.entities.contains(entity))
    {
        return malformed(entity, "leaves out");
    }
    for entity in &trailer.entities {
        if ask.entities.as_ref().is_some_and(|asked| !asked.contains(entity)) {
            return malformed(entity, "covers, though it was not asked for,");
        }
    }
    Ok(())
}

/// Refuses a page with more entities than anybody has.
pub(super) fn check_entities(count: usize) -> Result<(), Error> {
    if count > ENTITIES_MAX {
        return Err(Error::Malformed(format!(
            "it has more than {ENTITIES_MAX} entities"
        )));
    }
    Ok(())
}
