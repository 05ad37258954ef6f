#!/usr/bin/env python3
"""All data that the paper uses, in one command: token files for calibration and perplexity, and the zero-shot tasks' files.

    prepare_data.py DATA                                  fetches (needs the Python package `datasets` and a network)
    prepare_data.py DATA --tokenizer MODEL_FOLDER         ... and writes token files for that model
    prepare_data.py DATA --from FOLDER --tokenizer ...    the same from local files, without a network

DATA gets the layout that `cbq evaluate --task-data DATA` reads, the texts below DATA/text, and token files below
DATA/tokens/TOKENIZER. What is there already is not fetched again; every file appears complete or not at all. FOLDER is
searched for files with the names that `--list` shows; what is missing is told, the rest is prepared. Exit code 1 if
anything that was asked for is missing.
"""
import argparse
import csv
import json
import os
import pathlib
import shutil
import subprocess
import sys

TOOLS = pathlib.Path(__file__).resolve().parent


def json_lines(rows, out):
    for row in rows:
        out.write(json.dumps(row, ensure_ascii=False) + "\n")


def table(columns, header=True):
    def write(rows, out):
        writer = csv.writer(out, lineterminator="\n")
        if header:
            writer.writerow(columns)
        for row in rows:
            writer.writerow([row[c] for c in columns])
    return write


def raw_wikitext(rows, out):
    """The lines of wiki.test.raw: the data set has "" where they have a blank."""
    for row in rows:
        out.write(row["text"] if row["text"] else " \n")


def mutual(rows, out):
    json_lines(({"answers": r["answers"], "options": r["options"], "article": r["article"]} for r in rows), out)


class Source:
    """A file below DATA, and where it comes from: a split of a data set, or (`path`) a file of its repository."""

    def __init__(self, file, group, dataset, config=None, split=None, path=None, write=json_lines, local=()):
        self.file, self.group, self.dataset, self.config, self.split = file, group, dataset, config, split
        self.path, self.write = path, write
        # Ends of the paths to look for offline. Half of all data sets have a test.jsonl: such a name counts with its folder.
        name = pathlib.PurePath(file).name
        self.local = [file] + ([] if name in ("test.jsonl", "dev.jsonl", "valid.jsonl") else [name]) + list(local)

    def fetch(self, to):
        if self.path:
            from huggingface_hub import hf_hub_download
            shutil.copyfile(hf_hub_download(self.dataset, self.path, repo_type="dataset"), to)
            return
        import datasets
        rows = datasets.load_dataset(self.dataset, self.config, split=self.split)
        with open(to, "w", encoding="utf-8", newline="") as out:
            self.write(rows, out)


def ethics(subset, columns, header=True):
    name = {"commonsense": "cm", "utilitarianism": "util"}.get(subset, subset)
    return Source(f"ethics/{name}_test.csv", "tasks", "EleutherAI/hendrycks_ethics", subset, "test",
                  write=table(columns, header))


SOURCES = [
    Source("text/wiki.test.raw", "wikitext2", "Salesforce/wikitext", "wikitext-2-raw-v1", "test", write=raw_wikitext),
    Source("text/wiki.train.raw", "wikitext2", "Salesforce/wikitext", "wikitext-2-raw-v1", "train", write=raw_wikitext),
    Source("text/c4-train.00000-of-01024.json.gz", "c4", "allenai/c4", path="en/c4-train.00000-of-01024.json.gz"),
    Source("text/c4-validation.00000-of-00008.json.gz", "c4", "allenai/c4",
           path="en/c4-validation.00000-of-00008.json.gz"),
    Source("lambada/lambada_test_openai.jsonl", "tasks", "EleutherAI/lambada_openai", "default", "test",
           local=["lambada_test.jsonl"]),
    Source("piqa/valid.jsonl", "tasks", "baber/piqa", None, "validation"),
    Source("hellaswag/hellaswag_val.jsonl", "tasks", "Rowan/hellaswag", None, "validation",
           local=["hellaswag_val_1000_preprocessed.jsonl"]),  # a part of it; the reader knows both forms
    Source("arc/arc_easy_test.jsonl", "tasks", "allenai/ai2_arc", "ARC-Easy", "test", local=["ARC-Easy-Test.jsonl"]),
    Source("arc/arc_challenge_test.jsonl", "tasks", "allenai/ai2_arc", "ARC-Challenge", "test",
           local=["ARC-Challenge-Test.jsonl"]),
    Source("openbookqa/test.jsonl", "extras", "allenai/openbookqa", "main", "test", local=["Main/test.jsonl"]),
    Source("winogrande/dev.jsonl", "extras", "allenai/winogrande", "winogrande_xl", "validation",
           local=["winogrande_1.1/dev.jsonl"]),
    Source("mutual/mutual_dev.jsonl", "tasks", "EleutherAI/mutual", "mutual", "validation", write=mutual),
    ethics("commonsense", ["label", "input"]),
    ethics("deontology", ["label", "scenario", "excuse"]),
    ethics("justice", ["label", "scenario"]),
    ethics("virtue", ["label", "scenario"]),
    ethics("utilitarianism", ["baseline", "less_pleasant"], header=False),
]

