#!/usr/bin/env bash
# WMT'14 English-German, 4.5 million pairs. FOLDER: the files of the archives below, unpacked, plain or gzip.
#   scripts/prepare_wmt14_en_de.sh [--from FOLDER] OUT [option of dc-preprocess ...]
set -euo pipefail

exec "$(dirname "$0")/prepare.sh" wmt14_en_de \
    http://statmt.org/wmt13/training-parallel-europarl-v7.tgz \
    http://statmt.org/wmt13/training-parallel-commoncrawl.tgz \
    http://statmt.org/wmt14/training-parallel-nc-v9.tgz \
    http://statmt.org/wmt14/dev.tgz \
    http://statmt.org/wmt14/test-full.tgz \
    -- "$@"
