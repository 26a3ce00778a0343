#!/usr/bin/env bash
# What `make demo` runs: the whole road on the embedded corpus, in OUT, which is made anew.
#   scripts/demo.sh OUT [option of dc-train ...]
set -euo pipefail

out=${1:?usage: scripts/demo.sh OUT [option of dc-train ...]}
shift
if [[ -e $out && ! -e $out/.demo ]]; then
    echo "demo.sh: error: $out: holds something else than an earlier demo; choose another folder" >&2
    exit 2
fi
rm -rf "$out"
mkdir -p "$out"
touch "$out/.demo"

python -m dynconv_mt.data.toy "$out/corpus"
"$(dirname "$0")/prepare_toy.sh" --from "$out/corpus" "$out/data"
dc-train recipe=toy "data_dir=$out/data" "out_dir=$out/run" "$@"
dc-generate recipe=toy "model_dir=$out/run" "input=$out/corpus/test.en" "reference=$out/corpus/test.de" \
    "output=$out/test.hyp.de"
python -m dynconv_mt.cli.demo "$out/test.hyp.de" "$out/corpus/test.de" "$out/corpus/test.word_for_word.de" \
    "$out/corpus/test.en"
