#!/usr/bin/env bash
# Builds the CPU kernels with AddressSanitizer and UndefinedBehaviorSanitizer in a copy of the tree, and runs the tests
# of the operators on them, once for each instruction set of this machine. Takes GCC and some minutes.
#
#     scripts/check_sanitizers.sh [arguments of pytest]
#
# Environment: INSTRUCTIONS (default "portable avx2 avx512"); of one that this machine lacks the best below it runs.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(command -v "${PYTHON:-python}")
[[ $python == /* ]] || python=$PWD/$python
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cp -r csrc dynconv_mt tests pyproject.toml "$folder"
cd "$folder"
rm -f dynconv_mt/ops/_C*.so
export CXXFLAGS="-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined"
export LDFLAGS="-fsanitize=address,undefined"
PYTHONPATH=$folder "$python" -m dynconv_mt.ops.build

# Python is not built with the sanitizers, so the libraries come first; what it never frees is no concern of ours
read -ra compiler <<<"${CXX:-c++}"
preload="$("${compiler[@]}" -print-file-name=libasan.so) $("${compiler[@]}" -print-file-name=libubsan.so)"
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1
tests=(tests/ops/test_compiled.py tests/ops/test_operators.py tests/ops/test_decoding.py tests/ops/test_dropconnect.py)
for instructions in ${INSTRUCTIONS:-portable avx2 avx512}; do
  echo "== $instructions"
  PYTHONPATH=$folder DYNCONV_MT_OPS=compiled DYNCONV_MT_CPU=$instructions LD_PRELOAD=$preload \
    "$python" -m pytest -q -n 0 -p no:cacheprovider -k "not lesser_machines" "${tests[@]}" "$@"
done
