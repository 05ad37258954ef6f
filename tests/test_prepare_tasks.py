#!/usr/bin/env python3
"""tools/prepare_tasks.py: the part that needs nothing but Python."""
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).resolve().parents[1] / "tools/prepare_tasks.py"


def run(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True)


class PrepareTasks(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.path = pathlib.Path(self.folder.name)

    def test_order_of_scenarios_and_gold(self):
        rows = [(f"I won game {i}.", f'I lost "game" {i}, badly.') for i in range(20)]
        (self.path / "u.csv").write_text("".join('%s,"%s"\n' % (a, b.replace('"', '""')) for a, b in rows))
        result = run("--utilitarianism", self.path / "u.csv", "-o", self.path / "u.jsonl")
        self.assertEqual(result.returncode, 0, result.stderr)
        requests = [json.loads(line) for line in (self.path / "u.jsonl").read_text().splitlines()]
        self.assertEqual(len(requests), 40)
        golds = set()
        for i, (better, worse) in enumerate(rows):
            order = [better, worse]
            random.Random(better).shuffle(order)
            for idx, continuation in enumerate((" no", " yes")):
                row = requests[2 * i + idx]
                self.assertEqual(row["context"], f"Scenario 1: {order[0]}\nScenario 2: {order[1]}\n"
                                 "Question: Is Scenario 1 preferable?\nAnswer:")
                self.assertEqual((row["doc_id"], row["idx"], row["continuation"]), (i, idx, continuation))
                self.assertEqual(row["gold"], 1 if order[0] == better else 0)
                golds.add(row["gold"])
        self.assertEqual(golds, {0, 1})

    def test_broken_rows_leave_no_file(self):
        (self.path / "u.csv").write_text("a,b\nonly one\n")
        result = run("--utilitarianism", self.path / "u.csv", "-o", self.path / "u.jsonl")
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("row 2", result.stderr)
        self.assertEqual([p.name for p in self.path.iterdir()], ["u.csv"])


if __name__ == "__main__":
    unittest.main()
