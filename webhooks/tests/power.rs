//! Power cuts. A small library records what a program writes and syncs. Then the disk is built as a power cut may
//! leave it: everything that was synced, and an arbitrary part of the rest, some of it torn. Every such disk must
//! open and have everything that was acknowledged.
//!
//! The C compiler that built SQLite builds the library. `POWER_CUTS` says how many disks are tried, `POWER_SEED`
//! tries other disks.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod setup;

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use common::{After, Data, Draft, FeedSource, PageLimit, Retention};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;
use setup::{Program, Scratch, listed, send};

/// A disk writes these whole.
const SECTOR: usize = 512;

/// What a program does to the files of its folder, in order.
struct Recorder {
    scratch: Scratch,
    library: PathBuf,
}

/// One record of `disk/record.c`.
struct Step {
    what: u8,
    name: String,
    at: usize,
    bytes: Vec<u8>,
    /// Where the record ends in the log.
    end: u64,
}

/// A file after a power cut may be `synced` with any of the `pending` steps.
#[derive(Default)]
struct Contents<'s> {
    synced: Vec<u8>,
    pending: Vec<&'s Step>,
}

impl Recorder {
    fn new() -> Self {
        let scratch = Scratch::new();
        let library = scratch.path().join("record.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/disk/record.c");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-o"]).arg(&library);
        assert!(
            cc.args([source, "-ldl", "-lpthread"])
                .status()
                .unwrap()
                .success()
        );
        Self { scratch, library }
    }

    fn prepare(&self, program: &mut Command) {
        program.env("LD_PRELOAD", &self.library);
        program.env("DISK_RECORD", self.scratch.path());
    }

    fn log(&self) -> PathBuf {
        self.scratch.path().with_extension("log")
    }

    /// How many bytes are recorded.
    fn recorded(&self) -> u64 {
        fs::metadata(self.log()).unwrap().len()
    }

    fn steps(&self) -> Vec<Step> {
        let log = fs::read(self.log()).unwrap();
        let (mut steps, mut at) = (Vec::new(), 0);
        while at < log.len() {
            let number = |index: usize| {
                let bytes = log[at + index * 8..].first_chunk().unwrap();
                usize::try_from(u64::from_ne_bytes(*bytes)).unwrap()
            };
            let (name_end, size) = (at + 32 + number(1), number(2));
            steps.push(Step {
                what: number(0) as u8,
                name: String::from_utf8(log[at + 32..name_end].to_vec()).unwrap(),
                at: number(3),
                bytes: log[name_end..name_end + size].to_vec(),
                end: (name_end + size) as u64,
            });
            at = name_end + size;
        }
        steps
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // After an error the file stays in the temporary folder.
        let _ = fs::remove_file(self.log());
    }
}

impl Step {
    fn apply(&self, file: &mut Vec<u8>) {
        match self.what {
            b't' => file.resize(self.at, 0),
            _ => write(file, self.at, &self.bytes),
        }
    }

    /// Some sectors of it, or all.
    fn apply_torn(&self, file: &mut Vec<u8>, random: &mut StdRng) {
        if self.what == b't' || random.random() {
            return self.apply(file);
        }
        for (number, sector) in self.bytes.chunks(SECTOR).enumerate() {
            if random.random() {
                write(file, self.at + number * SECTOR, sector);
            }
        }
    }
}

fn write(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    file.resize(file.len().max(end), 0);
    file[at..end].copy_from_slice(bytes);
}

/// Writes the files as a power cut after these steps may leave them. The index of the write-ahead log is in
/// memory, and a restart makes another.
fn cut(steps: &[Step], folder: &Path, random: &mut StdRng) {
    let mut files: BTreeMap<&str, Contents<'_>> = BTreeMap::new();
    for step in steps.iter().filter(|step| !step.name.ends_with("-shm")) {
        let file = files.entry(&step.name).or_default();
        match step.what {
            b's' => file
                .pending
                .drain(..)
                .for_each(|step| step.apply(&mut file.synced)),
            b'u' => drop(files.remove(step.name.as_str())),
            _ => file.pending.push(step),
        }
    }
    for (
        name,
        Contents {
            mut synced,
            pending,
        },
    ) in files
    {
        let kept = random.random_range(0.0..=1.0);
        for step in pending {
            if random.random_bool(kept) {
                step.apply_torn(&mut synced, random);
            }
        }
        fs::write(folder.join(name), synced).unwrap();
    }
}

