"""Do maps that suit one network suit others? Methods on four networks that name the digits of a scene.

    python benchmarks/digits/train_networks.py      # trains three of them; the fourth is embedded
    python benchmarks/networks.py [--count 40] [--seed 0] [--methods ...] [--evidence ...]

Networks: `digit-scenes` (the embedded ViT, read at CLS), `registers` (a ViT with four registers), `mean` (a ViT
read as the mean of its patches) and `swin` (windows). Objects: where are the two digits of a held-out scene? Judged
as in `vitscope bench planted`, by both digits together. Classes: `vitscope bench digits`. Scenes of which a network
does not name the digits are left out, methods that do not apply to a network are named.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch
from scenes import OBJECTS, run, table

import vitscope
from vitscope.bench.cases import Case, mask_judge
from vitscope.bench.digits import digit_cases

sys.path.append(str(Path(__file__).parent / "digits"))
from train_networks import NAMES, load

METHODS = (
    "random-walk,random-walk:linear=0,random-walk:linear=0:detail=0.5,rollout:layers=last3,rollout,attention,pca,ncut"
)
EVIDENCE = "evidence-walk,gradcam,layercam,attnlrp,input-x-gradient:gradient_rule=libra,relevance:gradient_rule=libra"


def scope_of(name: str) -> vitscope.Scope:
    """Return one of the four networks."""
    if name == "digit-scenes":
        return vitscope.load("embedded:digit-scenes")
    return vitscope.load(load(name), labels=[str(digit) for digit in range(10)], multi_label=True)


def object_cases(cases: list[Case]) -> list[Case]:
    """Return a case for each scene of two digits: both digits together are the object."""
    found = []
    for one, other in zip(cases[::2], cases[1::2], strict=True):
        load = lambda one=one, other=other: (one.load()[0], one.load()[1] | other.load()[1])  # noqa: E731
        found.append(replace(one, group="", load=load, judge=mask_judge, target=None))
    return found


def applicable(scope: vitscope.Scope, methods: str) -> str:
    """Return the methods that apply to a network, and say which do not."""
    chosen = [text for text in methods.split(",") if text]
    fits = {text: scope.supports(text.split(":")[0]) for text in chosen}
    for text, support in fits.items():
        if not support:
            print(f"\n{text} is left out: {support.reason}")
    return ",".join(text for text in chosen if fits[text])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(["digit-scenes", *NAMES]))
    parser.add_argument("--count", type=int, default=40, help="scenes of two digits, and as many grids of four")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", default=METHODS, help="for objects; empty for none")
    parser.add_argument("--evidence", default=EVIDENCE, help="for classes; empty for none")
    parser.add_argument("--out", type=Path, default=Path(".cache/scenes"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.networks.split(","):
        scope = scope_of(name)
        cases, left = digit_cases(scope, given.count, given.seed)
        pairs = [case for case in cases if case.group == "two digits"]
        print(f"\n### {name}\n\n{left} of {2 * given.count} scenes are left out: their digits are not named")
        key = f"{name}-{given.count}-{given.seed}"
        if methods := applicable(scope, given.methods):
            table(run(scope, object_cases(pairs), methods, given.out, None, f"{key}-objects"), OBJECTS, "ap")
        if methods := applicable(scope, given.evidence):
            rows = run(scope, pairs, methods, given.out, None, f"{key}-classes")
            table(rows, {"share": "share", "hotter": "pointing", "inside": "inside"}, "share")


if __name__ == "__main__":
    main()
