#!/usr/bin/env bash
# Puts NVRTC of a CUDA version and its headers beside the one that tests use, in $VENV/nvrtc/VERSION:
# scripts/ensure_nvrtc.sh 13.0
set -euo pipefail
cd "$(dirname "$0")/.."
VENV=${VENV:-.venv}
version=$1
folder=$VENV/nvrtc/$version

case $version in
    12.*) packages=(nvidia-cuda-{nvrtc,runtime}-cu12=="$version.*") ;;
    *) packages=(nvidia-cuda-{nvrtc,runtime,crt}=="$version.*" nvidia-cuda-cccl=="${version%.*}.*") ;;  # CCCL counts apart
esac
if [ ! -d "$folder" ]; then
    rm -rf "$folder.part"
    "$VENV/bin/python" -m pip install -q --disable-pip-version-check --no-deps --target "$folder.part" \
        "${packages[@]}"
    mv "$folder.part" "$folder"
fi
