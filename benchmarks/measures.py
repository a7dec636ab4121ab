"""Can the measures themselves be believed? Maps of known worth on scenes whose right map is known.

    python benchmarks/measures.py [--model embedded:digit-scenes] [--scenes 40] [--size 112] [--metrics infidelity]
        [--out measures.json]
    python benchmarks/measures.py --table measures.json [more.json]

`embedded:digit-scenes` has scenes of two digits, one of them the target; every other model has planted objects and the
cosine to the whole image's feature. The right map is the object's mask under a Gaussian of one patch. Wrong maps are
the right one shifted by half the grid, dilated by half the object's width, another object's, and inverted. Random maps
have the right map's values in other places. All are measured by `Scope.measure`, with the
measures of `--metrics`, or every one of faithfulness.

**power**: how often the right map is called better than random. **false alarms**: how often a random map is, which is
held to 5 %. **before ...**: how often the right map's number is better than the wrong one's. **wrong better**:
how often the shifted map and the other object's are called better than random. In brackets Wilson's 95 % intervals.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import Image
from scipy.ndimage import binary_dilation, gaussian_filter

import vitscope
from vitscope.bench import digits, planted
from vitscope.metrics.faithfulness import MEASURES
from vitscope.metrics.ranking import rank_map, shuffled_maps

NAMES = tuple(one.name for one in MEASURES)
WRONG = ("shifted", "dilated", "other", "inverted")
CHANCES = 2  # random maps of each scene that are measured as if they were maps
BETTER, WORSE = "better than random", "worse than random"
Case = tuple[np.ndarray, Bool[np.ndarray, "H W"], Bool[np.ndarray, "H W"], str | None]


def cases(scope: vitscope.Scope, model: str, count: int, seed: int) -> Iterator[Case]:
    """Return for each scene the image, the object's mask, another object's, and the target."""
    if model == digits.MODEL:
        found = [case for case in digits.digit_cases(scope, count, seed)[0] if case.group == "two digits"]
        for one, other in zip(found[::2], found[1::2], strict=True):
            yield *one.load(), other.load()[1], one.target
        return
    scenes = planted.scenes(count, seed=seed)
    for one, other in zip(scenes, [*scenes[1:], scenes[0]], strict=True):
        yield one.image, one.mask, other.mask, None


def map_of(mask: Bool[np.ndarray, "H W"], grid: tuple[int, int]) -> np.ndarray:
    """Return a mask as a map: blurred by one patch, then averaged over each patch."""
    soft = gaussian_filter(
        mask.astype(np.float32), [side / cells for side, cells in zip(mask.shape, grid, strict=True)]
    )
    return np.asarray(Image.fromarray(soft).resize(grid[::-1], Image.Resampling.BOX))


def maps_of(mask: np.ndarray, other: np.ndarray, grid: tuple[int, int], seed: int) -> dict[str, np.ndarray]:
    """Return the right map, wrong ones and random ones."""
    right = map_of(mask, grid)
    wider = binary_dilation(mask, iterations=max(int((mask.sum() / np.pi) ** 0.5), 1))
    made = {
        "right": right,
        "shifted": np.roll(right, (grid[0] // 2, grid[1] // 2), (0, 1)),
        "dilated": map_of(wider, grid),
        "other": map_of(other, grid),
        "inverted": right.max() - right,
    }
    chances = shuffled_maps(rank_map(right, seed), CHANCES, 1_000_003 + seed)
    return made | {f"random {i}": one.values.reshape(grid).astype(np.float32) for i, one in enumerate(chances)}


def measured(
    scope: vitscope.Scope, case: Case, metrics: Sequence[str], baselines: Sequence[str], size: int | None, seed: int
) -> dict[str, dict[str, dict[str, tuple[float, str]]]]:
    """Return value and verdict by baseline, map and measure."""
    image, mask, other, target = case
    e = scope.explain(image, method="attention", size=size)
    found: dict[str, dict[str, dict[str, tuple[float, str]]]] = {}
    for baseline in baselines:
        cache: dict = {}
        for name, values in maps_of(mask, other, e.layout.grid, seed).items():
            m = scope.measure(
                replace(e, map=values),
                metrics=metrics,
                baseline=baseline,
                target=target,
                steps=10,
                seed=seed,
                batch_size=16,
                score_cache=cache,
            )
            found.setdefault(baseline, {})[name] = {n.name: (n.value, n.verdict) for n in m.numbers}
    return found


def share(hits: Sequence[bool]) -> str:
    """Write a share with Wilson's 95 % interval."""
    n, p, z = len(hits), float(np.mean(hits)), 1.96
    middle, half = (p + z * z / (2 * n)), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    low, high = (abs(middle + sign * half) / (1 + z * z / n) for sign in (-1, 1))  # abs: no minus zero
    return f"{p:.2f} [{low:.2f}, {high:.2f}]"


def table(document: dict) -> str:
    """Write the table of one network."""
    scenes, size = document["scenes"], document["size"]
    title = f"`{document['model']}`, {len(scenes)} scenes{f' at {size} px' if size else ''}, seed {document['seed']}"
    lines = [
        f"{title}:\n",
        f"| measure | baseline | power | false alarms | {' | '.join(f'before {w}' for w in WRONG)} | wrong better |",
    ]
    lines.append("|---|---|---|---|" + "---|" * len(WRONG) + "---|")
    for measure in (one for one in MEASURES if one.name in scenes[0][document["baselines"][0]]["right"]):
        sign = 1 if measure.better == "higher" else -1
        for baseline in document["baselines"]:
            of = [{name: one[measure.name] for name, one in scene[baseline].items()} for scene in scenes]
            power = share([one["right"][1] == BETTER for one in of])
            chances = share([one[f"random {i}"][1] == BETTER for one in of for i in range(CHANCES)])
            before = [f"{np.mean([sign * (one['right'][0] - one[w][0]) > 0 for one in of]):.2f}" for w in WRONG]
            wrong = share([one[w][1] == BETTER for one in of for w in ("shifted", "other")])
            lines.append(f"| {' | '.join([measure.name, baseline, power, chances, *before, wrong])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=digits.MODEL)
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--metrics", default=",".join(NAMES))
    parser.add_argument("--baselines", default="mean,blur,black,zero,removal")
    parser.add_argument("--skip", type=int, default=0, help="of the scenes: for several processes, one after another")
    parser.add_argument("--size", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("measures.json"))
    parser.add_argument("--table", type=Path, nargs="+")
    given = parser.parse_args()
    if given.table:
        joined: dict[str, dict] = {}
        for found in (json.loads(path.read_text()) for path in given.table):
            joined.setdefault(found["model"], {**found, "scenes": []})["scenes"] += found["scenes"]
        print("\n\n".join(map(table, joined.values())))
        return
    scope = vitscope.load(given.model)
    about = {"model": given.model, "size": given.size, "seed": given.seed, "baselines": given.baselines.split(",")}
    scenes = []
    made = enumerate(cases(scope, given.model, given.scenes, given.seed))
    for number, case in islice(made, given.skip, None):
        scenes.append(
            measured(scope, case, given.metrics.split(","), about["baselines"], given.size, given.seed + number)
        )
        given.out.write_text(json.dumps({**about, "scenes": scenes}))
        print(f"{len(scenes)} scenes", flush=True)
    print(table({**about, "scenes": scenes}))


if __name__ == "__main__":
    main()
