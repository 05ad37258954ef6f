#!/usr/bin/env python3
"""Other packages on the same model, ids and texts: one table.

    tools/peers/peers.py --cbq build/cpu/bin/cbq --model build/models/smollm2-135m --calibration build/real/calibration.h5 \\
            --texts wikitext2=build/real/test.h5 c4=build/real/c4.h5 --bits 3 --methods gptqmodel_gptq autoround -o build/peers

For every method and number of bits: makes the package's environment (once), lets its script quantize the model and write
dense weights, checks them (check_dense.py) and the ids that the package used, scores them with `cbq evaluate`, and removes
them. A finished row is a file in the output folder and is not run again. Prints a Markdown table of all rows; the same
goes to table.md, and rows with all details to rows/NAME.json. A row that fails says why and stops nothing; then the exit
status is 1. tools/peers/README.md says what each package was told.
"""
import argparse
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

import check_dense

HERE = pathlib.Path(__file__).resolve().parent

# Environments: the torch that is shared, the package, and the oldest Python that it takes.
ENVIRONMENTS = {
    "autoround": {"torch": "2.15.0", "packages": ["auto-round==0.16.1"], "python": (3, 11)},
    "gptqmodel": {"torch": "2.15.0", "packages": ["gptqmodel==7.7.0"], "python": (3, 10)},
    "llmcompressor": {"torch": "2.14.0", "packages": ["llmcompressor==0.14.0.1"], "python": (3, 10)},
    "onecompression": {"torch": "2.15.0", "packages": ["onecomp==1.4.0"], "python": (3, 12)},
}
SHARED = ["numpy", "h5py", "safetensors"]

# Methods: environment, whose script is run_NAME.py, and its options; tensors that the method changes beside its layers.
METHODS = {
    "gptqmodel_gptq": {"environment": "gptqmodel", "options": ["--method", "gptq"]},
    "gptqmodel_gptaq": {"environment": "gptqmodel", "options": ["--method", "gptaq"]},
    "llmcompressor_gptq": {"environment": "llmcompressor", "options": ["--method", "gptq"]},
    "llmcompressor_awq": {"environment": "llmcompressor", "options": ["--method", "awq"], "may_change": ["norm"]},
    "autoround": {"environment": "autoround", "options": []},
    "autoround_light": {"environment": "autoround", "options": ["--iters", "50", "--lr", "5e-3"]},
    "autoround_nblocks2": {"environment": "autoround", "options": ["--nblocks", "2"]},
    "onecomp_gptq": {"environment": "onecompression", "options": ["--method", "gptq"]},
    "onecomp_qep": {"environment": "onecompression", "options": ["--method", "qep"]},
    "onecomp_cbq": {"environment": "onecompression", "options": ["--method", "cbq"]},
}


class Failed(Exception):
    pass


def run(arguments, log, environment=None):
    with open(log, "ab") as out:
        code = subprocess.call([str(a) for a in arguments], stdout=out, stderr=subprocess.STDOUT, env=environment)
    if code != 0:
        last = pathlib.Path(log).read_text(errors="replace").strip().splitlines()[-1:]
        raise Failed(f"status {code}; {' '.join(last)[:200]} ({log})")


def site_packages(folder):
    return next(folder.glob("lib/python3*/site-packages"))


def make_environment(name, wanted, folder, python):
    """A virtual environment; torch lies in one that all packages with the same version share."""
    place = folder / name
    stamp = place / "installed.json"
    if stamp.exists() and json.loads(stamp.read_text()) == wanted:
        return place / "bin/python"
    print(f"{name}: installing {' '.join(wanted)} in {place}", file=sys.stderr, flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{name}.log"
    run([python, "-m", "venv", "--clear", place], log)
    shared = [entry for entry in wanted if entry.startswith("torch==")]
    if shared and wanted != shared + SHARED:
        torch = site_packages(make_environment(f"torch-{shared[0][7:]}", shared + SHARED, folder, python).parent.parent)
        if torch.parent.name != site_packages(place).parent.name:
            raise Failed(f"{torch} is of another Python than {python}; give another --environments")
        (site_packages(place) / "torch.pth").write_text(f"{torch}\n")
    run([place / "bin/python", "-m", "pip", "install", "--quiet", *wanted], log)
    stamp.write_text(json.dumps(wanted))
    return place / "bin/python"


def python_for(oldest, python):
    found = json.loads(subprocess.check_output([python, "-c", "import json, sys; print(json.dumps(sys.version_info[:2]))"]))
    if found < list(oldest):
        raise Failed(f"needs Python {oldest[0]}.{oldest[1]} or later; {python} is {found[0]}.{found[1]} (--python)")


def quiet_environment(threads, folder):
    """The variables of a run: a CPU, so many threads, no network."""
    count = str(threads)
    return {**os.environ, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count,
            "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
            "HF_HOME": str(folder / "hf"), "TOKENIZERS_PARALLELISM": "false"}


def score(cbq, model, texts, threads, place):
    """Mean NLL of each text. One call a text: `cbq evaluate` sorts its results by names of its own."""
    place.mkdir(parents=True, exist_ok=True)
    nll = {}
    for name, text in texts.items():
        file = place / f"scores-{name}.json"
        run([cbq, "evaluate", model, "--tokens", text, "--threads", threads, "--device", "cpu", "--json", file],
            place / "log.txt")
        results = json.loads(file.read_text())["results"]
        if len(results) != 1:
            raise Failed(f"{text}: one text given, {len(results)} scored: {', '.join(results)}")
        nll[name] = next(iter(results.values()))["mean_nll"]
    return nll


def sha256(file):
    return hashlib.sha256(pathlib.Path(file).read_bytes()).hexdigest()


def inputs_of(options):
    return {"model": str(options.model.resolve()), "calibration": sha256(options.calibration), "segments": options.segments,
            "segment_length": options.segment_length, "seed": options.seed,
            "texts": {name: sha256(file) for name, file in options.texts.items()}}


def finished(file, inputs):
    """The row in this file, or None. A row of other inputs is an error: a table mixes nothing."""
    if not file.exists():
        return None
    row = json.loads(file.read_text())
    if row["inputs"] != inputs:
        different = [key for key in inputs if inputs[key] != row["inputs"].get(key)]
        sys.exit(f"{file}: a row of other inputs ({', '.join(different)}); give another -o, or remove it")
    return row


def write_row(file, row):
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(row, indent=2) + "\n")
    partial.replace(file)


