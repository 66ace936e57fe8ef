-- Policies as scripts, protection flows that run themselves, and what retention is about to delete.

-- Who waits longest is served first, among those of the same priority; a larger number comes first.
ALTER TABLE jobs ADD COLUMN priority BIGINT NOT NULL DEFAULT 0;
CREATE INDEX jobs_waiting ON jobs (state, priority, sequence);

-- A copy says of which backup of another repository it is one.
ALTER TABLE backups ADD COLUMN copy_of TEXT;
CREATE INDEX backups_by_origin ON backups (copy_of, repository_id);

INSERT INTO counters (name, value) VALUES ('policy-activations', 0);

CREATE TABLE policies (
    name       TEXT   NOT NULL PRIMARY KEY CHECK (name <> ''),
    kind       TEXT   NOT NULL CHECK (kind IN ('retention', 'group')),
    created_at BIGINT NOT NULL
);

-- A version never changes: what a run decided by can always be read again.
CREATE TABLE policy_versions (
    name       TEXT   NOT NULL REFERENCES policies (name) ON DELETE CASCADE,
    version    BIGINT NOT NULL CHECK (version > 0),
    source     TEXT   NOT NULL,
    digest     TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT   NOT NULL,
    active     BIGINT NOT NULL CHECK (active IN (0, 1)),
    PRIMARY KEY (name, version)
);
CREATE UNIQUE INDEX policy_versions_active ON policy_versions (name) WHERE active = 1;

CREATE TABLE policy_activations (
    sequence     BIGINT NOT NULL PRIMARY KEY,
    name         TEXT   NOT NULL,
    version      BIGINT NOT NULL,
    activated_at BIGINT NOT NULL,
    activated_by TEXT   NOT NULL,
    FOREIGN KEY (name, version) REFERENCES policy_versions (name, version) ON DELETE CASCADE
);

-- `next_fire_at` is when a flow is due; none while it is disabled or has no schedule. Every change of the flow raises
-- its revision, so that a host which looked before cannot fire by an old schedule.
CREATE TABLE flows (
    id              TEXT   NOT NULL PRIMARY KEY,
    name            TEXT   NOT NULL UNIQUE CHECK (name <> ''),
    enabled         BIGINT NOT NULL CHECK (enabled IN (0, 1)),
    definition_json TEXT   NOT NULL,
    secrets_json    TEXT   NOT NULL,
    revision        BIGINT NOT NULL,
    next_fire_at    BIGINT,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL
);
CREATE INDEX flows_due ON flows (next_fire_at) WHERE next_fire_at IS NOT NULL;

-- One row a firing, whichever host saw it first. `missed` counts the firings before it that nobody was there for;
-- without a job, `skipped` says why there is none.
CREATE TABLE flow_firings (
    flow_id  TEXT   NOT NULL REFERENCES flows (id) ON DELETE CASCADE,
    fire_at  BIGINT NOT NULL,
    fired_at BIGINT NOT NULL,
    fired_by TEXT   NOT NULL,
    missed   BIGINT NOT NULL CHECK (missed >= 0),
    job_id   TEXT   UNIQUE REFERENCES jobs (id),
    skipped  TEXT,
    PRIMARY KEY (flow_id, fire_at),
    CHECK ((job_id IS NULL) = (skipped IS NOT NULL))
);

-- A run is its job. `status` is none until it ends.
CREATE TABLE flow_runs (
    job_id      TEXT   NOT NULL PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
    flow_id     TEXT   NOT NULL REFERENCES flows (id) ON DELETE CASCADE,
    sequence    BIGINT NOT NULL UNIQUE,
    cause       TEXT   NOT NULL CHECK (cause IN ('schedule', 'catch-up', 'manual')),
    fire_at     BIGINT,
    status      TEXT   CHECK (status IN ('succeeded', 'partly', 'failed', 'cancelled')),
    report_json TEXT   NOT NULL,
    created_at  BIGINT NOT NULL,
    ended_at    BIGINT,
    CHECK ((status IS NULL) = (ended_at IS NULL))
);
CREATE INDEX flow_runs_by_flow ON flow_runs (flow_id, sequence);

-- What a run decided and did about each VM. Written when it is decided, so that another host can go on.
CREATE TABLE flow_run_vms (
    run_id     TEXT   NOT NULL REFERENCES flow_runs (job_id) ON DELETE CASCADE,
    vm_id      TEXT   NOT NULL,
    vm_name    TEXT   NOT NULL,
    state      TEXT   NOT NULL CHECK (state IN ('waiting', 'running', 'succeeded', 'failed', 'skipped')),
    plan       TEXT   NOT NULL,
    reason     TEXT   NOT NULL,
    error      TEXT,
    attempts   BIGINT NOT NULL CHECK (attempts >= 0),
    backup_id  TEXT,
    detail_json TEXT  NOT NULL,
    PRIMARY KEY (run_id, vm_id)
);

-- What a flow last said of each VM it looked at. The VM is named by connector and key, as it need not be under
-- protection.
CREATE TABLE flow_members (
    flow_id      TEXT   NOT NULL REFERENCES flows (id) ON DELETE CASCADE,
    connector_id TEXT   NOT NULL,
    vm_key       TEXT   NOT NULL,
    vm_name      TEXT   NOT NULL,
    protect      BIGINT NOT NULL CHECK (protect IN (0, 1)),
    reason       TEXT   NOT NULL,
    evaluated_at BIGINT NOT NULL,
    PRIMARY KEY (flow_id, connector_id, vm_key)
);
CREATE INDEX flow_members_by_vm ON flow_members (connector_id, vm_key);

-- Everything that a connector showed when it was last asked, under protection or not.
CREATE TABLE seen_vms (
    connector_id   TEXT   NOT NULL REFERENCES connectors (id) ON DELETE CASCADE,
    vm_key         TEXT   NOT NULL,
    name           TEXT   NOT NULL,
    inventory_json TEXT   NOT NULL,
    seen_at        BIGINT NOT NULL,
    PRIMARY KEY (connector_id, vm_key)
);

-- Backups that a policy lets go: marked first, deleted when the grace period is over and the policy still says so.
CREATE TABLE retention_marks (
    backup_id     TEXT   NOT NULL PRIMARY KEY REFERENCES backups (id) ON DELETE CASCADE,
    vm_id         TEXT   NOT NULL,
    repository_id TEXT   NOT NULL,
    policy        TEXT   NOT NULL,
    marked_at     BIGINT NOT NULL,
    due_at        BIGINT NOT NULL,
    approved      BIGINT NOT NULL CHECK (approved IN (0, 1)),
    approved_by   TEXT
);
CREATE INDEX retention_marks_by_vm ON retention_marks (vm_id, repository_id);

-- When retention last looked at a VM's backups in a repository, by the clock of then: a clock that jumps is noticed.
CREATE TABLE retention_looks (
    vm_id         TEXT   NOT NULL,
    repository_id TEXT   NOT NULL,
    looked_at     BIGINT NOT NULL,
    PRIMARY KEY (vm_id, repository_id)
);
