#!/usr/bin/env python3
"""GPTQ, GPTQ with QEP, and its CBQ after them, by the package onecomp (tools/peers/README.md)."""
import json

import torch
from onecomp import GPTQ, BlockWisePTQ, CalibrationConfig, ModelConfig, Runner
from onecomp.quantizer.gptq.gptq_layer import GPTQLinear

import common


class Numbers:
    """Stands where the package expects a tokenizer: the texts of the calibration file are ids, written as numbers."""
    def __call__(self, text, **_):
        return {"input_ids": torch.tensor([[int(word) for word in text.split()]])}


class Model(ModelConfig):
    def load_tokenizer(self):
        return Numbers()


def quantize(options, segments):
    texts = options.output / "calibration.jsonl"
    texts.write_text("".join(json.dumps({"text": " ".join(map(str, ids))}) + "\n" for ids in segments))
    calibration = CalibrationConfig(calibration_dataset=str(texts), max_length=options.segment_length, strategy="drop_head",
                                    num_calibration_samples=len(segments), seed=options.seed)
    settings = {"wbits": options.bits, "groupsize": options.group_size, "sym": False}
    later = []
    if options.method == "cbq":
        later = [BlockWisePTQ(cbq_enable=True, gptq_optimize_intweight=options.integers, epochs=options.epochs,
                              calibration_config=calibration)]
    runner = Runner(model_config=Model(path=str(options.model), dtype="float32", device="cpu"), quantizer=GPTQ(**settings),
                    calibration_config=calibration, qep=options.method != "gptq", post_processes=later)
    runner.run()

    def dense():
        model = runner.quantized_model or runner.create_quantized_model(use_gemlite=False)[0]
        for name, layer in model.named_modules():
            if isinstance(layer, GPTQLinear):
                layer.bias = None
                with torch.inference_mode():
                    yield name + ".weight", layer(torch.eye(layer.in_features)).T

    record = {**settings, "qep": options.method != "gptq"}
    if later:
        record.update(cbq_enable=True, epochs=options.epochs, gptq_optimize_intweight=options.integers)
    return dense, record


if __name__ == "__main__":
    common.main(__doc__, quantize, ["onecomp", "torch", "transformers"], methods=["gptq", "qep", "cbq"], more=[
        ("--epochs", {"type": int, "default": 10, "help": "of block-wise tuning, and of its CBQ"}),
        ("--integers", {"action": "store_true", "help": "tune integer weights, too"}),
    ])
