//! What a new plugin is made of: a template of its kind and language, and the contract, for Rust with the SDK, all within
//! this binary, so that an author needs nothing but it and the language's tools.
//!
//! The templates are plugins themselves, which the tests build and try out (`sdk/templates`). In a copy their name and
//! their way to the SDK change, and nothing else does.

use crate::args::{LanguageArg, TemplateArg};

/// What the templates call themselves.
const TEMPLATE_NAME: &str = "my-plugin";
/// Where the SDK lies from a template, and from a new plugin.
const SDK_FROM_TEMPLATE: &str = "../../rust";
const SDK_FROM_PLUGIN: &str = "sdk/rust";

/// A file by its place in the folder.
type File = (&'static str, &'static str);

/// A small plugin that works.
struct Template {
    kind: TemplateArg,
    language: LanguageArg,
    files: &'static [File],
}

/// Files of `sdk/<folder>` by their places there.
macro_rules! files {
    ($folder:literal, [$($name:literal),+ $(,)?]) => {
        &[$((
            $name,
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../sdk/", $folder, "/", $name)),
        )),+]
    };
}

const SDK: &[File] = files!(
    "rust",
    [
        "Cargo.toml",
        "src/about.rs",
        "src/attributes.rs",
        "src/bindings.rs",
        "src/calendar.rs",
        "src/clock.rs",
        "src/connector.rs",
        "src/disk.rs",
        "src/disk/runs.rs",
        "src/error.rs",
        "src/fields.rs",
        "src/guest_filesystem.rs",
        "src/http.rs",
        "src/lib.rs",
        "src/log.rs",
        "src/nodes.rs",
        "src/nodes/inodes.rs",
        "src/nodes/names.rs",
        "src/nodes/paths.rs",
        "src/placement.rs",
        "src/policy.rs",
        "src/storage_target.rs",
    ]
);

/// The interfaces of the first contract.
const CONTRACT: &[File] =
    files!("wit", ["connector.wit", "guest-filesystem.wit", "host.wit", "policy.wit", "storage-target.wit"]);
/// What each later one added, with its worlds, by the folder; the last is the one that new plugins are written against.
const LATER_CONTRACTS: &[(&str, &[File])] =
    &[("0.2", files!("wit/0.2", ["contract.wit"])), ("0.3", files!("wit/0.3", ["contract.wit"]))];

const TEMPLATES: &[Template] = &[
    Template {
        kind: TemplateArg::Connector,
        language: LanguageArg::Rust,
        files: files!(
            "templates/connector",
            [".gitignore", "Cargo.toml", "README.md", "plugin.toml", "src/lib.rs"]
        ),
    },
    Template {
        kind: TemplateArg::StorageTarget,
        language: LanguageArg::Rust,
        files: files!(
            "templates/storage-target",
            [".gitignore", "Cargo.toml", "README.md", "plugin.toml", "src/lib.rs"]
        ),
    },
    Template {
        kind: TemplateArg::StorageTarget,
        language: LanguageArg::Python,
        files: files!(
            "templates/storage-target-python",
            [".gitignore", "README.md", "plugin.py", "plugin.toml", "requirements.txt", "test_plugin.py"]
        ),
    },
    Template {
        kind: TemplateArg::GuestFilesystem,
        language: LanguageArg::Rust,
        files: files!(
            "templates/guest-filesystem",
            [".gitignore", "Cargo.toml", "README.md", "plugin.toml", "src/archive.rs", "src/lib.rs"]
        ),
    },
    Template {
        kind: TemplateArg::Policy,
        language: LanguageArg::Rust,
        files: files!(
            "templates/policy",
            [".gitignore", "Cargo.toml", "README.md", "plugin.toml", "src/lib.rs"]
        ),
    },
    Template {
        kind: TemplateArg::Policy,
        language: LanguageArg::Js,
        files: files!(
            "templates/policy-js",
            [".gitignore", "README.md", "package.json", "plugin.js", "plugin.test.js", "plugin.toml"]
        ),
    },
    Template {
        kind: TemplateArg::Policy,
        language: LanguageArg::Python,
        files: files!(
            "templates/policy-python",
            [".gitignore", "README.md", "plugin.py", "plugin.toml", "requirements.txt", "test_plugin.py"]
        ),
    },
];

/// The kinds that have a template in a language.
pub(super) fn kinds_in(language: LanguageArg) -> impl Iterator<Item = TemplateArg> {
    TEMPLATES.iter().filter(move |template| template.language == language).map(|template| template.kind)
}

