#!/usr/bin/env python3
"""Rounding schemes in Python: the tutorial's scheme gives the codes of the one in C++."""
import os
import pathlib
import re
import unittest

import numpy
import support

import cbq


class Linear:
    """The scheme of docs/add-a-rounding-scheme.md."""
    help = "floor(w/s) + v with v in [0, 1]; hard: v >= 1/2 rounds up"
    start = "fraction"
    v_min, v_max = 0.0, 1.0

    def initial(self, u, start):
        if start == "zero":
            return 0.0
        return (u if start == "fraction" else numpy.rint(u)) - numpy.floor(u)

    def soft(self, u, v):
        return numpy.floor(u) + v

    def hard(self, u, v):
        return numpy.floor(u) + (v >= 0.5)

    def relaxed(self, v):
        return v

    def d_relaxed(self, v):
        return 1.0


class SignRound:
    v_min, v_max = -0.5, 0.5
    rate = 0.02
    straight_through = True

    def hard(self, u, v):
        return numpy.rint(u + v)


class AdaRound:
    start = "fraction"
    rate = 0.05

    def initial(self, u, start):
        f = u - numpy.floor(u)
        if start == "zero":
            return 0.0
        if start == "nearest":
            return numpy.where(numpy.rint(u) > numpy.floor(u), 2.398, -2.398)
        return numpy.log((f + 0.1) / (1.1 - f))

    def relaxed(self, v):
        return numpy.clip(1.2 / (1 + numpy.exp(-v)) - 0.1, 0, 1)

    def d_relaxed(self, v):
        sigmoid = 1 / (1 + numpy.exp(-v))
        return numpy.where(numpy.abs(v) <= 2.398, 1.2 * sigmoid * (1 - sigmoid), 0.0)

    def soft(self, u, v):
        return numpy.floor(u) + self.relaxed(v)

    def hard(self, u, v):
        return numpy.floor(u) + (v >= 0)

    def d_dv(self, u, v):
        return self.d_relaxed(v)


def a_pass(scheme, dtype="float32", hard=False, low_rank=False, **more):
    random = numpy.random.default_rng(2)
    w = random.normal(0, 0.02, (50, 1100)).astype(dtype)
    groups = w.reshape(50, 2, 550)
    scale = (0.7 * (groups.max(2) - groups.min(2)) / 7).astype(dtype)
    zero_point = numpy.full(scale.shape, 3, dtype)
    variables = {"p": random.normal(0, 0.1, w.shape).astype(dtype)}
    if low_rank:
        variables = {"a1": random.normal(0, 0.4, (50, 3)).astype(dtype),
                     "a2": random.normal(0, 0.15, (3, 1100)).astype(dtype)}
    made = cbq.RoundingPass(scheme, w, scale, zero_point, 3, 550, hard=hard, wants_zero_point=True,
                            **variables, **more)
    return made, random.normal(0, 1, w.shape).astype(dtype)


