//! A repository and the catalog are compared both ways: what differs is named, nothing unaffected is blamed, and only
//! garbage is deleted, only when told.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tidemark_tests::disk::{Fill, bytes};
use tidemark_tests::rest::Rest;
use tidemark_tests::site::{REPOSITORY, Site, SiteOptions, files_below, object_path};

use crate::disks::{self, MIB};

/// A site with a full and an incremental.
fn site() -> Result<(Site, [String; 2])> {
    let site = Site::start(SiteOptions::default(), disks::two)?;
    let full = site.backup("full")?.id;
    site.guest_writes(0, 8 * MIB, &bytes(Fill::Noise(6), 100_000))?;
    let incremental = site.backup("incremental")?.id;
    Ok((site, [full, incremental]))
}

/// Runs a check that must end with `code` and answers its result.
fn check(site: &Site, more: &[&str], code: i32) -> Result<Value> {
    let args = [&["repository", "check", REPOSITORY, "--grace-hours", "0"], more].concat();
    Ok(site.server.cli()?.outcome(&args)?.expect(code)?["result"].clone())
}

/// The findings as (kind, object), sorted.
fn found(result: &Value) -> Vec<(String, String)> {
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let findings = result["findings"].as_array().cloned().unwrap_or_default();
    let mut found: Vec<_> =
        findings.iter().map(|finding| (text(finding, "kind"), text(finding, "object_key"))).collect();
    found.sort();
    found
}

fn pair(kind: &str, key: impl Into<String>) -> (String, String) {
    (kind.to_owned(), key.into())
}

/// A file's key, as the check names it.
fn key(site: &Site, file: &Path) -> Result<String> {
    Ok(file.strip_prefix(&site.repository)?.to_string_lossy().into_owned())
}

/// The object of a backup's disk with another backup's id in its name.
fn renamed(object: &Path) -> Result<PathBuf> {
    let name = object.file_name().and_then(|name| name.to_str()).context("a name")?;
    let (stamp, rest) = name.split_at(17);
    Ok(object.with_file_name(format!("{stamp}deadbeef{}", &rest[8..])))
}

#[test]
fn garbage_is_named_first_and_deleted_when_told() -> Result<()> {
    let (site, [full, incremental]) = site()?;
    let clean = check(&site, &[], 0)?;
    ensure!(clean["backups"] == 2 && found(&clean).is_empty(), "{clean}");

    let object = site.repository.join(object_path(&site.view(&full)?, 0)?);
    let stray = renamed(&object)?;
    fs::copy(&object, &stray)?;
    let digests = stray.with_extension("digests");
    fs::write(&digests, b"no digests")?;
    let partial = PathBuf::from(format!("{}.partial", renamed(&object)?.with_extension("qcow2").display()));
    fs::write(&partial, b"half an image")?;
    let foreign = [site.repository.join("README.txt"), site.repository.join("notes/2026.json")];
    fs::create_dir(site.repository.join("notes"))?;
    foreign.iter().try_for_each(|file| fs::write(file, b"not ours"))?;
    let before = files_below(&site.repository, "")?;

    let mut expected = vec![
        pair("garbage", key(&site, &stray)?),
        pair("garbage", key(&site, &digests)?),
        pair("unfinished", key(&site, &partial)?.trim_end_matches(".partial")),
    ];
    expected.sort();
    let reported = check(&site, &[], 3)?;
    ensure!(found(&reported) == expected && reported["other_files"] == 2, "{reported}");
    ensure!(files_below(&site.repository, "")? == before, "a report changes nothing");
    // Younger than a day: not even when told.
    let young = site.server.cli()?.outcome(&["repository", "check", REPOSITORY, "--delete"])?.expect(3)?;
    ensure!(young["result"]["deleted_objects"] == 0, "{young}");
    ensure!(files_below(&site.repository, "")? == before, "the grace is kept");

    let order = json!({"delete": true, "grace_hours": 0});
    let path = format!("/api/v1/repositories/{REPOSITORY}/actions/check");
    let made =
        site.rest().post("/api/v1/tokens", &json!({"name": "night", "role": "operator"}))?.expect(201)?;
    let operator = Rest::new(&site.server.url, made["token"].as_str());
    ensure!(operator.post(&path, &order)?.status == 403, "deleting is for administrators");
    ensure!(operator.post(&path, &json!({}))?.status == 202, "an operator may look");

    let deleted = check(&site, &["--delete"], 3)?;
    ensure!(found(&deleted) == expected && deleted["deleted_objects"] == 3, "{deleted}");
    ensure!([&stray, &digests, &partial].iter().all(|file| !file.exists()), "the garbage is gone");
    ensure!(foreign.iter().all(|file| file.exists()), "what is not ours stays");
    check(&site, &["--delete"], 0)?;
    for id in [&full, &incremental] {
        site.server.cli()?.run(&["backup", "verify", id, "--level", "deep"])?;
    }
    site.finish(&[])
}

