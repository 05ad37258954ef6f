#!/usr/bin/env python3
"""Writes tests/fixtures/: small random models of every family, and what transformers computes with them.

    python3 tools/make_parity_fixtures.py [--output tests/fixtures] [NAME...]

Needs torch and transformers (the committed files: torch 2.11.0, transformers 4.57.6); tests only read the result.
A folder holds config.json, the weights (as published checkpoints hold them: f16, some in shards, some without a
prefix) and expected.safetensors:
    ids          [batch, tokens + 1] i32   inputs are ids[:, :-1], targets ids[:, 1:]
    logits_f32   [batch, tokens, vocabulary], logits_bf16 likewise of the model in bf16 (eager attention, CPU)
    nll_f32, nll_bf16 [1]                  mean -log p(target)
    grad.<path>                            d nll_f32 / d parameter, f32
"""
import argparse
import json
import pathlib
import shutil
import tempfile

import torch
import transformers
from safetensors.torch import load_file, save_file

# Its initialization fails for norms without weights, and every weight is set here anyway.
transformers.models.opt.modeling_opt.OPTPreTrainedModel._init_weights = lambda self, module: None

VOCABULARY, BATCH, TOKENS = 64, 2, 11

LLAMA = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=32)
OPT = dict(hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=32,
           word_embed_proj_dim=32)
BLOOM = dict(hidden_size=32, n_layer=2, n_head=4)
LLAMA3_ROPE = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                   original_max_position_embeddings=16)


def without_prefix(prefix):
    """Names as some publishers write them: without the prefix, and without a tied head."""
    def rename(name):
        return None if name == "lm_head.weight" else name.removeprefix(prefix)
    return rename


# name: (class of transformers, settings, further changes: rename of tensors, shards, edit of config.json)
FIXTURES = {
    "llama": ("Llama", LLAMA | dict(rope_theta=500.0, rope_scaling=LLAMA3_ROPE, attention_bias=True, mlp_bias=True), {}),
    "llama-linear-rope": ("Llama", LLAMA | dict(num_key_value_heads=None, tie_word_embeddings=True,
                                                rope_scaling=dict(rope_type="linear", factor=2.0)), {}),
    "mistral": ("Mistral", LLAMA | dict(num_key_value_heads=1, head_dim=16, sliding_window=16), dict(shards=3)),
    "qwen2": ("Qwen2", LLAMA | dict(rope_theta=1e4, tie_word_embeddings=True), {}),
    "qwen3": ("Qwen3", LLAMA | dict(head_dim=16), {}),
    "opt": ("OPT", OPT, {}),
    "opt-post-norm": ("OPT", OPT | dict(do_layer_norm_before=False, word_embed_proj_dim=16),
                      dict(rename=without_prefix("model."))),
    "opt-bare": ("OPT", OPT | dict(enable_bias=False, layer_norm_elementwise_affine=False,
                                   _remove_final_layer_norm=True), dict(rename=without_prefix("model."))),
    "bloom": ("Bloom", BLOOM, dict(rename=without_prefix("transformer."),
                                   config={"n_embed": 32, "hidden_size": None, "num_attention_heads": 4, "n_head": None})),
    "bloom-6-heads": ("Bloom", BLOOM | dict(hidden_size=24, n_head=6), {}),
    "bloom-post-norm-residual": ("Bloom", BLOOM | dict(apply_residual_connection_post_layernorm=True), {}),
}


# Just above a power of two: of all other logits the last place in bf16 is 2^-8, so that the tolerance of 2^-7 of the
# largest is two places, whatever the seed.
LARGEST_LOGIT = 1.03


def output_parameters(model):
    """What scales the logits: the head's own matrix, else the last thing before a tied one."""
    parameters = dict(model.named_parameters())
    for end in ("lm_head.weight", "project_out.weight", "decoder.final_layer_norm", "ln_f", "model.norm", "embed_tokens.weight"):
        found = [p for name, p in parameters.items() if end in name]
        if found:
            return found
    raise ValueError("no output")


