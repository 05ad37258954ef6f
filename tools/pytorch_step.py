#!/usr/bin/env python3
"""The PyTorch twin of `bench step`: the same reconstruction step, eager and through torch.compile.

    tools/pytorch_step.py --bench build/cpu/bin/bench --threads 1       # side by side with ours, in turns
    tools/pytorch_step.py --shape 7b --device cuda                      # PyTorch alone

With --bench, both sides run in turns on the same weights and data, so that a machine's moods hit them alike; the losses
of the first steps must agree, or the program fails. Needs torch, and safetensors with --bench; nothing else here does.

A window of LLaMA blocks: weights W^ = s (clamp(round(W / s + v) + z, 0, 2^b - 1) - z), s = s0 e^x, v = clamp(p, -1/2,
1/2) with p dense or A1 A2, straight-through rounding; inputs of linear layers quantized per token below 16 bits; the
loss ||h - h^||^2 + KL(softmax(h) || softmax(h^)), mean over tokens; Adam on x, p and the clip variables of activations.
"""
import argparse
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import torch
import torch.nn.functional as F

# Hidden, feed-forward, heads, tokens, batch, and heads of keys and values where fewer: as tools/bench/workload.cpp.
SHAPES = {
    "tiny": (16, 32, 4, 12, 2),
    "embedded": (128, 256, 4, 128, 4),
    "embedded-384": (128, 384, 4, 128, 4),
    "smollm2-135m": (576, 1536, 9, 256, 1, 3),
    "opt-1.3b": (2048, 5504, 32, 2048, 1),
    "7b": (4096, 11008, 32, 2048, 1),
    "13b": (5120, 13824, 40, 2048, 1),
    "30b": (6656, 17920, 52, 2048, 1),
    "65b": (8192, 22016, 64, 2048, 1),
}
RATES = {"rounding": 0.01, "scale": 1e-3, "activation": 1e-3}
LINEARS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
           "mlp.up_proj", "mlp.down_proj")
# Names of --modes beside "eager", and torch.compile's.
COMPILE_MODES = {name: name for name in ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")}
COMPILE_MODES["compile"] = "default"
SAME_OPTIONS = ("shape", "window", "tokens", "batch", "wbits", "abits", "rank", "rounding", "dtype", "device",
                "threads")


class Round(torch.autograd.Function):
    """round(x) whose derivative is 1: one pass, where x + (round(x) - x).detach() takes three."""

    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, grad):
        return grad


class Clamp(torch.autograd.Function):
    """clamp(x) whose derivative is 1 at the bounds, too: PyTorch 2.15 has 0 there, earlier versions had 1. Two bits have
    half of their codes at the bounds."""

    @staticmethod
    def forward(ctx, x, low, high):
        ctx.save_for_backward((x >= low) & (x <= high))
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0], None, None


def range_of_rows(x):
    return x.float().amin(-1, keepdim=True).clamp(max=0), x.float().amax(-1, keepdim=True).clamp(min=0)


class QuantizedLinear(torch.nn.Module):
    def __init__(self, weight, wbits, abits, rank, grid=None, a1=None):
        super().__init__()
        self.weight = torch.nn.Parameter(weight, requires_grad=False)
        self.largest, self.largest_input = 2**wbits - 1, 2**abits - 1
        self.quantizes_input = abits < 16
        if grid is None:  # min-max over each row
            low, high = range_of_rows(weight)
            scale = (high - low) / self.largest
            grid = scale, (-low / scale).round().clamp(0, self.largest)
        self.register_buffer("scale0", grid[0])
        self.register_buffer("zero_point", grid[1])

        def zeros(*shape):
            return torch.nn.Parameter(torch.zeros(*shape, device=weight.device))

        self.log_scale = zeros(*grid[0].shape)
        if rank > 0:
            a1 = torch.randn(weight.shape[0], rank, device=weight.device) / math.sqrt(rank) if a1 is None else a1
            self.a1, self.a2 = torch.nn.Parameter(a1.clone()), zeros(rank, weight.shape[1])
        else:
            self.p = zeros(*weight.shape)
        if self.quantizes_input:
            self.clip = zeros(1)

    def quantized_weight(self):
        s = self.scale0 * self.log_scale.exp()
        v = Clamp.apply(self.p if hasattr(self, "p") else self.a1 @ self.a2, -0.5, 0.5)
        q = Clamp.apply(Round.apply(self.weight.float() / s + v) + self.zero_point, 0, self.largest)
        return (s * (q - self.zero_point)).to(self.weight.dtype)

    def quantized_input(self, x):
        with torch.no_grad():
            low, high = range_of_rows(x)
            s = (high - low) / self.largest_input
            s = torch.where(s < torch.finfo(torch.float32).tiny, torch.ones_like(s), s)
            z = (-low / s).round().clamp(0, self.largest_input)
        s = s * self.clip.exp()
        q = Clamp.apply(Round.apply(x.float() / s) + z, 0, self.largest_input)
        return (s * (q - z)).to(x.dtype)

    def forward(self, x):
        return F.linear(self.quantized_input(x) if self.quantizes_input else x, self.quantized_weight())


