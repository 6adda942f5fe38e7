//! A knob that several programs have is one knob: the same name, help and default. Exceptions are
//! listed here with their reason.

use std::collections::{BTreeMap, BTreeSet};

use clap::{Arg, Command, CommandFactory};

/// The most knobs of a program, without help, version, and what is done only once. Seven are every server's.
const MOST_KNOBS: usize = 14;

/// A knob for a single start.
const DONE_ONCE: &str = "new-epoch";

/// Knobs with their own help text in each program.
const OWN_HELP: [(&str, &str); 3] = [
    ("feed", "the sender's is its own, and is not shared"),
    (
        "max-connections",
        "derived where there are subscribers, and says so",
    ),
    ("max-subscribers", "streams, sessions, waiting polls"),
];

/// Programs in which a knob has its own default.
const OWN_DEFAULT: [(&str, &str, &str); 3] = [
    (
        "short-polling",
        "max-connections",
        "there are no subscribers to derive it from",
    ),
    (
        "webhooks",
        "max-connections",
        "only publishers and managers come in",
    ),
    ("receiver", "max-connections", "only senders come in"),
];

/// All programs that listen, and where by default.
const PROGRAMS: [(&str, &str); 6] = [
    ("short-polling", "127.0.0.1:8001"),
    ("long-polling", "127.0.0.1:8002"),
    ("webhooks", "127.0.0.1:8003"),
    ("websockets", "127.0.0.1:8004"),
    ("sse", "127.0.0.1:8005"),
    ("receiver", "127.0.0.1:8006"),
];

fn programs() -> [Command; 6] {
    [
        short_polling::Config::command(),
        long_polling::Config::command(),
        webhooks::Config::command(),
        websockets::Config::command(),
        sse::Config::command(),
        webhooks::receiver::Config::command(),
    ]
}

fn name(knob: &Arg) -> &str {
    knob.get_long().expect("every knob has a long name")
}

fn help(knob: &Arg) -> String {
    let help = knob.get_long_help().or(knob.get_help());
    help.map(ToString::to_string).unwrap_or_default()
}

fn default(knob: &Arg) -> Vec<String> {
    let values = knob.get_default_values().iter();
    values
        .map(|value| value.to_string_lossy().into_owned())
        .collect()
}

fn has_own_default(program: &Command, knob: &Arg) -> bool {
    let listed = OWN_DEFAULT
        .iter()
        .any(|(own, listed, _)| *own == program.get_name() && *listed == name(knob));
    listed || name(knob) == "listen"
}

#[test]
fn every_knob_is_explained_and_no_program_has_many() {
    for program in programs() {
        let knobs: Vec<&Arg> = program.get_arguments().collect();
        let is_set = |knob: &&&Arg| name(knob) != DONE_ONCE && !knob.is_hide_set();
        let set = knobs.iter().filter(is_set).count();
        assert!(set <= MOST_KNOBS, "{program}: {set}");
        for knob in knobs {
            assert!(!help(knob).is_empty(), "{program}: --{}", name(knob));
        }
    }
}

#[test]
fn every_program_listens_on_loopback_at_its_own_port() {
    for (program, (expected, addr)) in programs().iter().zip(PROGRAMS) {
        let listen = program.get_arguments().find(|knob| name(knob) == "listen");
        assert_eq!(program.get_name(), expected);
        assert_eq!(default(listen.expect("each has --listen")), [addr]);
    }
}

#[test]
fn every_program_listens_on_localhost_and_refuses_a_limit_of_0() {
    for program in programs() {
        let takes = |knob: &str, value: &str| {
            let arguments = ["program".to_owned(), format!("--{knob}={value}")];
            program.clone().try_get_matches_from(arguments).is_ok()
        };
        assert!(takes("listen", "localhost:0") && !takes("listen", "8000"));
        for knob in program.get_arguments().map(name) {
            if ["max-connections", "max-subscribers", "retain"].contains(&knob) {
                assert!(takes(knob, "1") && !takes(knob, "0"), "{program}: --{knob}");
            }
        }
    }
}

#[test]
fn a_knob_that_several_programs_have_is_one_knob() {
    let programs = programs();
    let (mut helps, mut defaults) = (BTreeMap::new(), BTreeMap::new());
    for program in &programs {
        for knob in program.get_arguments() {
            if !OWN_HELP.iter().any(|(own, _)| *own == name(knob)) {
                let (other, text) = helps.entry(name(knob)).or_insert((program, help(knob)));
                assert_eq!(*text, help(knob), "--{}: {program} and {other}", name(knob));
            }
            if !has_own_default(program, knob) {
                let (other, values) = defaults
                    .entry(name(knob))
                    .or_insert((program, default(knob)));
                assert_eq!(
                    *values,
                    default(knob),
                    "--{}: {program} and {other}",
                    name(knob)
                );
            }
        }
    }
}

#[test]
fn every_exception_is_one() {
    let programs = programs();
    let all = |wanted: &str| {
        let knobs = programs.iter().flat_map(Command::get_arguments);
        knobs
            .filter(|knob| name(knob) == wanted)
            .collect::<Vec<_>>()
    };
    for (knob, why) in OWN_HELP {
        let helps: BTreeSet<String> = all(knob).into_iter().map(help).collect();
        assert!(helps.len() > 1, "--{knob} has one help, in spite of: {why}");
    }
    for (_, knob, why) in OWN_DEFAULT {
        let defaults: BTreeSet<Vec<String>> = all(knob).into_iter().map(default).collect();
        assert!(
            defaults.len() > 1,
            "--{knob} has one default, in spite of: {why}"
        );
    }
}
