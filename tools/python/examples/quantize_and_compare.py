#!/usr/bin/env python3
"""An example to read and to run: quantize a small model, look inside, try a rounding scheme of one's own.

    python3 tools/python/examples/quantize_and_compare.py [MODEL]

MODEL: a model folder; by default the one in this repository. Takes a minute on two cores.
"""
import pathlib
import sys
import tempfile

import numpy

import cbq

EMBEDDED = pathlib.Path(__file__).resolve().parents[3] / "models/embedded"


class HalfStep:
    """round(w/s + v) with |v| <= 1/2, straight through: every weight keeps to its two neighbours."""
    v_min, v_max = -0.5, 0.5
    rate = 0.01
    straight_through = True

    def hard(self, u, v):
        return numpy.rint(u + v)


def show_progress(done, total, what):
    if done == total:
        print(f"  {what}: {total} steps")


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else EMBEDDED
    model = cbq.load(folder, device="cpu")
    print(model)

    # Ids to learn from and others to measure on, drawn from the model itself.
    prompts = ["A", "The act of", "One who", "To make", "Any of", "A kind of", "Of or", "In a"]
    texts = [cbq.generate(model, p, tokens=40, temperature=1.0, seed=i) for i, p in enumerate(prompts)]
    length = min(len(t.ids) for t in texts)
    ids = numpy.array([t.ids[:length] for t in texts])
    calibration, test = ids[:5], ids[5:]

    cbq.register_rounding("half_step", HalfStep)
    cbq.check_rounding("half_step")
    settings = dict(wbits=2, epochs=1, device="cpu", progress=show_progress)
    with tempfile.TemporaryDirectory() as there:
        results = {}
        for name, own in (("nearest", dict(method="nearest")), ("cbq", dict(method="cbq")),
                          ("cbq, own rounding", dict(method="cbq", rounding="half_step"))):
            print(name)
            results[name] = cbq.quantize(model, calibration, output=pathlib.Path(there) / name, **own, **settings)

        # How far each model's residual stream is from the original's, block by block.
        streams = {"original": model, **{name: r.load(device="cpu") for name, r in results.items()}}
        hidden = {name: m.embed(test) for name, m in streams.items()}
        print("relative error behind each block")
        for number in range(len(model)):
            hidden = {name: m.block(number)(hidden[name]) for name, m in streams.items()}
            exact = numpy.asarray(hidden["original"])
            errors = [numpy.linalg.norm(numpy.asarray(hidden[name]) - exact) / numpy.linalg.norm(exact)
                      for name in results]
            print(f"  {number:2}  " + "  ".join(f"{name} {error:.3f}" for name, error in zip(results, errors)))
        scores = {name: cbq.evaluate(m, test).perplexity for name, m in streams.items()}
        print("perplexity  " + "  ".join(f"{name} {score:.2f}" for name, score in scores.items()))
        assert scores["cbq"] < scores["nearest"], "reconstruction should be better than rounding to nearest"
        assert scores["cbq, own rounding"] == scores["cbq"], "the scheme is signround, which cbq takes here"
        dense = cbq.export(results["cbq"], "dense", pathlib.Path(there) / "dense")
        print(dense, "is what other programs load")


if __name__ == "__main__":
    main()
