#!/usr/bin/env bash
# Run one stage with the code of this checkout and keep what it prints: stage.sh PYTHON LOG STAGE [ARGUMENT …]
#
# Every rule starts its stage with this script, so that its environment is its own: nothing of it reaches the rules of a
# workflow that uses this one as a module, and a shell.prefix of that workflow changes nothing here.
set -euo pipefail
python=$1 log=$2
shift 2
PYTHONPATH=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH
if [[ $python == */* ]]; then
    PATH=$(dirname -- "$python"):$PATH
fi
"$python" -P -m pipeline "$@" 2>&1 | tee -- "$log"
