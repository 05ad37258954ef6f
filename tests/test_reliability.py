#!/usr/bin/env python3
"""tests/reliability/reliability.py: what it counts as a fault of a job."""
import contextlib
import io
import pathlib
import random
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "reliability"))
import reliability  # noqa: E402


class StubBench(reliability.Bench):
    """A bench with one job, a line of Python, and nothing to compare."""

    def __init__(self, folder, code, seconds):
        self.folder, self.environment, self.seconds = pathlib.Path(folder), None, seconds
        command = [sys.executable, "-c", code]
        self.jobs = {"stub": reliability.Job(lambda at: command, lambda at: command, lambda at: {})}

    def reference(self, kind):
        return {}, self.seconds


class KillTrials(unittest.TestCase):
    def trial(self, code, seconds):
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as out:
            report = []
            bench = StubBench(folder, code, seconds)
            dice = random.Random(1)
            dice.uniform = lambda low, high: high
            faults = reliability.kill_trials(bench, "stub", 1, dice, report)
        return faults, report, out.getvalue()

    def test_a_job_that_fails_by_itself_is_a_fault(self):
        # It fails the first time it runs; killed the second time, it ends well.
        code = ("import os, sys, time\n"
                "if not os.path.exists('{0}'):\n"
                "    open('{0}', 'w').close()\n"
                "    sys.exit('disk on fire')\n"
                "if not os.path.exists('{0}2'):\n"
                "    open('{0}2', 'w').close()\n"
                "    time.sleep(60)\n")
        with tempfile.TemporaryDirectory() as folder:
            faults, report, out = self.trial(code.format(pathlib.Path(folder) / "ran"), 3)
        self.assertEqual(faults, 1, out)
        self.assertIn("disk on fire", out)
        self.assertEqual(report, [("stub", 2, 1, 1)])

    def test_a_killed_job_that_ends_well_is_none(self):
        code = ("import os, time\n"
                "if not os.path.exists('{0}'):\n"
                "    open('{0}', 'w').close()\n"
                "    time.sleep(60)\n")
        with tempfile.TemporaryDirectory() as folder:
            faults, report, out = self.trial(code.format(pathlib.Path(folder) / "ran"), 3)
        self.assertEqual(faults, 0, out)
        self.assertEqual(report, [("stub", 1, 1, 0)])

    def test_kill_after_tells_a_kill_from_an_end(self):
        def start(code):
            return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                    text=True)
        self.assertEqual(reliability.kill_after(start("import sys; sys.exit('no')"), 30), (False, 1, "no\n"))
        self.assertEqual(reliability.kill_after(start("import time; time.sleep(60)"), 0.5)[:2], (True, -9))


if __name__ == "__main__":
    unittest.main()
