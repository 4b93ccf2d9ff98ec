//! Which servers are asked to compress their pages.

use crate::program::{err, highwater, text};
use crate::server::{Answer, Server};

#[tokio::test]
async fn only_servers_on_other_machines_are_asked_to_compress() {
    let folder = tempfile::tempdir().expect("a folder");
    // A proxy is told the name and needs not know it.
    for (name, expected) in [(None, None), (Some("http://sync.example.org"), Some("zstd"))] {
        let server = Server::start([Answer::first_page("c1", false, &["1 Chair"])]).await;
        let store = folder.path().join(format!("{}.db", name.is_some()));
        let address = name.unwrap_or(&server.address);
        let mut pull = highwater(&["pull", "--store", text(&store), "--server", address]);
        let pulled = pull.env("http_proxy", &server.address).env_remove("no_proxy");
        let pulled = pulled.env_remove("NO_PROXY").output().await.expect("highwater");
        assert_eq!(pulled.status.code(), Some(0), "{}", err(&pulled));
        let asked = &server.asked()[0].headers;
        let encoding = asked
            .get("accept-encoding")
            .map(|value| value.to_str().expect("text"));
        assert_eq!(encoding, expected, "{address}");
    }
}
