//! Who asks, and what they may see: entities by name, rows by the values of scope columns.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use highwater_shared::EntityName;

/// Who asks, and what they may see. A copy costs nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller(Arc<Rights>);

#[derive(Debug, PartialEq, Eq)]
enum Rights {
    /// Nobody is asked who they are, and all may see everything.
    Unrestricted,
    /// What was granted, and nothing else.
    Granted(Grant),
}

/// What a key or a token grants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// Whom it names, for the log.
    pub name: String,
    /// The entities that may be read; `None` for all.
    pub entities: Option<Arc<BTreeSet<EntityName>>>,
    /// By scope column: the values whose rows may be seen, as Postgres prints them.
    pub scopes: BTreeMap<String, BTreeSet<String>>,
    /// Whether it may see how the server, its entities and all devices fare. That is no right to any row.
    pub is_operator: bool,
}

impl Caller {
    /// The caller of a server that asks nobody who they are: one who may see everything.
    pub fn anyone() -> Self {
        Self(Arc::new(Rights::Unrestricted))
    }

    /// A caller who may see what was granted.
    pub fn with(grant: Grant) -> Self {
        Self(Arc::new(Rights::Granted(grant)))
    }

    /// Whether this caller may see every row of every entity, since nobody is asked who they are.
    /// Whoever was asked sees of an entity with a scope only the rows of their [values](Self::values).
    pub fn is_unrestricted(&self) -> bool {
        matches!(*self.0, Rights::Unrestricted)
    }

    /// Whom the log names; `None` where nobody is asked.
    pub fn name(&self) -> Option<&str> {
        self.grant().map(|grant| grant.name.as_str())
    }

    /// The only entities that this caller may read; `None` where it may read all.
    pub fn entities(&self) -> Option<&Arc<BTreeSet<EntityName>>> {
        self.grant()?.entities.as_ref()
    }

    /// Whether it may read an entity of this name, whether there is one or not.
    pub fn may_read(&self, entity: &EntityName) -> bool {
        self.entities().is_none_or(|entities| entities.contains(entity))
    }

    /// The values of a scope column whose rows it may see, each once and in order; none where none
    /// were granted, and then it sees no row. Not to be asked of a caller who is unrestricted.
    pub fn values(&self, column: &str) -> impl ExactSizeIterator<Item = &str> + Clone {
        static NONE: BTreeSet<String> = BTreeSet::new();
        let values = self.grant().and_then(|grant| grant.scopes.get(column));
        values.unwrap_or(&NONE).iter().map(String::as_str)
    }

    /// Whether it may see how the server, its entities and all devices fare.
    pub fn is_operator(&self) -> bool {
        self.grant().is_none_or(|grant| grant.is_operator)
    }

    fn grant(&self) -> Option<&Grant> {
        match &*self.0 {
            Rights::Unrestricted => None,
            Rights::Granted(grant) => Some(grant),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(entities: Option<&[&str]>) -> Caller {
        let names = |names: &[&str]| Arc::new(names.iter().copied().map(EntityName::new).collect());
        let values = ["7", "11"].map(str::to_owned);
        Caller::with(Grant {
            name: "till".to_owned(),
            entities: entities.map(names),
            scopes: [("tenant_id".to_owned(), values.into())].into(),
            ..Grant::default()
        })
    }

    #[test]
    fn a_list_of_entities_bounds_what_may_be_read() {
        let product = EntityName::new("product");
        assert!(Caller::anyone().may_read(&product));
        assert!(granted(None).may_read(&product));
        assert!(granted(Some(&["product"])).may_read(&product));
        assert!(!granted(Some(&["customer"])).may_read(&product));
        assert!(!granted(Some(&[])).may_read(&product));
    }

    #[test]
    fn who_has_no_value_of_a_scope_is_not_unrestricted() {
        let caller = granted(None);
        assert!(!caller.is_unrestricted());
        assert_eq!(caller.values("tenant_id").collect::<Vec<_>>(), ["11", "7"]);
        assert_eq!(caller.values("region").len(), 0);
        assert!(!caller.is_operator() && Caller::anyone().is_operator());
        assert!(Caller::anyone().is_unrestricted());
    }
}
