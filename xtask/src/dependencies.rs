//! Dependencies: their licences, where they come from, and that some of them are there only once, as
//! `deny.toml` has it. `cargo deny check` knows more of it; this needs nothing but cargo. The fuzz
//! targets are a workspace of their own, and have to be of the versions that are used.

use crate::build::root;
use crate::run::{cargo, output};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use toml::Table;

/// Where cargo says that a crate comes from, before the registry's address.
const REGISTRY: &str = "registry+";

/// What is allowed.
struct Rules {
    licences: Vec<String>,
    /// More of them, for some crates.
    exceptions: BTreeMap<String, Vec<String>>,
    /// Crates that may be there only once.
    once: BTreeSet<String>,
    registries: Vec<String>,
}

/// A crate that comes from elsewhere.
struct Dependency {
    name: String,
    version: String,
    licence: String,
    source: String,
}

/// Checks the dependencies of both workspaces.
pub(crate) fn check() -> Result<()> {
    let path = root().join("deny.toml");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let rules = Rules::read(&text).with_context(|| format!("cannot use {}", path.display()))?;
    let used = dependencies("Cargo.toml")?;
    let fuzzed = dependencies("fuzz/Cargo.toml")?;
    let mut faults = rules.faults(&used);
    faults.extend(rules.faults(&fuzzed));
    ensure!(faults.is_empty(), "dependencies are not as deny.toml has it:\n{}", faults.join("\n"));
    let strange = strange(&used, &fuzzed);
    ensure!(
        strange.is_empty(),
        "what is fuzzed is not what is used; `cargo update --manifest-path fuzz/Cargo.toml --precise` \
         mends it:\n{}",
        strange.join("\n")
    );
    Ok(())
}

/// What the workspace with this manifest has from elsewhere, as it is locked.
fn dependencies(manifest: &str) -> Result<Vec<Dependency>> {
    let arguments = ["metadata", "--locked", "--format-version", "1", "--all-features"];
    let mut command = cargo();
    command.args(arguments).args(["--manifest-path", manifest]).current_dir(root());
    let metadata: Value = serde_json::from_str(&output(&mut command)?)?;
    let packages = metadata["packages"].as_array().context("cargo lists no packages")?;
    Ok(packages.iter().filter_map(Dependency::read).collect())
}

/// Crates of which `fuzzed` has a version that `used` has not.
fn strange(used: &[Dependency], fuzzed: &[Dependency]) -> Vec<String> {
    let versions = |name: &str| -> Vec<&str> {
        let known = used.iter().filter(|one| one.name == name);
        known.map(|one| one.version.as_str()).collect()
    };
    let mut strange = Vec::new();
    for Dependency { name, version, .. } in fuzzed {
        let known = versions(name);
        if !known.is_empty() && !known.contains(&version.as_str()) {
            strange.push(format!("{name}: {version}, and not {}", known.join(" or ")));
        }
    }
    strange
}

impl Dependency {
    /// None for a crate of the workspace.
    fn read(package: &Value) -> Option<Self> {
        let text = |key: &str| package[key].as_str().map(str::to_owned);
        let licence = text("license").unwrap_or_default();
        let version = text("version")?;
        Some(Self { source: text("source")?, name: text("name")?, version, licence })
    }
}

impl Rules {
    fn read(text: &str) -> Result<Self> {
        let table: Table = toml::from_str(text)?;
        let of = |section: &str, key: &str| {
            let value = table.get(section).and_then(|section| section.get(key));
            value.with_context(|| format!("[{section}] has no {key}"))
        };
        let field = |rule: &toml::Value, key: &str| {
            rule.get(key).cloned().with_context(|| format!("a rule has no {key}"))
        };
        let exceptions = list(of("licenses", "exceptions")?)?
            .iter()
            .map(|rule| Ok((word(&field(rule, "crate")?)?, words(&field(rule, "allow")?)?)));
        let denied = list(of("bans", "deny")?)?;
        let once = denied.iter().filter(|rule| {
            rule.get("deny-multiple-versions").and_then(toml::Value::as_bool) == Some(true)
        });
        Ok(Self {
            licences: words(of("licenses", "allow")?)?,
            exceptions: exceptions.collect::<Result<_>>()?,
            once: once.map(|rule| word(&field(rule, "crate")?)).collect::<Result<_>>()?,
            registries: words(of("sources", "allow-registry")?)?,
        })
    }

    /// What is wrong, a line each.
    fn faults(&self, dependencies: &[Dependency]) -> Vec<String> {
        let mut faults = Vec::new();
        let mut seen = BTreeSet::new();
        for Dependency { name, licence, source, .. } in dependencies {
            let more = self.exceptions.get(name).map_or(&[][..], Vec::as_slice);
            let allowed = |one: &str| self.licences.iter().chain(more).any(|known| known == one);
            if !holds(licence, &allowed) {
                faults.push(format!("{name}: its licence is {licence:?}"));
            }
            let registry = source.strip_prefix(REGISTRY);
            if !registry.is_some_and(|registry| self.registries.iter().any(|it| it == registry)) {
                faults.push(format!("{name}: it comes from {source}"));
            }
            if self.once.contains(name) && !seen.insert(name) {
                faults.push(format!("{name}: there is more than one version of it"));
            }
        }
        faults
    }
}