/// All files of a new plugin by their places in its folder, the contract's last; none where there is no such template.
pub(super) fn files_of(
    kind: TemplateArg,
    language: LanguageArg,
    name: &str,
) -> Option<Vec<(String, String)>> {
    let template = TEMPLATES.iter().find(|known| known.kind == kind && known.language == language)?;
    let own = template.files.iter().map(|(place, text)| {
        let text = text.replace(TEMPLATE_NAME, name);
        let cargo = *place == "Cargo.toml";
        let text = if cargo { text.replace(SDK_FROM_TEMPLATE, SDK_FROM_PLUGIN) } else { text };
        ((*place).to_owned(), text)
    });
    let mut files: Vec<(String, String)> = own.collect();
    let mut add = |folder: &str, new: &[File]| {
        files.extend(new.iter().map(|(place, text)| (format!("{folder}/{place}"), (*text).to_owned())));
    };
    if language == LanguageArg::Rust {
        add("sdk/rust", SDK);
        add("sdk/wit", CONTRACT);
        for (version, contract) in LATER_CONTRACTS {
            add(&format!("sdk/wit/{version}"), contract);
        }
    } else {
        // The shape that the tools of other languages look for: one package with what it depends on below it.
        add("wit/deps/plugin-0.1.0", CONTRACT);
        for (later, (version, contract)) in LATER_CONTRACTS.iter().rev().enumerate() {
            let folder = if later == 0 { "wit".to_owned() } else { format!("wit/deps/plugin-{version}.0") };
            add(&folder, contract);
        }
    }
    Some(files)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use super::*;

    fn sdk() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sdk")
    }

    /// The files that belong to the sources of `folder`.
    fn on_disk(folder: &Path) -> BTreeSet<String> {
        let (mut found, mut waiting) = (BTreeSet::new(), vec![folder.to_owned()]);
        while let Some(at) = waiting.pop() {
            for entry in std::fs::read_dir(at).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().and_then(|name| name.to_str()).unwrap().to_owned();
                if path.is_dir() {
                    let made = ["target", "node_modules", "__pycache__", ".venv"].contains(&name.as_str());
                    waiting.extend((!made).then_some(path));
                } else if !["Cargo.lock", "package-lock.json"].contains(&name.as_str()) {
                    found.insert(path.strip_prefix(folder).unwrap().to_string_lossy().into_owned());
                }
            }
        }
        found
    }

    fn places(files: &[File]) -> BTreeSet<String> {
        files.iter().map(|(place, _)| (*place).to_owned()).collect()
    }

    fn folder(template: &Template) -> String {
        let kind = format!("{:?}", template.kind);
        let kind: String = kind
            .chars()
            .enumerate()
            .flat_map(|(place, letter)| {
                let hyphen = (place > 0 && letter.is_uppercase()).then_some('-');
                hyphen.into_iter().chain(letter.to_lowercase())
            })
            .collect();
        match template.language {
            LanguageArg::Rust => kind,
            LanguageArg::Js => format!("{kind}-js"),
            LanguageArg::Python => format!("{kind}-python"),
        }
    }

    #[test]
    fn nothing_of_the_sdk_and_the_templates_is_left_out() {
        assert_eq!(places(SDK), on_disk(&sdk().join("rust")));
        let mut contract = places(CONTRACT);
        // What the product's own authors keep to.
        contract.extend(["README.md", "released.txt"].map(str::to_owned));
        for (version, files) in LATER_CONTRACTS {
            contract.extend(places(files).into_iter().map(|place| format!("{version}/{place}")));
        }
        assert_eq!(contract, on_disk(&sdk().join("wit")));
        let mut folders = BTreeSet::new();
        for template in TEMPLATES {
            let folder = folder(template);
            assert_eq!(places(template.files), on_disk(&sdk().join("templates").join(&folder)), "{folder}");
            folders.insert(folder);
        }
        let there = std::fs::read_dir(sdk().join("templates")).unwrap();
        let there: BTreeSet<String> =
            there.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        assert_eq!(folders, there);
    }

    #[test]
    fn a_copy_has_its_own_name_and_its_own_contract() {
        for Template { kind, language, .. } in TEMPLATES {
            let files = files_of(*kind, *language, "mine").unwrap();
            assert!(files.iter().all(|(_, text)| !text.contains(TEMPLATE_NAME)), "{kind:?} {language:?}");
            let text = |place: &str| &files.iter().find(|(known, _)| known == place).unwrap().1;
            assert!(text("plugin.toml").starts_with("name = \"mine\"\n"));
            match language {
                LanguageArg::Rust => {
                    assert!(text("Cargo.toml").contains("path = \"sdk/rust\""));
                    assert!(text("src/lib.rs").contains("description(\"mine\""));
                    assert!(text("sdk/wit/0.3/contract.wit").contains("world policy"));
                }
                LanguageArg::Js => assert!(text("plugin.js").contains("NAME = 'mine'")),
                LanguageArg::Python => assert!(text("plugin.py").contains("NAME = \"mine\"")),
            }
            if *language != LanguageArg::Rust {
                assert!(text("wit/contract.wit").contains("world policy"));
                assert!(text("wit/deps/plugin-0.1.0/policy.wit").contains("world policy"));
            }
        }
        assert!(files_of(TemplateArg::Connector, LanguageArg::Python, "mine").is_none());
    }
}
