//! What was found, for people and as JSON.

use std::fmt;

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Changes are lost or cannot be served, or will be.
    Serious,
    /// Something is slower, later or more open than it should be.
    Warning,
    /// Worth knowing.
    Note,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Which check found it: a word that stays the same.
    pub check: &'static str,
    /// The entity, table, role or setting that it is about.
    pub subject: Option<String>,
    /// What is so.
    pub what: String,
    /// Why it matters.
    pub why: String,
    /// What to run.
    pub remedy: String,
}

/// All that was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The database's name.
    pub database: String,
    /// The version of Postgres.
    pub postgres: String,
    /// The role that serves, whose rights were looked at.
    pub role: String,
    /// The names of the entities.
    pub entities: Vec<String>,
    /// The worst come first.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether one of the findings is serious.
    pub fn is_serious(&self) -> bool {
        self.count(Severity::Serious) > 0
    }

    fn count(&self, severity: Severity) -> usize {
        let of_it = |finding: &&Finding| finding.severity == severity;
        self.findings.iter().filter(of_it).count()
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Serious => "SERIOUS",
            Self::Warning => "warning",
            Self::Note => "note",
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            let subject = finding.subject.as_deref().unwrap_or(&self.database);
            writeln!(f, "{}: {subject}: {}", finding.severity, finding.what)?;
            writeln!(f, "    {}", finding.why)?;
            for line in finding.remedy.lines() {
                writeln!(f, "    -> {line}")?;
            }
        }
        let entities = match self.entities.len() {
            1 => "1 entity".to_owned(),
            number => format!("{number} entities"),
        };
        write!(
            f,
            "{}, Postgres {}, {entities}, served by {}: ",
            self.database, self.postgres, self.role
        )?;
        if self.findings.is_empty() {
            return writeln!(f, "all is well");
        }
        writeln!(
            f,
            "{} serious, {} warnings, {} notes",
            self.count(Severity::Serious),
            self.count(Severity::Warning),
            self.count(Severity::Note)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_told_at_a_glance_and_programs_in_full() {
        let mut report = Report {
            database: "shop".to_owned(),
            postgres: "15.14".to_owned(),
            role: "highwater_server".to_owned(),
            entities: vec!["product".to_owned()],
            findings: Vec::new(),
        };
        insta::assert_snapshot!(report.to_string(), @"shop, Postgres 15.14, 1 entity, served by highwater_server: all is well");
        report.findings.push(Finding {
            severity: Severity::Serious,
            check: "trigger_missing",
            subject: Some("product".to_owned()),
            what: "the trigger ~~highwater_update is missing on product".to_owned(),
            why: "Updates are not stamped, so clients never get them.".to_owned(),
            remedy: "highwater-server enable product\nhighwater-server touch product".to_owned(),
        });
        assert!(report.is_serious());
        insta::assert_snapshot!(report.to_string(), @r"
        SERIOUS: product: the trigger ~~highwater_update is missing on product
            Updates are not stamped, so clients never get them.
            -> highwater-server enable product
            -> highwater-server touch product
        shop, Postgres 15.14, 1 entity, served by highwater_server: 1 serious, 0 warnings, 0 notes
        ");
        insta::assert_snapshot!(serde_json::to_string(&report).unwrap(), @r#"{"database":"shop","postgres":"15.14","role":"highwater_server","entities":["product"],"findings":[{"severity":"serious","check":"trigger_missing","subject":"product","what":"the trigger ~~highwater_update is missing on product","why":"Updates are not stamped, so clients never get them.","remedy":"highwater-server enable product\nhighwater-server touch product"}]}"#);
    }
}
