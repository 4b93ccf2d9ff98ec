//! Requests by route, method and status. Each has a handle that is made when it is met first, at a place that
//! is reckoned and not looked up.

use std::sync::OnceLock;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::{Fixed, add, histograms};

/// The statuses that are answered with, in their order, and what any other counts as.
const STATUSES: [(u16, &str); 18] = [
    (200, "200"),
    (204, "204"),
    (304, "304"),
    (400, "400"),
    (401, "401"),
    (403, "403"),
    (404, "404"),
    (405, "405"),
    (406, "406"),
    (410, "410"),
    (413, "413"),
    (414, "414"),
    (426, "426"),
    (429, "429"),
    (431, "431"),
    (500, "500"),
    (503, "503"),
    (u16::MAX, "other"),
];

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Route {
    Changes,
    Digests,
    Entities,
    Why,
    Healthz,
    Readyz,
    Metrics,
    Openapi,
    Status,
    Page,
    PageScript,
    PageStyle,
    /// Anything else, however it is written.
    Other,
}

/// A method, as far as methods are told apart: anybody may invent another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    Head,
    Post,
    Options,
    Other,
}

/// The requests that were answered.
#[derive(Debug)]
pub(super) struct Requests {
    family: Family<Fixed<3>, Counter>,
    /// By route, method and status.
    counters: Vec<OnceLock<Counter>>,
    durations: [Histogram; Route::ALL.len()],
}

impl Route {
    pub(super) const ALL: [Self; 13] = [
        Self::Changes,
        Self::Digests,
        Self::Entities,
        Self::Why,
        Self::Healthz,
        Self::Readyz,
        Self::Metrics,
        Self::Openapi,
        Self::Status,
        Self::Page,
        Self::PageScript,
        Self::PageStyle,
        Self::Other,
    ];

    /// What a path leads to.
    pub(crate) fn of(path: &str) -> Self {
        let known = Self::ALL.into_iter().find(|route| route.name() == path);
        known.unwrap_or(Self::Other)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Changes => "/changes",
            Self::Digests => "/digests",
            Self::Entities => "/entities",
            Self::Why => "/why",
            Self::Healthz => "/healthz",
            Self::Readyz => "/readyz",
            Self::Metrics => "/metrics",
            Self::Openapi => "/openapi.json",
            Self::Status => "/status",
            Self::Page => "/",
            Self::PageScript => "/page.js",
            Self::PageStyle => "/page.css",
            Self::Other => "other",
        }
    }
}

impl Verb {
    const ALL: [Self; 5] = [Self::Get, Self::Head, Self::Post, Self::Options, Self::Other];

    fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Options => "OPTIONS",
            Self::Other => "other",
        }
    }
}

impl Requests {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let help = "The time until an answer began, without the wait that its caller wished";
        let durations = histograms(registry, "request_duration_seconds", help);
        let places = Route::ALL.len() * Verb::ALL.len() * STATUSES.len();
        Self {
            family: add(
                registry,
                "requests",
                "Requests that were answered",
                Family::default(),
            ),
            counters: std::iter::repeat_with(OnceLock::new).take(places).collect(),
            durations: Route::ALL.map(|route| durations.get_or_create_owned(&[("route", route.name())])),
        }
    }

    /// How many there were.
    pub(super) fn total(&self) -> u64 {
        let met = self.counters.iter().filter_map(OnceLock::get);
        met.map(Counter::get).sum()
    }

    pub(super) fn count(&self, route: Route, method: Verb, status: u16, took: Duration) {
        let known = STATUSES.iter().position(|(known, _)| *known == status);
        let status = known.unwrap_or(STATUSES.len() - 1);
        let place = (route as usize * Verb::ALL.len() + method as usize) * STATUSES.len() + status;
        if let Some(counter) = self.counters.get(place) {
            let new = || {
                let status = STATUSES.get(status).map_or("other", |(_, name)| name);
                let labels = [
                    ("route", route.name()),
                    ("method", method.name()),
                    ("status", status),
                ];
                self.family.get_or_create_owned(&labels)
            };
            counter.get_or_init(new).inc();
        }
        if let Some(durations) = self.durations.get(route as usize) {
            durations.observe(took.as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_method_and_status_has_a_place_of_its_own() {
        let requests = Requests::register(&mut Registry::default());
        let count = |status| {
            for route in Route::ALL {
                for verb in Verb::ALL {
                    requests.count(route, verb, status, Duration::ZERO);
                }
            }
        };
        for (status, _) in STATUSES {
            count(status);
        }
        count(299);
        let others = Route::ALL.len() * Verb::ALL.len();
        let counted: Vec<u64> = requests
            .counters
            .iter()
            .map(|counter| counter.get().unwrap().get())
            .collect();
        assert_eq!(
            counted.iter().filter(|times| **times == 2).count(),
            others,
            "299 is another"
        );
        assert_eq!(
            counted.iter().filter(|times| **times == 1).count(),
            counted.len() - others
        );
    }
}
