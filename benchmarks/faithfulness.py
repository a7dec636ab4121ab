"""Do maps of a feature model follow what it answers? Deletion and insertion on held-out planted scenes.

    python benchmarks/faithfulness.py [--scenes 24] [--size 224] [--methods random-walk,rollout:layers=last3]

Patch tokens are left out (`Scope.measure`, baseline `removal`), in the map's order and in random orders; the score is
the cosine to the whole picture's feature. Deletion is better lower, insertion higher. Differences are to the last
method, on the same scenes, with a bootstrap interval over scenes.
"""

import argparse

import numpy as np

import vitscope
from vitscope.bench import planted
from vitscope.metrics.resampling import paired


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=24)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", default="report")
    parser.add_argument("--methods", default="random-walk,rollout:layers=last3")
    given = parser.parse_args()
    scope, found = vitscope.load("embedded:dinov2-small"), {}
    for scene in planted.scenes(given.scenes, seed=given.seed, size=336, split=given.split):
        for text in given.methods.split(","):
            name, *rest = text.split(":")
            params = {key: float(v) if v[:1] in "0.123456789" else v for key, _, v in (r.partition("=") for r in rest)}
            e = scope.explain(scene.image, method=name, size=given.size, **params)
            m = scope.measure(e, metrics=("deletion", "insertion"), baseline="removal", random=2, batch_size=16)
            for metric in ("deletion", "insertion"):
                found.setdefault((text, metric), []).append(m[metric].value)
                found.setdefault(("random", metric), []).append(m[metric].random)
        print(scene.name, {" ".join(key): round(float(values[-1]), 3) for key, values in found.items()}, flush=True)
    texts = [*given.methods.split(","), "random"]
    base = texts[-2]
    for metric in ("deletion", "insertion"):
        for text in texts:
            one, other = (np.array(found[key, metric])[-given.scenes :] for key in (text, base))
            if text == "random":  # twice as many, from the random maps of each method
                one = np.array(found[text, metric]).reshape(given.scenes, -1).mean(1)
            words = f"| {text} | {metric} | {one.mean():.3f} |"
            if text != base:
                gap = paired(one, other)
                words += f" {gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}], p {gap.p:.3g} |"
            print(words, flush=True)


if __name__ == "__main__":
    main()
