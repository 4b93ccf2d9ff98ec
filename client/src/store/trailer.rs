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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use highwater_shared::Timestamp;

    use super::*;

    fn is_refused(next: &str, entities: &[EntityName]) -> bool {
        let trailer = Trailer {
            next: next.to_owned(),
            more: false,
            last_sync_date: Timestamp::EPOCH,
            rows: 0,
            entities: entities.to_vec(),
        };
        let ask = Ask {
            since: None,
            held: Vec::new(),
            entities: None,
            wait: Duration::ZERO,
            whole: true,
            takes_rescoped: false,
        };
        match check(&trailer, &ask, entities) {
            Ok(()) => false,
            Err(Error::Malformed(_)) => true,
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_cursor_has_a_length_that_an_address_takes() {
        assert!(is_refused("", &[]));
        assert!(!is_refused("c", &[]));
        assert!(!is_refused(&"c".repeat(CURSOR_BYTES_MAX), &[]));
        assert!(is_refused(&"c".repeat(CURSOR_BYTES_MAX + 1), &[]));
    }

    #[test]
    fn a_page_has_no_more_entities_than_anybody_has() {
        let entities = |count: usize| (0..count).map(|number| EntityName::new(format!("e{number}")));
        assert!(!is_refused("c", &entities(ENTITIES_MAX).collect::<Vec<_>>()));
        assert!(is_refused("c", &entities(ENTITIES_MAX + 1).collect::<Vec<_>>()));
    }
}
