"""The adapter of lm-evaluation-harness (the package lm_eval, 0.4).

    python -m cbq.lm_eval --model cbq --model_args path=quantized --tasks piqa,arc_easy

or, from Python, lm_eval.simple_evaluate(model=cbq.lm_eval.CBQ("quantized"), tasks=[...]).

Texts are encoded as the harness does it (encoding "joint", docs/evaluation.md), so that results are
those of `cbq evaluate --tasks`. lm_eval is imported when CBQ is first asked for.
"""
import os
import sys

from . import generate, load
from . import loglikelihood as _loglikelihood

_made = None


def rolling_windows(ids, first, longest):
    """Splits a text for a model that reads `longest` ids: pairs (ids in front, ids to predict).

    Every id is predicted once. `first` stands in front of the text; the windows that follow begin
    with the last id of the one before, the last window with as many as fill it.
    """
    windows, done = [], 0
    while done < len(ids):
        count = min(longest, len(ids) - done)
        if done == 0:
            windows.append(([first], ids[:count]))
        else:
            end = done + count
            windows.append((ids[max(0, end - longest - 1):done], ids[done:end]))
        done += count
    return windows


def _stops(arguments):
    until = arguments.get("until") or []
    return [until] if isinstance(until, str) else list(until)


def _make():
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model

    class CBQ(LM):
        """A model folder, floating point or quantized here, for lm-evaluation-harness.

        path      the folder ("pretrained" is another name for it)
        encoding  "joint": the harness' own; "joint_without_bos", "separate": docs/evaluation.md
        others    as cbq.load takes them
        """

        def __init__(self, path=None, pretrained=None, tokenizer=None, dtype="auto", device=None,
                     load_blocks="auto", threads=0, encoding="joint", max_gen_toks=256,
                     pass_tokens=2048, batch_size=None, max_batch_size=None):
            super().__init__()
            folder = path if path is not None else pretrained
            if folder is None:
                raise ValueError("cbq: no model; give path=FOLDER in --model_args")
            self.model = load(folder, dtype=dtype, device=device or "auto", threads=int(threads),
                              load=load_blocks, tokenizer=tokenizer)
            self.encoding = encoding
            self.pass_tokens = int(pass_tokens)
            self._max_gen_toks = int(max_gen_toks)

        @property
        def eot_token_id(self):
            return self.model.eos_id

        @property
        def prefix_token_id(self):
            return self.model.bos_id if self.model.bos_id >= 0 else self.model.eos_id

        @property
        def max_length(self):
            return self.model.context

        @property
        def max_gen_toks(self):
            return self._max_gen_toks

        @property
        def batch_size(self):
            return 1

        @property
        def tokenizer_name(self):
            return os.path.basename(os.path.normpath(self.model.folder))

        def tok_encode(self, text, **unused):
            return self.model.encode(text)

        def tok_decode(self, ids, **unused):
            return self.model.decode(list(ids))

        def loglikelihood(self, requests, disable_tqdm=False):
            """[(log p(continuation | context), is it greedy?)], in the order of the requests."""
            return _loglikelihood(self.model, [request.args for request in requests],
                                  encoding=self.encoding, pass_tokens=self.pass_tokens)

        def loglikelihood_rolling(self, requests, disable_tqdm=False):
            """[log p(text)], each id predicted once, in windows of the model's context."""
            windows, owners = [], []
            for number, request in enumerate(requests):
                parts = rolling_windows(self.model.encode(request.args[0]), self.prefix_token_id,
                                        self.max_length)
                windows += parts
                owners += [number] * len(parts)
            sums = [0.0] * len(requests)
            for owner, (nats, _) in zip(owners, _loglikelihood(self.model, windows,
                                                               pass_tokens=self.pass_tokens)):
                sums[owner] += nats
            return sums

        def generate_until(self, requests, disable_tqdm=False):
            """The continuation of each context, up to the first of its "until"."""
            return [self._continue(*request.args) for request in requests]

        def _continue(self, context, arguments):
            arguments = dict(arguments or {})
            wanted = int(arguments.get("max_gen_toks", self.max_gen_toks))
            sampled = arguments.get("do_sample", False)
            ids = list(self.model.prefix) + self.model.encode(context) or [self.prefix_token_id]
            ids = ids[-max(1, self.max_length - wanted):]  # room for what is asked for
            made = generate(self.model, ids, tokens=wanted, until=_stops(arguments),
                            temperature=float(arguments.get("temperature", 0.0)) if sampled else 0.0)
            return made.text

    return register_model("cbq")(CBQ)


def __getattr__(name):
    global _made
    if name != "CBQ":
        raise AttributeError(f"module 'cbq.lm_eval' has no attribute {name!r}")
    if _made is None:
        try:
            _made = _make()
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("cbq.lm_eval needs lm-evaluation-harness: pip install lm-eval "
                                      f"({error})", name=error.name) from error
    return _made


def main():
    """The harness' own command line, which then knows the model "cbq"."""
    sys.modules.setdefault("cbq.lm_eval", sys.modules[__name__])
    __getattr__("CBQ")
    from lm_eval.__main__ import cli_evaluate
    cli_evaluate()


if __name__ == "__main__":
    main()
