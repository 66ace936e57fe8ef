-- The catalog, in SQL that SQLite and PostgreSQL both take: TEXT identifiers, BIGINT milliseconds of UTC,
-- JSON as TEXT, booleans as BIGINT 0 or 1. A migration that was released is never edited.

-- One counter a list whose order matters. Taken by UPDATE inside the transaction that uses the number, so numbers
-- become visible in their own order, which a database sequence does not promise.
CREATE TABLE counters (
    name  TEXT   NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO counters (name, value) VALUES ('jobs', 0), ('audit', 0), ('activations', 0);

CREATE TABLE connectors (
    id            TEXT   NOT NULL PRIMARY KEY,
    name          TEXT   NOT NULL UNIQUE CHECK (name <> ''),
    plugin        TEXT   NOT NULL,
    settings_json TEXT   NOT NULL,
    secrets_json  TEXT   NOT NULL,
    created_at    BIGINT NOT NULL
);

CREATE TABLE repositories (
    id            TEXT   NOT NULL PRIMARY KEY,
    name          TEXT   NOT NULL UNIQUE CHECK (name <> ''),
    plugin        TEXT   NOT NULL,
    settings_json TEXT   NOT NULL,
    secrets_json  TEXT   NOT NULL,
    created_at    BIGINT NOT NULL
);

-- A name is not unique: hypervisors allow one name in two folders, and two VMs may swap theirs.
CREATE TABLE vms (
    id             TEXT   NOT NULL PRIMARY KEY,
    connector_id   TEXT   REFERENCES connectors (id),
    vm_key         TEXT   NOT NULL CHECK (vm_key <> ''),
    name           TEXT   NOT NULL,
    inventory_json TEXT   NOT NULL,
    created_at     BIGINT NOT NULL,
    UNIQUE (connector_id, vm_key)
);
CREATE INDEX vms_by_name ON vms (name);

CREATE TABLE jobs (
    id               TEXT   NOT NULL PRIMARY KEY,
    sequence         BIGINT NOT NULL UNIQUE,
    kind             TEXT   NOT NULL,
    state            TEXT   NOT NULL CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    payload_json     TEXT   NOT NULL,
    progress_json    TEXT   NOT NULL,
    result_json      TEXT,
    error_json       TEXT,
    exclusive_key    TEXT,
    idempotency_key  TEXT   UNIQUE,
    cancel_requested BIGINT NOT NULL CHECK (cancel_requested IN (0, 1)),
    epoch            BIGINT NOT NULL,
    lease_owner      TEXT,
    lease_until      BIGINT,
    created_at       BIGINT NOT NULL,
    started_at       BIGINT,
    ended_at         BIGINT,
    CHECK ((state = 'running') = (lease_owner IS NOT NULL)),
    CHECK ((state = 'running') = (lease_until IS NOT NULL)),
    CHECK ((state IN ('succeeded', 'failed', 'cancelled')) = (ended_at IS NOT NULL))
);
-- The last word on exclusive keys: two hosts that both saw the key free cannot both run.
CREATE UNIQUE INDEX jobs_exclusive ON jobs (exclusive_key) WHERE state = 'running';
CREATE INDEX jobs_by_state ON jobs (state, sequence);

CREATE TABLE job_steps (
    job_id      TEXT   NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    sequence    BIGINT NOT NULL,
    epoch       BIGINT NOT NULL,
    name        TEXT   NOT NULL,
    detail_json TEXT   NOT NULL,
    recorded_at BIGINT NOT NULL,
    PRIMARY KEY (job_id, sequence)
);

-- The parent is named with its VM and repository, so that a chain cannot cross from one to another.
CREATE TABLE backups (
    id            TEXT   NOT NULL PRIMARY KEY,
    vm_id         TEXT   NOT NULL REFERENCES vms (id),
    vm_name       TEXT   NOT NULL,
    repository_id TEXT   NOT NULL REFERENCES repositories (id),
    backup_type   TEXT   NOT NULL CHECK (backup_type IN ('full', 'incremental')),
    parent_id     TEXT,
    status        TEXT   NOT NULL CHECK (status IN ('completed', 'damaged')),
    reason_code   TEXT   NOT NULL,
    reason        TEXT   NOT NULL,
    started_at    BIGINT NOT NULL,
    snapshot_at   BIGINT NOT NULL,
    completed_at  BIGINT NOT NULL,
    manifest_key  TEXT   NOT NULL CHECK (manifest_key <> ''),
    pinned        BIGINT NOT NULL CHECK (pinned IN (0, 1)),
    plugins_json  TEXT   NOT NULL,
    warnings_json TEXT   NOT NULL,
    job_id        TEXT   REFERENCES jobs (id) ON DELETE SET NULL,
    verified_at   BIGINT,
    UNIQUE (repository_id, manifest_key),
    UNIQUE (id, repository_id),
    UNIQUE (id, vm_id, repository_id),
    CHECK ((backup_type = 'full') = (parent_id IS NULL)),
    FOREIGN KEY (parent_id, vm_id, repository_id) REFERENCES backups (id, vm_id, repository_id)
);
CREATE INDEX backups_by_time ON backups (snapshot_at, id);
CREATE INDEX backups_by_vm ON backups (vm_id, repository_id, snapshot_at);
CREATE INDEX backups_by_parent ON backups (parent_id);

CREATE TABLE backup_disks (
    backup_id      TEXT   NOT NULL,
    repository_id  TEXT   NOT NULL,
    disk_index     BIGINT NOT NULL CHECK (disk_index >= 0),
    disk_key       TEXT   NOT NULL,
    label          TEXT   NOT NULL,
    capacity_bytes BIGINT NOT NULL CHECK (capacity_bytes >= 0),
    change_id      TEXT,
    object_key     TEXT   NOT NULL CHECK (object_key <> ''),
    stored_bytes   BIGINT NOT NULL CHECK (stored_bytes >= 0),
    read_bytes     BIGINT NOT NULL CHECK (read_bytes >= 0),
    skipped_bytes  BIGINT NOT NULL CHECK (skipped_bytes >= 0),
    moved_ms       BIGINT NOT NULL CHECK (moved_ms >= 0),
    digest         TEXT   NOT NULL,
    PRIMARY KEY (backup_id, disk_index),
    UNIQUE (backup_id, disk_key),
    UNIQUE (repository_id, object_key),
    FOREIGN KEY (backup_id, repository_id) REFERENCES backups (id, repository_id) ON DELETE CASCADE
);

-- Objects whose backup is gone from the catalog and which are still to be deleted from the repository.
CREATE TABLE doomed_objects (
    repository_id TEXT   NOT NULL REFERENCES repositories (id),
    object_key    TEXT   NOT NULL,
    backup_id     TEXT   NOT NULL,
    doomed_at     BIGINT NOT NULL,
    PRIMARY KEY (repository_id, object_key)
);

CREATE TABLE plugin_versions (
    name          TEXT   NOT NULL,
    version       TEXT   NOT NULL,
    kind          TEXT   NOT NULL CHECK (kind IN ('connector', 'storage-target', 'guest-filesystem', 'policy')),
    digest        TEXT   NOT NULL,
    manifest_json TEXT   NOT NULL,
    installed_at  BIGINT NOT NULL,
    active        BIGINT NOT NULL CHECK (active IN (0, 1)),
    quarantine    TEXT,
    PRIMARY KEY (name, version),
    CHECK (active = 0 OR quarantine IS NULL)
);
CREATE UNIQUE INDEX plugin_versions_active ON plugin_versions (name) WHERE active = 1;

CREATE TABLE plugin_activations (
    sequence     BIGINT NOT NULL PRIMARY KEY,
    name         TEXT   NOT NULL,
    version      TEXT   NOT NULL,
    activated_at BIGINT NOT NULL,
    FOREIGN KEY (name, version) REFERENCES plugin_versions (name, version) ON DELETE CASCADE
);

CREATE TABLE grants (
    plugin     TEXT   NOT NULL,
    capability TEXT   NOT NULL,
    granted_by TEXT   NOT NULL,
    granted_at BIGINT NOT NULL,
    PRIMARY KEY (plugin, capability)
);

CREATE TABLE tokens (
    id         TEXT   NOT NULL PRIMARY KEY,
    name       TEXT   NOT NULL UNIQUE CHECK (name <> ''),
    role       TEXT   NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
    digest     TEXT   NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    revoked_at BIGINT
);

CREATE TABLE audit (
    sequence    BIGINT NOT NULL PRIMARY KEY,
    at          BIGINT NOT NULL,
    actor       TEXT   NOT NULL,
    action      TEXT   NOT NULL,
    target      TEXT   NOT NULL,
    outcome     TEXT   NOT NULL CHECK (outcome IN ('ok', 'denied', 'failed')),
    detail_json TEXT   NOT NULL
);
