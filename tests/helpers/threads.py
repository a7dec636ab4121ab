"""One model used by several threads at once, and every answer compared with the one that a single thread gets."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch

from tests.engine.toys_families import PHOTOS

QUICK = {
    "rise": {"masks": 8},
    "integrated-gradients": {"steps": 3},
    "smoothgrad": {"samples": 2},
    "token-removal": {"samples": 4},
}


def explain(scope, name, photo):
    return scope.explain(PHOTOS[photo], method=name, **QUICK.get(name, {})).map


def everything(scope, names):
    """Return functions of no argument that each use the model in one way, by name."""
    works = {f"{name} {photo}": partial(explain, scope, name, photo) for name in names for photo in (0, 1)}
    return works | {
        "measure": lambda: scope.measure(scope.explain(PHOTOS[0], method="rollout"), metrics=["deletion"],
                                         n_random_maps=2, steps=4).to_dict()["numbers"],
        "lens": lambda: [e.map.tobytes() for e in scope.logit_lens(PHOTOS[0])],
        "heads": lambda: [e.map.tobytes() for e in scope.attention_heads(PHOTOS[1])],
        "queries": lambda: scope.queries(PHOTOS[1], method="rollout"),
        "statistics": lambda: str(scope.statistics(PHOTOS[0], importance=True).to_dict()),
        "without": lambda: scope.predict_without(PHOTOS[0], [1, 2], "drop").score,
        "attention": lambda: scope.attention(PHOTOS[0])[0].rows().numpy(),
        "sanity": lambda: scope.measure(scope.explain(PHOTOS[0], method="rollout"),
                                        metrics=["sanity"]).to_dict()["numbers"],
        "view": lambda: arrays_of(scope.view(PHOTOS[0], methods=["rollout", "gradcam"], measure=False, top=2)),
        "recipe": lambda: [a.tobytes() for a in scope.recipe(PHOTOS[0], measured=False).arrays().values()],
        "compare": lambda: [e.map.tobytes() for e in scope.compare(*PHOTOS)],
        "attribute": lambda: scope.attribute(torch.ones(1, 3, 32, 32), method="relevance").maps.numpy(),
    }  # fmt: skip


def arrays_of(view):
    return {name: array.array().tobytes() for name, array in view.arrays.items()}


def same(one, other):
    return np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other


def in_threads(works, count=8):
    """Run all works in each of `count` threads, each in another order; return what was not as in one thread."""
    expected = {name: work() for name, work in works.items()}
    barrier, wrong = threading.Barrier(count), []

    def one(number):
        names = list(np.random.default_rng(number).permutation(list(works)))
        barrier.wait()
        for name in names:
            try:
                found = works[name]()
            except Exception as error:
                found = repr(error)
            if not same(found, expected[name]):
                wrong.append((number, name, found if isinstance(found, str) else ""))

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(one, range(count)))
    return wrong