def make_model(kind, settings, ids):
    """Weights that f16 holds exactly, with moderate blocks: large ones amplify rounding beyond what a test could use."""
    config = getattr(transformers, kind + "Config")(vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2, pad_token_id=0,
                                                    attn_implementation="eager", **settings)
    model = getattr(transformers, kind + "ForCausalLM")(config).eval()

    def round_to_f16():
        for p in model.parameters():
            p.copy_(p.to(torch.float16))

    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 2:
                p.normal_(0.0, 0.2 if "embed" in name else 0.06)
            elif name.endswith("bias"):
                p.normal_(0.0, 0.1)
            else:
                p.uniform_(0.5, 1.5)
        round_to_f16()
        for _ in range(6):  # repeated for the one model whose embedding is all that scales them
            factor = LARGEST_LOGIT / model(ids[:, :-1]).logits.abs().max()
            for p in output_parameters(model):
                p.mul_(factor if p.dim() < 2 or p.shape[0] != VOCABULARY else factor ** 0.6)
            round_to_f16()
    return model


def write_shards(tensors, folder, count):
    """`count` files, and the index that lists them."""
    names = sorted(tensors)
    weight_map = {}
    for i in range(count):
        file = f"model-{i + 1:05d}-of-{count:05d}.safetensors"
        part = names[i::count]
        save_file({n: tensors[n] for n in part}, folder / file, {"format": "pt"})
        weight_map |= {n: file for n in part}
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1, sort_keys=True) + "\n")


def evaluate(folder, dtype, ids):
    """Model, logits and mean NLL: weights as loaded, attention in plain products."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
    logits = model(ids[:, :-1]).logits
    nll = torch.nn.functional.cross_entropy(logits.float().reshape(-1, VOCABULARY), ids[:, 1:].reshape(-1))
    return model, logits, nll


def is_selected(name):
    """Gradients that are kept: of the embedding, the last norm, and in the first block all vectors, the matrices that
    make the queries and the one that ends the block."""
    if ".1." in name:
        return False
    if name.endswith(("q_proj.weight", "query_key_value.weight", "down_proj.weight", "fc2.weight", "4h_to_h.weight")):
        return True
    return "embed" in name or name.endswith("bias") or "norm" in name or "ln_f" in name


def write_fixture(folder, seed, kind, settings, changes):
    torch.manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (BATCH, TOKENS + 1))
    model = make_model(kind, settings, ids)
    with tempfile.TemporaryDirectory() as full:
        model.to(torch.float16).save_pretrained(full)
        full = pathlib.Path(full)
        exact, logits, nll = evaluate(full, torch.float32, ids)
        nll.backward()
        with torch.no_grad():
            _, half_logits, half_nll = evaluate(full, torch.bfloat16, ids)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        config = json.loads((full / "config.json").read_text())
        for key, value in changes.get("config", {}).items():
            config[key] = value
        config = {k: v for k, v in config.items() if k not in changes.get("config", {}) or v is not None}
        (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
        rename = changes.get("rename", lambda name: name)
        tensors = {rename(n): t for n, t in load_file(full / "model.safetensors").items() if rename(n)}
    if "shards" in changes:
        write_shards(tensors, folder, changes["shards"])
    else:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    expected = {"ids": ids.to(torch.int32), "logits_f32": logits.detach(), "logits_bf16": half_logits,
                "nll_f32": nll.detach().reshape(1), "nll_bf16": half_nll.reshape(1)}
    for name, p in exact.named_parameters():
        if is_selected(name):
            expected["grad." + name] = p.grad
    save_file({n: t.contiguous() for n, t in expected.items()}, folder / "expected.safetensors", {"format": "pt"})
    for file in folder.iterdir():
        file.chmod(0o644)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path(__file__).parents[1] / "tests/fixtures")
    parser.add_argument("names", nargs="*", metavar="NAME", help="fixtures to write; all without any")
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in FIXTURES:
            parser.error(f"unknown fixture {name}; known: {', '.join(FIXTURES)}")
    for i, (name, (kind, settings, changes)) in enumerate(FIXTURES.items()):
        if arguments.names and name not in arguments.names:
            continue
        folder = arguments.output / name
        write_fixture(folder, 1000 + i, kind, settings, changes)
        print(f"{name}: {sum(f.stat().st_size for f in folder.iterdir()) / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
