//! What identifies a virtual machine's parts across backups.

use std::fmt;

/// A disk's identity inside its virtual machine as the hypervisor keeps it (for vSphere the device key), stable
/// across snapshots and renames of the backing file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DiskKey(pub String);

impl fmt::Display for DiskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name from outside made safe as one path component: lower-case ASCII letters, digits and single hyphens, at
/// most 40 characters, `vm` where nothing is left.
#[must_use]
pub fn slug(name: &str) -> String {
    let mut out = String::new();
    for ch in name.chars().flat_map(char::to_lowercase) {
        if ch.is_ascii_alphanumeric() {
            out.push(ch);
        } else if !out.is_empty() && !out.ends_with('-') {
            out.push('-');
        }
        if out.len() == 40 {
            break;
        }
    }
    let trimmed = out.trim_end_matches('-');
    if trimmed.is_empty() { "vm".to_owned() } else { trimmed.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::slug;

    #[test]
    fn no_name_becomes_a_path() {
        assert_eq!(slug("Web Server (01)"), "web-server-01");
        assert_eq!(slug("../../etc/passwd"), "etc-passwd");
        assert_eq!(slug("数据库"), "vm");
        assert_eq!(slug(&"x".repeat(100)).len(), 40);
    }
}
