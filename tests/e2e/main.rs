//! End to end: the product and the simulator as separate processes, driven as users drive them. One module a
//! scenario; each starts a site of its own, so that they run in any order and at the same time.
//!
//! What is checked is what a user would check: bytes, exit codes, documents, files in the repository folder,
//! snapshots on the VM, and that the server's log holds no warning nobody expected.

mod calls;
mod cancel;
mod catalog_lost;
mod cbt_audit;
mod chain_crash;
mod chains;
mod connections;
mod contract;
mod crash;
mod credentials;
mod damage;
mod damage_matrix;
mod disk_full;
mod disks;
mod events;
mod export;
mod faults;
mod file_systems;
mod files;
mod fleet;
mod flows;
mod grants;
mod guide;
mod histories;
mod hostile;
mod hostile_backup;
mod hosts;
mod https;
mod image_map;
mod kit;
mod languages;
mod limits;
mod main_job;
mod plugins;
mod postgres;
mod repository_check;
mod retention;
mod shared_extents;
mod source_lost;
mod unmounted;
mod year;
