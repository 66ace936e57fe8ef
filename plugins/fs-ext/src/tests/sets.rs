//! Each set of options of `mke2fs`, filled by it (`-d`) and by the kernel.

use tidemark_plugin::attributes::Attributes;

use super::*;

/// Options, what the file system is called, and whether the kernel of every machine can mount it at once.
const SETS: [(&str, &str, bool); 46] = [
    ("-t ext2", "ext2", true),
    ("-t ext2 -b 1024", "ext2", true),
    ("-t ext2 -b 4096 -I 128", "ext2", true),
    ("-t ext2 -O ^dir_index", "ext2", true),
    ("-t ext2 -O ^filetype", "ext2", true),
    ("-t ext2 -r 0", "ext2", true),
    ("-t ext3", "ext3", true),
    ("-t ext3 -b 2048", "ext3", true),
    ("-t ext3 -I 128", "ext3", true),
    ("-t ext3 -O ^sparse_super,^resize_inode -b 1024 -g 1024", "ext3", true),
    ("-t ext4", "ext4", true),
    ("-t ext4 -b 1024", "ext4", true),
    ("-t ext4 -b 2048", "ext4", true),
    ("-t ext4 -b 4096", "ext4", true),
    ("-t ext4 -I 128", "ext4", true),
    ("-t ext4 -I 512", "ext4", true),
    ("-t ext4 -I 4096 -b 4096 -N 4000", "ext4", true),
    ("-t ext4 -O ^extents,^64bit", "ext4", true),
    ("-t ext4 -O ^extents,^64bit -b 1024", "ext4", true),
    ("-t ext4 -O ^64bit", "ext4", true),
    ("-t ext4 -O ^metadata_csum", "ext4", true),
    ("-t ext4 -O ^metadata_csum,uninit_bg", "ext4", true),
    ("-t ext4 -O ^metadata_csum,uninit_bg,^64bit -b 1024 -g 1024", "ext4", true),
    ("-t ext4 -O metadata_csum_seed", "ext4", true),
    ("-t ext4 -O ^has_journal", "ext4", true),
    ("-t ext4 -O ^flex_bg", "ext4", true),
    ("-t ext4 -O ^flex_bg -b 1024 -g 1024", "ext4", true),
    ("-t ext4 -O ^sparse_super,^resize_inode", "ext4", true),
    ("-t ext4 -O sparse_super2 -b 1024 -g 1024", "ext4", true),
    ("-t ext4 -O meta_bg,^resize_inode -b 1024 -g 1024", "ext4", true),
    ("-t ext4 -O meta_bg,^resize_inode,sparse_super2 -b 1024 -g 1024", "ext4", true),
    ("-t ext4 -O meta_bg,^resize_inode,^64bit,^flex_bg -b 4096 -g 512", "ext4", true),
    ("-t ext4 -O bigalloc -C 16384", "ext4", true),
    ("-t ext4 -O bigalloc -b 1024 -C 4096", "ext4", true),
    ("-t ext4 -O bigalloc,meta_bg,^resize_inode -b 1024 -C 4096 -g 2048", "ext4", true),
    ("-t ext4 -O inline_data", "ext4", true),
    ("-t ext4 -O inline_data -I 1024 -b 1024", "ext4", true),
    ("-t ext4 -O large_dir,ea_inode", "ext4", true),
    ("-t ext4 -O encrypt", "ext4", true),
    ("-t ext4 -O orphan_file,fast_commit", "ext4", true),
    ("-t ext4 -O stable_inodes,^dir_nlink,^huge_file,^extra_isize", "ext4", true),
    // Need a kernel with quotas, with verity, and with tables of letters.
    ("-t ext4 -O quota,project", "ext4", false),
    ("-t ext4 -O verity", "ext4", false),
    ("-t ext4 -O casefold", "ext4", false),
    // Whoever mounts it waits for ten seconds.
    ("-t ext4 -O mmp", "ext4", false),
    // Needs pages of 64 KiB.
    ("-t ext4 -b 65536", "ext4", false),
];
const SIZE: u64 = 64 << 20;

fn check_info(image: &Image, options: &str, name: &str) {
    let info = opened(image).unwrap_or_else(|error| panic!("{options}: {}", error.message)).info();
    assert_eq!((info.filesystem.as_str(), info.label.as_str()), (name, "label"), "{options}");
    assert!(info.warnings.is_empty() && !info.journal_replayed, "{options}: {info:?}");
    assert!(
        info.uuid.len() == 36 && (SIZE - (1 << 20)..=SIZE).contains(&info.total_bytes),
        "{options}: {info:?}"
    );
    let probed = Superblock::probe(&image.disk()).unwrap().unwrap();
    assert_eq!(probed.features.name(), name);
}

