//! The tables and functions, and which version of them a database has.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::error::Fault;

/// The version of [`TEXT`]. Raised with each change of it, so that databases that have an older one get it.
const VERSION: i32 = 1;

/// The oldest version whose daemons may go on with these functions. Raised when a function takes or answers something
/// else than before: then daemons of older versions say so, and publish nothing.
const USABLE_FROM: i32 = 1;

const TEXT: &str = include_str!("schema.sql");

/// Daemons that start together make the tables one after the other. An arbitrary number.
const LOCK: i64 = 7_310_033_194_172;

/// What makes the tables, or brings them up to date, for a role that may. It may be run again.
#[must_use]
pub fn script() -> String {
    format!(
        "begin;\n\
         select pg_catalog.pg_advisory_xact_lock({LOCK});\n\
         set local client_min_messages = warning;\n\
         set local search_path = pg_catalog;\n\n\
         {TEXT}\n\
         {}\n\
         commit;\n\n\
         -- For the role that the daemons log in as, unless it has run this itself:\n\
         --\n\
         --   grant usage on schema repmd to repmd;\n\
         --   grant select, insert, update, delete on all tables in schema repmd to repmd;\n",
        version()
    )
}

fn version() -> String {
    format!("delete from repmd.schema;\ninsert into repmd.schema values ({VERSION}, {USABLE_FROM});")
}

/// What a connection is first told of where it leads.
pub(crate) struct Looked {
    pub(crate) is_read_only: bool,
    has_tables: bool,
}

pub(crate) async fn look(client: &Client) -> Result<Looked, Fault> {
    let rows = client
        .query_typed(
            // From the table itself: what the session remembers of names is not looked up again within a transaction.
            "select pg_catalog.pg_is_in_recovery() or pg_catalog.current_setting('transaction_read_only') = 'on', \
             exists (select from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace \
             where n.nspname = 'repmd' and c.relname = 'schema')",
            &[],
        )
        .await?;
    let row = rows.first().ok_or(Fault::Silent)?;
    Ok(Looked { is_read_only: row.try_get(0)?, has_tables: row.try_get(1)? })
}

/// Makes the tables where they are missing or older than this version.
pub(crate) async fn make(client: &Client, looked: &Looked, user: &str) -> Result<(), Fault> {
    if looked.has_tables && is_usable(client).await? {
        return Ok(());
    }
    // A connection that is dropped half-way takes all of it back.
    let made = async {
        let begin = "begin; set local statement_timeout = '20s'; set local lock_timeout = '20s'";
        client.batch_execute(&format!("{begin}; select pg_catalog.pg_advisory_xact_lock({LOCK})")).await?;
        // Somebody else may have made them meanwhile.
        if !(look(client).await?.has_tables && is_usable(client).await?) {
            client
                .batch_execute(&format!(
                    "set local client_min_messages = warning; set local search_path = pg_catalog; {TEXT}\n{}",
                    version()
                ))
                .await?;
        }
        Ok(client.batch_execute("commit").await?)
    };
    let made: Result<(), Fault> = made.await;
    made.map_err(|fault| match &fault {
        Fault::Store(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            Fault::NoSchema { user: user.to_owned(), reason: fault.to_string() }
        }
        _ => fault,
    })
}

/// Whether the tables are of this version, or of a later one that this one may use.
async fn is_usable(client: &Client) -> Result<bool, Fault> {
    let rows = client.query_typed("select version, usable_from from repmd.schema limit 1", &[]).await?;
    let Some(row) = rows.first() else { return Ok(false) };
    let (version, usable_from): (i32, i32) = (row.try_get(0)?, row.try_get(1)?);
    if VERSION < usable_from {
        return Err(Fault::LaterSchema { version, known: VERSION });
    }
    Ok(VERSION <= version)
}
