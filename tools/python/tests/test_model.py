#!/usr/bin/env python3
"""Models: their parts beside numpy, whole ones beside transformers' logits, perplexity beside both."""
import json
import math
import threading
import time
import unittest

import numpy
import support

import cbq


def rms_norm(x, weight, epsilon):
    return x / numpy.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * weight


def rotated(x, heads, width, theta):
    """[tokens, heads * width] turned by the rotary embedding, each head's halves against each other."""
    tokens = x.shape[0]
    x = x.reshape(tokens, heads, width)
    angles = numpy.arange(tokens)[:, None] * theta ** (-numpy.arange(0, width, 2) / width)
    cosine, sine = (f(numpy.concatenate([angles, angles], 1))[:, None, :] for f in (numpy.cos, numpy.sin))
    half = numpy.concatenate([-x[..., width // 2:], x[..., :width // 2]], -1)
    return x * cosine + half * sine


def llama_block(x, weights, prefix, config):
    """One LLaMA block in f64, [tokens, hidden] -> the same."""
    def linear(y, name):
        return y @ weights[f"{prefix}{name}.weight"].astype("float64").T

    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    width, epsilon = config["hidden_size"] // heads, config["rms_norm_eps"]
    y = rms_norm(x, weights[prefix + "input_layernorm.weight"], epsilon)
    q = rotated(linear(y, "self_attn.q_proj"), heads, width, config["rope_theta"])
    k = rotated(linear(y, "self_attn.k_proj"), kv_heads, width, config["rope_theta"])
    v = linear(y, "self_attn.v_proj").reshape(-1, kv_heads, width)
    out = numpy.empty_like(q)
    future = numpy.triu(numpy.full((len(x), len(x)), -numpy.inf), 1)
    for head in range(heads):
        group = head * kv_heads // heads
        scores = q[:, head] @ k[:, group].T / math.sqrt(width) + future
        scores = numpy.exp(scores - scores.max(-1, keepdims=True))
        out[:, head] = scores / scores.sum(-1, keepdims=True) @ v[:, group]
    x = x + linear(out.reshape(len(x), -1), "self_attn.o_proj")
    y = rms_norm(x, weights[prefix + "post_attention_layernorm.weight"], epsilon)
    gate = linear(y, "mlp.gate_proj")
    return x + linear(gate / (1 + numpy.exp(-gate)) * linear(y, "mlp.up_proj"), "mlp.down_proj")


def log_softmax(logits):
    logits = logits - logits.max(-1, keepdims=True)
    return logits - numpy.log(numpy.exp(logits).sum(-1, keepdims=True))


class Parts(support.FolderTest):
    def setUp(self):
        super().setUp()
        self.folder = support.write_tiny_model(self.path / "model")
        self.model = cbq.load(self.folder, device="cpu")
        self.weights = support.read_safetensors(self.folder / "model.safetensors")
        self.config = json.loads((self.folder / "config.json").read_text())
        self.ids = support.tiny_ids(2, 9)

    def test_embed_block_head_and_logits_are_those_of_numpy(self):
        hidden = self.model.embed(self.ids)
        expected = self.weights["model.embed_tokens.weight"][self.ids].astype("float64")
        self.assertTrue(numpy.array_equal(hidden.numpy(), expected))
        for i in range(len(self.model)):
            hidden = self.model.block(i)(hidden)
            expected = numpy.stack([llama_block(row, self.weights, f"model.layers.{i}.", self.config)
                                    for row in expected])
            numpy.testing.assert_allclose(hidden.numpy(), expected, rtol=0, atol=5e-6 * numpy.abs(expected).max())
        norm = rms_norm(expected, self.weights["model.norm.weight"], self.config["rms_norm_eps"])
        logits = norm @ self.weights["lm_head.weight"].astype("float64").T
        numpy.testing.assert_allclose(self.model.head(hidden).numpy(), logits, rtol=0, atol=5e-6 * numpy.abs(logits).max())
        numpy.testing.assert_allclose(self.model.logits(self.ids).numpy(), logits, rtol=0, atol=5e-6 * numpy.abs(logits).max())

    def test_blocks_take_numpy_arrays_and_come_from_the_disk(self):
        hidden = numpy.random.default_rng(1).normal(size=(1, 5, 16)).astype("float32")
        before = self.model.block(-1)(hidden).numpy()
        other = cbq.load(self.folder, device="cpu", load="blockwise")
        self.assertTrue(numpy.array_equal(other.block(1)(hidden).numpy(), before))

    def test_perplexity_is_that_of_the_logits(self):
        logs = log_softmax(self.model.logits(self.ids[:, :-1]).numpy().astype("float64"))
        rows, tokens = numpy.indices((2, 8))
        expected = -logs[rows, tokens, self.ids[:, 1:]].mean()
        for ids in (self.ids, self.ids.astype("int64"), self.ids.tolist()):
            score = cbq.evaluate(self.model, ids)
            self.assertAlmostEqual(score.mean_nll, expected, places=5)
            self.assertAlmostEqual(score.perplexity, math.exp(score.mean_nll), places=9)
            self.assertEqual(score.tokens, 16)

    def test_loglikelihoods_are_those_of_the_logits(self):
        row = self.ids[0].tolist()
        (nats, greedy), = cbq.loglikelihood(self.model, [(row[:5], row[5:])])
        logits = self.model.logits(row[:-1]).numpy()[0].astype("float64")
        logs = log_softmax(logits)
        self.assertAlmostEqual(nats, sum(logs[t - 1, row[t]] for t in range(5, 9)), places=4)
        self.assertEqual(greedy, all(logits[t - 1].argmax() == row[t] for t in range(5, 9)))
        made = cbq.generate(self.model, row[:5], tokens=4)
        (_, greedy), = cbq.loglikelihood(self.model, [(row[:5], made.ids)])
        self.assertTrue(greedy)

    def test_mistakes_are_named(self):
        for call, words in (
                (lambda: self.model.logits([[1, 48]]), "token 48.*vocabulary of 48"),
                (lambda: self.model.logits([[-1]]), "-1 is out of range"),
                (lambda: self.model.logits([[1, 2], [3]]), "rows of 2 and 1"),
                (lambda: self.model.logits([[1] * 17]), "context"),
                (lambda: self.model.logits([[1.5]]), "expected integers"),
                (lambda: self.model.logits("text"), "expected lists"),
                (lambda: self.model.logits([]), "no token ids"),
                (lambda: self.model.block(0)(numpy.zeros((2, 16), "float32")), r"expected \[rows, tokens, 16\]"),
                (lambda: self.model.block(0)(numpy.zeros((1, 2, 16))), "f64.*computes in f32"),
                (lambda: cbq.evaluate(self.model, [[1]]), "2"),
                (lambda: cbq.load(self.folder, dtype="f8"), "dtype.*f8"),
                (lambda: cbq.load(self.folder, load="some"), "some.*blockwise"),
                (lambda: cbq.load(self.folder, device="tpu"), "tpu")):
            with self.assertRaisesRegex(ValueError, words):
                call()
        with self.assertRaisesRegex(IndexError, "block 2 of a model with 2"):
            self.model.block(2)

    def test_missing_files_are_missing_files(self):
        with self.assertRaisesRegex(FileNotFoundError, "no-model does not exist"):
            cbq.load(self.path / "no-model")
        with self.assertRaisesRegex(FileNotFoundError, "no-text"):
            cbq.evaluate(cbq.load(support.EMBEDDED, device="cpu"), self.path / "no-text.txt")
        with self.assertRaisesRegex(RuntimeError, "no tokenizer"):
            self.model.encode("a")
        (self.folder / "config.json").write_text("{")
        with self.assertRaisesRegex(RuntimeError, "config.json"):
            cbq.load(self.folder)
        (self.folder / "config.json").unlink()
        with self.assertRaisesRegex(FileNotFoundError, "config.json"):
            cbq.load(self.folder)

    def test_the_interpreter_goes_on_meanwhile(self):
        times, enough = [], threading.Event()

        def note_times():
            while not enough.wait(0.001):
                times.append(time.monotonic())

        model, ids = cbq.load(support.EMBEDDED, device="cpu"), numpy.full((16, 128), 7)
        thread = threading.Thread(target=note_times)
        thread.start()
        try:
            for call in (lambda: cbq.evaluate(model, ids), lambda: model.logits(ids)):
                begin = time.monotonic()
                call()
                end = time.monotonic()
                quarter = (end - begin) / 4
                inside = [t for t in times if begin + quarter < t < end - quarter]
                self.assertGreater(len(inside), 2, "no other thread ran while the model was computed")
        finally:
            enough.set()
            thread.join()


class WholeModels(unittest.TestCase):
    def test_logits_of_every_family_are_those_of_transformers(self):
        folders = [f for f in sorted(support.FIXTURES.iterdir()) if (f / "expected.safetensors").exists()]
        self.assertGreater(len(folders), 10)
        for folder in folders:
            expected = support.read_safetensors(folder / "expected.safetensors")
            ids = expected["ids"]
            model = cbq.load(folder, device="cpu")
            self.assertLess(numpy.abs(model.logits(ids[:, :-1]).numpy() - expected["logits_f32"]).max(), 1e-5,
                            folder.name)
            self.assertAlmostEqual(cbq.evaluate(model, ids).mean_nll, float(expected["nll_f32"][0]), places=5)
            half = cbq.load(folder, device="cpu", dtype="bf16").logits(ids[:, :-1])
            self.assertEqual(half.dtype, "bf16")
            off = half.to("f32").numpy() - expected["logits_bf16"]
            self.assertLess(numpy.abs(off).max(), 0.05 * numpy.abs(expected["logits_bf16"]).max() + 0.02, folder.name)

    def test_config_and_tokenizer(self):
        model = cbq.load(support.EMBEDDED, device="cpu")
        self.assertEqual((len(model), model.config["hidden_size"], model.context, model.vocab_size),
                         (12, 128, 256, 2048))
        ids = model.encode("A kind of fish")
        self.assertEqual(model.decode(ids), "A kind of fish")
        self.assertEqual((model.bos_id, model.eos_id), (1, 2))

    def test_generation_stops_where_it_is_told(self):
        model = cbq.load(support.EMBEDDED, device="cpu")
        made = cbq.generate(model, "A kind of", tokens=40)
        self.assertEqual(len(made.ids), 40)
        # The likeliest token each time, by whole passes.
        ids = list(model.prefix) + model.encode("A kind of")
        for id in made.ids:
            self.assertEqual(model.logits(ids).numpy()[0, -1].argmax(), id)
            ids.append(id)
        word = made.text.split()[2]
        stopped = cbq.generate(model, "A kind of", tokens=40, until=[word])
        self.assertEqual((stopped.text, stopped.reason), (made.text[:made.text.index(word)], "until"))


if __name__ == "__main__":
    unittest.main()
