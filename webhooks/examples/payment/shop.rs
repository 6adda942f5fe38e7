//! The shop: a customer pays, and others are to hear of it.
//!
//! They are not told here. To tell before the commit is to tell of a payment that may never be; to tell
//! after it is to tell nobody if the process ends in between. So what is to be told is a row of the same
//! database, the *outbox*, in the same transaction: both are there, or neither is.

use std::{path::Path, thread::sleep, time::Duration};

use rusqlite::{Connection, Transaction};
use serde_json::json;

/// How often a customer comes.
const PACE: Duration = Duration::from_millis(100);
/// How long one waits for the other, shop or relay, to finish its transaction.
const BUSY: Duration = Duration::from_secs(2);
/// A row without `message` is still to be published. `AUTOINCREMENT`: the id is the row's key elsewhere,
/// and must never be another's.
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
    message TEXT
) STRICT;
CREATE INDEX IF NOT EXISTS outbox_left ON outbox (id) WHERE message IS NULL;
";

/// Sells until there are so many payments.
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

/// Takes `amount` cents: the payment, and the news of it.
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