class Rounding(support.FolderTest):
    @classmethod
    def setUpClass(cls):
        cbq.register_rounding("python_linear", Linear)
        cbq.register_rounding("python_signround", SignRound)
        cbq.register_rounding("python_adaround", AdaRound)

    def compare(self, python, ours, exact, **options):
        for hard in (False, True):
            for low_rank in (False, True):
                a, dw = a_pass(python, hard=hard, low_rank=low_rank, **options)
                b, _ = a_pass(ours, hard=hard, low_rank=low_rank, **options)
                self.assertTrue(numpy.array_equal(a.codes().numpy(), b.codes().numpy()))
                close = numpy.testing.assert_array_equal if exact else (
                    lambda x, y: numpy.testing.assert_allclose(x, y, rtol=2e-5, atol=2e-6 * numpy.abs(y).max()))
                close(a.forward().numpy(), b.forward().numpy())
                first, second = a.backward(dw, 0.1, 4.0), b.backward(dw, 0.1, 4.0)
                self.assertEqual(set(first), set(second))
                for name in first:
                    close(first[name].numpy(), second[name].numpy())
                self.assertAlmostEqual(a.regularizer(0.1, 4.0), b.regularizer(0.1, 4.0), delta=1e-3)

    def test_passes_are_those_of_the_same_scheme_in_cpp(self):
        self.compare("python_signround", "signround", exact=True)
        self.compare("python_adaround", "adaround", exact=False)

    def test_the_contract_holds_for_them_and_for_the_programs_own(self):
        for name in ("python_linear", "python_signround", "python_adaround"):
            cbq.check_rounding(name)

    def test_the_contract_finds_what_is_wrong(self):
        class WrongSlope(Linear):
            def d_dv(self, u, v):
                return 0.5

        class WrongStart(Linear):
            def initial(self, u, start):
                return 0.25

        class Far(Linear):
            def hard(self, u, v):
                return numpy.floor(u) + 2

        class Idle(SignRound):
            def hard(self, u, v):
                return numpy.rint(u)

        for scheme, words in ((WrongSlope, "d_dv is not the derivative"), (WrongStart, "start"),
                              (Far, "neighbours"), (Idle, "learns nothing")):
            cbq.register_rounding("python_wrong", scheme)
            with self.assertRaisesRegex(AssertionError, words):
                cbq.check_rounding("python_wrong")

    def quantized(self, rounding, output, **settings):
        model = self.path / "model"
        if not model.exists():
            support.write_tiny_model(model, blocks=2)
        given = dict(wbits=2, epochs=3, device="cpu", threads=1, log=None, rate_rounding=0.05)
        given.update(settings)
        cbq.quantize(model, support.tiny_ids(6, 12), output=self.path / output, rounding=rounding, **given)
        return (self.path / output / "model.safetensors").read_bytes()

    def test_reconstruction_gives_the_codes_of_the_scheme_in_cpp(self):
        for options in ({}, {"granularity": "per_group", "group_size": 8, "parameterization": "low_rank", "rank": 3},
                        {"grid": "clip", "learn_zero_point": True}):
            ours = self.quantized("signround", "c", overwrite=True, **options)
            self.assertEqual(self.quantized("python_signround", "p", overwrite=True, **options), ours, str(options))
            nearest = self.quantized("python_signround", "n", overwrite=True, reconstruct="none", method="nearest")
            self.assertNotEqual(nearest, ours, "nothing was learned")

    def test_the_tutorials_scheme_gives_the_codes_of_the_one_in_cpp(self):
        if "linear" not in cbq.rounding_schemes():
            if "TESTED_PROGRAM" in os.environ:
                self.fail("the tutorial's scheme is not part of the module that the tests are for")
            self.skipTest("the tutorial's scheme is not part of this build")
        self.compare("python_linear", "linear", exact=True)
        ours = self.quantized("linear", "c", regularizer=0.01)
        self.assertEqual(self.quantized("python_linear", "p", regularizer=0.01), ours)

    def test_the_tutorial_shows_this_scheme(self):
        page = (support.ROOT / "docs/python.md").read_text()
        source = pathlib.Path(__file__).read_text()
        shown = re.search(r"```python\n(class Linear:.*?)\n```", page, re.S)[1].split("cbq.register")[0].strip()
        code = re.search(r"(class Linear:.*?)\n\n\nclass SignRound", source, re.S)[1]
        without_text = re.sub(r'    """.*?"""\n', "", code)
        self.assertEqual(shown, without_text)

    def test_mistakes_are_named(self):
        for scheme, words in ((type("NoHard", (), {}), "no hard"),
                              (type("NoSlope", (), {"hard": 1, "soft": 1}), "relaxed and d_relaxed"),
                              (type("Bad", (SignRound,), {"start": "middle"}), "middle"),
                              (type("Bad", (SignRound,), {"parameterization": "thin"}), "thin")):
            with self.assertRaisesRegex(ValueError, words):
                cbq.register_rounding("python_new", scheme)
        with self.assertRaisesRegex(ValueError, "part of the program"):
            cbq.register_rounding("adaround", SignRound)

        class Shape(SignRound):
            def hard(self, u, v):
                return u[:, :3]

        class Half(SignRound):
            def hard(self, u, v):
                return u

        class Raises(SignRound):
            def hard(self, u, v):
                return 1 // 0

        class Writes(SignRound):
            def hard(self, u, v):
                u[0, 0] = 1
                return u

        for scheme, error, words in ((Shape, ValueError, r"hard gave an array of shape \(\d+, 3\)"),
                                     (Half, ValueError, "no integer"),
                                     (Raises, ZeroDivisionError, ""), (Writes, ValueError, "read-only")):
            cbq.register_rounding("python_new", scheme)
            before = sorted(p.name for p in self.path.iterdir() if p.name != "model")
            with self.assertRaisesRegex(error, words):
                self.quantized("python_new", "x")
            self.assertEqual(sorted(p.name for p in self.path.iterdir() if p.name != "model"), before)


if __name__ == "__main__":
    unittest.main()
