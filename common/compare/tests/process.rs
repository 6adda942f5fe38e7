//! A server in its own process: it restarts at its address, and ends with its parent.

#![cfg(target_os = "linux")]

use std::{path::Path, process::Stdio, time::Duration};

use common::Cursor;
use compare::{Knobs, Process, Publisher, Technique};
use harness::PATIENCE;
use serde_json::json;
use tokio::{process::Command, time::timeout};

async fn start(technique: Technique) -> Process {
    let program = Path::new(env!("CARGO_BIN_EXE_compare"));
    let process = Process::start(program, technique, Knobs::default()).await;
    process.expect("it starts")
}

async fn publish(process: &Process) -> Cursor {
    let id = Publisher::new(process.addr()).publish("a", &json!(1)).await;
    let id = id.expect("it takes a message");
    id.parse().expect("an id is a cursor")
}

#[tokio::test]
async fn a_restart_and_a_kill_begin_a_new_epoch_at_the_same_address() {
    for technique in Technique::ALL {
        let mut process = start(technique).await;
        let addr = process.addr();
        let first = publish(&process).await;
        process
            .restart(Duration::ZERO)
            .await
            .expect("it starts again");
        let second = publish(&process).await;
        process.kill().await.expect("it starts again");
        let third = publish(&process).await;
        assert_eq!(process.addr(), addr, "{technique}");
        assert_eq!([first.seq, second.seq, third.seq], [1; 3], "{technique}");
        assert!(first.epoch != second.epoch && second.epoch != third.epoch);
    }
}

#[tokio::test]
async fn its_processor_time_memory_and_descriptors_are_read() {
    let process = start(Technique::Sse).await;
    let before = process.cpu_time().expect("there is a /proc");
    for _ in 0..20 {
        publish(&process).await;
    }
    let used = process.cpu_time().expect("there is a /proc") - before;
    assert!(used > Duration::ZERO && used < PATIENCE, "{used:?}");
    let resident = process.resident().expect("there is a /proc");
    assert!((1 << 20..200 << 20).contains(&resident), "{resident}");
    assert!(process.descriptors().expect("there is a /proc") > 3);
}

#[tokio::test]
async fn it_ends_with_its_standard_input() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_compare"));
    command.args(["serve", "sse"]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null());
    let ended = timeout(PATIENCE, child.status()).await;
    let status = ended.expect("it drains").expect("it runs");
    assert!(status.success(), "{status}");
}
