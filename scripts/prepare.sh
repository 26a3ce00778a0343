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
out=$1
while [[ $out == ?*/ ]]; do out=${out%/}; done
shift
for option; do [[ $option == ?*=* ]] || usage; done

# a clone after `make install` works without activating its environment
bin=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.venv/bin
command -v dc-preprocess >/dev/null || PATH="$bin:$PATH"
python=$(dirname "$(command -v dc-preprocess)")/python # the one that has the package
[[ -x $python ]] || python=python3

# what is wrong with an option is said before anything is downloaded; what stands for the corpus here is not looked for
"$python" -c 'import dynconv_mt' || { echo "prepare_$recipe.sh: $python has no dynconv_mt" >&2; exit 2; }
dc-preprocess "recipe=$recipe" train=corpus "out_dir=$out" "$@" --cfg >/dev/null

if [[ -e $out && ! -f $out/data.json && -n $(ls -A "$out") ]]; then
    echo "$out: holds other files than this program's data; choose another folder" >&2
    exit 2
fi

# Get one file, unless it is there already. Nobody publishes its SHA-256, so the first one's is noted, and said.
# A download gets its name when all else is done: after a Ctrl-C the same command begins with it anew.
download() {
    local url=$1 name folder=$out.downloads file sum
    name=$(basename "$url")
    file=$folder/$name
    if [[ -f $file && -f $file.sha256 ]]; then
        (cd "$folder" && sha256sum --check --quiet "$name.sha256") || {
            echo "$file: is not what was downloaded first; remove it to download it anew" >&2
            exit 2
        }
        return
    fi
    if [[ ! -f $file ]]; then # else somebody put it there
        file=$file.part
        curl --fail --location --retry 5 --output "$file" "$url" || {
            echo "$url: cannot be downloaded; give a copy with --from FOLDER" >&2
            exit 2
        }
    fi
    case $name in *.tgz) tar --extract --gzip --file "$file" --directory "$folder" ;; esac
    sum=$(sha256sum "$file")
    echo "${sum%% *}  $name" | tee "$folder/$name.sha256"
    echo "$name: its SHA-256 was not verified, only noted in $folder/$name.sha256" >&2
    [[ $file == "$folder/$name" ]] || mv "$file" "$folder/$name"
}

if [[ -z $from ]]; then
    from=$out.downloads
    mkdir -p "$from"
    for url in ${urls[@]+"${urls[@]}"}; do
        download "$url"
    done
    [[ $recipe != toy ]] || "$python" -m dynconv_mt.data.toy "$from"
fi

options=$("$python" -m dynconv_mt.data.prepare "$recipe" "$from" "$out.corpus")
mapfile -t options <<<"$options"
dc-preprocess "recipe=$recipe" "${options[@]}" "out_dir=$out" "$@"
