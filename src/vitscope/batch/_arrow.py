"""pyarrow under its usual names, or the error that names the extra which brings it."""

from vitscope.errors import MissingDependencyError

try:
    import pyarrow
    import pyarrow.compute
    import pyarrow.parquet
except ModuleNotFoundError as error:
    raise MissingDependencyError("pyarrow", "batch") from error

pa = pyarrow
pc = pyarrow.compute
pq = pyarrow.parquet
