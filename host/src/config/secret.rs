//! Secret settings. Each is given as a value, or in a file that users without permission can
//! neither read nor change. Nothing here ever shows a secret.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::early_exit::EarlyExit;
use super::given::is_quoted;

/// The largest file with a secret, in bytes.
const BYTES_MAX: u64 = 64 << 10;
/// Mode bits that a file with a secret must not have: read and write for others, write for the
/// group.
const FORBIDDEN: u32 = 0o026;
/// Mode bits that it may have: all for the owner, read and execute for the group.
const ALLOWED: u32 = 0o750;

/// All secrets: the setting of each, and the setting of its file.
pub const SECRETS: [(&str, &str); 4] = [
    ("REDIS_PASSWORD", "REDIS_PASSWORD_FILE"),
    ("REDIS_URL", "REDIS_URL_FILE"),
    ("ELASTIC_APM_SECRET_TOKEN", "ELASTIC_APM_SECRET_TOKEN_FILE"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS_FILE"),
];

/// A secret as it was set.
#[derive(Clone, Copy, Debug)]
pub struct Secret<'a> {
    name: &'static str,
    file_name: &'static str,
    value: &'a str,
    file: &'a str,
}

impl<'a> Secret<'a> {
    /// The secret of the setting `name`: its value and its file, each empty if not given.
    ///
    /// # Panics
    /// If there is no such secret.
    pub fn new(name: &str, value: &'a str, file: &'a str) -> Self {
        let known = SECRETS.into_iter().find(|(known, _)| *known == name);
        let (name, file_name) = known.expect("callers name one of them");
        Self { name, file_name, value, file }
    }

    /// The setting that gives it.
    pub fn given_as(&self) -> &'static str {
        if self.is_in_file() { self.file_name } else { self.name }
    }

    /// Whether it is in a file, so that it may change.
    pub fn is_in_file(&self) -> bool {
        !self.file.is_empty()
    }

    /// The secret; empty if there is none.
    ///
    /// # Errors
    /// If it is given twice, or its file cannot be used.
    pub fn read(&self) -> Result<String, EarlyExit> {
        let Self { name, file_name, value, file } = *self;
        if file.is_empty() {
            return Ok(value.into());
        }
        if !value.is_empty() {
            return Err(EarlyExit::of(format!(
                "{name} and {file_name} are both given: leave one of them out"
            )));
        }
        read(Path::new(file)).map_err(|expected| EarlyExit::of_value(file_name, file, &expected))
    }
}

/// The text of a file without its final newline. The error is what is expected instead.
fn read(path: &Path) -> Result<String, String> {
    const A_FILE: &str = "a file with the secret in it";
    let failed = |error: std::io::Error| format!("{A_FILE} ({error})");
    let file = open(path).map_err(failed)?;
    // Read from the open file, so it is the target of a symbolic link.
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(format!("{A_FILE}, not a directory or a pipe"));
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & FORBIDDEN != 0 {
        return Err(format!(
            "a file that only its owner and its group can read, and only its owner can write, \
             but its mode is {mode:04o}; chmod {:04o} {}",
            mode & ALLOWED,
            path.display()
        ));
    }
    let mut text = String::new();
    file.take(BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > BYTES_MAX {
        return Err(format!("{A_FILE}, of at most {BYTES_MAX} bytes"));
    }
    if text.ends_with('\n') {
        text.truncate(text.len() - if text.ends_with("\r\n") { 2 } else { 1 });
    }
    if text.is_empty() {
        return Err(format!("{A_FILE}, but it is empty"));
    }
    Ok(text)
}

fn open(path: &Path) -> std::io::Result<File> {
    // Opening a pipe would otherwise wait for a writer.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    OpenOptions::new().read(true).custom_flags(nonblocking).open(path)
}

/// Warnings about secrets that were given in a way that exposes or changes them.
pub fn warnings(matches: &ArgMatches) -> Vec<String> {
    let mut warnings = Vec::new();
    for (name, file_name) in SECRETS {
        let id = name.to_ascii_lowercase();
        if matches.value_source(&id) == Some(ValueSource::CommandLine) {
            let flag = id.replace('_', "-");
            warnings.push(format!(
                "--{flag} shows a secret to every user who lists the processes of this machine: \
                 put it in a file and name the file in {file_name}"
            ));
        }
        if matches.get_one::<String>(&id).is_some_and(|value| is_quoted(value)) {
            warnings.push(format!(
                "{name} is in quotes, which become a part of it: docker's --env-file keeps quotes, \
                 so write it without them"
            ));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::symlink;

    use super::*;

    fn secret(file: &Path) -> Result<String, String> {
        let file = file.display().to_string();
        Secret::new("REDIS_PASSWORD", "", &file).read().map_err(|exit| exit.text)
    }

    #[test]
    fn a_file_with_a_secret_is_read_without_its_final_newline() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("password");
        for (text, expected) in
            [("s", "s"), (" s \n", " s "), ("s\n\n", "s\n"), ("s\r\n", "s"), ("\"s\"\n", "\"s\"")]
        {
            write(&file, text).expect("written");
            set_permissions(&file, Permissions::from_mode(0o600)).expect("changed");
            assert_eq!(secret(&file), Ok(expected.into()), "{text:?}");
        }
        for (text, expected) in [("", "it is empty"), ("\n", "it is empty")] {
            write(&file, text).expect("written");
            assert!(secret(&file).expect_err(expected).contains(expected));
        }
        write(&file, vec![b'x'; 70_000]).expect("written");
        assert!(secret(&file).expect_err("long").contains("at most 65536 bytes"));
        for other in [directory.path().to_owned(), directory.path().join("none")] {
            assert!(secret(&other).expect_err("none").contains("a file with the secret in it"));
        }
    }

    #[test]
    fn a_file_that_others_can_read_or_change_is_refused_with_the_chmod_to_do() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("password");
        write(&file, "s").expect("written");
        // A mounted Secret of Kubernetes is a chain of links, whose own modes do not matter.
        let link = directory.path().join("link");
        symlink(&file, &link).expect("linked");
        for (mode, instead) in [
            (0o600, None),
            (0o400, None),
            (0o440, None),
            (0o640, None),
            (0o644, Some("chmod 0640")),
            (0o444, Some("chmod 0440")),
            (0o602, Some("chmod 0600")),
            (0o660, Some("chmod 0640")),
            (0o666, Some("chmod 0640")),
        ] {
            set_permissions(&file, Permissions::from_mode(mode)).expect("changed");
            for path in [&file, &link] {
                let read = secret(path);
                let message = read.as_ref().err().map(String::as_str).unwrap_or_default();
                let expected = instead.map(|chmod| format!("{chmod} {}", path.display()));
                match expected {
                    None => assert_eq!(read, Ok("s".into()), "{mode:o}"),
                    Some(chmod) => assert!(message.ends_with(&chmod), "{mode:o}: {message}"),
                }
            }
        }
    }
}