class Block(torch.nn.Module):
    def __init__(self, linears, hidden, heads, kv_heads, cosine, sine, dtype):
        super().__init__()
        self.q, self.k, self.v, self.o, self.gate, self.up, self.down = linears
        self.heads, self.kv_heads, self.hidden, self.cosine, self.sine = heads, kv_heads, hidden, cosine, sine
        ones = torch.ones(hidden, dtype=dtype, device=cosine.device)
        self.norm1 = torch.nn.Parameter(ones, requires_grad=False)
        self.norm2 = torch.nn.Parameter(ones.clone(), requires_grad=False)

    def split(self, x, heads):
        return x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)

    def rotate(self, x):
        a, b = x.chunk(2, -1)
        return x * self.cosine + torch.cat((-b, a), -1) * self.sine

    def forward(self, x):
        n = F.rms_norm(x, (self.hidden,), self.norm1, 1e-6)
        q, k = self.rotate(self.split(self.q(n), self.heads)), self.rotate(self.split(self.k(n), self.kv_heads))
        attended = F.scaled_dot_product_attention(q, k, self.split(self.v(n), self.kv_heads), is_causal=True,
                                                  enable_gqa=self.kv_heads < self.heads)
        x = x + self.o(attended.transpose(1, 2).reshape(x.shape))
        m = F.rms_norm(x, (self.hidden,), self.norm2, 1e-6)
        return x + self.down(F.silu(self.gate(m)) * self.up(m))


def rope(tokens, dim, device, dtype):
    frequency = 1.0 / 10000.0 ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    angle = torch.outer(torch.arange(tokens, dtype=torch.float32), frequency).repeat(1, 2).to(device)
    return angle.cos().to(dtype), angle.sin().to(dtype)


