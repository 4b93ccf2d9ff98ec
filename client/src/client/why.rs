//! Why a store has a row or lacks it, as the library's front has it.

use std::path::Path;

use highwater_shared::EntityName;

use super::ClientBuilder;
use crate::error::Error;
use crate::why::{self, AskedKey, WhyReport};

impl ClientBuilder {
    /// Tells why the store at `path` has a row of an entity or lacks it, and what to do. Another process may write
    /// to the store meanwhile; nothing is written here.
    ///
    /// Where the server does not answer, the report says what the store alone can say, and why it did not.
    ///
    /// ```no_run
    /// use highwater_client::{Client, EntityName};
    /// # async fn example() -> Result<(), highwater_client::Error> {
    /// let client = Client::builder("http://127.0.0.1:8080");
    /// let report = client.why("shop.db", EntityName::new("product"), &"id=7".parse()?).await?;
    /// println!("{}: {}", report.what.join(" "), report.remedy);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Key`] where the key is none of the entity; and where there is no store that can be read.
    pub async fn why(
        self,
        path: impl AsRef<Path>,
        entity: EntityName,
        key: &AskedKey,
    ) -> Result<WhyReport, Error> {
        let remote = self.remote()?;
        why::why(&remote, path.as_ref(), entity, key).await
    }
}
