"""What a host with the model does for the viewer: predictions without some patches, further maps."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from vitscope._cached import cached_property
from vitscope._catalogues import page_messages
from vitscope.engine.engine import Engine
from vitscope.engine.options import Options, Progress
from vitscope.evaluation.masked import PatchMasker, patch_masker
from vitscope.explanation import Explanation
from vitscope.geometry import ImageRegion, TokenLayout
from vitscope.images import Picture
from vitscope.viewer.document import json_safe
from vitscope.viewer.map_entries import full_entry
from vitscope.viewer.packed import Packed


@dataclass(frozen=True, eq=False)
class LiveModel:
    """The model behind a view, in the same process; the photo, its input size, and what the view's maps explain."""

    engine: Engine
    picture: Picture
    size: int | None
    target: Any

    def handlers(self) -> dict[str, Callable[..., Mapping[str, Any]]]:
        """Return the functions that answer the viewer, by their names."""
        return {"explain": self.explain, "mask": self.mask}

    @cached_property
    def masking(self) -> PatchMasker:
        """The image, prepared once."""
        return patch_masker(self.engine, self.picture, size=self.size, target=self.target)

    def card(self, header: Mapping[str, Any], arrays: Mapping[str, Packed]) -> str:
        """Return the view's first map as static HTML."""
        entry = header["maps"][0]
        first = Explanation(
            map=arrays[f"map.{entry['id']}"].array().astype(np.float32) * np.float32(entry["scale"]),
            prefix=np.array(entry["prefix"], np.float32),
            method=entry["method"],
            layout=msgspec.convert(header["layout"], TokenLayout),
            region=msgspec.convert(header["region"], ImageRegion),
            target=entry["target"],
            score=entry["score"],
            predictions=[(label, p) for label, p in header["predictions"]],
            provenance={
                **{"model": header["model"]["reference"], "options": entry["options"], "caveat": entry["caveat"]},
                "activation": header["activation"],
            },
            picture=self.picture,
        )
        return first.card().html()

    def mask(self, patches: Sequence[int], mode: str) -> dict[str, Any]:
        """Return the model's answer without these patches: scores, which score that is, milliseconds."""
        begun = time.perf_counter()
        found = self.masking.without(patches, mode)
        return {
            "predictions": [[label, p] for label, p in found.predictions],
            "score": found.score,
            "whole": found.whole,
            "words": found.words,
            "messages": page_messages(found.words),
            "forward_ms": found.forward_ms,
            "total_ms": (time.perf_counter() - begun) * 1000,
        }

    def explain(
        self,
        method: str,
        target: Any = None,
        method_options: Mapping[str, Any] | None = None,
        *,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Make one more map, in the form of a document; its id is its method, target and options."""
        options = dict(method_options or {})
        (made,) = self.engine.explain(
            self.picture, Options(method, target, size=self.size, method_options=options), progress
        )
        suffix = ",".join(f"{name}={value}" for name, value in sorted(options.items()))
        name = "-".join(filter(None, ("more", made.method, made.target, suffix)))
        entry, arrays = full_entry(self.engine, made, name=name)
        return {
            "entry": json_safe(entry) | {"more": True},
            "messages": page_messages(entry),
            "arrays": {name: one.document() for name, one in arrays.items()},
        }
