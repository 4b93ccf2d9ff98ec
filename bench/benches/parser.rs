//! How fast a page is taken apart, row by row, without anything being done with the rows.

use std::convert::Infallible;
use std::hint::black_box;

use criterion::{Criterion, Throughput};
use highwater_shared::{BlockHeader, PageParser, PageSink, copy_text};

mod page;

/// Bytes that arrive at a time, as from a network.
const CHUNK_BYTES: usize = 16 * 1024;

/// Looks at every field, as whoever applies a row has to.
#[derive(Default)]
struct Fields(usize);

impl PageSink for Fields {
    type Error = Infallible;

    fn block(&mut self, header: BlockHeader) -> Result<(), Self::Error> {
        black_box(header);
        Ok(())
    }

    fn row(&mut self, line: &[u8]) -> Result<(), Self::Error> {
        self.0 += copy_text::fields(line)
            .filter(|field| black_box(field).is_some())
            .count();
        Ok(())
    }
}

fn parse(criterion: &mut Criterion) {
    let body = page::body();
    let mut group = criterion.benchmark_group("parser");
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("rows and fields", |bencher| {
        bencher.iter(|| {
            let (mut parser, mut fields) = (PageParser::new(), Fields::default());
            for chunk in body.as_bytes().chunks(CHUNK_BYTES) {
                parser.push(chunk, &mut fields).expect("a page");
            }
            parser.finish::<Infallible>().expect("its end");
            fields.0
        });
    });
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    parse(&mut criterion);
    criterion.final_summary();
}
