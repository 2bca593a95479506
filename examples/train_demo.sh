#!/usr/bin/env bash
# Trains a memory beside a real 135M base for five minutes, and compares the two on documents that
# were held out:
#
#     examples/train_demo.sh ASSETS FOLDER
#
# ASSETS is what `make assets` fetches; FOLDER gets the trained model. Run it again to start anew.
set -euo pipefail
assets=$1
folder=$2
mkdir -p "$folder"

engram train "$assets/smollm2-135m" -c smollm2 --text "$assets/foldoc.txt" -o "$folder/trained" \
    --minutes 5 --batch 2 --held-out 0.01 --evaluate-every 0 --link --overwrite
engram verify "$folder/trained"
engram report "$folder/trained" --summary
