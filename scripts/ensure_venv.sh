#!/usr/bin/env bash
# Makes the virtual environment $VENV and installs what is named, quietly: scripts/ensure_venv.sh REQUIREMENT...
# Set PYTHON to choose the interpreter. The Makefile calls this only when pyproject.toml is newer than its stamp.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/apt.sh
VENV=${VENV:-.venv}
LOG=$VENV/install.log

fail() { echo "dualml: $*" >&2; exit 1; }
recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

if [ ! -x "$VENV/bin/python" ]; then
    python=
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if recent "$candidate"; then python=$candidate; break; fi
    done
    [ -n "$python" ] || fail "Python 3.11 or newer is needed, found $(python3 --version 2>&1 || echo none)." \
        "Install one and name it: make PYTHON=/path/to/python3"
    echo "dualml: making $VENV with $("$python" --version)"
    # Debian packs venv apart from Python; without ensurepip, venv would leave a folder without pip behind
    if "$python" -c 'import ensurepip, venv' 2>/dev/null || apt_install python3-venv &&
            "$python" -c 'import ensurepip' 2>/dev/null; then
        "$python" -m venv "$VENV"
    elif "$python" -m virtualenv --version >/dev/null 2>&1; then
        "$python" -m virtualenv -q "$VENV"
    else
        fail "this Python has no venv and we may not install it. As root: apt-get install python3-venv" \
            "(or: pip install --user virtualenv), then run make again."
    fi
fi

echo "dualml: installing $* into $VENV (once; log in $LOG)"
if ! "$VENV/bin/python" -m pip install --disable-pip-version-check --progress-bar off "$@" >"$LOG" 2>&1; then
    tail -n 15 "$LOG" >&2
    fail "pip install failed. Without network, set PIP_FIND_LINKS or PIP_INDEX_URL to where the wheels are."
fi
