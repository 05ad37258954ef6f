#!/usr/bin/env python3
"""Zero-shot scoring of a random OPT-125M-shaped model: transformers beside `cbq evaluate --tasks`, in turns.

    tools/score_speed.py --cbq build/cpu/bin/cbq --vocabulary GPT2_FOLDER --requests hellaswag_val.jsonl

GPT2_FOLDER holds vocab.json and merges.txt. A line of the requests is a HellaSwag row as published ("ctx_a", "ctx_b",
"activity_label", "endings"), one with its clean-up done ("query", "choices"), or {"context", "continuations"}.

transformers scores as lm-evaluation-harness does: requests sorted by length, longest first, padded on the right to the
longest of their batch; logits of all positions, log_softmax of all of them, then a gather; under inference_mode, in f32.
Its batch size is the fastest of --batches on the first requests. Timed for transformers: forward passes and what turns
logits into sums, nothing else; for cbq: tokenizing and scoring as it reports it, without loading. CPU time for cbq is the
whole process', loading included. The largest difference of log-likelihoods must stay below --tolerance.
"""
import argparse
import json
import math
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time

ENCODING = "joint_without_bos"  # GPT-2's vocabulary puts nothing in front


def clean(text):
    """HellaSwag's WikiHow half has titles and remarks in brackets."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def read_items(path, limit):
    items = []
    for line in open(path, encoding="utf-8"):
        row = json.loads(line)
        if "continuations" in row:
            items.append((row["context"], row["continuations"]))
        elif "query" in row:
            items.append((row["query"], [" " + choice for choice in row["choices"]]))
        else:
            context = clean(f'{row["activity_label"]}: {row["ctx_a"]} {row["ctx_b"].capitalize()}')
            items.append((context, [" " + clean(ending) for ending in row["endings"]]))
        if len(items) == limit:
            break
    return items


def write_requests(items, path):
    with open(path, "w", encoding="utf-8") as file:
        for doc_id, (context, continuations) in enumerate(items):
            for idx, continuation in enumerate(continuations):
                file.write(json.dumps({"task": "speed", "doc_id": doc_id, "idx": idx, "request_type": "loglikelihood",
                                       "context": context, "continuation": continuation, "gold": 0}) + "\n")


def encode(items, tokenizer):
    """(ids, scored) of every request, by the harness' rule: spaces at a context's end belong to the continuation."""
    requests = []
    for context, continuations in items:
        kept = context.rstrip()
        before = len(tokenizer(kept).input_ids)
        for continuation in continuations:
            ids = tokenizer(kept + context[len(kept):] + continuation).input_ids
            requests.append((ids, len(ids) - before))
    return requests


class Transformers:
    def __init__(self, folder, threads):
        import torch
        import transformers

        self.torch = torch
        torch.set_num_threads(threads)
        self.model = transformers.OPTForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.versions = f"transformers {transformers.__version__}, torch {torch.__version__}"

    def score(self, requests, batch):
        """Log-likelihoods in the order given."""
        torch = self.torch
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i][0]))
        results = [0.0] * len(requests)
        with torch.inference_mode():
            for begin in range(0, len(order), batch):
                part = order[begin:begin + batch]
                longest = len(requests[part[0]][0]) - 1
                ids = torch.zeros(len(part), longest, dtype=torch.long)
                for row, i in enumerate(part):
                    tokens = requests[i][0]
                    ids[row, :len(tokens) - 1] = torch.tensor(tokens[:-1])
                logits = torch.nn.functional.log_softmax(self.model(ids).logits, dim=-1)
                for row, i in enumerate(part):
                    tokens, scored = requests[i]
                    rows = logits[row, len(tokens) - 1 - scored:len(tokens) - 1]
                    target = torch.tensor(tokens[-scored:])[:, None]
                    results[i] = float(rows.gather(-1, target).sum())
        return results


def make_model(folder):
    import torch
    import transformers

    torch.manual_seed(1)
    config = transformers.OPTConfig()  # its defaults are those of OPT-125M
    transformers.OPTForCausalLM(config).save_pretrained(folder, safe_serialization=True)


class Cbq:
    def __init__(self, program, folder, requests, options):
        self.samples = f"{folder}/samples.jsonl"
        self.command = [program, "evaluate", folder, "--tasks", requests, "--tokenizer", options.vocabulary, "--encoding", ENCODING, "--device", "cpu",
                        "--dtype", "f32", "--threads", str(options.threads), "--samples", self.samples,
                        *options.cbq_options]

    def score(self):
        """Log-likelihoods, seconds of scoring, seconds of CPU of the whole process."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run = subprocess.run(self.command, capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if run.returncode:
            sys.exit(f"{' '.join(self.command)}\n{run.stderr}")
        cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        rows = [json.loads(line) for line in open(self.samples, encoding="utf-8")]
        seconds = float(re.search(r"speed: \d+ requests in ([\d.]+) s", run.stderr)[1])
        return [row["loglikelihood"] for row in rows], seconds, cpu


