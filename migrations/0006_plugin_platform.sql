-- Plugins as a platform: every host of an installation finds the components here, who signed them, and how often in a row
-- a version misbehaved. Readers of volumes are a kind of their own. SQLite cannot change a CHECK, so the tables are made
-- anew, the one that refers to the other first to go.
CREATE TABLE plugin_versions_2 (
    name          TEXT   NOT NULL,
    version       TEXT   NOT NULL,
    kind          TEXT   NOT NULL
        CHECK (kind IN ('connector', 'storage-target', 'guest-filesystem', 'volume-reader', 'policy')),
    digest        TEXT   NOT NULL,
    manifest_json TEXT   NOT NULL,
    installed_at  BIGINT NOT NULL,
    active        BIGINT NOT NULL CHECK (active IN (0, 1)),
    quarantine    TEXT,
    -- The key that signed the component; NULL where nobody did.
    signed_by     TEXT,
    strikes       BIGINT NOT NULL DEFAULT 0,
    -- The job in which it last misbehaved.
    struck_in     TEXT,
    PRIMARY KEY (name, version),
    CHECK (active = 0 OR quarantine IS NULL)
);
INSERT INTO plugin_versions_2 (name, version, kind, digest, manifest_json, installed_at, active, quarantine)
    SELECT name, version, kind, digest, manifest_json, installed_at, active, quarantine FROM plugin_versions;
CREATE TABLE plugin_activations_2 (
    sequence     BIGINT NOT NULL PRIMARY KEY,
    name         TEXT   NOT NULL,
    version      TEXT   NOT NULL,
    activated_at BIGINT NOT NULL,
    FOREIGN KEY (name, version) REFERENCES plugin_versions_2 (name, version) ON DELETE CASCADE
);
INSERT INTO plugin_activations_2 (sequence, name, version, activated_at)
    SELECT sequence, name, version, activated_at FROM plugin_activations;
DROP TABLE plugin_activations;
DROP TABLE plugin_versions;
ALTER TABLE plugin_versions_2 RENAME TO plugin_versions;
ALTER TABLE plugin_activations_2 RENAME TO plugin_activations;
CREATE UNIQUE INDEX plugin_versions_active ON plugin_versions (name) WHERE active = 1;

CREATE TABLE plugin_components (
    digest TEXT  NOT NULL PRIMARY KEY,
    bytes  BYTEA NOT NULL
);