#[test]
fn what_the_catalog_knows_and_the_repository_lacks_is_damaged() -> Result<()> {
    let (site, [full, incremental]) = site()?;
    let second = site.repository.join(object_path(&site.view(&incremental)?, 1)?);
    fs::remove_file(&second)?;
    let manifest = site.stored(".json")?;
    let of = |id: &str| {
        manifest.iter().find(|file| file.to_string_lossy().contains(&id[..8])).context("a manifest")
    };
    let text = fs::read_to_string(of(&full)?)?;
    fs::write(of(&incremental)?, &text)?;
    fs::write(of(&full)?, text.replacen("\"blake3\": \"", "\"blake3\": \"00", 1))?;

    let result = check(&site, &["--delete"], 3)?;
    let expected = [
        pair("bad-manifest", key(&site, of(&full)?)?),
        pair("manifest-differs", key(&site, of(&incremental)?)?),
        pair("missing-object", key(&site, &second)?),
    ];
    ensure!(found(&result) == expected, "{result}");
    ensure!(result["deleted_objects"] == 0, "{result}");
    let findings = result["findings"].as_array().context("findings")?;
    let missing =
        findings.iter().find(|finding| finding["kind"] == "missing-object").context("it is found")?;
    ensure!(missing["backup_id"] == incremental.as_str() && missing["disk_index"] == 1, "{missing}");
    ensure!(missing["affected_backups"] == json!([incremental]), "{missing}");
    ensure!(site.view(&incremental)?.detail["status"] == "damaged");
    ensure!(site.view(&full)?.detail["status"] == "completed", "a restore does not need the manifest");

    let first = site.repository.join(object_path(&site.view(&full)?, 0)?);
    let file = fs::File::options().write(true).open(&first)?;
    file.set_len(file.metadata()?.len() - 512)?;
    let result = check(&site, &[], 3)?;
    ensure!(found(&result).contains(&pair("wrong-size", key(&site, &first)?)), "{result}");
    ensure!(site.view(&full)?.detail["status"] == "damaged");
    site.finish(&[])
}

#[test]
fn whole_backups_that_nobody_knows_are_no_garbage() -> Result<()> {
    let (site, [full, incremental]) = site()?;
    // A second repository over a copy of the folder, whose catalog rows are of the first.
    let copy = site.folder().join("copy");
    copy_all(&site.repository, &copy)?;
    let cli = site.server.cli()?;
    let setting = format!("path={}", copy.display());
    cli.run(&["repository", "add", "copy", "--plugin", "local", "--set", &setting])?;
    let of_copy = ["repository", "check", "copy", "--delete", "--grace-hours", "0"];
    let result = cli.outcome(&of_copy)?.expect(3)?["result"].clone();
    ensure!(result["counts"] == json!({"copy": 2}) && result["deleted_objects"] == 0, "{result}");

    // Without the catalog they can be imported; a full that lacks an image is garbage unless somebody needs it.
    cli.run(&["backup", "delete", &incremental])?;
    cli.run(&["backup", "delete", &full])?;
    let result = cli.outcome(&of_copy)?.expect(3)?["result"].clone();
    ensure!(result["counts"] == json!({"importable": 2}) && result["deleted_objects"] == 0, "{result}");
    let files = files_below(&copy, "-full.qcow2")?;
    fs::remove_file(files.first().context("a full")?)?;
    let result = cli.outcome(&of_copy)?.expect(3)?["result"].clone();
    ensure!(result["counts"] == json!({"orphan": 1}) && result["deleted_objects"] == 0, "{result}");
    // Nobody needs it once the incremental is gone too; a manifest that cannot be read protects what it describes.
    let newer = files_below(&copy, ".json")?
        .into_iter()
        .find(|file| file.to_string_lossy().contains(&incremental[..8]));
    let newer = newer.context("the incremental's manifest")?;
    fs::write(&newer, r#"{"format":"tidemark-manifest","version":99}"#)?;
    let result = cli.outcome(&of_copy)?.expect(3)?["result"].clone();
    ensure!(result["counts"]["unreadable-manifest"] == 1, "{result}");
    let left: Vec<_> = files_below(&copy, "")?.iter().filter_map(|file| key_in(&copy, file)).collect();
    ensure!(left.iter().all(|key| !key.contains(&full[..8])), "the incomplete full is gone: {left:?}");
    ensure!(
        left.iter().any(|key| key.ends_with("-incr.qcow2")),
        "what a newer version may know stays: {left:?}"
    );
    site.finish(&[])
}

#[test]
fn a_place_that_holds_nothing_of_it_judges_nobody() -> Result<()> {
    let (site, [full, _]) = site()?;
    let away = site.folder().join("away");
    fs::rename(&site.repository, &away)?;
    fs::create_dir(&site.repository)?;
    fs::write(site.repository.join(".tidemark-repository"), b"")?;
    let outcome = site.server.cli()?.outcome(&["repository", "check", REPOSITORY, "--delete"])?;
    ensure!(outcome.code == 1 && outcome.stderr.contains("right place"), "{outcome:?}");
    ensure!(site.view(&full)?.detail["status"] == "completed");
    fs::remove_dir_all(&site.repository)?;
    fs::rename(&away, &site.repository)?;
    check(&site, &[], 0)?;
    site.finish(&["right place"])
}

fn key_in(folder: &Path, file: &Path) -> Option<String> {
    file.strip_prefix(folder).ok().map(|path| path.to_string_lossy().into_owned())
}

fn copy_all(from: &Path, to: &Path) -> Result<()> {
    for file in files_below(from, "")? {
        let target = to.join(file.strip_prefix(from)?);
        fs::create_dir_all(target.parent().context("a folder")?)?;
        fs::copy(&file, &target)?;
    }
    Ok(())
}
