#!/usr/bin/env bash
# The embedded corpus: a seeded grammar, nothing is downloaded. FOLDER: {train,valid,test}.{en,de}, plain or gzip.
#   scripts/prepare_toy.sh [--from FOLDER] OUT [option of dc-preprocess ...]
set -euo pipefail

exec "$(dirname "$0")/prepare.sh" toy \
    -- "$@"
