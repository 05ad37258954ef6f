#!/usr/bin/env python3
"""Kills jobs at random times and resumes them, flips bits of the files they go on from, and compares every end result
with that of an undisturbed job.

    tests/reliability/reliability.py --programs build/cpu/bin --kills 100 --flips 200

A job is short: a model of four narrow blocks that the script trains itself, on a text that it makes up. Only the standard
library of Python is used. The last lines are two tables; the exit code is 1 where a result differs, where a program
crashed or refused to go on after a kill, and where a file is left over.
"""
import argparse
import collections
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIMIT = 600  # seconds of one command; a job takes one or two


class Job:
    """A command that writes below a folder `at`, its continuation after a kill, and what of its result is compared."""

    def __init__(self, first, again, result):
        self.first, self.again, self.result = first, again, result


def digest_of_folder(folder, leave_out=()):
    """{name: bytes} of the files of a result; times are in the files left out."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*"))
            if p.is_file() and p.name not in leave_out}


def cells_of(folder):
    """{name: figures} of the finished cells; the seconds and the memory they took differ from run to run."""
    cells = {}
    for path in sorted((folder / "cells").glob("*.json")):
        cell = json.loads(path.read_text())
        cells[path.name] = {name: cell["result"][name] for name in ("texts", "windows", "notes")}
    return cells


class Bench:
    """The programs, the inputs, and the jobs."""

    def __init__(self, programs, folder):
        self.programs, self.folder = programs, folder
        self.environment = dict(os.environ, OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive", CUDA_VISIBLE_DEVICES="")
        self.text, self.model = folder / "text.txt", folder / "model"
        words = random.Random(0)
        syllables = ["ba", "re", "ti", "lo", "mun", "sel", "kar", "an", "do", "vi"]
        make_word = lambda: "".join(words.choice(syllables) for _ in range(words.randint(1, 3)))
        lines = [" ".join(make_word() for _ in range(12)) + "." for _ in range(400)]
        self.text.write_text("\n".join(lines) + "\n")
        self.must(self.train_command(self.model, 4, 10))
        self.jobs = {
            "quantize": self.quantize_job("--cache", "{at}/cache"),
            "blockwise": self.quantize_job("--load", "blockwise"),
            "lora": self.quantize_job("--rounding", "lora_rounding", "--rank", "2"),
            "stages": self.quantize_job("--schedule", "0-2,1,1-2,3", "--rotation", "r1_r2_r4", "--solver", "gptq",
                                        "--abits", "8", "--polish-epochs", "3", "--rate-polish-codes", "0.02"),
            "ablation": self.ablation_job(),
            "train": self.train_job()}

    def train_command(self, output, layers, steps):
        return [self.programs / "cbq", "train", "--text", self.text, "--tokenizer", ROOT / "models/embedded", "-o",
                output, "--layers", layers, "--hidden", 32, "--intermediate", 64, "--heads", 2, "--kv-heads", 1,
                "--context", 64, "--tokens", 32, "--batch", 2, "--steps", steps, "--warmup", 2, "--save-every", 2]

    def quantize_job(self, *options):
        def command(at, *more):
            return [self.programs / "cbq", "quantize", self.model, "-o", at / "q", "--calibration", self.text,
                    "--segments", 4, "--segment-length", 32, "--epochs", 4, "--wbits", 2, "--window", 2, "--overlap", 1,
                    *(o.format(at=at) for o in options), *more]
        return Job(command, lambda at: command(at, "--resume"),
                   lambda at: digest_of_folder(at / "q", ("report.json", "log.txt")))

    def ablation_job(self):
        def command(at):
            return [self.programs / "run_ablation", "--model", self.model, "--calibration", self.text, "--texts",
                    f"a={self.text}", "--axis", "rounding=signround,lora_rounding", "--segments", 4, "--segment-length",
                    32, "--epochs", 2, "--eval-tokens", 256, "--output", at / "a"]
        return Job(command, command, lambda at: cells_of(at / "a"))

    def train_job(self):
        def command(at):
            return self.train_command(at / "m", 2, 40)
        return Job(command, command,
                   lambda at: {n: (at / "m" / n).read_bytes() for n in ("model.safetensors", "config.json")})

    def start(self, command):
        return subprocess.Popen([str(c) for c in command], env=self.environment, stdout=subprocess.DEVNULL,
                                stderr=subprocess.PIPE, text=True, errors="replace")

    def run(self, command):
        """(exit code, what it said)."""
        process = self.start(command)
        try:
            said = process.communicate(timeout=LIMIT)[1]
        except subprocess.TimeoutExpired:
            process.kill()
            return "hang", process.communicate()[1]
        return process.returncode, said

    def must(self, command):
        code, said = self.run(command)
        if code != 0:
            sys.exit(f"reliability: {' '.join(str(c) for c in command)}\nended with {code}:\n{said}")

    def reference(self, kind):
        """(what an undisturbed job ends in, its seconds)."""
        at = self.fresh()
        begin = time.monotonic()
        self.must(self.jobs[kind].first(at))
        seconds = time.monotonic() - begin
        result = self.jobs[kind].result(at)
        shutil.rmtree(at)
        return result, seconds

    def fresh(self):
        return pathlib.Path(tempfile.mkdtemp(prefix="job-", dir=self.folder))


def left_over(at):
    """Files and folders that a finished job must not leave."""
    found = [p for p in at.rglob("*") if p.name.endswith((".tmp", ".partial", ".resume", ".old", ".lock"))]
    unfinished = at / "a/unfinished"
    return found + (list(unfinished.iterdir()) if unfinished.is_dir() else [])


def kill_after(process, seconds):
    """(whether the process was still there to be killed, its exit code, what it said)."""
    try:
        said, is_late = process.communicate(timeout=seconds)[1], False
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        said, is_late = process.communicate()[1], True
    return is_late and process.returncode == -signal.SIGKILL, process.returncode, said


def kill_trials(bench, kind, kills, dice, report):
    """Jobs that are killed up to three times each, until there were `kills` kills."""
    expected, seconds = bench.reference(kind)
    job = bench.jobs[kind]
    count = collections.Counter()
    while count["kills"] < kills:
        at = bench.fresh()
        command, was_killed = job.first(at), True
        for _ in range(min(dice.randint(1, 3), kills - count["kills"])):
            was_killed, code, said = kill_after(bench.start(command), dice.uniform(0.0, seconds))
            if not was_killed:
                break
            count["kills"] += 1
            command = job.again(at)
        count["jobs"] += 1
        if was_killed:
            code, said = bench.run(command)
        fault = None
        if code != 0:
            fault = f"ended by itself with exit code {code}: {said.strip()[-400:]}"
        elif job.result(at) != expected:
            fault = "another result"
        elif left_over(at):
            fault = f"left over: {', '.join(p.relative_to(at).as_posix() for p in left_over(at))}"
        if fault:
            count["faults"] += 1
            print(f"FAULT {kind}: {fault}", flush=True)
        shutil.rmtree(at)
    report.append((kind, count["jobs"], count["kills"], count["faults"]))
    return count["faults"]


# Which files a job goes on from: the job, where they are, and the file without which they are not used. They are looked for
# while the job runs, or when it has ended.
STATES = {
    "resume state": ("quantize", "q.resume/state.safetensors", "q.resume/state.safetensors", "running"),
    "finished block": ("quantize", "q.resume/block-*.safetensors", "q.resume/state.safetensors", "running"),
    "blockwise state": ("blockwise", "q.resume/*.safetensors", "q.resume/state.safetensors", "running"),
    "state of stages": ("stages", "q.resume/*.safetensors", "q.resume/state.safetensors", "running"),
    "last stage": ("stages", "q.resume/polish.safetensors", "q.resume/polish.safetensors", "running"),
    "cache entry": ("quantize", "cache/*.h5", "cache/*.h5", "ended"),
    "cell": ("ablation", "a/cells/*.json", "a/cells/*.json", "ended"),
    "cell's state": ("ablation", "a/unfinished/*/*/*.safetensors", "a/unfinished/*/*/state.safetensors", "running"),
    "training state": ("train", "m/training.safetensors", "m/training.safetensors", "running"),
    "training tokens": ("train", "m/tokens-*.h5", "m/tokens-*.h5", "running")}


def template_with(bench, job, pattern, needed, when):
    """A folder in which a job has left files of these patterns."""
    for _ in range(50):
        at = bench.fresh()
        if when == "ended":
            bench.must(job.first(at))
            shutil.rmtree(at / "q", ignore_errors=True)  # so that the cache is used once more
        else:
            process = bench.start(job.first(at))
            while process.poll() is None and not list(at.glob(needed)):
                time.sleep(0.001)
            process.kill()
            process.communicate()
        if list(at.glob(pattern)) and list(at.glob(needed)):
            return at
        shutil.rmtree(at)
    sys.exit(f"reliability: no job left {pattern}")


def flip_trials(bench, state, flips, dice, report):
    kind, pattern, needed, when = STATES[state]
    job = bench.jobs[kind]
    expected, _ = bench.reference(kind)
    template = template_with(bench, job, pattern, needed, when)
    count = collections.Counter()
    for _ in range(flips):
        at = bench.fresh()
        shutil.copytree(template, at, dirs_exist_ok=True)
        file = dice.choice(sorted(at.glob(pattern)))
        data = bytearray(file.read_bytes())
        bit = dice.randrange(8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
        file.write_bytes(data)
        code, said = bench.run(job.again(at))
        if code == 0:
            same = job.result(at) == expected
            outcome = ("mended" if file.name in said else "no effect") if same else "silent"
        else:
            outcome = "refused" if isinstance(code, int) and code > 0 and file.name in said else "unclear"
        count[outcome] += 1
        if outcome in ("silent", "unclear"):
            print(f"FAULT {state}: {outcome} (exit code {code}), bit {bit} of {file.relative_to(at)}", flush=True)
            if outcome == "unclear":
                print(f"      {said.strip()[-400:]}")
        shutil.rmtree(at)
    shutil.rmtree(template)
    report.append((state, flips, *(count[o] for o in ("mended", "refused", "no effect", "silent", "unclear"))))
    return count["silent"] + count["unclear"]


def print_table(title, heads, rows):
    cells = [[str(c) for c in row] for row in [heads, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    print(f"\n{title}")
    for row in cells:
        print("  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=pathlib.Path, default=ROOT / "build/cpu/bin", help="folder of cbq and run_ablation")
    parser.add_argument("--kills", type=int, default=20, help="kills of each kind of job; default: %(default)s")
    parser.add_argument("--flips", type=int, default=20, help="bit flips in each kind of file; default: %(default)s")
    parser.add_argument("--kinds", default="quantize,blockwise,lora,stages,ablation,train", help="jobs to kill; default: all")
    parser.add_argument("--states", default=",".join(STATES), help="files to damage; default: all, %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="of the times and bits; default: %(default)s")
    parser.add_argument("--folder", type=pathlib.Path, help="where jobs run; default: a temporary folder")
    o = parser.parse_args()
    kinds = [k for k in o.kinds.split(",") if k]
    states = [s for s in o.states.split(",") if s] if o.flips > 0 else []
    faults, killed, flipped = 0, [], []
    with tempfile.TemporaryDirectory(prefix="reliability-", dir=o.folder) as folder:
        bench = Bench(o.programs.resolve(), pathlib.Path(folder))
        unknown = [k for k in kinds if k not in bench.jobs] + [s for s in states if s not in STATES]
        if unknown:
            sys.exit(f"reliability: unknown: {', '.join(unknown)}; jobs: {', '.join(bench.jobs)}; "
                     f"files: {', '.join(STATES)}")
        for kind in kinds if o.kills > 0 else []:
            faults += kill_trials(bench, kind, o.kills, random.Random(f"{o.seed} {kind}"), killed)
        for state in states:
            faults += flip_trials(bench, state, o.flips, random.Random(f"{o.seed} {state}"), flipped)
    if killed:
        print_table("Killed and resumed; a fault is another result, an error or a file left over",
                    ("job", "jobs", "kills", "faults"), killed)
    if flipped:
        print_table("One bit flipped. mended: told, and computed anew; refused: an error that names the file; faults are\nsilent: another result with exit code 0, and unclear: a crash, a hang, or an error that does not name the file",
                    ("file", "flips", "mended", "refused", "no effect", "silent", "unclear"), flipped)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
