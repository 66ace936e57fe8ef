-- How many disks a host writes to a repository at once; NULL for no bound of its own.
ALTER TABLE repositories ADD COLUMN max_disks BIGINT;
