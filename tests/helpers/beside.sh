#!/bin/sh
# Packages that tests ask in a process of its own, each in its own folder: they want other releases of what stands in the
# environment (Quantus of OpenCV, and it is LGPL; gradio of Pillow; FiftyOne, 207 MB, of cachetools). Says so where one cannot be had.
cd "$(dirname "$0")/../.." || exit 1
python=${1:-python3}

beside() {
  folder=.cache/$1
  shift
  if [ ! -f "$folder/whole" ]; then
    rm -rf "$folder"
    "$python" -m pip install --disable-pip-version-check --quiet --no-deps --target "$folder" "$@" && touch "$folder/whole"
  fi
  [ -f "$folder/whole" ] || echo "one test needs $1: tests/helpers/beside.sh (without it it is skipped)" >&2
}

beside quantus quantus==0.6.0 cachetools==6.2.2
beside gradio gradio==6.31.0 gradio_client==2.7.2 groovy==0.1.2 hf-gradio==0.4.1 orjson==3.13.0 pydub==0.25.1 \
  python-multipart==0.0.34 pytz==2026.6 safehttpx==0.1.7 semantic-version==2.10.0 tomlkit==0.14.0 brotli==1.2.1
beside fiftyone fiftyone==1.22.1 fiftyone-db==1.4.1 voxel51-eta==0.17.0 mongoengine==0.29.3 motor==3.7.1 pymongo==4.20.1 \
  pydash==8.1.0 sseclient-py==1.9.0 sse-starlette==3.7.0 strawberry-graphql==0.341.2 graphql-core==3.3.2 \
  cachetools==8.0.2 dacite==1.9.2 dill==0.4.1 exceptiongroup==1.3.1 glob2==0.7 jsonlines==4.0.0 pprintpp==0.4.0 \
  py7zr==1.1.4 rarfile==4.5 retrying==1.4.2 sortedcontainers==2.4.0 tabulate==0.10.0 xmltodict==1.0.4 plotly==7.1.0 \
  narwhals==2.29.0 pytz==2026.6 inflate64==1.0.4 multivolumefile==0.2.3 pycryptodomex==3.24.2 pyppmd==1.3.1 \
  pybcj==1.0.8 backports.zstd==1.8.0
exit 0