/// Disks after cuts at arbitrary moments: for each the folder, and how many of the acknowledgements came before,
/// where `acknowledged` is how much was recorded when each came.
fn disks(recorder: &Recorder, acknowledged: &[u64]) -> impl Iterator<Item = (Scratch, usize)> {
    let number =
        |variable, default| env::var(variable).map_or(default, |value| value.parse().unwrap());
    let mut random = StdRng::seed_from_u64(number("POWER_SEED", 7));
    let (steps, cuts) = (recorder.steps(), number("POWER_CUTS", 30));
    let acknowledged = acknowledged.to_vec();
    assert!(
        steps.iter().any(|step| step.what == b's'),
        "or nothing is recorded"
    );
    (0..cuts).map(move |_| {
        let (scratch, end) = (Scratch::new(), random.random_range(1..=steps.len()));
        cut(&steps[..end], scratch.path(), &mut random);
        let before = acknowledged.iter().filter(|at| **at <= steps[end - 1].end);
        (scratch, before.count())
    })
}

fn text(number: usize) -> String {
    format!("{number} {}", "x".repeat(number * 997 % 30_000))
}

#[tokio::test]
async fn after_a_power_cut_the_feed_has_what_was_acknowledged_and_goes_on() {
    let recorder = Recorder::new();
    let sender = Program::sender(&recorder.scratch, |sender| recorder.prepare(sender));
    let (client, mut acknowledged) = (sender.client(), Vec::new());
    // More than is written between two checkpoints.
    for number in 1..=400 {
        let published = client.post("/topics/a", text(number)).send().await;
        assert_eq!(published.status, 201);
        acknowledged.push(recorder.recorded());
    }
    sender.kill();
    for (disk, count) in disks(&recorder, &acknowledged) {
        check_feed(&disk, count).await;
    }
}

async fn check_feed(disk: &Scratch, acknowledged: usize) {
    let retention = Retention {
        messages: 1_000_000,
        ..Retention::default()
    };
    let feed = FeedSource::File(disk.feed())
        .open(retention, false)
        .await
        .unwrap();
    let (topics, mut after, mut found) = ("a".parse().unwrap(), After::Earliest, 0);
    loop {
        let page = feed
            .read(&topics, &after, PageLimit::default())
            .await
            .unwrap();
        assert!(page.gap.is_none(), "{:?}", page.gap);
        for message in &page.messages {
            found += 1;
            assert_eq!(message.id.seq, found as u64);
            let json: Value = serde_json::from_slice(&message.json).unwrap();
            assert!(json["data"] == text(found), "message {found} is torn");
        }
        if !page.more {
            break;
        }
        after = page.next.into();
    }
    assert!(
        found >= acknowledged,
        "{acknowledged} acknowledged, {found} found"
    );
    let draft = Draft::new(Data::text("after"));
    let next = feed.publish("a".parse().unwrap(), draft).await.unwrap();
    assert_eq!(next.id.seq, found as u64 + 1);
}

#[tokio::test]
async fn after_a_power_cut_the_inbox_has_what_was_acknowledged() {
    let recorder = Recorder::new();
    let receiver = Program::start(&recorder.scratch, |receiver| recorder.prepare(receiver));
    let (client, mut acknowledged) = (receiver.client(), Vec::new());
    for number in 1..=60 {
        assert_eq!(send(&client, &format!("msg_{number}")).await.status, 200);
        acknowledged.push(recorder.recorded());
    }
    receiver.kill();
    for (disk, count) in disks(&recorder, &acknowledged) {
        let receiver = Program::start(&disk, |_| {});
        let ids = listed(&receiver.client()).await;
        let unique: BTreeSet<&String> = ids.iter().collect();
        assert_eq!(unique.len(), ids.len(), "an event is there once");
        let is_there = |number| unique.contains(&format!("msg_{number}"));
        assert!((1..=count).all(is_there), "{count} acknowledged, {ids:?}");
        assert_eq!(send(&receiver.client(), "msg_next").await.status, 200);
        receiver.kill();
    }
}
