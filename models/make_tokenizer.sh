#!/usr/bin/env bash
# The vocabulary of the embedded model: models/embedded/tokenizer.model, from the training parts of both sources.
# LLaMA's conventions: byte-pair encoding with byte fallback (nothing is unknown), digits one by one, unk 0, bos 1,
# eos 2. Paths are relative because the file records them: the same text gives the same bytes anywhere.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v spm_train >/dev/null || { echo "spm_train is missing: sudo apt-get install sentencepiece" >&2; exit 1; }
[ -f build/text/SHA256SUMS ] || tools/prepare_text.py build/text

spm_train --input=build/text/wordnet.train.txt,build/text/gcide.train.txt \
  --model_prefix=build/text/tokenizer --model_type=bpe --vocab_size=2048 \
  --byte_fallback --split_digits --allow_whitespace_only_pieces \
  --add_dummy_prefix --remove_extra_whitespaces=false --normalization_rule_name=identity \
  --character_coverage=1.0 --max_sentence_length=16384 --input_sentence_size=0 --shuffle_input_sentence=false \
  --unk_id=0 --bos_id=1 --eos_id=2 --pad_id=-1 --minloglevel=1
cp build/text/tokenizer.model models/embedded/tokenizer.model
sha256sum models/embedded/tokenizer.model
