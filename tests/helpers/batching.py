"""What the tests of `batch` share: a plan, the rows of a folder, and when two folders hold the same."""

import numpy as np
import pyarrow.parquet as pq

from vitscope.batch.types import BatchPlan

# float32 sums in another order, then float16: two units in its last place, of the map's largest value
CLOSE = {"rtol": 2e-3, "atol": 2e-3}


def plan(**options):
    return BatchPlan("tiny", **{"methods": ("rollout",), "shard_size": 4, "workers": 2} | options)


def table(out):
    return pq.read_table(out / "data").to_pandas()


def same(one, other, without=()):
    """The rows of two folders, equal but for float noise in numbers; `without` some columns and the failed rows."""
    pairs = [pq.read_table(out / "data").to_pylist() for out in (one, other)]
    mine, others = ([row for row in rows if not without or not row["error"]] for rows in pairs)
    assert len(mine) == len(others)
    for a, b in zip(mine, others, strict=True):
        for name in {*a} - {*without, "top"}:
            words = isinstance(a[name], list) and any(isinstance(one, str) for one in a[name])
            if isinstance(a[name], float) or (isinstance(a[name], list) and not words):
                assert np.allclose(a[name], b[name], **CLOSE), name
            else:
                assert a[name] == b[name], name
        assert [p["label"] for p in a["top"] or ()] == [p["label"] for p in b["top"] or ()]
