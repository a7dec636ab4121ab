"""Explains whole collections, shard by shard and on any engine, into one Parquet dataset.

    SOURCE --sources--> Ref ... --shards_of--> Task --engine--> Outcome --Output.commit--> OUT

A *ref* is the location of one image; its id is a hash of its key in the source, equal in every run. A *task* is the
next `shard_size` refs of the source, numbered from 0: the unit of work, of writing and of resuming. An *engine* is a
function that takes tasks as they come, has each explained by a worker, and hands the *outcome* (the rows of one shard
as an Arrow table, and numbers about them) to `commit`, in any order. An error of one image stays in its rows; it never
reaches the engine.

    OUT/batch.json                every option, model and weights that rows depend on
    OUT/data/part-000000.parquet  the rows of task 0; `vitscope.batch.rows` defines the columns
    OUT/stats/part-000000.json    counts, failures by kind, seconds
    OUT/manifest.json             the finished shards
    OUT/overlays/000000/          with `overlays`, the maps over their photos
    OUT/.lock                     locked while a run writes

A shard is written to a temporary file, synced and renamed, then its statistics, and only then listed in the manifest,
which is replaced as a whole. So a listed shard is complete, whatever happened, and any other is made again.
"""
