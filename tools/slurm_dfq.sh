#!/usr/bin/env bash
# Quantize by slurm: tools/slurm_dfq.sh PARTITION JOB-NAME CONFIG [options of tools/dfq.py]
# GPUS (8), GPUS_PER_NODE (8), CPUS_PER_TASK (5) and SRUN_ARGS are read as OpenMMLab's scripts read them; PYTHON names
# the interpreter.
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: $0 PARTITION JOB-NAME CONFIG [options of tools/dfq.py]" >&2
    exit 2
fi
partition=$1 name=$2 config=$3
shift 3
gpus=${GPUS:-8} per_node=${GPUS_PER_NODE:-8}
if [ "$per_node" -gt "$gpus" ]; then per_node=$gpus; fi
# shellcheck disable=SC2086  # SRUN_ARGS holds several words
exec srun -p "$partition" --job-name="$name" --gres="gpu:$per_node" --ntasks="$gpus" \
    --ntasks-per-node="$per_node" --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$(dirname "$0")/dfq.py" "$config" --launcher slurm "$@"
