#!/usr/bin/env bash
# The main job, end to end: a memory for a real 135M checkpoint, from a size to generated text.
#   examples/main_job.sh ASSETS [FOLDER]     (ASSETS as scripts/fetch_assets.py leaves them)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
assets=${1:?usage: examples/main_job.sh ASSETS [FOLDER]}
folder=${2:-demo-run}
model=$assets/smollm2-135m
text=$assets/english.txt

say() { printf '\n\n# %s\n' "$1"; }
run() { printf '$ %s\n' "$*"; "$@"; }

rm -rf "$folder" && mkdir -p "$folder" && cd "$folder"

say "How big should the memory be? A quarter of the whole is the usual advice."
run engram size --model "$model"

say "Write the config, and check it."
run engram config new smollm2 --model "$model" -o memory.yaml
run engram config check memory.yaml

say "Hash 100 MB of English with it: how full would the tables be?"
run engram hash "$text" -c memory.yaml --stats

say "Attach the memory. The base stays as it is, and so do its logits, until the memory is trained."
run engram attach "$model" -c memory.yaml -o attached --verify

say "What does it cost?"
run engram report attached --device-memory 8GiB

say "Is it wired right?"
run engram verify attached

say "Generate with it."
run python "$here/generate.py" attached "The Milky Way is"
