#!/usr/bin/env bash
# Quantize on several devices of this machine: tools/dist_dfq.sh CONFIG NUMBER [options of tools/dfq.py]
# NNODES, NODE_RANK, MASTER_ADDR and PORT are read as OpenMMLab's scripts read them; PYTHON names the interpreter.
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG NUMBER-OF-PROCESSES [options of tools/dfq.py]" >&2
    exit 2
fi
config=$1 processes=$2
shift 2
exec "${PYTHON:-python}" -m torch.distributed.run --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$processes" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    "$(dirname "$0")/dfq.py" "$config" --launcher pytorch "$@"
