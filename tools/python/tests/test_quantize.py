#!/usr/bin/env python3
"""quantize and export: the bytes of the command line, callbacks, Ctrl-C, errors."""
import json
import logging
import signal
import unittest

import support

import cbq


class Quantize(support.FolderTest):
    def setUp(self):
        super().setUp()
        self.model = support.write_tiny_model(self.path / "model", blocks=3)
        self.ids = support.tiny_ids(6, 12)
        (self.path / "ids.json").write_text(json.dumps({"calibration": self.ids.tolist(),
                                                        "test": support.tiny_ids(4, 14, 8).tolist()}))

    def calibration(self):
        return f"{self.path / 'ids.json'}:calibration"

    def quantize(self, output, calibration=None, **settings):
        given = dict(wbits=2, epochs=2, window=2, overlap=1, batch=1, device="cpu", threads=1, log=None)
        given.update(settings)
        return cbq.quantize(self.model, self.ids if calibration is None else calibration,
                            output=self.path / output, **given)

    def packed(self, folder):
        return (self.path / folder / "model.safetensors").read_bytes()

    def names(self):
        return sorted(p.name for p in self.path.iterdir())

    def test_bytes_are_those_of_the_command_line(self):
        settings = {"method": "adaround", "wbits": 2, "epochs": 2, "granularity": "per_group", "group_size": 8,
                    "window": 2, "overlap": 1, "rate_scale": 0.00123456789, "seed": 5, "device": "cpu", "threads": 1}
        options = [f"--{name.replace('_', '-')}={value!r}".replace("'", "") for name, value in settings.items()]
        support.run_program("quantize", self.model, "--output", self.path / "c", "--calibration", self.calibration(),
                            *options, "--no-learn-activation")
        from_file = cbq.quantize(str(self.model), self.calibration(), output=self.path / "f",
                                 learn_activation=False, **settings)
        from_ids = cbq.quantize(cbq.load(self.model, device="cpu"), self.ids, output=self.path / "i",
                                learn_activation=False, **settings)
        self.assertEqual(self.packed("f"), self.packed("c"))
        self.assertEqual(self.packed("i"), self.packed("c"))
        there = json.loads((self.path / "c/recipe.json").read_text())
        for result in (from_file, from_ids):
            self.assertEqual(result.recipe["identity"], there["identity"])
            self.assertEqual(result.recipe["settings"]["rate_scale"], 0.00123456789)
        self.assertEqual(from_ids.recipe["calibration"]["source"], "ids given by the caller")

    def test_scores_are_those_of_the_report_and_of_the_command_line(self):
        test = f"{self.path / 'ids.json'}:test"
        result = self.quantize("q", evaluate=[test])
        reported = result.report["quantized"]["results"]["ids:test"]
        score = cbq.evaluate(result, test)
        self.assertEqual((score.mean_nll, score.tokens), (reported["mean_nll"], reported["tokens"]))
        text = support.run_program("evaluate", result.folder, "--tokens", test, "--device", "cpu")
        self.assertIn(f"mean NLL {score.mean_nll:.6f}", text)
        self.assertNotEqual(result.report["original"]["results"]["ids:test"]["mean_nll"], score.mean_nll)

    def test_progress_and_log_are_told(self):
        steps, lines = [], []
        self.quantize("q", progress=lambda *step: steps.append(step), log=lines.append)
        last = {}
        for done, total, what in steps:
            self.assertLessEqual(done, total)
            last[what] = (done, total)
        self.assertGreater(len(steps), 20)
        self.assertIn((24, 24), last.values(), "two windows of 6 segments, 2 epochs")
        self.assertTrue(lines[0].startswith("settings: method cbq, W2A16"), lines[0])
        self.assertTrue(any(line.startswith("blocks 0-1: loss") for line in lines), lines)
        with self.assertLogs("cbq", logging.INFO) as logs:
            cbq.quantize(self.model, self.ids, output=self.path / "r", wbits=2, epochs=1, window=2, overlap=1,
                         batch=1, device="cpu")
        self.assertTrue(any("blocks 1-2: loss" in line for line in logs.output))

    def test_ctrl_c_stops_and_resume_gives_the_same_bytes(self):
        self.quantize("whole")
        seen = []

        def interrupt(done, total, what):
            seen.append(what)
            if done == 18 and total == 24:
                signal.raise_signal(signal.SIGINT)

        with self.assertRaisesRegex(KeyboardInterrupt, "finished windows are kept"):
            self.quantize("q", progress=interrupt)
        self.assertFalse((self.path / "q").exists())
        self.assertTrue((self.path / "q.resume").exists())
        with self.assertRaisesRegex(ValueError, "an interrupted run is in"):
            self.quantize("q")
        again = []
        result = self.quantize("q", resume=True,
                               progress=lambda done, total, what: again.append(done) if total == 24 else None)
        self.assertEqual(self.packed("q"), self.packed("whole"))
        self.assertGreaterEqual(min(done for done in again if done > 6), 12, "the first window was computed again")
        self.assertFalse((self.path / "q.resume").exists())
        self.assertEqual(len(result.report["windows"]), 2)

    def test_an_exception_of_a_callback_stops_and_is_raised(self):
        def fail(done, total, what):
            if total == 24 and done >= 2:
                raise KeyError("mine")

        before = self.names()
        with self.assertRaisesRegex(KeyError, "mine"):
            self.quantize("q", progress=fail)
        self.assertEqual(self.names(), before)
        with self.assertRaises(TypeError):
            self.quantize("q", log=lambda: None)
        self.assertEqual(self.names(), before)

    def test_an_exception_of_the_last_callback_is_raised(self):
        steps = []
        cbq.evaluate(self.model, self.ids, progress=lambda *step: steps.append(step))

        def fail(*step):
            if step == steps[-1]:
                raise KeyError("the last one")

        with self.assertRaisesRegex(KeyError, "the last one"):
            cbq.evaluate(self.model, self.ids, progress=fail)

    def test_a_callback_cannot_use_the_model_of_its_call(self):
        model = cbq.load(self.model, device="cpu")
        with self.assertRaisesRegex(RuntimeError, "in use by the call whose callback"):
            cbq.evaluate(model, self.ids, progress=lambda *step: model.logits(self.ids[:1]))
        self.assertEqual(model.logits(self.ids[:1]).shape[0], 1)

    def test_without_settings_it_is_the_bare_command(self):
        model = support.write_tiny_model(self.path / "wide", blocks=1, hidden=64)
        support.run_program("quantize", model, "--output", self.path / "c", "--calibration", self.calibration(),
                            "--device=cpu")
        result = cbq.quantize(model, self.calibration(), output=self.path / "p", device="cpu", log=None)
        self.assertEqual(result.recipe["settings"]["group_size"], 64)
        self.assertEqual(self.packed("p"), self.packed("c"))

    def test_mistakes_are_value_errors_with_the_texts_of_the_command_line(self):
        before = self.names()
        for settings, words in (({"method": "cqb"}, "cqb.*known"), ({"wbit": 2}, "unknown setting 'wbit'; known: .*wbits"),
                                ({"wbits": "two"}, "two"), ({"epochs": True}, "expected a value"),
                                ({"resume": "yes"}, "True or False"), ({"segments": -1}, "segments"),
                                ({"window": 0}, "window"), ({"rounding": "x"}, "rounding.*known.*adaround"),
                                ({"group_size": 7}, "7"), ({"export": "gguf"}, "gguf"),
                                ({"segments": 2}, "cut the ids"), ({"calibration": [[1, 99]]}, "99"),
                                ({"calibration": [[1, 2], [3]]}, "segments"),
                                ({"device": "tpu"}, "tpu")):
            with self.assertRaisesRegex(ValueError, words, msg=str(settings)):
                self.quantize("q", **settings)
        with self.assertRaisesRegex(FileNotFoundError, "there-is-none"):
            self.quantize("q", calibration=self.path / "there-is-none.txt")
        with self.assertRaisesRegex(FileNotFoundError, "no-model"):
            cbq.quantize(self.path / "no-model", self.ids, output=self.path / "q")
        self.assertEqual(self.names(), before)
        self.quantize("q", reconstruct="none")
        with self.assertRaisesRegex(RuntimeError, "q.*--overwrite"):
            self.quantize("q")
        with self.assertRaisesRegex(RuntimeError, "quantized already"):
            cbq.quantize(self.path / "q", self.ids, output=self.path / "r", log=None)

    def test_export_writes_what_the_command_line_writes(self):
        result = self.quantize("q", wbits=4, reconstruct="none")
        support.run_program("export", result.folder, "--format", "dense", "--output", self.path / "c", "--device", "cpu")
        dense = cbq.export(result, "dense", self.path / "d", log=None)
        self.assertEqual(self.packed("d"), self.packed("c"))
        score, other = cbq.evaluate(result, self.ids), cbq.evaluate(dense, self.ids)
        self.assertAlmostEqual(score.mean_nll, other.mean_nll, places=5)
        with self.assertRaisesRegex(ValueError, "unknown.*known.*gguf"):
            cbq.export(result, "gptqq", self.path / "e")
        with self.assertRaisesRegex(FileNotFoundError, "none does not exist"):
            cbq.export(self.path / "none", "dense", self.path / "e")
        with self.assertRaisesRegex(RuntimeError, "--overwrite"):
            cbq.export(result, "dense", self.path / "d")
        cbq.export(result, "dense", self.path / "d", overwrite=True, log=None)

    def test_methods_and_settings_are_those_of_the_command_line(self):
        listed = {row["name"]: row["title"] for row in json.loads(support.run_program("methods", "--json"))}
        self.assertEqual(cbq.methods(), listed)
        shown = json.loads(support.run_program("methods", "autoround", "--bits", "W3A16", "--json"))
        self.assertEqual(cbq.settings("autoround", wbits=3), shown["settings"])
        with self.assertRaisesRegex(ValueError, "known"):
            cbq.settings("autoaround")


if __name__ == "__main__":
    unittest.main()