def timed(function):
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cbq", required=True, help="the program")
    parser.add_argument("--vocabulary", required=True, help="folder with GPT-2's vocab.json and merges.txt")
    parser.add_argument("--requests", required=True, help="HellaSwag's file")
    parser.add_argument("--items", type=int, default=100, help="the first so many")
    parser.add_argument("--rounds", type=int, default=3, help="turns of both programs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batches", default="1,2,4,8,16,32", help="batch sizes that transformers tries")
    parser.add_argument("--tries", type=int, default=24, help="items on which the batch size is chosen")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="nats")
    parser.add_argument("--cbq-options", nargs=argparse.REMAINDER, default=[], help="handed on; the last option")
    options = parser.parse_args()

    import transformers

    items = read_items(options.requests, options.items)
    with tempfile.TemporaryDirectory() as folder:
        make_model(folder)
        write_requests(items, f"{folder}/requests.jsonl")
        requests = encode(items, transformers.GPT2TokenizerFast(f"{options.vocabulary}/vocab.json", f"{options.vocabulary}/merges.txt"))
        other = Transformers(folder, options.threads)
        ours = Cbq(options.cbq, folder, f"{folder}/requests.jsonl", options)
        tokens = sum(len(ids) - 1 for ids, _ in requests)
        print(f"{other.versions}, {options.threads} threads, f32; {len(requests)} requests of {len(items)} items, "
              f"{tokens} tokens read, {sum(scored for _, scored in requests)} scored; load "
              f"{os.getloadavg()[0]:.1f}", flush=True)
        few = requests[:options.tries * len(items[0][1])]
        other.score(few[:8], 4)
        speeds = {}
        for batch in map(int, options.batches.split(",")):
            _, wall, cpu = timed(lambda: other.score(few, batch))
            speeds[batch] = wall
            print(f"  transformers, batch {batch:3}: {len(few) / wall:7.1f} requests/s ({wall:.2f} s, CPU {cpu:.2f} s)",
                  flush=True)
        batch = min(speeds, key=speeds.get)
        ratios, cpu_ratios, difference = [], [], 0.0
        for _ in range(options.rounds):
            theirs, wall, cpu = timed(lambda: other.score(requests, batch))
            mine, seconds, my_cpu = ours.score()
            if any(map(math.isnan, theirs)) or any(map(math.isnan, mine)):
                sys.exit("a log-likelihood is NaN")  # which max() would pass over
            difference = max(difference, *(abs(a - b) for a, b in zip(theirs, mine, strict=True)))
            ratios.append(wall / seconds)
            cpu_ratios.append(cpu / my_cpu)
            print(f"transformers (batch {batch}) {wall:6.2f} s, CPU {cpu:6.2f} s: {len(requests) / wall:6.1f} requests/s, "
                  f"{tokens / wall:6.0f} tokens/s | cbq {seconds:6.2f} s, CPU {my_cpu:6.2f} s: "
                  f"{len(requests) / seconds:6.1f} requests/s, {tokens / seconds:6.0f} tokens/s | ratio "
                  f"{ratios[-1]:.2f}, of CPU time {cpu_ratios[-1]:.2f}; load {os.getloadavg()[0]:.1f}", flush=True)
        print(f"cbq / transformers: median {statistics.median(ratios):.2f} of wall time "
              f"({min(ratios):.2f} to {max(ratios):.2f}), {statistics.median(cpu_ratios):.2f} of CPU time; log-likelihoods "
              f"differ by at most {difference:.1e} nats")
        if not difference <= options.tolerance:
            sys.exit(f"the programs disagree: {difference} nats")


if __name__ == "__main__":
    main()
