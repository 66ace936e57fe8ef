-- How thoroughly a backup was found good, and how thoroughly it was found damaged: only a verification that looks at
-- least as closely as the one that found the damage may say that it is gone.
ALTER TABLE backups ADD COLUMN verified_level TEXT CHECK (verified_level IN ('quick', 'full', 'deep'));
ALTER TABLE backups ADD COLUMN damaged_level TEXT CHECK (damaged_level IN ('quick', 'full', 'deep'));
