//! When the scopes of entities were changed, so that nobody is woken for what it may not see.

use std::collections::HashMap;
use std::sync::Arc;

use super::view::Ground;

/// Scopes whose latest change is remembered, of all entities together.
const SCOPES_MAX: usize = 10_000;

/// When the scopes of entities were changed.
#[derive(Clone, Debug, Default)]
pub(super) struct ScopeChanges {
    /// By entity and value.
    latest: HashMap<(i32, String), Arc<Ground>>,
    /// By entity, when scopes that are not listed had last been changed at the latest.
    others: HashMap<i32, Arc<Ground>>,
}

impl ScopeChanges {
    /// When one of these scopes of an entity was changed last, at the latest.
    pub(super) fn latest(&self, entity: i32, scopes: &[String]) -> Option<&Arc<Ground>> {
        let listed = scopes
            .iter()
            .filter_map(|scope| self.latest.get(&(entity, scope.clone())));
        listed
            .chain(self.others.get(&entity))
            .max_by_key(|ground| ground.look)
    }

    /// Notes that these scopes of an entity were changed.
    pub(super) fn change(&mut self, entity: i32, scopes: &[String], now: &Arc<Ground>) {
        for scope in scopes {
            self.latest.insert((entity, scope.clone()), Arc::clone(now));
        }
        if self.latest.len() > SCOPES_MAX {
            self.forget_older_half();
        }
    }

    /// Notes that any scope of an entity may have been changed.
    pub(super) fn change_all(&mut self, entity: i32, now: &Arc<Ground>) {
        self.latest.retain(|(number, _), _| *number != entity);
        self.others.insert(entity, Arc::clone(now));
    }

    /// Whoever has not seen as much as is forgotten is answered by a page.
    fn forget_older_half(&mut self) {
        let mut grounds: Vec<Arc<Ground>> = self.latest.values().map(Arc::clone).collect();
        grounds.sort_unstable_by_key(|ground| ground.look);
        let Some(middle) = grounds.get(grounds.len() / 2) else {
            return;
        };
        let others = &mut self.others;
        self.latest.retain(|(entity, _), ground| {
            let is_kept = ground.look > middle.look;
            if !is_kept {
                let other = others.entry(*entity).or_insert_with(|| Arc::clone(ground));
                if other.look < ground.look {
                    *other = Arc::clone(ground);
                }
            }
            is_kept
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::Lsn;
    use crate::snapshot::{Snapshot, Xid};

    /// All have snapshots of the same bounds: an older writer is in flight all the time.
    fn ground(look: u64) -> Arc<Ground> {
        Arc::new(Ground {
            look,
            snapshot: Snapshot::new(Xid(9), vec![Xid(3)]),
            wal: Lsn(look),
        })
    }

    fn latest(changes: &ScopeChanges, entity: i32, scopes: &[&str]) -> Option<u64> {
        let scopes: Vec<String> = scopes.iter().map(ToString::to_string).collect();
        changes.latest(entity, &scopes).map(|ground| ground.wal.0)
    }

    #[test]
    fn a_scope_is_changed_by_its_own_changes_only() {
        let mut changes = ScopeChanges::default();
        changes.change_all(1, &ground(10));
        changes.change(1, &["a".to_owned()], &ground(11));
        changes.change(2, &["b".to_owned()], &ground(12));
        assert_eq!(latest(&changes, 1, &["a", "b"]), Some(11));
        assert_eq!(latest(&changes, 1, &["b"]), Some(10));
        assert_eq!(latest(&changes, 2, &["a"]), None);
        changes.change_all(1, &ground(13));
        assert_eq!(latest(&changes, 1, &["a"]), Some(13));
    }

    #[test]
    fn what_is_forgotten_counts_as_changed_no_later_than_it_was() {
        let mut changes = ScopeChanges::default();
        for number in 0..=SCOPES_MAX as u64 {
            changes.change(1, &[number.to_string()], &ground(number));
        }
        assert!(changes.latest.len() <= SCOPES_MAX / 2 + 1);
        let forgotten = latest(&changes, 1, &["7"]).unwrap();
        assert!(
            forgotten >= 7 && forgotten <= SCOPES_MAX as u64 / 2,
            "{forgotten}"
        );
        let last = SCOPES_MAX as u64;
        assert_eq!(latest(&changes, 1, &[&last.to_string()]), Some(last));
    }
}
