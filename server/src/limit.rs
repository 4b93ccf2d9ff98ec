//! The limits of a server by name, so that a refusal, a metric and an option speak of the same.

use std::time::Duration;

/// A limit that can be reached. Each is an option of `highwater-server serve` of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// Connections that are open at one time.
    ConnectionsMax,
    /// The time until a caller's first request has come.
    HeaderTimeMax,
    /// Bytes of the head of a request.
    HeaderBytesMax,
    /// Bytes of its address.
    UrlBytesMax,
    /// Bytes of its body.
    BodyBytesMax,
    /// Requests that are answered at one time.
    RequestsMax,
    /// The time until an answer begins.
    RequestTimeMax,
    /// Callers who wait.
    WaitingMax,
    /// Requests of one caller that wait.
    CallerWaitingMax,
    /// Requests a second of one caller.
    CallerRequestsPerSecond,
    /// Rows of a page.
    PageRowsMax,
    /// Bytes of a page.
    PageBytesMax,
    /// The time after which a page ends.
    PageTimeMax,
    /// The time for which a reader may stand still.
    SendWaitMax,
    /// Requests for digests that are answered at one time.
    DigestsMax,
    /// The time that digests may take.
    DigestsTimeMax,
    /// The time of a statement in Postgres.
    StatementTimeMax,
    /// The time for which a transaction in Postgres may stand still.
    TransactionIdleTimeMax,
    /// Devices that are remembered.
    DevicesMax,
}

impl Limit {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::ConnectionsMax,
        Self::HeaderTimeMax,
        Self::HeaderBytesMax,
        Self::UrlBytesMax,
        Self::BodyBytesMax,
        Self::RequestsMax,
        Self::RequestTimeMax,
        Self::WaitingMax,
        Self::CallerWaitingMax,
        Self::CallerRequestsPerSecond,
        Self::PageRowsMax,
        Self::PageBytesMax,
        Self::PageTimeMax,
        Self::SendWaitMax,
        Self::DigestsMax,
        Self::DigestsTimeMax,
        Self::StatementTimeMax,
        Self::TransactionIdleTimeMax,
        Self::DevicesMax,
    ];

    /// The name of its option, with lines below between the words, as metrics have them.
    pub fn name(self) -> &'static str {
        match self {
            Self::ConnectionsMax => "connections_max",
            Self::HeaderTimeMax => "header_time_max",
            Self::HeaderBytesMax => "header_bytes_max",
            Self::UrlBytesMax => "url_bytes_max",
            Self::BodyBytesMax => "body_bytes_max",
            Self::RequestsMax => "requests_max",
            Self::RequestTimeMax => "request_time_max",
            Self::WaitingMax => "waiting_max",
            Self::CallerWaitingMax => "caller_waiting_max",
            Self::CallerRequestsPerSecond => "caller_requests_per_second",
            Self::PageRowsMax => "page_rows_max",
            Self::PageBytesMax => "page_bytes_max",
            Self::PageTimeMax => "page_time_max",
            Self::SendWaitMax => "send_wait_max",
            Self::DigestsMax => "digests_max",
            Self::DigestsTimeMax => "digests_time_max",
            Self::StatementTimeMax => "statement_time_max",
            Self::TransactionIdleTimeMax => "transaction_idle_time_max",
            Self::DevicesMax => "devices_max",
        }
    }

    /// What a caller is told who is refused for the moment.
    pub fn told(self) -> &'static str {
        match self {
            Self::RequestsMax => "the server has too many requests now; try again",
            Self::WaitingMax => "too many callers wait now; ask without wait, or later",
            Self::CallerWaitingMax => "too many of your requests wait now; let one end, or ask without wait",
            Self::CallerRequestsPerSecond => "too many requests; come back after Retry-After",
            Self::DigestsMax => "as many tables are being scanned as may be; try again",
            Self::RequestTimeMax => "the answer took too long to begin; try again",
            _ => "a limit of the server was reached; try again",
        }
    }
}

/// What bounds a page, whoever asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageBounds {
    /// It ends with the row that reaches so many bytes.
    pub bytes_max: u64,
    /// It ends where it stands after this time.
    pub time_max: Duration,
    /// How long its reader may stand still before it is cut off.
    pub send_wait_max: Duration,
}

/// What bounds a transaction in Postgres.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionBounds {
    /// How long one statement may take. A `COPY` takes as long as its reader does, so it is longer than a
    /// page and the wait for a reader that stands still together.
    pub statement_time_max: Duration,
    /// How long it may stand still between two statements, as it does while a slow reader takes what
    /// stands before the rows.
    pub idle_time_max: Duration,
}

impl Default for PageBounds {
    fn default() -> Self {
        Self {
            bytes_max: 32 * 1024 * 1024,
            // A slow reader gets less, not nothing, and cannot hold a connection to Postgres for longer.
            time_max: Duration::from_mins(1),
            send_wait_max: Duration::from_mins(1),
        }
    }
}

impl Default for TransactionBounds {
    fn default() -> Self {
        Self {
            statement_time_max: Duration::from_secs(150),
            idle_time_max: Duration::from_mins(2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_is_listed_once_at_its_place() {
        for (place, limit) in Limit::ALL.into_iter().enumerate() {
            assert_eq!(limit as usize, place, "{limit:?}");
        }
    }
}
