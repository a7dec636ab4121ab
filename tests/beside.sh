#!/bin/sh
# Packages that tests ask in a process of its own, each in its own folder: they want other releases of what stands in the
# environment (Quantus of OpenCV, and it is LGPL; gradio of Pillow). Says so where one cannot be had.
cd "$(dirname "$0")/.." || exit 1
python=${1:-python3}

beside() {
  folder=.cache/$1
  shift
  if [ ! -f "$folder/whole" ]; then
    rm -rf "$folder"
    "$python" -m pip install --disable-pip-version-check --quiet --no-deps --target "$folder" "$@" && touch "$folder/whole"
  fi
  [ -f "$folder/whole" ] || echo "one test needs $1: tests/beside.sh (without it it is skipped)" >&2
}

beside quantus quantus==0.6.0 cachetools==6.2.2
beside gradio gradio==6.31.0 gradio_client==2.7.2 groovy==0.1.2 hf-gradio==0.4.1 orjson==3.13.0 pydub==0.25.1 \
  python-multipart==0.0.34 pytz==2026.6 safehttpx==0.1.7 semantic-version==2.10.0 tomlkit==0.14.0 brotli==1.2.1
exit 0
