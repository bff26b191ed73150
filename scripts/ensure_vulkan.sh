#!/usr/bin/env bash
# Sees to it that the webgpu backend finds an adapter; on Debian and Ubuntu, Mesa's CPU driver is installed if none does.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/apt.sh
python=${VENV:-.venv}/bin/python

adapter() { "$python" -c 'from dualml.backends.webgpu import adapters; print(adapters()[0].info["device"])' 2>/dev/null; }

if ! adapter >/dev/null; then
    if ! apt_install mesa-vulkan-drivers || ! adapter >/dev/null; then
        echo "dualml: no Vulkan, Metal or DX12 driver answers, and none could be installed." >&2
        echo "        Install your GPU's driver, or as root: apt-get install mesa-vulkan-drivers (runs on the CPU)." >&2
        echo "        Without one, BACKEND=cpu works everywhere." >&2
        exit 1
    fi
fi
echo "dualml: webgpu runs on $(adapter)"
