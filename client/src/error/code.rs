//! Errors by a short name, for programs, and for the server to be told of.

use highwater_shared::Code;

use super::Error;

impl Error {
    /// What went wrong, as a program reads it: the code of a problem where the server answered with one.
    ///
    /// ```
    /// assert_eq!(highwater_client::Error::Incomplete.code(), "incomplete");
    /// ```
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused { code: Some(code), .. } => code.name(),
            Self::Refused { code: None, .. } => "refused",
            Self::Unauthenticated { .. } => Code::Unauthenticated.name(),
            Self::Resync { .. } => Code::ResyncRequired.name(),
            Self::ServerAddress { .. } => "server_address",
            Self::Token | Self::TokenFile { .. } | Self::TokenOverHttp { .. } => "token",
            Self::CaCert { .. } => "ca_cert",
            Self::Http(_) => "http",
            Self::Unreachable { .. } => "unreachable",
            Self::Tls { .. } => "tls",
            Self::Cut { .. } => "cut",
            Self::Incomplete => "incomplete",
            Self::NotHighwater { .. } => "not_highwater",
            Self::Redirected { .. } => "redirected",
            Self::Malformed(_) => "malformed",
            Self::Stalled => "stalled",
            Self::PullFirst { .. } => "pull_first",
            Self::OtherSource { .. } => "other_source",
            Self::SchemaChanged { .. } => "schema_changed",
            Self::BeginsAnew { .. } => "begins_anew",
            Self::UniqueIndex { .. } => "unique_index",
            Self::NameTaken { .. } => "name_taken",
            Self::KeepDeleted { .. } => "keep_deleted",
            Self::TableMissing { .. } => "table_missing",
            Self::TableAltered { .. } => "table_altered",
            Self::UnknownEntity { .. } => Code::UnknownEntity.name(),
            Self::Key { .. } => Code::InvalidKey.name(),
            Self::Locked { .. } => "locked",
            Self::Open { .. } => "open",
            Self::Damaged { .. } => "damaged",
            Self::Store { .. } | Self::Sqlite(_) if self.is_full() => "disk_full",
            Self::Store { .. } | Self::Sqlite(_) => "store",
            Self::Stopped => "stopped",
            Self::Seed { .. } => "seed",
            Self::Task(_) => "task",
        }
    }
}
