#!/usr/bin/env python3
"""AutoRound by the package auto-round (tools/peers/README.md)."""
import torch
from auto_round import AutoRound
from transformers import AutoTokenizer

import common


def quantize(options, segments):
    model = common.load_model(options.model)
    settings = {"bits": options.bits, "group_size": options.group_size, "sym": False, "seed": options.seed,
                "iters": options.iters, "nblocks": options.nblocks, "lr": options.lr, "batch_size": options.batch,
                "seqlen": options.segment_length, "nsamples": len(segments), "amp": False,
                "enable_torch_compile": options.torch_compile}
    ids = [torch.tensor([segment]) for segment in segments]
    data = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in ids]
    tuner = AutoRound(model, AutoTokenizer.from_pretrained(options.model), dataset=data, device_map="cpu", **settings)
    model, _ = tuner.quantize()
    return lambda: common.state_of(options.model, model), settings


if __name__ == "__main__":
    common.main(__doc__, quantize, ["auto-round", "torch", "transformers"], more=[
        ("--iters", {"type": int, "default": 200}),
        ("--lr", {"type": float, "help": "default: the package's choice, 1 / iters"}),
        ("--nblocks", {"type": int, "default": 1, "help": "blocks tuned together"}),
        ("--batch", {"type": int, "default": 8}),
        ("--torch-compile", {"action": "store_true"}),
    ])
