//! Settings: a commented default file compiled into the binary, a file over it, the environment over both.
//!
//! The result is parsed into the caller's own type, which must refuse unknown keys (`serde(deny_unknown_fields)`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
pub use toml::Table;
use toml::Value;

/// Largest settings file, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Why settings could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file could not be read.
    #[error("cannot read settings from {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is larger than a settings file can be.
    #[error("{path} has {bytes} bytes: a settings file has at most {FILE_BYTES_MAX}")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// The text is not TOML.
    #[error("{origin} is not valid TOML")]
    Syntax {
        /// A file or a variable.
        origin: String,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A key is unknown, missing or has a value of the wrong type.
    #[error("a setting is wrong; `--print-config` shows all of them")]
    Value(#[source] Box<toml::de::Error>),
    /// A variable's path runs through something that is not a table.
    #[error("environment variable {0} names a setting inside one that is not a table")]
    Variable(String),
}

/// Certificates.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The deployment's CA, PEM.
    pub ca: PathBuf,
    /// This process's certificate chain, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM, mode 0600.
    pub key: PathBuf,
}

/// Reads settings. `variables` are name–value pairs, normally [`std::env::vars`]; `PREFIX__SECTION__KEY=value` sets
/// `section.key`, where the value is TOML if it parses as such, else a string.
pub fn load<T: DeserializeOwned>(
    defaults: &str,
    file: Option<&Path>,
    prefix: &str,
    variables: impl Iterator<Item = (String, String)>,
) -> Result<T, SettingsError> {
    parsed(table(defaults, file, prefix, variables)?)
}

/// The same, before they are parsed.
pub fn table(
    defaults: &str,
    file: Option<&Path>,
    prefix: &str,
    variables: impl Iterator<Item = (String, String)>,
) -> Result<Table, SettingsError> {
    let mut settings = parse(defaults, "the built-in settings")?;
    if let Some(path) = file {
        merge(&mut settings, parse(&read(path)?, &path.display().to_string())?);
    }
    let prefix = format!("{prefix}__");
    for (name, value) in variables {
        if let Some(path) = name.strip_prefix(&prefix) {
            set(&mut settings, path, &value).ok_or_else(|| SettingsError::Variable(name.clone()))?;
        }
    }
    Ok(settings)
}

/// Parses what [`table`] read.
pub fn parsed<T: DeserializeOwned>(settings: Table) -> Result<T, SettingsError> {
    settings.try_into().map_err(|e| SettingsError::Value(Box::new(e)))
}

/// The settings in which two tables differ, such as `clients.listen`.
pub fn differences(before: &Table, after: &Table) -> Vec<String> {
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let mut differing = Vec::new();
    for name in names {
        match (before.get(name), after.get(name)) {
            (Some(Value::Table(before)), Some(Value::Table(after))) => {
                differing
                    .extend(differences(before, after).into_iter().map(|inner| format!("{name}.{inner}")));
            }
            (before, after) if before != after => differing.push(name.clone()),
            _ => {}
        }
    }
    differing
}

/// A path of the settings; empty: none.
pub fn path_in(dir: &Path, path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() { PathBuf::new() } else { dir.join(path) }
}

fn read(path: &Path) -> Result<String, SettingsError> {
    let failed = |source| SettingsError::Read { path: path.to_owned(), source };
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(SettingsError::TooLarge { path: path.to_owned(), bytes });
    }
    std::fs::read_to_string(path).map_err(failed)
}

fn parse(text: &str, origin: &str) -> Result<Table, SettingsError> {
    text.parse().map_err(|e| SettingsError::Syntax { origin: origin.to_owned(), source: Box::new(e) })
}

fn merge(under: &mut Table, over: Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Table(under)), Value::Table(over)) => merge(under, over),
            (_, value) => drop(under.insert(key, value)),
        }
    }
}

fn set(settings: &mut Table, path: &str, text: &str) -> Option<()> {
    let path = path.to_lowercase();
    let mut keys: Vec<&str> = path.split("__").collect();
    let last = keys.pop()?;
    let mut table = settings;
    for key in keys {
        table = table.entry(key).or_insert_with(|| Value::Table(Table::new())).as_table_mut()?;
    }
    let value = format!("v = {text}").parse::<Table>().ok().and_then(|mut t| t.remove("v"));
    table.insert(last.to_owned(), value.unwrap_or_else(|| Value::String(text.to_owned())));
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        name: String,
        limits: Limits,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Limits {
        len_max: usize,
    }

    const DEFAULTS: &str = "name = \"a\"\n[limits]\nlen_max = 3\n";

    fn with(file: Option<&str>, variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("settings.toml");
        if let Some(text) = file {
            std::fs::write(&path, text).unwrap();
        }
        let variables = variables.iter().map(|(k, v)| (k.to_string(), v.to_string()));
        load(DEFAULTS, file.map(|_| path.as_path()), "TEST", variables)
    }

    #[test]
    fn file_goes_over_defaults_and_environment_over_both() {
        let settings = with(Some("[limits]\nlen_max = 4\n"), &[("TEST__NAME", "b")]).unwrap();
        assert_eq!((settings.name.as_str(), settings.limits.len_max), ("b", 4));
        let settings = with(Some("[limits]\nlen_max = 4\n"), &[("TEST__LIMITS__LEN_MAX", "5")]).unwrap();
        assert_eq!(settings.limits.len_max, 5);
    }

    #[test]
    fn differences_are_named() {
        let read = |text: &str| parse(text, "a test").unwrap();
        let before = read("a = 1\n[b]\nc = 1\nd = [1]\n[e]\nf = 1\n");
        let after = read("a = 1\n[b]\nc = 2\nd = [1, 2]\n[g]\nh = 1\n");
        assert_eq!(differences(&before, &before), Vec::<String>::new());
        assert_eq!(differences(&before, &after), ["b.c", "b.d", "e", "g"]);
    }

    #[test]
    fn an_unknown_key_is_named() {
        let error = with(Some("[limits]\nlength = 4\n"), &[]).unwrap_err();
        assert!(format!("{:#}", anyhow::Error::from(error)).contains("length"));
    }

    #[test]
    fn a_variable_cannot_reach_into_a_value() {
        assert!(matches!(with(None, &[("TEST__NAME__X", "1")]), Err(SettingsError::Variable(_))));
    }
}
