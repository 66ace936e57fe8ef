"""The storage target `my-plugin`: each object is a file below one folder.

Nothing here touches a disk. Each answer is an operation that the host holds against the granted folder and carries out
itself: an object grows as `KEY.partial`, and publishing gives it its name durably.
"""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.storage import (
    FileAction,
    FileOperation,
    Object,
    ObjectPage,
    Operation_File,
    Space,
    Upload,
    UploadStyle_Append,
    Verdict_Done,
    Verdict_Failed,
)
from wit_world.imports.types import (
    Description,
    Error,
    ErrorKind_Config,
    ErrorKind_Corrupt,
    ErrorKind_NotFound,
    ErrorKind_Unavailable,
    ErrorKind_Unsupported,
)

# As in plugin.toml.
NAME = "my-plugin"
VERSION = "0.1.0"
CONTRACT = "0.3.0"

# What a file under construction ends with; the host accepts no other ending.
PARTIAL = ".partial"


# What configure was given. It lasts as long as the session; the object below is made anew for each call.
configured = {}


def failure(kind, message):
    return Error(kind, message, None, None)


def refusal(kind, message):
    """An error of the contract: what is raised so is the call's answer."""
    return Err(failure(kind, message))


def checked(key):
    """A key that may be a path below the folder."""
    if any(part in ("", ".", "..") for part in key.split("/")) or key.endswith(PARTIAL):
        raise refusal(ErrorKind_Config(), f"'{key}' is no name of a finished object")
    return key


def no_parts():
    return refusal(ErrorKind_Unsupported(), "a folder takes no parts: objects are appended to")


class Storage(exports.Storage):
    """The interface `storage` of wit/deps/plugin-0.1.0/storage-target.wit."""

    def operation(self, action, path, to=None):
        return FileOperation(action, configured["folder"], path, to)

    def describe(self):
        return Description(NAME, VERSION, CONTRACT)

    def configure(self, settings):
        try:
            given = json.loads(settings)
            folder = given.pop("folder")
        except (ValueError, KeyError) as error:
            raise refusal(ErrorKind_Config(), f"the settings: {error!r}")
        if given:
            raise refusal(ErrorKind_Config(), f"the settings: there is no '{next(iter(given))}'")
        if not folder.startswith("/") or ".." in folder.split("/"):
            raise refusal(ErrorKind_Config(), f"folder '{folder}' is no absolute path")
        configured["folder"] = folder

    def watch_space(self):
        return Space(configured["folder"])

    def begin(self, key, size_hint, now_ms):
        partial = checked(key) + PARTIAL
        return Upload(partial, UploadStyle_Append(self.operation(FileAction.CREATE, partial)))

    def open_multipart(self, key, now_ms):
        raise no_parts()

    def opened_multipart(self, key, outcome):
        raise no_parts()

    def parts(self, key, token, parts, now_ms):
        raise no_parts()

    def finish(self, key, token, parts, now_ms):
        return [Operation_File(self.operation(FileAction.PUBLISH, checked(key) + PARTIAL, key))]

    def abort(self, key, token, now_ms):
        return [Operation_File(self.operation(FileAction.REMOVE, checked(key) + PARTIAL))]

    def get(self, key, range, now_ms):
        # The range needs no place in the operation: the host seeks in the file that this names.
        return Operation_File(self.operation(FileAction.READ, checked(key)))

    def remove(self, key, now_ms):
        return Operation_File(self.operation(FileAction.REMOVE, checked(key)))

    def list_op(self, prefix, cursor, now_ms):
        if cursor is not None:
            raise refusal(ErrorKind_NotFound(), "the listing of a folder has one page")
        return Operation_File(self.operation(FileAction.LIST, ""))

    def list_parse(self, prefix, outcome):
        try:
            listed = [(file["path"], file["size"]) for file in json.loads(outcome.body)]
        except (ValueError, KeyError, TypeError) as error:
            raise refusal(ErrorKind_Corrupt(), f"the listing of {configured['folder']}: {error!r}")
        objects, unfinished = [], []
        for path, size in sorted(listed):
            if not path.startswith(prefix):
                continue
            if path.endswith(PARTIAL):
                unfinished.append(path.removesuffix(PARTIAL))
            else:
                objects.append(Object(path, size))
        return ObjectPage(objects, unfinished, None)

    def classify(self, outcome):
        if outcome.status == 0 or 200 <= outcome.status <= 299:
            return Verdict_Done()
        if outcome.status == 404:
            return Verdict_Failed(failure(ErrorKind_NotFound(), "the file does not exist"))
        message = f"the operation ended with {outcome.status}"
        return Verdict_Failed(failure(ErrorKind_Unavailable(), message))
