#!/bin/sh
# FiftyOne, for a test that asks it in a process of its own: 207 MB with what only it needs, and other releases of some
# that are shared, so it stays out of the environment. Says so where it cannot be had. Its Dataset needs a MongoDB server,
# which is not on PyPI.
cd "$(dirname "$0")/.." || exit 1
PYTHON=${1:-python3}
if [ ! -d .cache/fiftyone/fiftyone ]; then
  "$PYTHON" -m pip install --disable-pip-version-check --quiet --no-deps --target .cache/fiftyone \
    fiftyone==1.22.1 fiftyone-db==1.4.1 voxel51-eta==0.17.0 mongoengine==0.29.3 motor==3.7.1 pymongo==4.20.1 \
    pydash==8.1.0 sseclient-py==1.9.0 sse-starlette==3.7.0 strawberry-graphql==0.341.2 graphql-core==3.3.2 \
    cachetools==8.0.2 dacite==1.9.2 dill==0.4.1 exceptiongroup==1.3.1 glob2==0.7 jsonlines==4.0.0 pprintpp==0.4.0 \
    py7zr==1.1.4 rarfile==4.5 retrying==1.4.2 sortedcontainers==2.4.0 tabulate==0.10.0 xmltodict==1.0.4 \
    plotly==7.1.0 narwhals==2.29.0 pytz==2026.6 inflate64==1.0.4 multivolumefile==0.2.3 pycryptodomex==3.24.2 \
    pyppmd==1.3.1 pybcj==1.0.8 backports.zstd==1.8.0 || rm -rf .cache/fiftyone
fi
[ -d .cache/fiftyone/fiftyone ] || echo "one test needs FiftyOne: tests/fiftyone.sh (without it it is skipped)" >&2
exit 0