class Step:
    """The step of one window; `data` holds what `bench step --dump` wrote, or nothing: then weights are random."""

    def __init__(self, o, data):
        hidden, wide, heads, *more = SHAPES[o.shape]
        kv_heads = more[2] if len(more) > 2 else heads
        self.o, self.device = o, torch.device(o.device)
        dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[o.dtype]
        rank = o.rank if o.rounding == "rank" else 0
        few = (hidden * kv_heads // heads, hidden)
        sizes = [(hidden, hidden), few, few, (hidden, hidden)] + [(wide, hidden)] * 2 + [(hidden, wide)]

        def linear(path, size):
            if data is None:
                weight = torch.randn(size, device=self.device, dtype=dtype) / math.sqrt(size[1])
                return QuantizedLinear(weight, o.wbits, o.abits, rank)
            at = {key: data.get(f"{path}.{key}") for key in ("weight", "scale", "zero_point", "a1")}
            return QuantizedLinear(at["weight"], o.wbits, o.abits, rank, (at["scale"], at["zero_point"]), at["a1"])

        cosine, sine = rope(o.tokens, hidden // heads, self.device, dtype)
        self.window = torch.nn.Sequential(*[
            Block([linear(f"model.layers.{b}.{name}", size) for name, size in zip(LINEARS, sizes)], hidden, heads, kv_heads,
                  cosine, sine, dtype) for b in range(o.window)])
        if data is None:
            self.inputs = torch.randn(2 * o.batch, o.tokens, hidden, device=self.device, dtype=dtype)
            self.targets = torch.randn_like(self.inputs)
        else:
            self.inputs, self.targets = data["inputs"], data["targets"]
        groups = {"rounding": [], "scale": [], "activation": []}
        for name, p in self.window.named_parameters():
            if p.requires_grad:
                kind = name.rsplit(".", 1)[1]
                groups["scale" if kind == "log_scale" else "activation" if kind == "clip" else "rounding"].append(p)
        # `fused`: one kernel per group on CUDA, one pass per tensor on the CPU.
        self.optimizer = torch.optim.Adam([{"params": p, "lr": o.rates[name], "rate": o.rates[name]}
                                           for name, p in groups.items() if p], fused=True)
        self.taken, self.total = 0, o.total_steps
        self.loss_function = self.loss if o.mode == "eager" else torch.compile(self.loss, mode=COMPILE_MODES[o.mode])

    def loss(self, x, target):
        y, t = self.window(x).float(), target.float()
        squares = (y - t).square().sum(-1)
        kl = F.kl_div(F.log_softmax(y, -1), F.log_softmax(t, -1), log_target=True, reduction="none").sum(-1)
        return (squares + kl).mean()

    def __call__(self):
        first = self.taken * self.o.batch
        at = torch.tensor([(first + i) % self.inputs.shape[0] for i in range(self.o.batch)], device=self.device)
        factor = 0.5 * (1.0 + math.cos(math.pi * self.taken / self.total))
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * factor
        loss = self.loss_function(self.inputs[at], self.targets[at])
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.taken += 1
        return loss.detach()

    def synchronize(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def measure(step, seconds):
    """Wall and processor times of steps, in ms."""
    for _ in range(3):
        step()
    step.synchronize()
    wall, cpu = [], []
    begin = time.perf_counter()
    while len(wall) < 5 or time.perf_counter() - begin < seconds:
        t, c = time.perf_counter(), time.process_time()
        step()
        step.synchronize()
        wall.append(1e3 * (time.perf_counter() - t))
        cpu.append(1e3 * (time.process_time() - c))
    return wall, cpu


def summary(times):
    times = times * 2 if len(times) == 1 else times
    quartiles = statistics.quantiles(times, n=4)
    return {"median": quartiles[1], "best": min(times), "spread": (quartiles[2] - quartiles[0]) / (2 * quartiles[1])}


def run_bench(o, folder, dump):
    figures = pathlib.Path(folder) / "figures.json"
    command = [o.bench, "step", "--json", str(figures), "--seconds", str(o.seconds), "--clock", o.clock]
    for name in SAME_OPTIONS:
        command += [f"--{name}", str(getattr(o, name))]
    if dump:
        command += ["--dump", str(dump)]
    environment = dict(os.environ, LD_LIBRARY_PATH=o.bench_library_path) if o.bench_library_path else None
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    return json.loads(figures.read_text())


def read_dump(path, o):
    from safetensors import safe_open
    with safe_open(path, "pt", device=o.device) as f:
        settings = json.loads(f.metadata()["bench_step"])["settings"]
        data = {name: f.get_tensor(name) for name in f.keys()}
    o.rates = {"rounding": settings["rate_rounding"], "scale": settings["rate_scale"],
               "activation": settings["rate_activation"]}
    o.total_steps = settings["epochs"] * math.ceil(data["inputs"].shape[0] / o.batch)
    return data


def compare_losses(ours, theirs, o):
    # A last bit decides now and then to which integer a value goes. Below 16 bits this moves whole rows of activations
    # (through their zero points), and later steps follow other paths.
    tolerance = 3e-2 if o.abits < 16 or o.dtype == "bf16" else 1e-4
    # max() would pass over a NaN that does not come first.
    worst = math.inf if any(map(math.isnan, ours + theirs)) else max(abs(a - b) / abs(a) for a, b in zip(ours, theirs))
    if not worst <= tolerance:
        sys.exit(f"the losses of the first steps differ by {worst:.2e} (more than {tolerance}): ours {ours}, "
                 f"PyTorch's {theirs}; the two programs do not compute the same step")
    return worst


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--shape", default="embedded", choices=SHAPES)
    for name, default in (("window", 2), ("tokens", 0), ("batch", 0), ("wbits", 4), ("abits", 16), ("rank", 5),
                          ("threads", 1)):
        p.add_argument(f"--{name}", type=int, default=default)
    p.add_argument("--rounding", default="dense", choices=["dense", "rank"])
    p.add_argument("--dtype", default="auto", choices=["auto", "f32", "bf16"])
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--modes", default="eager,compile", type=lambda text: text.split(","),
                   help=f"with commas: eager, {', '.join(COMPILE_MODES)}; default: eager,compile")
    p.add_argument("--seconds", type=float, default=3.0, help="time of each measurement")
    p.add_argument("--rounds", type=int, default=3, help="turns that the programs take")
    p.add_argument("--clock", default="cpu", choices=["wall", "cpu"], help="clock of the parts of our step")
    p.add_argument("--bench", help="path of the program `bench`: run side by side with it")
    p.add_argument("--bench-library-path", help="LD_LIBRARY_PATH for --bench alone")
    p.add_argument("--json", help="file for the figures")
    o = p.parse_args()
    unknown = [m for m in o.modes if m != "eager" and m not in COMPILE_MODES]
    if unknown:
        p.error(f"unknown mode {', '.join(unknown)}; known: eager, {', '.join(COMPILE_MODES)}")
    o.tokens, o.batch = o.tokens or SHAPES[o.shape][3], o.batch or SHAPES[o.shape][4]
    o.dtype = ("bf16" if o.device.startswith("cuda") else "f32") if o.dtype == "auto" else o.dtype
    o.rates, o.total_steps = RATES, 10000
    torch.set_num_threads(o.threads)
    torch.manual_seed(0)
    result = {key: getattr(o, key) for key in SAME_OPTIONS}
    result |= {"torch": torch.__version__, "rounds": o.rounds, "modes": o.modes}
    with tempfile.TemporaryDirectory() as folder:
        measure_all(o, folder, result)
    report(result)
    if o.json:
        pathlib.Path(o.json).write_text(json.dumps(result, indent=2) + "\n")


def measure_all(o, folder, result):
    data, ours = None, []
    if o.bench:
        dump = pathlib.Path(folder) / "step.safetensors"
        ours.append(run_bench(o, folder, dump))
        data = read_dump(dump, o)
    steps, times = {}, {}
    for o.mode in o.modes:
        if o.device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats()
        result[o.mode] = {"program": f"pytorch {o.mode}"}
        try:
            step = Step(o, data)
            losses = [step().item() for _ in range(5)]
        except Exception as error:  # a mode that this machine's torch cannot do must not cost the others' figures
            if o.mode == "eager":
                raise
            result[o.mode]["error"] = f"{type(error).__name__}: {error}"[:2000]
            continue
        steps[o.mode], times[o.mode] = step, ([], [])
        result[o.mode]["losses"] = losses
        if ours:
            result[o.mode]["loss_difference"] = compare_losses(ours[0]["losses"], losses, o)
        if o.device.startswith("cuda"):
            result[o.mode]["peak_bytes"] = torch.cuda.max_memory_allocated()
    for turn in range(o.rounds):
        if o.bench and turn > 0:
            ours.append(run_bench(o, folder, None))
        for mode, step in steps.items():
            wall, cpu = measure(step, o.seconds)
            times[mode][0].append(statistics.median(wall))
            times[mode][1].append(statistics.median(cpu))
    for mode, (wall, cpu) in times.items():
        result[mode] |= {"wall_ms": summary(wall), "cpu_ms": summary(cpu)}
    if ours:
        turns = {clock: summary([r[clock]["median"] for r in ours]) for clock in ("wall_ms", "cpu_ms")}
        result["cbq"] = ours[-1] | turns


def report(r):
    print(f"{r['shape']}: window {r['window']}, {r['batch']} x {r['tokens']} tokens, W{r['wbits']}A{r['abits']}, "
          f"signround {r['rounding']}, {r['dtype']}, {r['device']}, {r['threads']} threads; medians of {r['rounds']} turns")
    for name in ("cbq", *r["modes"]):
        if name not in r:
            continue
        if "error" in r[name]:
            print(f"  {name:<8} failed: {r[name]['error']}")
            continue
        wall, cpu = r[name]["wall_ms"], r[name]["cpu_ms"]
        line = f"  {name:<8} {wall['median']:9.2f} ms (best {wall['best']:.2f}), {cpu['median']:9.2f} ms of CPU time"
        if "peak_bytes" in r[name]:
            line += f", {r[name]['peak_bytes'] / 1e9:.2f} GB"
        if name != "cbq" and "cbq" in r:
            line += (f"; {wall['median'] / r['cbq']['wall_ms']['median']:.2f} x ours, CPU "
                     f"{cpu['median'] / r['cbq']['cpu_ms']['median']:.2f} x; losses differ by {r[name]['loss_difference']:.1e}")
        print(line)


if __name__ == "__main__":
    main()
