#!/usr/bin/env bash
# Trains the embedded model from the text that tools/prepare_text.py made (about an hour on one quiet core; resumes when
# interrupted). Usage: models/train.sh OUTPUT_FOLDER [further options of cbq train]
set -euo pipefail
cd "$(dirname "$0")/.."
output=${1:?usage: models/train.sh OUTPUT_FOLDER [options]}
shift
exec build/cpu/bin/cbq train --output "$output" --tokenizer models/embedded/tokenizer.model \
  --text build/text/wordnet.train.txt build/text/gcide.train.txt \
  --layers 12 --hidden 128 --intermediate 256 --heads 4 --kv-heads 4 --context 256 --tie \
  --tokens 256 --batch 8 --steps 6000 --rate 3e-3 --warmup 200 --decay-fraction 0.2 --dtype bf16 "$@"
