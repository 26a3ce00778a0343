#!/usr/bin/env bash
# Everything there is to do on a machine with a GPU, in one command: compile the kernels for it, run tests/gpu, measure
# the operators, and train on the embedded corpus in bf16. Needs torch 2.10 or newer with CUDA, nvcc, a C++ compiler and
# what `pip install '.[dev]'` brings; downloads nothing.
#   scripts/gpu_check.sh [compile | tests | bench | train | memory | compare ...]        (default: all of them)
# Where a command may take ten minutes only, name the steps one or two at a time; `compile` comes first, once.
# `compare` measures the reference under torch.compile as well, `memory` looks for wrong accesses: both take long.
# Environment: OUT (default gpu_out) gets a log of each step and summary.txt. PYTHON (default python3) is the one that
# has torch. WHEELS (default wheels) may hold what else the package needs, for machines that reach no package index:
#   pip wheel --wheel-dir wheels hydra-core omegaconf sacremoses
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

steps="compile tests bench train memory compare"
for name; do
    [[ " $steps " == *" $name "* ]] || { echo "$name: no such step; there are $steps" >&2; exit 2; }
done

mkdir -p "${OUT:=gpu_out}"
out=$(realpath "$OUT")
summary=$out/summary.txt
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
wanted=" install ${*:-$steps} "
failed=0

# step NAME COMMAND...: run it if it is wanted, keep what it says in NAME.log, and tell how it ended; 77 is "skipped"
step() {
    local name=$1 started=$SECONDS ending=passed
    [[ $wanted == *" $name "* ]] || return
    shift
    "$@" >"$out/$name.log" 2>&1
    case $? in
        0) ;;
        77) ending="skipped, see $name.log" ;;
        *) ending="FAILED, see $name.log" failed=1 ;;
    esac
    printf '%s: %s, %d s\n' "$name" "$ending" $((SECONDS - started)) | tee -a "$summary"
}

# a virtual environment that finds torch, pip and setuptools where they are, be that in another virtual environment
install() {
    local python=${PYTHON:-python3} packages
    packages=$("$python" -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parents[1])') || return
    "$python" -m venv --without-pip "$work/venv" || return
    echo "$packages" >"$(echo "$work"/venv/lib/python3*/site-packages)/torch.pth"
    if [[ -d ${WHEELS:=wheels} ]]; then
        "$work/venv/bin/python" -m pip install --no-index --find-links "$WHEELS" hydra-core omegaconf sacremoses ||
            return
    fi
    "$work/venv/bin/python" -m pip install --no-build-isolation --no-deps --no-index --editable .
}

# fails where the reference would run in place of the kernels: tests would be skipped
compiled() {
    python - <<'END'
import torch

from dynconv_mt.ops import backend

print(torch.cuda.get_device_name(), "torch", torch.__version__, "kernels:", backend("cuda"))
assert backend("cuda") == "compiled"
END
}

compile() {
    local arch
    arch=$(python -c 'import torch; print("{}{}".format(*torch.cuda.get_device_capability()))') || return
    python -m dynconv_mt.ops.build --cuda "$arch" && compiled
}

run_tests() {
    compiled && python -m pytest tests/gpu
}

# who reads and writes where, on a size for each kind of kernel, since it takes a hundred times as long; every tensor
# is a block of memory of its own, so that reading beyond one is seen
check_memory() {
    command -v compute-sanitizer || { echo "there is no compute-sanitizer"; return 77; }
    local tool tests=(tests/gpu/test_kernels.py::test_agree"[100-"{7-torch.bfloat16,31-torch.bfloat16,31-torch.float32}"]")
    compiled || return
    for tool in memcheck racecheck; do
        PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$tool" --report-api-errors no --error-exitcode 1 \
            python -m pytest "${tests[@]}" || return
    done
}

train() {
    scripts/demo.sh "$work/demo" device=cuda precision=bf16
}

step install install
export PATH="$work/venv/bin:$PATH"
step compile compile
step tests run_tests
step bench python scripts/bench_ops.py --device cuda --seconds 0.5 --out "$out/bench.md"
step train train
step memory check_memory
step compare python scripts/bench_ops.py --device cuda --seconds 0.5 --compile --only bfloat16 --out "$out/compare.md"
grep -hs 'BLEU' "$out/train.log" | tail -n 3 | tee -a "$summary"
exit "$failed"
