#!/usr/bin/env bash
# Trains the small model of a family (opt, bloom) from the text that tools/prepare_text.py made; resumes when interrupted.
# Usage: models/train_family.sh FAMILY OUTPUT_FOLDER [further options of cbq train]
set -euo pipefail
cd "$(dirname "$0")/.."
family=${1:?usage: models/train_family.sh FAMILY OUTPUT_FOLDER [options]}
output=${2:?usage: models/train_family.sh FAMILY OUTPUT_FOLDER [options]}
shift 2
exec build/cpu/bin/cbq train --family "$family" --output "$output" --tokenizer models/embedded/tokenizer.model \
  --text build/text/wordnet.train.txt build/text/gcide.train.txt \
  --layers 8 --hidden 96 --intermediate 384 --heads 4 --context 256 --tie \
  --tokens 256 --batch 8 --steps 2500 --rate 3e-3 --warmup 200 --decay-fraction 0.2 --dtype bf16 "$@"
