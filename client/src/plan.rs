//! Chooses what to ask the server for next: one cursor for as many entities as it is right for.
//!
//! All entities are pulled together, so that they stand at one cut of the source. Entities that
//! were pulled apart stand at different cursors, and join again at the older one. That is exact
//! where the server counts the entity among those the cursor covers *and* the rows in the store
//! already hold all that the cursor has seen; otherwise the server must begin the entity anew,
//! which it does when the cursor does not cover it.
//!
//! One trap is handled here. After `reset --entity x` the cursor of the others still covers `x`
//! at the server, though its rows are gone here. Those others are then asked for alone once:
//! the cursor that comes back does not cover `x`, and in the next step `x` begins anew.

use std::collections::BTreeSet;
use std::time::Duration;

use highwater_shared::EntityName;

use crate::sync_helper::{Cursor, State, SyncHelper};

/// The most bytes of cursors that go along with the one that is gone on from: an address has 64 KiB.
const HELD_BYTES_MAX: usize = 3 * 1024;

/// What to ask the server for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    /// The cursor to go on from; `None` begins anew.
    pub(crate) since: Option<Cursor>,
    /// Later cursors that entities stand at which go on from it. Whoever lacks what these have seen cannot answer.
    pub(crate) held: Vec<Cursor>,
    /// The entities to name; `None` asks for all that the caller may read.
    pub(crate) entities: Option<Vec<EntityName>>,
    /// How long the server may hold the request while nothing is new.
    pub(crate) wait: Duration,
    /// Whether the pull is over once this has been answered to its end.
    pub(crate) whole: bool,
    /// Whether a change of what the caller may see can be told by rows. What is left of an entity that was withdrawn may be
    /// none of its business any more, which no rows tell.
    pub(crate) takes_rescoped: bool,
}

impl Ask {
    /// The question without a cursor, so that every `wanted` entity begins anew.
    pub(crate) fn anew(wanted: Option<&[EntityName]>) -> Self {
        Self {
            since: None,
            held: Vec::new(),
            entities: wanted.map(<[EntityName]>::to_vec),
            wait: Duration::ZERO,
            whole: true,
            takes_rescoped: false,
        }
    }
}

/// The next question of a pull of the `wanted` entities (`None`: all), from how they stand.
pub(crate) fn next_ask(wanted: Option<&[EntityName]>, helpers: &[SyncHelper]) -> Ask {
    let mut standing: Vec<&SyncHelper> = helpers
        .iter()
        .filter(|helper| match wanted {
            Some(wanted) => wanted.contains(&helper.entity),
            None => helper.state != State::Withdrawn,
        })
        .collect();
    standing.sort_by(|a, b| a.entity.cmp(&b.entity));

    let Some(base) = base(&standing) else {
        return Ask::anew(wanted);
    };
    let mut names: BTreeSet<&EntityName> = standing.iter().map(|helper| &helper.entity).collect();
    match wanted {
        Some(wanted) => names.extend(wanted),
        None => names.extend(base.covers.iter()),
    }
    let mut held: BTreeSet<&Cursor> = BTreeSet::new();
    let (held_back, asked): (Vec<&EntityName>, Vec<&EntityName>) = names.into_iter().partition(|name| {
        base.covers.contains(name)
            && !standing.iter().any(|helper| {
                helper.entity == **name && may_join(helper, base) && is_held(helper, base, &mut held)
            })
    });
    let whole = held_back.is_empty();
    Ask {
        since: base.cursor.clone(),
        held: held.into_iter().cloned().collect(),
        entities: if whole {
            wanted.map(<[EntityName]>::to_vec)
        } else {
            Some(asked.into_iter().cloned().collect())
        },
        wait: Duration::ZERO,
        whole,
        takes_rescoped: helpers.iter().all(|helper| helper.state != State::Withdrawn),
    }
}

/// The entity whose cursor makes the fewest others begin anew; of equals the longest established.
fn base<'a>(standing: &[&'a SyncHelper]) -> Option<&'a SyncHelper> {
    standing
        .iter()
        .copied()
        .filter(|helper| helper.cursor.is_some())
        .min_by_key(|base| {
            let begin_anew = standing.iter().filter(|helper| !may_join(helper, base)).count();
            (begin_anew, base.began, base.sequence)
        })
}

/// Whether the entity may go on from the cursor of `base`.
fn may_join(helper: &SyncHelper, base: &SyncHelper) -> bool {
    if helper.cursor.is_some() && helper.cursor == base.cursor {
        return true;
    }
    let has_whole_rows = helper.complete && matches!(helper.state, State::Current | State::Pulling);
    let has_seen_as_much = helper.began <= base.sequence && base.sequence <= helper.sequence;
    helper.cursor.is_some() && has_whole_rows && has_seen_as_much && base.covers.contains(&helper.entity)
}

