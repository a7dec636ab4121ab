"""Whole collections: explained shard by shard, on any engine, into one Parquet data set.

    SOURCE --sources--> Ref ... --shards_of--> Task --engine--> Outcome --Output.commit--> OUT

A *ref* says where one picture is; its id is a hash of its place in the source, so that it is the same in each run. A
*task* is the next `shard_size` refs in the source's order, numbered from 0: the unit of work, of writing and of resume.
An *engine* is a function that takes tasks as they come, has each explained by a worker, and hands the *outcome* (the
rows of one shard, as an Arrow table, and numbers about them) to `commit`, in any order. Errors of one picture stay in
its row; they never reach the engine.

    OUT/batch.json               what the run is: every option, model and weights that rows depend on
    OUT/data/part-000000.parquet the rows of task 0; columns are in `vitscope.batch.rows`
    OUT/stats/part-000000.json   counts, failures by kind, seconds
    OUT/manifest.json            the shards that are finished
    OUT/overlays/000000/         pictures, where they are asked for
    OUT/.lock                    held while somebody writes

A shard is written aside, synced, renamed, its statistics likewise, and only then is it listed in the manifest, which is
replaced as a whole. So a shard that is listed is complete, whatever happened, and one that is not is made again.
"""
