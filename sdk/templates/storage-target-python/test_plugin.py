"""The plugin's own tests. `tidemark plugin test` makes the contract's classes for them."""

import json
import unittest

from componentize_py_types import Err
from plugin import Storage
from wit_world.exports.storage import FileAction, Object, Outcome
from wit_world.imports.types import ErrorKind_Config


def folder(path="/srv/backups"):
    storage = Storage()
    storage.configure(json.dumps({"folder": path}))
    return storage


class StorageTest(unittest.TestCase):
    def test_an_object_grows_as_partial_and_is_published_by_its_key(self):
        storage = folder()
        upload = storage.begin("vm/a.qcow2", 10, 0)
        create = upload.style.value
        self.assertEqual((create.action, create.path), (FileAction.CREATE, "vm/a.qcow2.partial"))
        (publish,) = storage.finish("vm/a.qcow2", upload.token, [], 0)
        self.assertEqual((publish.value.path, publish.value.to), (create.path, "vm/a.qcow2"))

    def test_only_an_absolute_folder_and_clean_keys_are_accepted(self):
        for path in ["", "backups", "/srv/../etc"]:
            with self.assertRaises(Err) as refused:
                folder(path)
            self.assertEqual(refused.exception.value.kind, ErrorKind_Config())
        for key in ["", "/etc/passwd", "a//b", "../x", "x.partial"]:
            with self.assertRaises(Err):
                folder().begin(key, 0, 0)

    def test_a_listing_tells_objects_from_unfinished_uploads(self):
        listed = [("vm/b", 7), ("vm/c.partial", 1), ("x", 9)]
        body = json.dumps([{"path": path, "size": size} for path, size in listed])
        page = folder().list_parse("vm/", Outcome(200, [], body.encode()))
        self.assertEqual((page.objects, page.unfinished), ([Object("vm/b", 7)], ["vm/c"]))


if __name__ == "__main__":
    unittest.main()