#[test]
fn what_mke2fs_wrote_is_read() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("tree");
    std::fs::create_dir(&folder).unwrap();
    TREE.fill(&folder);
    small_files(&folder);
    let tree = Tree::of(&folder);
    // It keeps neither the parts of seconds nor what is beyond 2038.
    let checks = Checks { time_step_ns: 0, ..CHECKS };
    for (options, name, _) in SETS {
        let image = made(SIZE, &format!("{options} -d {}", folder.display()));
        check_info(&image, options, name);
        let mut found = Tree::read_placed(&opened(&image).unwrap(), &image.disk());
        assert!(found.0.remove(b"/lost+found".as_slice()).is_some());
        tree.compare(&found, checks, options);
    }
}

#[test]
fn what_the_kernel_wrote_is_read() {
    for (options, name, mountable) in SETS {
        if !mountable {
            continue;
        }
        let image = made(SIZE, options);
        let old = options.contains("-I 128") || options.contains("-r 0");
        let mounted = image.mounted(name, "barrier=0");
        Wanted { times: !old, ..TREE }.fill(mounted.folder());
        small_files(mounted.folder());
        for (tool, arguments) in [("mkfifo", "pipe"), ("mknod", "device c 5 1")] {
            let mut words = arguments.split(' ');
            let mut command = Command::new(tool);
            command.arg(mounted.folder().join(words.next().unwrap())).args(words);
            assert!(command.status().unwrap().success());
        }
        if name == "ext4" && !options.contains("^extents") {
            // Reserved, and only some of it written.
            let reserved = mounted.folder().join("reserved");
            let mut command = Command::new("fallocate");
            assert!(command.args(["-l", "3000000"]).arg(&reserved).status().unwrap().success());
            let file = std::fs::File::options().write(true).open(&reserved).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &[7; 100_000], 1_234_567).unwrap();
        }
        // From the disk, not from memory.
        drop(mounted);
        let tree = super::mounted(&image, name);
        check_info(&image, options, name);
        let checks = Checks { time_step_ns: 1, ..CHECKS };
        tree.compare(&Tree::read_placed(&opened(&image).unwrap(), &image.disk()), checks, options);
    }
}

#[test]
fn a_link_with_attributes_in_a_block_still_has_its_target_in_the_inode() {
    let image = made(SIZE, "-t ext3 -I 128");
    std::os::unix::fs::symlink("target", image.mounted("ext3", "").folder().join("link")).unwrap();
    debugfs(&image, "ea_set link trusted.name value\n");
    let tree = mounted(&image, "ext3");
    tree.compare(&read(&image, "attributes"), CHECKS, "attributes");
}

#[test]
fn the_tree_is_what_another_reader_finds() {
    for options in ["-t ext2", "-t ext3", "-t ext4", "-t ext4 -b 1024", "-t ext4 -O bigalloc"] {
        let image = made(SIZE, options);
        let kind = options.get(3..7).unwrap();
        // It knows no time after 2038, and no hole as large as what a block of pointers reaches.
        let wanted = Wanted { times: false, sparse: 0, many: 300, ..TREE };
        wanted.fill(image.mounted(kind, "barrier=0").folder());
        let other = ext4_view::Ext4::load(Box::new(std::fs::read(image.path()).unwrap())).unwrap();
        let volume = opened(&image).unwrap();
        let mut waiting = vec![(b"/".to_vec(), volume.root())];
        let mut count = 0;
        while let Some((path, node)) = waiting.pop() {
            let mut entries =
                other.read_dir(path.as_slice()).unwrap().map(|entry| entry.unwrap()).collect::<Vec<_>>();
            entries.retain(|entry| !matches!(entry.file_name().as_ref(), b"." | b".."));
            assert_eq!(volume.list(node, 0, 10_000).unwrap().entries.len(), entries.len());
            for entry in entries {
                let name = AsRef::<[u8]>::as_ref(&entry.file_name()).to_vec();
                let found = volume.lookup(node, name.clone()).unwrap();
                let metadata = entry.metadata().unwrap();
                assert_eq!(
                    (found.size_bytes, found.mode),
                    (metadata.len(), Some(u32::from(metadata.mode()) & 0o7777))
                );
                let path = [path.strip_suffix(b"/").unwrap_or(&path), b"/", &name].concat();
                if metadata.is_dir() {
                    waiting.push((path, found.node));
                } else if metadata.file_type().is_regular_file() {
                    let length = u32::try_from(found.size_bytes).unwrap();
                    assert!(
                        volume.read(found.node, None, 0, length).unwrap()
                            == other.read(path.as_slice()).unwrap()
                    );
                }
                count += 1;
            }
        }
        assert!(count > 300, "{options}: {count}");
    }
}

#[test]
fn what_is_set_for_a_file_is_told() {
    let image = made(SIZE, "-t ext4");
    image.mounted("ext4", "").mark("iadAS");
    let volume = opened(&image).unwrap();
    let marked = volume.lookup(volume.root(), b"marked".to_vec()).unwrap();
    let attributes = volume.attributes(marked.node).unwrap();
    assert_eq!(attributes.flags, ["synchronous", "immutable", "append-only", "no-dump", "no-access-time"]);
    assert!(attributes.access_list.is_none());
    assert!(volume.attributes(volume.root()).unwrap().flags.is_empty());
}
