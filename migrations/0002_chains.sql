-- What chains need that live for years: digests of guest ranges, merged objects that wait for their name, and how
-- much at once a connection may carry.

-- A merged object is published under a key of its own, made known here in one transaction, and then takes the name
-- that the images above it carry. While `staged_key` is set the object may be under either of the two.
ALTER TABLE backups ADD COLUMN consolidated_at BIGINT;
ALTER TABLE backups ADD COLUMN staged_manifest_key TEXT;
ALTER TABLE backup_disks ADD COLUMN staged_key TEXT;

-- The object with the digests of the guest's ranges; none for backups of earlier versions.
ALTER TABLE backup_disks ADD COLUMN ranges_key TEXT;
ALTER TABLE backup_disks ADD COLUMN ranges_stored_bytes BIGINT;
ALTER TABLE backup_disks ADD COLUMN ranges_digest TEXT;
CREATE INDEX backup_disks_staged ON backup_disks (repository_id) WHERE staged_key IS NOT NULL;

-- Bounds that an administrator sets; none for no bound.
ALTER TABLE connectors ADD COLUMN max_disks BIGINT;
ALTER TABLE repositories ADD COLUMN bandwidth_bytes BIGINT;
