//! The shop: a customer pays, and other programs must learn of it.
//!
//! The shop does not tell them itself. Before the commit, the payment might still be undone. After the commit,
//! the process might end before it tells anyone. So the shop writes the news into a table of the same database,
//! the *outbox*, in the same transaction: both are stored, or neither.

use std::{path::Path, thread::sleep, time::Duration};

use rusqlite::{Connection, Transaction};
use serde_json::json;

/// How often a customer comes.
const PACE: Duration = Duration::from_millis(100);
/// How long shop and relay wait for each other's transaction.
const BUSY: Duration = Duration::from_secs(2);
/// A row without `message` is not published yet. A row with `refused` is set aside, with the sender's reason: mend
/// it and set `refused` to NULL. Rows with a `message` may be deleted. `AUTOINCREMENT`, because the id is the row's
/// idempotency key and must never be used again.
const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS payments (
    id INTEGER PRIMARY KEY,
    amount INTEGER NOT NULL,
    status TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    type TEXT NOT NULL,
    data TEXT NOT NULL,
    message TEXT,
    refused TEXT
) STRICT;
CREATE INDEX IF NOT EXISTS outbox_left ON outbox (id) WHERE message IS NULL AND refused IS NULL;
";

/// Sells until there are this many payments.
pub(crate) fn run(folder: &Path, payments: i64) -> rusqlite::Result<()> {
    let mut database = open(folder)?;
    loop {
        let paid: i64 =
            database.query_row("SELECT count(*) FROM payments", [], |row| row.get(0))?;
        if paid == payments {
            return Ok(());
        }
        sleep(PACE);
        println!("a customer pays");
        let transaction = database.transaction()?;
        let payment = pay(&transaction, 1_000 + paid)?;
        transaction.commit()?;
        println!("payment {payment} and its outbox row are committed");
    }
}

/// The shop's database, which the relay opens too.
pub(crate) fn open(folder: &Path) -> rusqlite::Result<Connection> {
    let database = Connection::open(folder.join("shop.sqlite"))?;
    database.busy_timeout(BUSY)?;
    database.execute_batch(SCHEMA)?;
    Ok(database)
}

/// Stores a payment of `amount` cents, and the news of it.
fn pay(transaction: &Transaction<'_>, amount: i64) -> rusqlite::Result<i64> {
    transaction.execute(
        "INSERT INTO payments (amount, status) VALUES (?1, 'success')",
        [amount],
    )?;
    let payment = transaction.last_insert_rowid();
    let data = json!({"status": "success", "payment": payment, "amount": amount});
    transaction.execute(
        "INSERT INTO outbox (type, data) VALUES ('payment.succeeded', ?1)",
        [data.to_string()],
    )?;
    Ok(payment)
}
