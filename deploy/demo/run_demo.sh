#!/usr/bin/env bash
# Starts the demo cluster, holds a conversation with each of its two models, shows what they cost, and
# stops the cluster.  Usage: deploy/demo/run_demo.sh BIN_DIR
set -euo pipefail
exec python3 "$(dirname "$0")/demo.py" "${1:?usage: run_demo.sh BIN_DIR}"
