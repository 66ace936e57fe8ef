"""The policy `my-plugin`: the newest backups stay, and so does everything that is young.

Each answer is a function of its arguments alone: the host gives a policy no clock, no chance and no network, and asks it
again with the same arguments when it wants to know what another version would have decided.
"""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.decisions import BackupPlan, KeepVerdict, PlanType, Selection
from wit_world.imports.types import Description, Error, ErrorKind_Config

# As in plugin.toml.
NAME = "my-plugin"
VERSION = "0.1.0"
CONTRACT = "0.3.0"

# What an administrator may choose; `plugin.toml` declares the same names and defaults.
DEFAULTS = {"newest": 7, "days": 14, "tag": "backup", "longest_chain": 14}


def config_error(message):
    """An error of the contract: what is raised so is the call's answer."""
    return Err(Error(ErrorKind_Config(), message, None, None))


def settings_of(context):
    """An error lets the host keep everything, which a setting that was silently overlooked would not."""
    try:
        given = json.loads(context.settings)
    except ValueError as error:
        raise config_error(f"the settings: {error}")
    for name in given:
        if name not in DEFAULTS:
            raise config_error(f"the settings: there is no '{name}'")
    return DEFAULTS | given


def reason_to_keep(point, settings):
    """Why a backup stays; None where it may go."""
    if point.rank.last < settings["newest"]:
        return f"one of the newest {settings['newest']}"
    return f"younger than {settings['days']} days" if point.age_days < settings["days"] else None


class Decisions(exports.Decisions):
    """The interface `decisions` of wit/deps/plugin-0.1.0/policy.wit."""

    def describe(self):
        return Description(NAME, VERSION, CONTRACT)

    def retain(self, points, context):
        settings = settings_of(context)
        return [KeepVerdict(point.id, reason_to_keep(point, settings)) for point in points]

    def select(self, vm, context):
        tag = settings_of(context)["tag"]
        protect = tag in vm.tags
        return Selection(protect, f"tag {tag}" if protect else f"no tag {tag}", [])

    def plan(self, vm, history, context):
        longest, length = settings_of(context)["longest_chain"], history.chain_length
        kind = PlanType.FULL if length == 0 or length >= longest else PlanType.INCREMENTAL
        return BackupPlan(kind, f"{length} backups in the chain")
