//! `--secret-file`: secrets in a file, so that neither `ps` nor the environment shows them.

use std::{error::Error, fs};

use super::source::Secrets;

/// Reads the file at `path`. A line is the name of a variable, `=` and a secret, or a Standard Webhooks secret alone.
pub(super) fn read(path: &str) -> Result<Secrets, String> {
    let text =
        fs::read_to_string(path).map_err(|error| format!("cannot read the file: {error}"))?;
    let mut secrets = Secrets::default();
    // Some editors begin a file with a byte order mark.
    let lines = text.strip_prefix('\u{feff}').unwrap_or(&text).lines();
    for (number, line) in (1..).zip(lines.map(str::trim)) {
        if !line.is_empty() && !line.starts_with('#') {
            add(&mut secrets, line).map_err(|why| format!("line {number}: {why}"))?;
        }
    }
    Ok(secrets)
}

/// Adds the secret of one line. No error repeats the line, because it may hold a secret.
fn add(secrets: &mut Secrets, line: &str) -> Result<(), Box<dyn Error>> {
    // The `=` of a secret alone is base64's padding.
    let (variable, secret) = line.split_once('=').unwrap_or_default();
    if is_quoted(line) || is_quoted(secret) {
        return Err("quotes would be part of the secret: write it without them".into());
    }
    match variable {
        "STRIPE_WEBHOOK_SECRET" => secrets.stripe.push(secret.parse()?),
        "GITHUB_WEBHOOK_SECRET" => secrets.github.push(secret.parse()?),
        "TELEGRAM_SECRET_TOKEN" => secrets.telegram.push(secret.parse()?),
        "WEBHOOK_SECRET" => secrets.standard.push(secret.parse()?),
        _ if line.starts_with("whsec_") => secrets.standard.push(line.parse()?),
        _ => {
            return Err(
                "it is neither VARIABLE=SECRET with one of the four variables, nor whsec_BASE64"
                    .into(),
            );
        }
    }
    Ok(())
}

fn is_quoted(text: &str) -> bool {
    let is_in = |quote| text.len() > 1 && text.starts_with(quote) && text.ends_with(quote);
    is_in('"') || is_in('\'')
}
