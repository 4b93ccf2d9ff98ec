//! A list of things to do: axum and sqlx on a table of its own. It knows nothing of Highwater, and
//! that is the point; README.md beside it says how devices come by its rows all the same.
//!
//! One thing it does as any application should that shares a table: it names the columns that it reads
//! and writes, rather than `select *`, so that columns may be added while it runs.

use std::io::Write as _;
use std::net::SocketAddr;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, patch};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

const TABLE: &str = "create table if not exists todo (
    id bigint generated always as identity primary key,
    title text not null,
    done boolean not null default false
)";

#[derive(Serialize, sqlx::FromRow)]
struct Todo {
    id: i64,
    title: String,
    done: bool,
}

#[derive(Deserialize)]
struct NewTodo {
    title: String,
}

#[derive(Deserialize)]
struct Change {
    done: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let pool = PgPool::connect(&std::env::var("DATABASE_URL")?).await?;
    sqlx::query(TABLE).execute(&pool).await?;
    let router = Router::new()
        .route("/todos", get(list).post(add))
        .route("/todos/{id}", patch(change).delete(remove))
        .with_state(pool);
    let address: SocketAddr = std::env::args()
        .nth(1)
        .as_deref()
        .unwrap_or("127.0.0.1:3000")
        .parse()?;
    let listener = tokio::net::TcpListener::bind(address).await?;
    writeln!(
        std::io::stdout(),
        "listening on http://{}",
        listener.local_addr()?
    )?;
    axum::serve(listener, router).await?;
    Ok(())
}

async fn list(State(pool): State<PgPool>) -> Result<Json<Vec<Todo>>, Failure> {
    let todos = sqlx::query_as("select id, title, done from todo order by id")
        .fetch_all(&pool)
        .await?;
    Ok(Json(todos))
}

async fn add(
    State(pool): State<PgPool>,
    Json(new): Json<NewTodo>,
) -> Result<(StatusCode, Json<Todo>), Failure> {
    let todo = sqlx::query_as("insert into todo (title) values ($1) returning id, title, done")
        .bind(new.title)
        .fetch_one(&pool)
        .await?;
    Ok((StatusCode::CREATED, Json(todo)))
}

async fn change(
    State(pool): State<PgPool>,
    Path(id): Path<i64>,
    Json(change): Json<Change>,
) -> Result<StatusCode, Failure> {
    let changed = sqlx::query("update todo set done = $2 where id = $1")
        .bind(id)
        .bind(change.done)
        .execute(&pool)
        .await?;
    Ok(found(changed.rows_affected()))
}

async fn remove(State(pool): State<PgPool>, Path(id): Path<i64>) -> Result<StatusCode, Failure> {
    let removed = sqlx::query("delete from todo where id = $1")
        .bind(id)
        .execute(&pool)
        .await?;
    Ok(found(removed.rows_affected()))
}

fn found(rows: u64) -> StatusCode {
    if rows == 0 {
        StatusCode::NOT_FOUND
    } else {
        StatusCode::NO_CONTENT
    }
}

/// What went wrong with the database; the caller is told that something did, and no more.
struct Failure;

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        // With nobody left to read it, there is nothing else to do about an error.
        let _ = writeln!(std::io::stderr(), "{error}");
        Self
    }
}

impl axum::response::IntoResponse for Failure {
    fn into_response(self) -> axum::response::Response {
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    }
}