def make_row(method, bits, options, inputs, place):
    spec = METHODS[method]
    wanted = ENVIRONMENTS[spec["environment"]]
    python_for(wanted["python"], options.python)
    python = make_environment(spec["environment"], [f"torch=={wanted['torch']}", *SHARED, *wanted["packages"]],
                              options.environments, options.python)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    run([python, HERE / f"run_{spec['environment']}.py", "--model", options.model.resolve(),
         "--calibration", pathlib.Path(options.calibration).resolve(), "--segments", options.segments,
         "--segment-length", options.segment_length, "--bits", bits, "--group-size", options.group_size,
         "--seed", options.seed, "-o", place.resolve(), *spec["options"]],
        place / "log.txt", quiet_environment(options.threads, place.resolve()))
    record = json.loads((place / "run.json").read_text())
    ids = record["ids"]
    if ids["seen"] != ids["given"] or ids["others"]:
        raise Failed(f"of {ids['given']} calibration segments the package used {ids['seen']}, and {ids['others']} others")
    try:
        grid = check_dense.check(place / "dense", options.model, bits, options.group_size, spec.get("may_change", ()))
    except ValueError as error:
        raise Failed(error) from error
    nll = score(options.cbq, place / "dense", options.texts, options.threads, place)
    if not options.keep:
        shutil.rmtree(place)
    return {"method": method, "bits": bits, "group_size": options.group_size, "nll": nll, "grid": grid, **record,
            "inputs": inputs}


def table(original, rows):
    """Markdown: a line per row, in the order given; the original first."""
    texts = list(original["nll"])
    heads = ["method", "bits", "group", *(cell for text in texts for cell in (text, "excess")),
             "processor s", "of it before", "peak MiB", "versions"]
    lines = [heads, ["---"] * len(heads),
             ["original", "", "", *(cell for text in texts for cell in (f"{original['nll'][text]:.5f}", "")), "", "", "", ""]]
    for row in rows:
        scores = [cell for text in texts
                  for cell in (f"{row['nll'][text]:.5f}", f"{row['nll'][text] - original['nll'][text]:.5f}")]
        lines.append([row["method"], str(row["bits"]), "row" if row["group_size"] < 1 else str(row["group_size"]), *scores,
                      f"{row['processor_seconds']:.0f}", f"{row['processor_seconds_before']:.0f}",
                      f"{row['peak_bytes'] / 2 ** 20:.0f}",
                      ", ".join(f"{name} {version}" for name, version in row["versions"].items())])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def named_text(text):
    name, found, file = text.partition("=")
    if not found:
        raise argparse.ArgumentTypeError(f"{text}: not NAME=FILE")
    return name, file


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cbq", required=True, help="the program that scores")
    parser.add_argument("--model", required=True, type=pathlib.Path, help="folder with f32 weights")
    parser.add_argument("--calibration", required=True, help="token file (.h5)")
    parser.add_argument("--segments", type=int, default=64)
    parser.add_argument("--segment-length", type=int, default=256)
    parser.add_argument("--texts", required=True, nargs="+", type=named_text, metavar="NAME=FILE", help="token files to score")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD",
                        help=f"of {', '.join(METHODS)}; default: all")
    parser.add_argument("--bits", nargs="+", type=int, default=[2, 3, 4])
    parser.add_argument("--group-size", type=int, default=-1, help="-1: one scale per row")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--python", default=sys.executable, help="makes the environments; OneCompression needs 3.12")
    parser.add_argument("--environments", type=pathlib.Path, default=pathlib.Path.home() / ".cache/cbq-peers")
    parser.add_argument("--keep", action="store_true", help="keep dense weights and logs of finished rows")
    parser.add_argument("-o", "--output", required=True, type=pathlib.Path)
    options = parser.parse_args(arguments)
    options.texts = dict(options.texts)
    return options


def main(arguments=None):
    options = parse(arguments)
    inputs = inputs_of(options)
    group = "row" if options.group_size < 1 else f"g{options.group_size}"
    rows, failures = options.output / "rows", 0
    original = finished(rows / "original.json", inputs)
    if original is None:
        original = {"nll": score(options.cbq, options.model, options.texts, options.threads, options.output / "original"),
                    "inputs": inputs}
        write_row(rows / "original.json", original)
    for bits in options.bits:
        for method in options.methods:
            name = f"{method}-w{bits}-{group}"
            if finished(rows / f"{name}.json", inputs) is not None:
                continue
            print(f"{name}: running", file=sys.stderr, flush=True)
            try:
                write_row(rows / f"{name}.json", make_row(method, bits, options, inputs, options.output / name))
            except Failed as error:
                failures += 1
                print(f"{name}: FAILED: {error}", file=sys.stderr, flush=True)
    found = [finished(file, inputs) for file in rows.glob("*.json") if file.name != "original.json"]
    found.sort(key=lambda row: (row["bits"], row["group_size"], list(METHODS).index(row["method"])))
    text = table(original, found)
    (options.output / "table.md").write_text(text)
    print(text, end="")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
