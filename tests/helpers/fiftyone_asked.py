"""FiftyOne's own Sample and Heatmap of one map: `fiftyone_asked.py RESULT MAPS OUT`, run by `test_export.py`.

RESULT is a saved explanation, MAPS where the maps' files go. It is added twice, to a list where FiftyOne has a Dataset,
which needs a server. OUT gets, as JSON, what comes back from the document that would go into the database, and the map
as FiftyOne reads it from its file.
"""

import json
import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore")
import fiftyone as fo  # noqa: E402

from vitscope.explanation import Explanation  # noqa: E402
from vitscope.export.fiftyone import add  # noqa: E402


class Dataset(list):
    """What needs the server."""

    def add_sample(self, sample):
        self.append(sample)


def main() -> None:
    explanation, maps, out = Explanation.load(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    saved = []
    fo.Sample.save = lambda sample: saved.append(sample.filepath)
    dataset = Dataset()
    added = [add(dataset, [explanation], maps, field=field) for field in ("vitscope", "again")]
    (sample,) = dataset
    kept = fo.Sample.from_json(sample.to_json())
    heat = kept["vitscope_rollout"]
    assert isinstance(heat, fo.Heatmap)
    named = ("map_path", "range", "low", "high", "method", "model", "target", "score")
    told = {name: heat[name] for name in named} | {"added": added, "saved": len(saved), "filepath": kept.filepath}
    told["fields"] = sorted(set(kept.field_names) - set(fo.Sample(filepath="x").field_names))
    out.write_text(json.dumps(told | {"map": heat.get_map().tolist(), "version": fo.__version__}))


if __name__ == "__main__":
    main()
