#!/usr/bin/env bash
# IWSLT'14 German-English. FOLDER: the unpacked release, or {train,valid,test}.{de,en}, tokenised, plain or gzip.
#   scripts/prepare_iwslt14_de_en.sh [--from FOLDER] OUT [option of dc-preprocess ...]
set -euo pipefail

exec "$(dirname "$0")/prepare.sh" iwslt14_de_en \
    https://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz \
    -- "$@"
