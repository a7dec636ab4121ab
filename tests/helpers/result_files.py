"""Every kind of file that vitscope reads back: written without a model, read, and used as far as it goes."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitscope._documents import document_bytes, file_record
from vitscope._saved import listed_files
from vitscope.batch.crash_log import CrashLog, open_crash_log
from vitscope.batch.output import open_output
from vitscope.batch.overlays import overlay_paths
from vitscope.batch.report import overview
from vitscope.batch.report_page import render_report
from vitscope.batch.results import explanations, find_row, row_batches
from vitscope.batch.rows import error_row, explanation_row, to_table
from vitscope.batch.schemas import row_made
from vitscope.batch.types import Outcome, Ref, Task
from vitscope.bench.run_log import CaseResult, RunLog
from vitscope.errors import ImageError, VitscopeError
from vitscope.explanation import Explanation
from vitscope.geometry import ImageRegion, TokenLayout
from vitscope.images import Picture
from vitscope.media.clip import Clip
from vitscope.media.clip_explanation import ClipExplanation
from vitscope.media.sound import Spectrogram
from vitscope.media.sound_explanation import SoundExplanation
from vitscope.media.volume import Volume
from vitscope.media.volume_explanation import VolumeExplanation
from vitscope.models.bundled import wheel


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        file: its path within the folder.
        make: writes everything into a new folder.
        read: reads the folder, uses what it read, and returns it in a form that can be compared.
        seal: seals the folder anew after a forgery; None where nothing is sealed.
    """

    file: str
    make: Callable[[Path], object]
    read: Callable[[Path], object]
    seal: Callable[[Path], object] | None = None

    @property
    def json(self) -> bool:
        """Whether it holds JSON."""
        return self.file.endswith((".json", ".jsonl"))


# --- what is written and read ----------------------------------------------------------------------------------------


def _explained(kind: type[Explanation], picture: Any, shape: tuple[int, ...], **fields: Any) -> Any:
    values = np.random.default_rng(1).random(shape, np.float32)
    planes = {"planes": shape[0]} if len(shape) == 3 else {}
    grid = (int(np.prod(shape[:-1])), shape[-1])
    layout = TokenLayout(("cls",), grid, **planes)
    size = picture.size
    made = {"model": "a/b", "weights": "w", "adapter": "traced", "source": "photo.png", "dtype": "float32"}
    made |= {"options": {"layer": 1}, "gradient_rule": "plain", "refine": "none", "seed": 0, "size": None}
    made |= {"notes": ["cut"], "drawing": {"norm": "robust"}}
    return kind(
        map=values,
        prefix=np.array([0.5], np.float32),
        method="rollout",
        layout=layout,
        region=ImageRegion(size, (0, 0, *size), (16 * grid[0], 16 * grid[1])),
        target="tabby",
        score=0.1,
        predictions=[("tabby", 0.75), ("fox", 0.25)],
        provenance=made | fields,
        picture=picture,
    )


def _pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (*shape, 3), np.uint8)


def _image() -> Explanation:
    return _explained(Explanation, Picture(_pixels(18, 24), "dog", "photo.png"), (2, 3))


_MEDIA: dict[str, tuple[type[Explanation], Callable[[], Explanation]]] = {
    "image": (Explanation, _image),
    "clip": (ClipExplanation, lambda: _explained(ClipExplanation, Clip(_pixels(4, 16, 16), 10.0), (2, 2, 2))),
    "sound": (
        SoundExplanation,
        lambda: _explained(
            SoundExplanation,
            Spectrogram(
                np.random.default_rng(3).random((8, 12), np.float32), 0.01, [100.0 * n for n in range(1, 9)], 0.1
            ),
            (2, 3),
        ),
    ),
    "volume": (
        VolumeExplanation,
        lambda: _explained(
            VolumeExplanation,
            Volume(np.random.default_rng(4).random((4, 8, 8), np.float32), (1.0, 1.0, 2.0)),
            (2, 2, 2),
        ),
    ),
}


