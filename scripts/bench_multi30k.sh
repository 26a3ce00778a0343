#!/usr/bin/env bash
# Multi30k English-German with Transformer, LightConv and DynamicConv of the same size: prepare, train, choose the length
# penalty on val, score the test set once. FOLDER: {train,val,test_2016_flickr}.{en,de}, plain or gzip.
#   scripts/bench_multi30k.sh FOLDER OUT [MODEL ...] [-- option of dc-train ...]
# Environment: RANKS (default 2) of one thread each, for as many cores; they share an update's 2,048 tokens. A model takes
# 32 minutes with two.
set -euo pipefail

[[ $# -ge 2 ]] || { echo "usage: bench_multi30k.sh FOLDER OUT [MODEL ...] [-- option of dc-train ...]" >&2; exit 2; }
from=$1 out=$2
shift 2
models=()
while [[ $# -gt 0 && $1 != -- ]]; do models+=("$1"); shift; done
[[ $# -eq 0 ]] || shift
options=("$@")
ranks=${RANKS:-2}
[[ ${#models[@]} -gt 0 ]] || models=(transformer_tiny lightconv_tiny dynamicconv_tiny)

[[ -e $out/data/data.json ]] || "$(dirname "$0")/prepare_multi30k.sh" --from "$from" "$out/data"

score() { # MODEL SPLIT LENGTH_PENALTY: translate and score a split
    dc-generate recipe=multi30k "model_dir=$out/$1" "data_dir=$out/data" "split=$2" "search.length_penalty=$3" \
        "output=$out/$1.$2.$3.de" "scores_json=$out/$1.$2.$3.json" >&2
}

bleu() { # FILE: the lower-cased tokenised BLEU of a scores_json
    python -c 'import json, sys
print(*(s["value"] for s in json.load(open(sys.argv[1]))["scores"] if "case:lc" in s["signature"]))' "$1"
}

for model in "${models[@]}"; do
    OMP_NUM_THREADS=1 torchrun --standalone --nproc-per-node="$ranks" -m dynconv_mt.cli train recipe=multi30k \
        "model=$model" "data_dir=$out/data" "out_dir=$out/$model" threads=1 "batch.max_tokens=$((2048 / ranks))" \
        "${options[@]}"
    best=0 chosen=1.0
    for penalty in 1.0 1.6 2.0; do
        score "$model" valid "$penalty"
        value=$(bleu "$out/$model.valid.$penalty.json")
        echo "$model valid length_penalty=$penalty BLEU $value"
        if awk "BEGIN { exit !($value > $best) }"; then best=$value chosen=$penalty; fi
    done
    score "$model" test "$chosen"
    echo "$model test length_penalty=$chosen BLEU $(bleu "$out/$model.test.$chosen.json")"
done
