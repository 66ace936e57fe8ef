//! The settings: a JSON object over the defaults, the keep rules' own being those of `gfs.rhai`.
//!
//! A setting that does not exist is refused like one of a wrong type. To overlook `dialy: 30` would be to keep seven
//! days where thirty were meant; an error lets the host keep everything.

use serde_json::{Map, Value};
use tidemark_plugin::{Error, Result};

use crate::rules::Numbers;

const NAMES: &str = "last, hourly, daily, weekly, monthly, yearly, tag, full_every_days";

/// What an administrator may choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) rules: Numbers,
    /// VMs that have it are protected.
    pub(crate) tag: String,
    /// On which day after the newest full the next one comes, by the calendar.
    pub(crate) full_every_days: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rules: Numbers { last: 3, hourly: 0, daily: 7, weekly: 4, monthly: 12, yearly: 3 },
            tag: "backup".to_owned(),
            full_every_days: 7,
        }
    }
}

impl Settings {
    /// The settings that `json` gives, the others at their defaults.
    ///
    /// # Errors
    /// Of the kind config, naming the setting, where it is unknown or of a wrong type; also where `json` is no object.
    pub(crate) fn parse(json: &str) -> Result<Self> {
        let given: Map<String, Value> = match serde_json::from_str(json) {
            Ok(Value::Object(given)) => given,
            Ok(_) => return Err(Error::config("the settings are no JSON object")),
            Err(error) => return Err(Error::config(format!("the settings are no JSON: {error}"))),
        };
        let mut settings = Self::default();
        for (name, value) in &given {
            settings.set(name, value)?;
        }
        Ok(settings)
    }

    fn set(&mut self, name: &str, value: &Value) -> Result<()> {
        let rules = &mut self.rules;
        match name {
            "last" => rules.last = rule(name, value)?,
            "hourly" => rules.hourly = rule(name, value)?,
            "daily" => rules.daily = rule(name, value)?,
            "weekly" => rules.weekly = rule(name, value)?,
            "monthly" => rules.monthly = rule(name, value)?,
            "yearly" => rules.yearly = rule(name, value)?,
            "tag" => self.tag = tag(value)?,
            "full_every_days" => self.full_every_days = days(value)?,
            _ => return Err(Error::config(format!("there is no setting '{name}' (known: {NAMES})"))),
        }
        Ok(())
    }
}

/// A number beyond what can be counted is as good as the largest.
fn whole(value: &Value) -> Option<u32> {
    value.as_u64().map(|number| u32::try_from(number).unwrap_or(u32::MAX))
}

fn rule(name: &str, value: &Value) -> Result<u32> {
    let refused =
        || Error::config(format!("the keep rule '{name}' needs a whole number from 0, not {value}"));
    whole(value).ok_or_else(refused)
}

fn days(value: &Value) -> Result<u32> {
    let refused =
        || Error::config(format!("the setting 'full_every_days' needs a whole number from 1, not {value}"));
    whole(value).filter(|days| *days > 0).ok_or_else(refused)
}

fn tag(value: &Value) -> Result<String> {
    let refused = || Error::config(format!("the setting 'tag' needs a text that is not empty, not {value}"));
    value.as_str().filter(|tag| !tag.is_empty()).map(str::to_owned).ok_or_else(refused)
}

#[cfg(test)]
mod tests {
    use tidemark_plugin::ErrorKind;

    use super::*;

    #[test]
    fn what_is_not_given_is_at_its_default() {
        assert_eq!(Settings::parse("{}").unwrap(), Settings::default());
        let given = Settings::parse(r#"{"daily": 0, "yearly": 99999999999, "tag": "prod"}"#).unwrap();
        let rules = Numbers { daily: 0, yearly: u32::MAX, ..Settings::default().rules };
        assert_eq!(given, Settings { rules, tag: "prod".into(), full_every_days: 7 });
    }

    #[test]
    fn what_cannot_be_meant_is_a_config_error_that_names_the_field() {
        for (json, named) in [
            ("", "the settings are no JSON"),
            ("{", "the settings are no JSON"),
            ("[]", "the settings are no JSON object"),
            ("null", "the settings are no JSON object"),
            (r#"{"last": "three"}"#, "'last' needs a whole number"),
            (r#"{"hourly": -1}"#, "'hourly' needs a whole number"),
            (r#"{"daily": 7.5}"#, "'daily' needs a whole number"),
            (r#"{"weekly": [4]}"#, "'weekly' needs a whole number"),
            (r#"{"monthly": null}"#, "'monthly' needs a whole number"),
            (r#"{"yearly": true}"#, "'yearly' needs a whole number"),
            (r#"{"tag": 1}"#, "'tag' needs a text"),
            (r#"{"tag": ""}"#, "'tag' needs a text"),
            (r#"{"full_every_days": "7"}"#, "'full_every_days' needs a whole number"),
            (r#"{"full_every_days": 0}"#, "'full_every_days' needs a whole number from 1"),
            (r#"{"dialy": 30}"#, "'dialy'"),
        ] {
            let error = Settings::parse(json).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Config, "{json}");
            assert!(error.message.contains(named), "{json}: {}", error.message);
        }
    }

    /// A form is filled in from the manifest; it must promise what this file does.
    #[test]
    fn the_manifest_declares_the_same_settings() {
        let manifest = include_str!("../plugin.toml");
        let declared: Vec<&str> = manifest
            .lines()
            .filter_map(|line| line.strip_prefix("[settings.properties.")?.strip_suffix(']'))
            .collect();
        assert_eq!(declared.join(", "), NAMES);
        let defaults: Vec<&str> =
            manifest.lines().filter_map(|line| line.strip_prefix("default = ")).collect();
        let json: Vec<String> =
            declared.iter().zip(defaults).map(|(name, value)| format!("\"{name}\":{value}")).collect();
        assert_eq!(json.len(), declared.len());
        assert_eq!(Settings::parse(&format!("{{{}}}", json.join(","))).unwrap(), Settings::default());
    }
}