def _load(medium: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        e = _MEDIA[medium][0].load(folder)
        with contextlib.suppress(VitscopeError):  # as of a style that does not exist, which is told when it is drawn
            e.heat()
            if medium == "image":
                e.overlay(), e.card()
        repr(e), e.prediction_texts()
        kept = [
            value.tobytes()
            for value in (vars(e.picture) if e.picture else {}).values()
            if isinstance(value, np.ndarray)
        ]
        return e.map.tobytes(), e.prefix.tobytes(), json.dumps(e.manifest(), sort_keys=True), kept

    return read


def _reseal(name: str, **more: Callable[[Path], Any]) -> Callable[[Path], None]:
    """Seal one document of a folder anew, some fields made from the folder."""

    def seal(folder: Path) -> None:
        document = json.loads((folder / name).read_bytes())
        document.pop("sha256", None)
        (folder / name).write_bytes(document_bytes(document | {key: value(folder) for key, value in more.items()}))

    return seal


PLAN = {"schema": 1, "methods": ["rollout"], "model": "a/b", "weights": "w", "versions": {"vitscope": "0"}}
_TASKS = [
    Task(n, tuple(Ref(2 * n + i, f"{n}{i}", f"{n}{i}.png", "file", f"{n}{i}.png") for i in (0, 1))) for n in (0, 1)
]


def _outcome(task: Task) -> Outcome:
    e, sha = _image(), "0" * 64
    first = explanation_row(task.refs[0], sha, None, e, overlay=f"overlays/000000/{task.refs[0].id}-rollout-0.png")
    rows = [first, error_row(task.refs[1], sha, None, "rollout", ImageError("no picture"))]
    stats = {"images": 2, "rows": 2, "failed": 1, "failures": {"ImageError": 1}, "seconds": 0.5, "means": {}}
    return Outcome(task.number, task.digest, to_table(rows), stats)


def _batch(folder: Path) -> None:
    with open_output(folder, PLAN, resume=False) as sink:
        for task in _TASKS:
            sink.commit(_outcome(task))


def _report(folder: Path) -> object:
    found = overview(folder)
    rows = [row for part in row_batches(folder) for row in part.to_pylist()]
    made = [row_made(row) for row in rows if row["map"] is not None]
    maps = [(e.map.tobytes(), json.dumps(e.manifest(), sort_keys=True)) for e in explanations(folder)]
    page = render_report(found, "run")
    find_row(folder, rows[0]["id"])
    return page, repr(rows), repr(made), maps, [path.name for path in overlay_paths(folder)], found.seconds


def _resume(folder: Path) -> object:
    """Continue the batch; what the shards hold at the end."""
    with open_output(folder, PLAN, resume=True) as sink:
        for task in [*sink.remaining(iter(_TASKS))]:
            sink.commit(_outcome(task))
    manifest = json.loads((folder / "manifest.json").read_bytes())
    return [path.read_bytes() for path in sorted((folder / "data").glob("part-*.parquet"))], manifest


def _reseal_plan(folder: Path) -> None:
    _reseal("batch.json")(folder)
    _reseal("manifest.json", plan=lambda place: file_record(place / "batch.json").sha256)(folder)


def _reseal_shard(folder: Path) -> None:
    """List the first shard as it is now; where it can still be read, with values of another kind."""
    path, data = folder / "manifest.json", (folder / "data/part-000000.parquet").read_bytes()
    document = json.loads(path.read_bytes())
    document["shards"][0] |= {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    del document["sha256"]
    path.write_bytes(document_bytes(document))


def _log(folder: Path) -> None:
    log = RunLog(folder, {"seed": 0, "model": "a/b"})
    for n in range(3):
        log.add(CaseResult("rollout", f"case {n}", "g", {"ap": n / 7, "auc": None}, 0.25, 0.125, "rollout"))


def _go_on(folder: Path) -> object:
    """Continue the benchmark: results that are gone are made again."""
    log = RunLog(folder, {"seed": 0, "model": "a/b"})
    for n in range(3):
        if log.get("rollout", f"case {n}") is None:
            log.add(CaseResult("rollout", f"case {n}", "g", {"ap": n / 7, "auc": None}, 0.25, 0.125, "rollout"))
    found = [log.get("rollout", f"case {n}") for n in range(3)]
    return [(row.case, dict(row.numbers), row.seconds, row.forward, row.resolved, row.error) for row in found if row]


def _crashes(folder: Path) -> None:
    (folder / ".in-progress").write_text(f"{_TASKS[0].refs[0].id}\n")
    CrashLog(folder, lambda refs: {})._file.close()  # as where the process dies
    (folder / ".in-progress").write_text(f"{_TASKS[0].refs[0].id}\n")


def _after_crashes(folder: Path) -> object:
    """Go on after deaths: whatever the log says, no image is given up that survives its trial."""
    with open_crash_log(folder, lambda refs: {}) as log:
        return [log.crash_error(ref) for task in log.screened(iter(_TASKS)) for ref in task.refs]


def _cache(folder: Path) -> None:
    sums = {}
    for n, name in enumerate(wheel.FILES):
        (folder / name).write_bytes(bytes([n]) * (100 + n))
        sums[name] = wheel._measure(folder / name)
    wheel._write(folder / wheel.SUMS, sums)


def _cached(folder: Path) -> object:
    """Look whether the cache is whole; where it is not, it is made again."""
    if not wheel._is_intact(folder):
        shutil.rmtree(folder)
        folder.mkdir()
        _cache(folder)
    return [(folder / name).read_bytes() for name in wheel.FILES]


def _saved(medium: str, name: str) -> Kind:
    seal = _reseal("manifest.json", **({} if name == "manifest.json" else {"files": listed_files}))
    return Kind(name, lambda folder: _MEDIA[medium][1]().save(folder / "x") and _up(folder), _load(medium), seal)


def _up(folder: Path) -> None:
    """Bring what was saved in a folder of its own into the one above."""
    for path in (folder / "x").iterdir():
        path.rename(folder / path.name)
    (folder / "x").rmdir()


KINDS: dict[str, Kind] = {
    "explanation": _saved("image", "manifest.json"),
    "arrays": _saved("image", "arrays.npz"),
    "photo": _saved("image", "photo.jpg"),
    "clip": _saved("clip", "manifest.json"),
    "frame": _saved("clip", "frames/001.jpg"),
    "sound": _saved("sound", "manifest.json"),
    "spectrogram": _saved("sound", "spectrogram.npy"),
    "volume": _saved("volume", "manifest.json"),
    "voxels": _saved("volume", "voxels.npy"),
    "plan": Kind("batch.json", _batch, _report, _reseal_plan),
    "manifest": Kind("manifest.json", _batch, _report, _reseal("manifest.json")),
    "shard": Kind("data/part-000000.parquet", _batch, _report, _reseal_shard),
    "resumed plan": Kind("batch.json", _batch, _resume),
    "resumed manifest": Kind("manifest.json", _batch, _resume),
    "resumed shard": Kind("data/part-000001.parquet", _batch, _resume),
    "statistics": Kind("stats/part-000000.json", _batch, _report),
    "bench options": Kind("bench.json", _log, _go_on),
    "bench rows": Kind("rows.jsonl", _log, _go_on),
    "suspects": Kind(".suspects.json", _crashes, _after_crashes),
    "in progress": Kind(".in-progress", _crashes, _after_crashes),
    "sums": Kind(wheel.SUMS, _cache, _cached),
    "weights": Kind("model.safetensors", _cache, _cached),
}
