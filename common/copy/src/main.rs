//! The command: `cargo run -p copy -- SET… DIR`.

use std::{
    env,
    io::{self, Write},
    process::ExitCode,
};

use copy::{Chosen, CopySet};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let words: Result<Vec<String>, _> = env::args_os()
        .skip(1)
        .map(|word| word.into_string())
        .collect();
    let words = words.map_err(|word| io::Error::other(format!("{word:?} is not UTF-8")))?;
    if words.is_empty() || words.iter().any(|word| word == "--help" || word == "-h") {
        return io::stdout().write_all(help()?.as_bytes());
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (chosen, folder) = Chosen::parse(CopySet::all()?, &words)?;
    chosen.copy_to(&folder)?;
    write!(io::stdout(), "{chosen}")
}

fn help() -> io::Result<String> {
    let sets = CopySet::all()?;
    let sets: String = sets.iter().map(|set| format!("  {}\n", set.name)).collect();
    Ok(format!(
        "Copies the files of one or more techniques into your crate, and prints what to add there.\n\n\
         Usage: cargo run -p copy -- SET… DIR\n\n\
         DIR is the `src` folder of your crate, which may be a new one in your workspace.\n\
         If a file there differs from the one to be copied, nothing is copied.\n\n\
         SET is one of these:\n{sets}"
    ))
}
