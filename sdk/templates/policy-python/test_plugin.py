"""The plugin's own tests. `tidemark plugin test` makes the contract's classes for them."""

import json
import unittest
from types import SimpleNamespace

from componentize_py_types import Err
from plugin import Decisions
from wit_world.exports.decisions import Context, PlanType, Point, Ranks


def context(**settings):
    return Context(0, "UTC", json.dumps(settings), None)


def point(place):
    """The backup of `place` days ago."""
    rank = Ranks(place, place, place, 0, 0, 0)
    return Point(
        f"backup-{place}", -place * 86_400_000, float(place), rank, "incremental", False, False, False, 1
    )


def kept(places, **settings):
    verdicts = Decisions().retain([point(place) for place in places], context(**settings))
    return [verdict.id for verdict in verdicts if verdict.reason is not None]


class PolicyTest(unittest.TestCase):
    def test_the_newest_and_the_young_stay(self):
        self.assertEqual(kept([0, 1, 2, 8], newest=2, days=0), ["backup-0", "backup-1"])
        self.assertEqual(kept([0, 1, 2, 3], newest=1, days=3), ["backup-0", "backup-1", "backup-2"])
        self.assertEqual(kept([0, 6, 13, 14, 300]), ["backup-0", "backup-6", "backup-13"])

    def test_a_setting_that_does_not_exist_is_refused(self):
        with self.assertRaises(Err) as refused:
            Decisions().retain([], context(dyas=30))
        self.assertIn("dyas", refused.exception.value.message)

    def test_a_chain_ends_with_a_full(self):
        def after(chain_length):
            history = SimpleNamespace(chain_length=chain_length)
            return Decisions().plan(None, history, context(longest_chain=3)).kind

        full, incremental = PlanType.FULL, PlanType.INCREMENTAL
        self.assertEqual([after(length) for length in range(4)], [full, incremental, incremental, full])
        vm = SimpleNamespace(tags=["backup"])
        self.assertTrue(Decisions().select(vm, context()).protect)
        self.assertFalse(Decisions().select(vm, context(tag="gold")).protect)


if __name__ == "__main__":
    unittest.main()
