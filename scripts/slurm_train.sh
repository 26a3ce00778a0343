#!/usr/bin/env bash
# dc-train on one or several nodes of a Slurm cluster; goes on by itself after a time limit, preemption or a lost node.
#   sbatch [--nodes=N] [--gpus-per-node=N] [--time=...] scripts/slurm_train.sh option=value ...
# Options are those of dc-train; give batches_per_update, so that an update stays the same on another number of ranks:
#   sbatch --nodes=2 scripts/slurm_train.sh recipe=wmt14_en_de data_dir=DATA out_dir=RUN train.batches_per_update=128
#SBATCH --job-name=dc-train
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

# One task a node: torchrun, which starts a rank for each GPU (RANKS_PER_NODE: other than the GPUs, or without any).
# Five minutes before the end (--signal above) Slurm sends SIGUSR1 to this script, which hands it to the step; torchrun
# hands it to the ranks, and they finish their update, save and end, for which they have four minutes.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=240
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# what #SBATCH says of processors, srun does not hear of by itself since Slurm 22.05
srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" torchrun \
    --nnodes="$SLURM_NNODES" \
    --nproc-per-node="${RANKS_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}" \
    --rdzv-backend=c10d \
    --rdzv-endpoint="$head:${RDZV_PORT:-29400}" \
    --rdzv-id="$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}" \
    --max-restarts=3 \
    --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 \
    -m dynconv_mt.cli train "$@" &
step=$!

is_stopped=false
trap 'is_stopped=true; kill -USR1 "$step" || true' USR1
code=0
wait "$step" || code=$?
while kill -0 "$step" 2>/dev/null; do # a signal has ended the wait, not the step
    code=0
    wait "$step" || code=$?
done

if $is_stopped; then
    scontrol requeue "$SLURM_JOB_ID" # the same command goes on; a run that has just finished says so and ends at once
    exit 0
fi
exit "$code"
