#!/usr/bin/env bash
# Multi30k English-German, task 1: 29,000 pairs. FOLDER: {train,val,test_2016_flickr}.{en,de}, plain or gzip.
#   scripts/prepare_multi30k.sh [--from FOLDER] OUT [option of dc-preprocess ...]
set -euo pipefail

exec "$(dirname "$0")/prepare.sh" multi30k \
    https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/train.en.gz \
    https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/train.de.gz \
    https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/val.en.gz \
    https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/val.de.gz \
    https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/test_2016_flickr.en.gz \
    https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/test_2016_flickr.de.gz \
    -- "$@"
