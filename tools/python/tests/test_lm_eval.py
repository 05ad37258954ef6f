#!/usr/bin/env python3
"""The adapter of lm-evaluation-harness, with its real base class where it is installed, else with a small stand-in."""
import importlib.util
import json
import subprocess
import sys
import types
import unittest

import numpy
import support

import cbq
import cbq.lm_eval

REAL = importlib.util.find_spec("lm_eval") is not None


def stand_in():
    """What the adapter needs of lm_eval: a base class and a registry."""
    class LM:
        def __init__(self):
            self._rank, self._world_size = 0, 1

        @classmethod
        def create_from_arg_string(cls, text, additional_config=None):
            given = dict(part.split("=", 1) for part in text.split(",") if part)
            given.update({k: v for k, v in (additional_config or {}).items() if v is not None})
            return cls(**given)

    registry = {}

    def register_model(name):
        def register(cls):
            registry[name] = cls
            return cls
        return register

    modules = {name: types.ModuleType(name) for name in ("lm_eval", "lm_eval.api", "lm_eval.api.model",
                                                         "lm_eval.api.registry")}
    modules["lm_eval.api.model"].LM = LM
    modules["lm_eval.api.registry"].register_model = register_model
    modules["lm_eval.api.registry"].MODELS = registry
    sys.modules.update(modules)


class Request:
    def __init__(self, *args):
        self.args = args


class WithoutHarness(unittest.TestCase):
    @unittest.skipIf(REAL, "lm_eval is installed")
    def test_the_package_that_is_missing_is_named(self):
        # In a process of its own: the other tests put a stand-in in its place.
        result = subprocess.run([sys.executable, "-c", "import cbq.lm_eval; cbq.lm_eval.CBQ"], capture_output=True,
                                text=True)
        self.assertIn("ModuleNotFoundError: cbq.lm_eval needs lm-evaluation-harness: pip install lm-eval",
                      result.stderr)
        with self.assertRaises(AttributeError):
            cbq.lm_eval.QBC

    def test_windows_predict_every_id_once(self):
        ids = list(range(100, 123))
        for longest in (1, 4, 7, 22, 23, 24, 50):
            windows = cbq.lm_eval.rolling_windows(ids, 1, longest)
            self.assertEqual(sum((after for _, after in windows), []), ids)
            text = [1] + ids
            at = 1
            for before, after in windows:
                self.assertLessEqual(len(before) + len(after), longest + 1)
                self.assertEqual(text[at - len(before):at], before)
                at += len(after)
            self.assertTrue(all(len(b) + len(a) == longest + 1 for b, a in windows[1:]), "a window is not full")


class Adapter(support.FolderTest):
    @classmethod
    def setUpClass(cls):
        if not REAL:
            stand_in()
        cls.lm = cbq.lm_eval.CBQ.create_from_arg_string(
            f"path={support.EMBEDDED}", {"batch_size": "auto", "max_batch_size": None, "device": "cpu"})

    def test_it_is_registered_and_knows_the_model(self):
        from lm_eval.api.model import LM
        self.assertIsInstance(self.lm, LM)
        if not REAL:
            self.assertIs(sys.modules["lm_eval.api.registry"].MODELS["cbq"], type(self.lm))
        self.assertEqual((self.lm.max_length, self.lm.eot_token_id, self.lm.prefix_token_id), (256, 2, 1))
        with self.assertRaisesRegex(ValueError, "path=FOLDER"):
            type(self.lm)()

    def test_loglikelihoods_are_those_of_cbq_evaluate(self):
        texts = [("Question: Cool soup\nAnswer:", " Blow."), ("Question: Cool soup\nAnswer:", " Heat it."),
                 ("A kind of", " small fish"), ("", "The act of making"), ("Cut wood ", "with a saw")]
        rows = [{"task": "t", "doc_id": i, "idx": 0, "context": c, "continuation": t} for i, (c, t) in enumerate(texts)]
        (self.path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        support.run_program("evaluate", support.EMBEDDED, "--device", "cpu", "--tasks", self.path / "r.jsonl",
                            "--samples", self.path / "s.jsonl")
        expected = [json.loads(line)["loglikelihood"] for line in (self.path / "s.jsonl").read_text().splitlines()]
        found = self.lm.loglikelihood([Request(*text) for text in texts])
        self.assertEqual(len(found), len(expected))
        for (nats, _), wanted in zip(found, expected):
            self.assertAlmostEqual(nats, wanted, delta=1e-4)

    def test_rolling_loglikelihoods_are_those_of_the_logits(self):
        text = "The act of making something, or of giving it a form. " * 30
        ids = self.lm.model.encode(text)
        self.assertGreater(len(ids), 256)
        expected = 0.0
        for before, after in cbq.lm_eval.rolling_windows(ids, 1, 256):
            logits = self.lm.model.logits(before + after[:-1]).numpy()[0].astype("float64")
            logs = logits - numpy.log(numpy.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
            logs -= logits.max(-1, keepdims=True)
            expected += sum(logs[len(before) - 1 + t, id] for t, id in enumerate(after))
        found = self.lm.loglikelihood_rolling([Request(text), Request("A kind of fish")])
        self.assertEqual(len(found), 2)
        self.assertAlmostEqual(found[0], expected, delta=1e-4 * len(ids))

    def test_generation_is_greedy_up_to_a_stop(self):
        whole, = self.lm.generate_until([Request("A kind of", {"until": [], "max_gen_toks": 40})])
        stop = whole.split()[3]
        cut, = self.lm.generate_until([Request("A kind of", {"until": [stop, "\n"], "max_gen_toks": 40,
                                                             "do_sample": False, "temperature": 0.7})])
        self.assertEqual(cut, whole[:whole.index(stop)])
        long, = self.lm.generate_until([Request("word " * 400, {"until": "\n", "max_gen_toks": 8})])
        self.assertLessEqual(len(self.lm.model.encode(long)), 9)


if __name__ == "__main__":
    unittest.main()
