#!/bin/sh
# Quantus, for a test that asks it in a process of its own: LGPL, and it wants another OpenCV than grad-cam, so it stays
# out of the environment. Says so where it cannot be had.
cd "$(dirname "$0")/.." || exit 1
if [ ! -d .cache/quantus/quantus ]; then
  "${1:-python3}" -m pip install --disable-pip-version-check --quiet --no-deps --target .cache/quantus \
    quantus==0.6.0 cachetools==6.2.2 || rm -rf .cache/quantus
fi
[ -d .cache/quantus/quantus ] || echo "one test needs Quantus: tests/quantus.sh (without it it is skipped)" >&2
exit 0
