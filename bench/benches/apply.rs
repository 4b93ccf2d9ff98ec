//! How fast a page that is in memory gets into a new store: parsed, bound, written and committed,
//! with an HTTP server on this machine in between.

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use criterion::{BatchSize, Criterion, Throughput};
use highwater_client::Client;
use highwater_shared::{COPY_MEDIA_TYPE, SOURCE_HEADER};

mod page;

fn apply(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let address = runtime.block_on(serve());
    let mut group = criterion.benchmark_group("apply");
    group.throughput(Throughput::Elements(page::ROWS as u64));
    group.bench_function("a first page", |bencher| {
        bencher.iter_batched(
            || tempfile::tempdir().expect("a folder"),
            |folder| {
                let client = Client::builder(&address).open(folder.path().join("store.db"));
                let pulled = runtime.block_on(client.expect("a client").pull());
                assert_eq!(pulled.expect("a pull").rows, page::ROWS as u64);
                folder
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

/// Answers everything with the same page.
async fn serve() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let body = bytes::Bytes::from(page::body());
    let answer = move || async move {
        (
            [(CONTENT_TYPE.as_str(), COPY_MEDIA_TYPE), (SOURCE_HEADER, "s")],
            body,
        )
    };
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/changes", get(answer))).await });
    address
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    apply(&mut criterion);
    criterion.final_summary();
}