# Token files: name, `cbq data` protocol, text, further options ({length}: --segment-length).
TOKENS = [
    ("wikitext2-test.h5", "wikitext2", "text/wiki.test.raw", []),
    ("wikitext2-calibration.h5", "wikitext2-samples", "text/wiki.train.raw", ["--segments", "128", "--segment-length", "{}"]),
    ("c4-calibration.h5", "c4-samples", "text/c4-train.00000-of-01024.json.gz",
     ["--segments", "128", "--segment-length", "{}"]),
    ("c4-validation.h5", "c4-validation", "text/c4-validation.00000-of-00008.json.gz", ["--segment-length", "{}"]),
]


def find_local(folder, ends):
    """The file below the folder whose path ends in the first of `ends` that any has; of several the shortest path."""
    for end in map(pathlib.PurePath, ends):
        found = [p for p in folder.rglob(end.name) if p.is_file() and p.parts[-len(end.parts):] == end.parts]
        if found:
            return min(found, key=lambda p: (len(p.parts), str(p)))
    return None


def obtain(source, data, local):
    """None, or what is wrong."""
    to = data / source.file
    if to.exists():
        return None
    to.parent.mkdir(parents=True, exist_ok=True)
    partial = to.with_name(to.name + ".partial")
    try:
        if local is None:
            source.fetch(partial)
        else:
            found = find_local(local, source.local)
            if found is None:
                return f"none of {', '.join(source.local)} below {local}"
            shutil.copyfile(found, partial)
        os.replace(partial, to)
        print(f"{to.relative_to(data)}: {to.stat().st_size} bytes")
        return None
    except ImportError as error:
        return f"{error.name} is not installed: pip install datasets; or give local files with --from"
    except Exception as error:  # a network has many ways to fail; the other files are still wanted
        return f"{source.dataset}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    finally:
        partial.unlink(missing_ok=True)


def utilitarianism(data):
    """The subset whose order Python's random numbers draw, as a file of requests."""
    csv_file, out = data / "ethics/util_test.csv", data / "ethics/ethics_utilitarianism.jsonl"
    if out.exists() or not csv_file.exists():
        return
    subprocess.run([sys.executable, TOOLS / "prepare_tasks.py", "--utilitarianism", csv_file, "-o", out], check=True)
    print(f"{out.relative_to(data)}: requests")


def tokens(data, cbq, tokenizer, length, groups):
    trouble = []
    name = tokenizer.resolve()
    folder = data / "tokens" / (name.name if name.is_dir() else name.parent.name if name.stem == "tokenizer" else name.stem)
    folder.mkdir(parents=True, exist_ok=True)
    for name, protocol, text, options in TOKENS:
        out = folder / name
        if out.exists() or not (data / text).exists() or name.split("-")[0] not in groups:
            continue
        command = [cbq, "data", protocol, data / text, "--tokenizer", tokenizer, "-o", out,
                   *(o.format(length) for o in options)]
        result = subprocess.run([str(c) for c in command], capture_output=True, text=True)
        if result.returncode != 0:
            trouble.append(f"tokens/{folder.name}/{name}: {result.stderr.strip()}")
        else:
            print(f"{out.relative_to(data)}: {result.stdout.strip()}")
    return trouble


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path, nargs="?", help="folder to write")
    parser.add_argument("--from", dest="local", type=pathlib.Path, help="folder with local copies, instead of a network")
    parser.add_argument("--tokenizer", type=pathlib.Path, help="tokenizer file or model folder: token files are wanted, too")
    parser.add_argument("--cbq", type=pathlib.Path, default=TOOLS.parent / "build/cpu/bin/cbq")
    parser.add_argument("--length", type=int, default=2048, help="tokens of a segment (%(default)s)")
    parser.add_argument("--only", default="wikitext2,c4,tasks,extras", help="groups of data sets (%(default)s)")
    parser.add_argument("--list", action="store_true", help="print the files, where they come from, their local names; end")
    o = parser.parse_args()
    groups = o.only.split(",")
    unknown = set(groups) - {s.group for s in SOURCES}
    if unknown:
        parser.error(f"--only: unknown {', '.join(sorted(unknown))}; known: wikitext2, c4, tasks, extras")
    wanted = [s for s in SOURCES if s.group in groups]
    if o.list:
        for s in wanted:
            print(f"{s.file:45} {s.group:10} {s.dataset}{' ' + s.config if s.config else ''}; {', '.join(s.local)}")
        return 0
    if o.data is None:
        parser.error("the folder to write is missing")
    if o.local is not None and not o.local.is_dir():
        parser.error(f"--from: {o.local} is no folder")
    if o.tokenizer is not None and not o.tokenizer.exists():
        parser.error(f"--tokenizer: there is no {o.tokenizer}")
    if o.tokenizer is not None and not (o.cbq.exists() or shutil.which(str(o.cbq))):
        parser.error(f"--cbq: there is no {o.cbq}; build it with ./setup.sh, or give its path")
    trouble = []
    for source in wanted:
        what = obtain(source, o.data, o.local)
        if what:
            trouble.append(f"{source.file}: {what}")
    utilitarianism(o.data)
    if o.tokenizer is not None:
        trouble += tokens(o.data, o.cbq, o.tokenizer, o.length, groups)
    for line in trouble:
        print(f"prepare_data: missing: {line}", file=sys.stderr)
    return 1 if trouble else 0


if __name__ == "__main__":
    sys.exit(main())