/// Puts the cursor of an entity that joins another among those that are held, where there is room for it.
fn is_held<'a>(helper: &'a SyncHelper, base: &SyncHelper, held: &mut BTreeSet<&'a Cursor>) -> bool {
    let Some(cursor) = helper.cursor.as_ref().filter(|_| helper.cursor != base.cursor) else {
        return true;
    };
    let bytes: usize = held.iter().map(|held| held.as_str().len()).sum();
    if !held.contains(cursor) && bytes + cursor.as_str().len() > HELD_BYTES_MAX {
        return false;
    }
    held.insert(cursor);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> EntityName {
        EntityName::new(name)
    }

    fn names(text: &[&str]) -> Vec<EntityName> {
        text.iter().map(|text| name(text)).collect()
    }

    /// An entity that stands whole at the cursor `c<sequence>`.
    fn at(entity: &str, sequence: i64, covers: &[&str]) -> SyncHelper {
        SyncHelper {
            cursor: Some(Cursor::new(format!("c{sequence}"))),
            state: State::Current,
            complete: true,
            covers: names(covers).into(),
            sequence,
            ..SyncHelper::missing(name(entity))
        }
    }

    fn ask(since: Option<&str>, entities: Option<&[&str]>, whole: bool) -> Ask {
        Ask {
            since: since.map(Cursor::new),
            held: Vec::new(),
            entities: entities.map(names),
            wait: Duration::ZERO,
            whole,
            takes_rescoped: since.is_some(),
        }
    }

    #[test]
    fn an_empty_store_asks_for_everything() {
        assert_eq!(next_ask(None, &[]), ask(None, None, true));
        assert_eq!(next_ask(Some(&names(&["a"])), &[]), ask(None, Some(&["a"]), true));
    }

    #[test]
    fn entities_at_one_cursor_go_on_together() {
        let store = [at("a", 3, &["a", "b"]), at("b", 3, &["a", "b"])];
        assert_eq!(next_ask(None, &store), ask(Some("c3"), None, true));
        assert_eq!(
            next_ask(Some(&names(&["b"])), &store),
            ask(Some("c3"), Some(&["b"]), true)
        );
    }

    #[test]
    fn a_new_entity_joins_with_the_cursor_of_the_others() {
        let store = [at("a", 3, &["a"])];
        assert_eq!(
            next_ask(Some(&names(&["a", "n"])), &store),
            ask(Some("c3"), Some(&["a", "n"]), true)
        );
    }

    #[test]
    fn entities_pulled_apart_join_at_the_older_cursor_that_covers_them() {
        let store = [at("a", 5, &["a"]), at("b", 3, &["a", "b"])];
        let joined = Ask {
            held: vec![Cursor::new("c5")],
            ..ask(Some("c3"), None, true)
        };
        assert_eq!(next_ask(None, &store), joined);
    }

    #[test]
    fn cursors_that_fit_no_address_are_not_joined() {
        let mut long = at("a", 5, &["a"]);
        long.cursor = Some(Cursor::new("c".repeat(HELD_BYTES_MAX + 1)));
        let store = [long, at("b", 3, &["a", "b"]), at("z", 3, &["a", "b", "z"])];
        let first = next_ask(None, &store);
        assert_eq!(first, ask(Some("c3"), Some(&["b", "z"]), false));
    }

    #[test]
    fn where_no_cursor_covers_all_the_fewest_begin_anew() {
        let store = [
            at("a", 3, &["a"]),
            at("b", 5, &["b", "c"]),
            at("c", 5, &["b", "c"]),
        ];
        assert_eq!(next_ask(None, &store), ask(Some("c5"), None, true));
    }

    #[test]
    fn an_entity_whose_rows_are_gone_is_first_taken_out_of_the_cursor() {
        // `b` was reset here; the server still counts it in.
        let store = [at("a", 3, &["a", "b"])];
        assert_eq!(next_ask(None, &store), ask(Some("c3"), Some(&["a"]), false));
        let store = [at("a", 4, &["a"])];
        assert_eq!(next_ask(None, &store), ask(Some("c4"), None, true));
    }

    #[test]
    fn an_entity_begun_anew_alone_does_not_join_at_a_cursor_from_before() {
        let mut b = at("b", 9, &["b"]);
        b.began = 8;
        let store = [at("a", 3, &["a", "b"]), at("z", 3, &["a", "b"]), b];
        assert_eq!(next_ask(None, &store), ask(Some("c3"), Some(&["a", "z"]), false));
    }

    #[test]
    fn an_unfinished_first_pull_does_not_join_elsewhere() {
        let mut b = at("b", 9, &["b"]);
        b.complete = false;
        b.state = State::Pulling;
        let store = [at("a", 3, &["a", "b"]), at("z", 3, &["a", "b"]), b];
        assert_eq!(next_ask(None, &store), ask(Some("c3"), Some(&["a", "z"]), false));
    }

    #[test]
    fn an_entity_that_the_server_withdrew_holds_nothing_back() {
        let mut gone = at("b", 1, &["a", "b"]);
        gone.state = State::Withdrawn;
        gone.cursor = None;
        let store = [at("a", 7, &["a"]), gone];
        let alone = Ask {
            takes_rescoped: false,
            ..ask(Some("c7"), None, true)
        };
        assert_eq!(next_ask(None, &store), alone);
    }

    #[test]
    fn a_renewal_under_way_does_not_join_elsewhere() {
        let mut b = at("b", 9, &["b"]);
        b.state = State::Renewing;
        let store = [at("a", 3, &["a", "b"]), at("z", 3, &["a", "b"]), b];
        assert_eq!(next_ask(None, &store), ask(Some("c3"), Some(&["a", "z"]), false));
    }

    #[test]
    fn an_entity_does_not_join_at_a_cursor_that_is_ahead_of_it() {
        let store = [at("a", 2, &["a"]), at("b", 5, &["a", "b"])];
        assert_eq!(next_ask(None, &store), ask(Some("c2"), None, true));
    }
}
