#!/usr/bin/env python3
"""GPTQ and AWQ by the package llm-compressor (tools/peers/README.md)."""
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier

import common


def quantize(options, segments):
    grouped = options.group_size > 0
    settings = {"num_bits": options.bits, "type": "int", "symmetric": False,
                "strategy": "group" if grouped else "channel", **({"group_size": options.group_size} if grouped else {})}
    scheme = {"config_groups": {"group_0": QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**settings))},
              "ignore": ["lm_head"]}
    recipe = {"gptq": lambda: [GPTQModifier(**scheme)],
              "awq": lambda: [AWQModifier(), QuantizationModifier(**scheme)]}[options.method]()
    model = common.load_model(options.model)
    oneshot(model=model, tokenizer=str(options.model), recipe=recipe, max_seq_length=options.segment_length,
            num_calibration_samples=len(segments), shuffle_calibration_samples=False,
            dataset=Dataset.from_dict({"input_ids": segments, "attention_mask": [[1] * len(ids) for ids in segments]}))

    def dense():
        yield from common.state_of(options.model, model)  # norms, which AWQ scales
        for name, layer in model.named_modules():
            if hasattr(layer, "quantization_scheme"):
                yield name + ".weight", fake_quantize(layer.weight.data, layer.weight_scale, layer.weight_zero_point,
                                                      layer.quantization_scheme.weights)

    return dense, settings


if __name__ == "__main__":
    common.main(__doc__, quantize, ["llmcompressor", "compressed-tensors", "torch", "transformers"], methods=["gptq", "awq"])