/// Whether one of the ways that a licence expression leaves is allowed. In old ones a stroke is an
/// "or".
fn holds(expression: &str, allowed: &dyn Fn(&str) -> bool) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    any_of(&mut rest, allowed) == Some(true) && rest.is_empty()
}

/// One or more, of which one is enough; none if it is no expression.
fn any_of(words: &mut &[&str], allowed: &dyn Fn(&str) -> bool) -> Option<bool> {
    let mut holds = all_of(words, allowed)?;
    while let ["OR", rest @ ..] = words {
        *words = rest;
        holds |= all_of(words, allowed)?;
    }
    Some(holds)
}

/// One or more, which bind all.
fn all_of(words: &mut &[&str], allowed: &dyn Fn(&str) -> bool) -> Option<bool> {
    let mut holds = one(words, allowed)?;
    while let ["AND", rest @ ..] = words {
        *words = rest;
        holds &= one(words, allowed)?;
    }
    Some(holds)
}

fn one(words: &mut &[&str], allowed: &dyn Fn(&str) -> bool) -> Option<bool> {
    match *words {
        ["(", rest @ ..] => {
            *words = rest;
            let holds = any_of(words, allowed)?;
            let [")", rest @ ..] = words else { return None };
            *words = rest;
            Some(holds)
        }
        [name, "WITH", exception, rest @ ..] => {
            *words = rest;
            Some(allowed(&format!("{name} WITH {exception}")))
        }
        [name, rest @ ..] => {
            *words = rest;
            Some(allowed(name))
        }
        [] => None,
    }
}

fn list(value: &toml::Value) -> Result<&[toml::Value]> {
    Ok(value.as_array().context("a list is missing")?)
}

fn word(value: &toml::Value) -> Result<String> {
    Ok(value.as_str().context("a text is missing")?.to_owned())
}

fn words(value: &toml::Value) -> Result<Vec<String>> {
    list(value)?.iter().map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::{Dependency, Rules, holds, strange};

    #[test]
    fn a_licence_is_allowed_if_one_way_through_it_is() {
        let allowed = |name: &str| ["MIT", "Apache-2.0", "A WITH B"].contains(&name);
        for expression in [
            "MIT",
            "MIT OR GPL-3.0",
            "GPL-3.0 OR MIT",
            "GPL-3.0/MIT",
            "MIT AND Apache-2.0",
            "(GPL-3.0 OR MIT) AND Apache-2.0",
            "A WITH B",
        ] {
            assert!(holds(expression, &allowed), "{expression}");
        }
        for expression in [
            "",
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "GPL-3.0 OR MIT AND BSD",
            "(MIT OR Apache-2.0) AND GPL-3.0",
            "(MIT",
            "MIT)",
            "MIT OR",
            "MIT Apache-2.0",
            "A",
            "MIT WITH B",
        ] {
            assert!(!holds(expression, &allowed), "{expression}");
        }
    }

    #[test]
    fn a_crate_twice_one_from_elsewhere_and_an_unknown_licence_are_each_named() {
        let text = include_str!("../../deny.toml");
        let rules = Rules::read(text).expect("it says all that is needed");
        let new = |name: &str, licence: &str, source: &str| Dependency {
            name: name.into(),
            version: "1.0.0".into(),
            licence: licence.into(),
            source: source.into(),
        };
        let registry = format!("registry+{}", rules.registries[0]);
        let sound = [
            new("a", "MIT", &registry),
            new("a", "MIT", &registry),
            new("vm-memory", "Apache-2.0", &registry),
            new("cbindgen", "MPL-2.0", &registry),
        ];
        assert_eq!(rules.faults(&sound), [""; 0]);
        let faults = rules.faults(&[
            new("b", "MPL-2.0", &registry),
            new("c", "MIT", "git+https://example.org/c"),
            new("vm-memory", "MIT", &registry),
            new("vm-memory", "MIT", &registry),
        ]);
        let named: Vec<&str> = faults.iter().filter_map(|line| line.split(':').next()).collect();
        assert_eq!(named, ["b", "c", "vm-memory"]);
    }

    #[test]
    fn a_version_that_is_fuzzed_and_not_used_is_named() {
        let new = |name: &str, version: &str| Dependency {
            name: name.into(),
            version: version.into(),
            licence: String::new(),
            source: String::new(),
        };
        let used = [new("a", "1.0.0"), new("a", "2.0.0"), new("b", "1.0.0")];
        let fuzzed = [new("a", "2.0.0"), new("b", "1.0.1"), new("fuzzer", "9.0.0")];
        assert_eq!(strange(&used, &fuzzed), ["b: 1.0.1, and not 1.0.0"]);
    }

    #[test]
    fn rules_without_a_section_are_refused_and_not_taken_for_none() {
        assert!(Rules::read("").is_err());
        assert!(Rules::read("[licenses]\nallow = []").is_err());
    }
}
