#!/usr/bin/env bash
# Run one stage with the code of this checkout and keep what it prints: stage.sh PYTHON LOG STAGE [ARGUMENT …]
#
# Every rule starts its stage with this script, so that its environment is its own: nothing of it reaches the rules of a
# workflow that uses this one as a module, and a shell.prefix of that workflow changes nothing here.
set -euo pipefail
python=$1 log=$2
shift 2
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
if [[ -d $root/pipeline ]]; then
    PYTHONPATH=$root
elif [[ $python == */* ]]; then
    # Installed from a wheel: the package lies beside the workflow's folder.
    PYTHONPATH=${root%/*}
else
    # A conda environment takes the package alone, and none of its neighbours, which are another interpreter's.
    PYTHONPATH=$(mktemp -d)
    trap 'rm -r -- "$PYTHONPATH"' EXIT
    ln -s -- "${root%/*}/pipeline" "$PYTHONPATH/pipeline"
fi
export PYTHONPATH
if [[ $python == */* ]]; then
    PATH=$(dirname -- "$python"):$PATH
fi
status=0
if [[ -n ${MFL_QUIET:-} ]]; then
    # `mfl run` prints a line per stage. The braces: bash's words on a killed stage go to the log too.
    { "$python" -P -m pipeline "$@"; } >"$log" 2>&1 || status=$?
else
    "$python" -P -m pipeline "$@" 2>&1 | tee -- "$log" || status=$?
fi
if ((status == 137)); then
    # The stage itself could not say so any more.
    echo "error: expected the stage to end by itself, found it killed, as systems do when memory runs out" | tee -a -- "$log" >&2
fi
exit "$status"
