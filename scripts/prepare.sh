#!/usr/bin/env bash
# What all prepare_<recipe>.sh share: files of a public corpus, or a local copy of them, become a data folder.
#   prepare.sh RECIPE [URL ...] -- [--from FOLDER] OUT [option of dc-preprocess ...]
# Downloads lie in OUT.downloads; text that is made from them in OUT.corpus.
set -euo pipefail

recipe=$1
shift
urls=()
while [[ $1 != -- ]]; do
    urls+=("$1")
    shift
done
shift

usage() {
    echo "usage: prepare_$recipe.sh [--from FOLDER] OUT [option of dc-preprocess ...]" >&2
    exit 2
}

from=
if [[ ${1:-} == --from ]]; then
    from=${2:-}
    [[ -n $from ]] || usage
    shift 2
fi
[[ $# -ge 1 && $1 != -* && $1 != *=* ]] || usage
out=${1%/}
shift

# a clone after `make install` works without activating its environment
bin=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.venv/bin
command -v dc-preprocess >/dev/null || PATH="$bin:$PATH"

# Get one file, unless it is there already. Nobody publishes its SHA-256, so the first download's is noted, and said.
download() {
    local url=$1 name sums=$out.downloads/downloads.sha256
    name=$(basename "$url")
    if [[ -f $out.downloads/$name ]]; then
        (cd "$out.downloads" && grep -F "  $name" downloads.sha256 | sha256sum --check --quiet)
        return
    fi
    curl --fail --location --retry 5 --output "$out.downloads/$name.part" "$url"
    mv "$out.downloads/$name.part" "$out.downloads/$name"
    (cd "$out.downloads" && sha256sum "$name") | tee -a "$sums"
    echo "$name: its SHA-256 was not verified, only noted in $sums" >&2
    case $name in *.tgz) tar --extract --gzip --file "$out.downloads/$name" --directory "$out.downloads" ;; esac
}

if [[ -z $from ]]; then
    from=$out.downloads
    mkdir -p "$from"
    for url in ${urls[@]+"${urls[@]}"}; do
        download "$url"
    done
    [[ $recipe != toy ]] || python -m dynconv_mt.data.toy "$from"
fi

options=$(python -m dynconv_mt.data.prepare "$recipe" "$from" "$out.corpus")
mapfile -t options <<<"$options"
dc-preprocess "recipe=$recipe" "${options[@]}" "out_dir=$out" "$@"
