//! Settings in a TOML file: tables and dotted keys mean the same.

use super::error::ConfigError;
use super::values::Origin;

/// Names and texts in the order of names. Messages name the line, never its text: it may hold a
/// secret.
pub(super) fn flatten(name: &str, text: &str) -> Result<Vec<(String, String)>, ConfigError> {
    let table = text.parse::<toml::Table>().map_err(|error| {
        let at = error.span().map_or(text.len(), |span| span.start);
        let line = 1 + text.bytes().take(at).filter(|&byte| byte == b'\n').count();
        let why = format!("line {line}: {}", error.message());
        ConfigError::new("", Origin::File(name.into()), why, "correct the file (TOML)")
    })?;
    let mut out = Vec::new();
    flatten_into(name, "", table, &mut out)?;
    Ok(out)
}

fn flatten_into(
    name: &str,
    prefix: &str,
    table: toml::Table,
    out: &mut Vec<(String, String)>,
) -> Result<(), ConfigError> {
    for (key, value) in table {
        let key = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
        match value {
            toml::Value::Table(table) => flatten_into(name, &key, table, out)?,
            toml::Value::String(text) => out.push((key, text)),
            toml::Value::Integer(number) => out.push((key, number.to_string())),
            toml::Value::Boolean(flag) => out.push((key, flag.to_string())),
            other => {
                let why = format!("is of type {}, which no setting has", other.type_str());
                let remedy = "write text in quotes, a whole number, true or false";
                return Err(ConfigError::new(&key, Origin::File(name.into()), why, remedy));
            }
        }
    }
    Ok(())
}
