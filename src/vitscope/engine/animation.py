"""Maps in a sequence: attention layer by layer or head by head, and rollout that grows."""

from typing import Any, Literal

from vitscope.engine.engine import Engine
from vitscope.engine.options import Options, Progress
from vitscope.engine.ranges import checked
from vitscope.explanation import Explanation
from vitscope.images import ImageLike

Sequence = Literal["layers", "heads", "rollout"]


@checked()
def map_sequence(
    engine: Engine,
    image: ImageLike,
    sequence: Sequence = "layers",
    *,
    layer: int = -1,
    query: str = "readout",
    size: int | None = None,
    progress: Progress | None = None,
) -> list[tuple[Explanation, str]]:
    """Return maps that follow one another, each with its place in the sequence in words.

    Args:
        engine: the model.
        image: the image.
        sequence: `layers`: attention of each layer, mean over heads; `heads`: of each head of one layer; `rollout`:
            rollout from layer L to the last, for L from the last down to 0.
        layer: the layer of `heads`, from 0, or from the end with negative numbers.
        query: `readout`, or the token whose attention is shown: a prefix token's name, or `row,column` of a patch.
        size: input size.
        progress: called with the method, maps made and maps in all.

    Raises:
        UsageError: no such layer or token.

    Cost: one forward, and a map for each layer or head.
    """
    ready = engine.prepare(image, size=size)
    with engine.shared_forwards():
        store = engine.forward(ready.pixels[None]).store
        last, (chosen,) = len(store) - 1, store.select(layer)
        options: list[tuple[dict[str, Any], str]]
        if sequence == "layers":
            options = [({"layer": number}, f"layer {number} (0 to {last})") for number in range(last + 1)]
        elif sequence == "heads":
            heads = store[chosen].shape[1]
            options = [
                ({"layer": chosen, "head": head}, f"layer {chosen}, head {head} (0 to {heads - 1})")
                for head in range(heads)
            ]
        else:
            options = [({"start_layer": number}, f"layers {number} to {last}") for number in range(last, -1, -1)]
        method = "rollout" if sequence == "rollout" else "attention"
        made = []
        for number, (one, place) in enumerate(options):
            asked = Options(method, size=size, method_options=one | {"query": query})
            (found,) = engine.explain(ready, asked)
            made.append((found, place))
            if progress:
                progress(method, number + 1, len(options))
    return made
