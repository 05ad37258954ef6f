#!/usr/bin/env python3
"""tools/prepare_data.py, with stand-ins for the packages that fetch."""
import csv
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).resolve().parents[1] / "tools/prepare_data.py"

# Rows as the hub's data sets have them, one or two of each; every call is written down.
DATASETS = '''
import os
ROWS = {
    ("Salesforce/wikitext", "test"): [{"text": ""}, {"text": " = A = \\n"}, {"text": ""}, {"text": " words \\n"}],
    ("Salesforce/wikitext", "train"): [{"text": " other \\n"}],
    ("EleutherAI/lambada_openai", "test"): [{"text": "one two \\u00e9"}],
    ("baber/piqa", "validation"): [{"goal": "g", "sol1": "a", "sol2": "b", "label": 1}],
    ("Rowan/hellaswag", "validation"): [{"activity_label": "A", "ctx_a": "x", "ctx_b": "y", "endings": ["p", "q"], "label": "1"}],
    ("allenai/ai2_arc", "test"): [{"question": "q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"}],
    ("EleutherAI/mutual", "validation"): [{"answers": "B", "options": ["m", "f"], "article": "m : hi", "id": "1"}],
    ("commonsense", "test"): [{"label": 1, "input": 'I said "no", twice.', "extra": 3}],
    ("deontology", "test"): [{"label": 0, "scenario": "s", "excuse": "e"}],
    ("justice", "test"): [{"label": 0, "scenario": "s"}],
    ("virtue", "test"): [{"label": 1, "scenario": "s [SEP] brave"}],
    ("utilitarianism", "test"): [{"baseline": "b", "less_pleasant": "l"}],
}
def load_dataset(name, config=None, split=None):
    with open(os.environ["CALLS"], "a") as out:
        out.write(name + "\\n")
    key = config if name.endswith("ethics") else name
    if (key, split) not in ROWS:
        raise ConnectionError("no route to the hub\\nand more lines")
    return ROWS[key, split]
'''
HUB = '''
import os
def hf_hub_download(name, path, repo_type=None):
    out = os.path.join(os.environ["STANDINS"], os.path.basename(path))
    open(out, "w").write(path)
    return out
'''


class PrepareData(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = pathlib.Path(folder.name)
        self.data, self.standins, self.calls = self.path / "data", self.path / "standins", self.path / "calls"
        self.standins.mkdir()
        self.calls.touch()

    def run_script(self, *arguments, standins=True):
        if standins:
            (self.standins / "datasets.py").write_text(DATASETS)
            (self.standins / "huggingface_hub.py").write_text(HUB)
        else:  # also where the packages are installed
            for name in ("datasets", "huggingface_hub"):
                (self.standins / f"{name}.py").write_text(f"raise ImportError('gone', name='{name}')\n")
        environment = dict(os.environ, PYTHONPATH=str(self.standins), CALLS=str(self.calls), STANDINS=str(self.standins))
        return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, env=environment)

    def read(self, name):
        return (self.data / name).read_text(encoding="utf-8")

    def test_fetched_rows_become_the_files_that_cbq_reads(self):
        result = self.run_script(self.data)
        self.assertEqual(result.returncode, 1)  # the extras are not among the stand-ins
        self.assertEqual(self.read("text/wiki.test.raw"), " \n = A = \n \n words \n")
        self.assertEqual(self.read("text/c4-train.00000-of-01024.json.gz"), "en/c4-train.00000-of-01024.json.gz")
        self.assertEqual(self.read("lambada/lambada_test_openai.jsonl"), '{"text": "one two \u00e9"}\n')
        self.assertEqual(json.loads(self.read("hellaswag/hellaswag_val.jsonl"))["label"], "1")
        self.assertEqual(set(json.loads(self.read("mutual/mutual_dev.jsonl"))), {"answers", "options", "article"})
        with open(self.data / "ethics/cm_test.csv", newline="") as file:
            self.assertEqual(list(csv.reader(file)), [["label", "input"], ["1", 'I said "no", twice.']])
        self.assertEqual(self.read("ethics/util_test.csv"), "b,l\n")
        self.assertEqual(len(self.read("ethics/ethics_utilitarianism.jsonl").splitlines()), 2)

    def test_one_failure_leaves_the_rest_and_is_told(self):
        result = self.run_script(self.data)
        self.assertIn("openbookqa/test.jsonl: allenai/openbookqa: ConnectionError: no route to the hub\n", result.stderr)
        self.assertNotIn("and more lines", result.stderr)
        self.assertFalse(list(self.data.rglob("*.partial")))
        self.assertTrue((self.data / "ethics/virtue_test.csv").exists())

    def test_what_is_there_is_not_fetched_again(self):
        self.assertEqual(self.run_script(self.data, "--only", "wikitext2,tasks").returncode, 0)
        before = self.calls.read_text()
        result = self.run_script(self.data, "--only", "wikitext2,tasks")
        self.assertEqual((result.returncode, result.stdout), (0, ""))
        self.assertEqual(self.calls.read_text(), before)

    def test_without_the_packages_the_remedy_is_told(self):
        result = self.run_script(self.data, "--only", "tasks", standins=False)
        self.assertEqual(result.returncode, 1)
        self.assertIn("pip install datasets", result.stderr)
        self.assertIn("--from", result.stderr)

    def test_local_copies_are_found_by_name(self):
        local = self.path / "local"
        for name in ("deep/down/wiki.test.raw", "wiki.train.raw", "other/valid.jsonl", "x/piqa/valid.jsonl"):
            (local / name).parent.mkdir(parents=True, exist_ok=True)
            (local / name).write_text(name)
        result = self.run_script(self.data, "--from", local, "--only", "wikitext2,tasks", standins=False)
        self.assertEqual(result.returncode, 1)
        self.assertEqual(self.read("text/wiki.test.raw"), "deep/down/wiki.test.raw")
        self.assertEqual(self.read("piqa/valid.jsonl"), "x/piqa/valid.jsonl")
        self.assertIn("missing: arc/arc_easy_test.jsonl: none of ", result.stderr)

    def test_wrong_arguments(self):
        for arguments, part in ((["--only", "imagenet"], "imagenet"), (["--from", "/nonexistent"], "/nonexistent"),
                                (["--tokenizer", "/nonexistent/t"], "/nonexistent/t"),
                                (["--tokenizer", SCRIPT, "--cbq", "/nonexistent/cbq"], "./setup.sh")):
            result = self.run_script(self.data, *arguments)
            self.assertEqual(result.returncode, 2)
            self.assertIn(part, result.stderr)
        self.assertEqual(self.run_script().returncode, 2)
        self.assertIn("wiki.test.raw", self.run_script("--list").stdout)


if __name__ == "__main__":
    unittest.main()
