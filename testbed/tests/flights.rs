//! The data are all there, with the keys that they are said to have.

use highwater_testbed::flights::{self, Counts, Months, TABLES};
use highwater_testbed::{Database, Result};
use sqlx::AssertSqlSafe;

#[tokio::test]
async fn january_loads_with_its_counts_and_types() -> Result<()> {
    let database = Database::create("january").await?;
    let pool = database.pool().await?;
    let counts = flights::load(&pool, Months::January).await?;
    let expected = Counts {
        airlines: 16,
        airports: 1_458,
        planes: 3_322,
        weather: 26_115,
        flights: 27_004,
    };
    assert_eq!(counts, expected);

    let mut total = 0;
    for (table, key) in TABLES {
        let count = format!("select count(*) from {table}");
        total += sqlx::query_scalar::<_, i64>(AssertSqlSafe(count))
            .fetch_one(&pool)
            .await?;
        let found = "select array_agg(a.attname::text order by k.position) from pg_index i
            cross join unnest(i.indkey) with ordinality k(number, position)
            join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number
            where i.indrelid = $1::regclass and i.indisprimary";
        let found: Vec<String> = sqlx::query_scalar(found).bind(table).fetch_one(&pool).await?;
        assert_eq!(found, key, "{table}");
    }
    assert_eq!(total.cast_unsigned(), counts.total());

    let first: (String, i32) = sqlx::query_as(
        "select to_char(time_hour at time zone 'UTC', 'YYYY-MM-DD HH24:MI'), dep_time from flights
        where tailnum = 'N14228' order by time_hour limit 1",
    )
    .fetch_one(&pool)
    .await?;
    assert_eq!(first, ("2013-01-01 10:00".to_owned(), 517));
    let cancelled: i64 = sqlx::query_scalar("select count(*) from flights where dep_time is null")
        .fetch_one(&pool)
        .await?;
    assert_eq!(cancelled, 521);
    Ok(())
}
