"""How many architectures vitscope rolls out without being told anything: all of timm's, and transformers' image models.

    python benchmarks/coverage.py [--library timm] [--only 'vit_*'] [--limit-parameters 40000000] [--seconds 60]
                                  [--names FILE] [--one-per-file] [--jobs 2] [--out out/coverage.jsonl] [--report]

Weights are random (seed 0, query and key projections times three, so that attention is not flat). A model is built at
its default input size; above `--limit-parameters` it is only counted, on the meta device. transformers' default configs
are first made small (fewer layers, narrower, smaller pictures); where a model does not run like that, its layers alone
are made fewer, and last its default config is taken. Each model has its own record in a file of JSON lines, so that a
run that was interrupted goes on where it was.

What counts as token attention is decided by this file's own watcher, not by vitscope: a call of
`scaled_dot_product_attention` or `nn.MultiheadAttention`, or a softmax over the last axis of a product of two
activations (queries and keys, whatever is added or scaled in between) that is then multiplied with values; and there
are at least two keys. It is channel attention, and does not count, where the module that calls is one of the classes
with "XCA", "CrossCovariance" or "Channel" in their names: their matrices have channels on both sides. A softmax that
is no function of a product (gates, pooling weights, outlook attention, lambda layers) does not count by itself.

Every layer sees all tokens where all these calls with more than one query have the same number of queries and of keys,
and nothing is routed by `topk` or `grid_sample`, as deformable attention is.

A model is rolled out where `vitscope.load(module)` and `explain(photo, method="rollout")` give a finite map whose
total, prefix included, is in (0, 1 + 1e-4]. Where vitscope says that every layer sees all tokens, the chain of
operators is pulled too and has to agree with the plain rollout to 1e-5; the answer is wrong otherwise. A crash is an
exception that is no VitscopeError, or no answer within `--seconds`.
"""

import argparse
import fnmatch
import json
import os
import queue
import re
import select
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import multi_head_attention_forward, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

SHARPER = 3.0
MOST_PARAMETERS = 130_000_000  # of the smallest model of a file, and of transformers' models
_SIDES = {"LwDetrModel": 384, "RfDetrModel": 384, "Sam2Model": 1024, "EdgeTamModel": 1024, "EdgeTamVisionModel": 1024}
_ROUTES = frozenset({"topk", "grid_sample"})
_MOST_HOPS = 12  # functions between the product and the softmax, and between the softmax and the values
_CHANNEL_CLASSES = re.compile("XCA|CrossCovariance|Channel")
_QUERIES_AND_KEYS = re.compile(
    r"(qkv|in_proj|query|key|q_proj|k_proj|to_q|to_k|\.q|\.k|\.kv|attn\.proj_[qk])[^.]*\.?weight$"
)
_PRODUCTS = frozenset({"matmul", "__matmul__", "__rmatmul__", "bmm", "einsum", "baddbmm"})
_FORGETS = frozenset({"mean", "sum", "argmax", "max", "min", "size", "dim"})


# what the model does, seen without vitscope


class Watcher(TorchFunctionMode):
    """Notes each attention call of a forward; see the first lines of this file for the rule."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.calls: list[dict[str, Any]] = []
        self.routes: set[str] = set()
        self._inside: list[str] = [type(model).__name__]
        self._handles = [
            handle
            for module in model.modules()
            for handle in (
                module.register_forward_pre_hook(lambda m, _: self._inside.append(type(m).__name__)),
                module.register_forward_hook(lambda *_: self._inside.pop() and None, always_call=True),
            )
        ]

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for handle in self._handles:
            handle.remove()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if func is scaled_dot_product_attention:
            q, k = (args[i] if len(args) > i else kwargs[n] for i, n in enumerate(("query", "key")))
            self._note("fused", tuple(q.shape[:-1]), k.shape[-2])
            return func(*args, **kwargs)
        if func is multi_head_attention_forward:
            q, k = (args[i] if len(args) > i else kwargs[n] for i, n in enumerate(("query", "key")))
            self._note("multi-head", (*q.shape[1:-1], q.shape[0]), k.shape[0])
            with torch._C.DisableTorchFunction():
                return func(*args, **kwargs)
        given = list(_tensors((args, kwargs)))
        if name in _ROUTES:
            self.routes.add(name)
        out = func(*args, **kwargs)
        if name in _PRODUCTS:
            self._product(func, given, out)
        elif isinstance(out, Tensor) and name == "softmax":
            dim = args[1] if len(args) > 1 else kwargs.get("dim", -1)
            if getattr(given[0], "_said", "") == "scores" and dim in (-1, out.ndim - 1):
                out._said, out._rows, out._hops = "probs", tuple(out.shape), 0
        elif name not in _FORGETS:
            said = [t for t in given if getattr(t, "_said", "")]
            for part in (out if isinstance(out, (tuple, list)) else [out]) if said else ():
                if isinstance(part, Tensor) and part.is_floating_point() and part.ndim > 1:
                    best = next((t for t in said if t._said == "probs"), said[0])
                    if best._hops < _MOST_HOPS:
                        part._said, part._rows, part._hops = best._said, getattr(best, "_rows", ()), best._hops + 1
        return out

    def _product(self, func: Any, given: list[Tensor], out: Any) -> None:
        if not isinstance(out, Tensor):
            return
        probs = next((t for t in given[-2:] if getattr(t, "_said", "") == "probs"), None)
        if probs is not None:
            self._note("softmax", probs._rows[:-1], probs._rows[-1])
        elif len(given) > 1 and all(not isinstance(t, nn.Parameter) and t.ndim > 2 for t in given[-2:]):
            out._said, out._hops = "scores", 0

    def tokens(self) -> list[dict[str, Any]]:
        """Return the calls whose keys are tokens, more than one."""
        return [call for call in self.calls if not call["channels"] and call["keys"] > 1]

    def isotropic(self) -> int | None:
        """Return the number of tokens, where all calls of several queries have as many queries and keys."""
        many = [call for call in self.tokens() if call["queries"] > 1]
        leads = {call["lead"] for call in many}
        whole = len(leads) == 1 and all(len(lead) < 2 or (len(lead) == 2 and lead[0] == 1) for lead in leads)
        numbers = {call[side] for call in many for side in ("queries", "keys")}
        return numbers.pop() if whole and len(numbers) == 1 and len(many) > 1 else None

    def _note(self, kind: str, lead: tuple[int, ...], keys: int) -> None:
        caller = self._inside[-1]
        over_channels = any(_CHANNEL_CLASSES.search(name) for name in self._inside[-2:])
        self.calls.append(
            {
                "kind": kind,
                "by": caller,
                "lead": lead[:-1],
                "queries": lead[-1],
                "keys": keys,
                "channels": over_channels,
            }
        )


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)


# models


def timm_names() -> list[tuple[str, str]]:
    import timm
    from timm.models._registry import _model_to_module

    return [(name, _model_to_module[name]) for name in timm.list_models()]


def timm_sizes(path: Path) -> dict[str, int]:
    """Parameters of every model, counted on the meta device once and kept beside the records; 0 where not known."""
    if not path.exists():
        import timm

        sizes = {}
        for name in timm.list_models():
            with warnings.catch_warnings(action="ignore"):
                try:
                    with torch.device("meta"):
                        sizes[name] = _count(timm.create_model(name))
                except Exception:  # some cannot be built there
                    sizes[name] = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(sizes))
    found: dict[str, int] = json.loads(path.read_text())
    return found


def in_order(names: list[tuple[str, str]], sizes: dict[str, int], limit: int) -> tuple[list[str], list[str]]:
    """Return the smallest model of each file, then all others up to the limit, and the names left out."""
    smallest: dict[str, str] = {}
    ranked = sorted(names, key=lambda one: sizes[one[0]] or MOST_PARAMETERS)
    for name, file in ranked:
        if sizes[name] <= MOST_PARAMETERS:
            smallest.setdefault(file, name)
    first = list(smallest.values())
    rest = [name for name, _ in ranked if sizes[name] and name not in set(first)]
    small = [name for name in rest if sizes[name] <= limit]
    return first + small, sorted({name for name, _ in names} - set(first) - set(small))


def transformers_names() -> list[tuple[str, str]]:
    from transformers.models.auto import modeling_auto as auto

    found: dict[str, str] = {}
    for mapping in (auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, auto.MODEL_MAPPING_NAMES):
        for model_type, classes in mapping.items():
            for cls in [classes] if isinstance(classes, str) else classes:
                found.setdefault(cls, model_type)
    return sorted((name, model_type) for name, model_type in found.items() if _takes_pixels(name))


def _takes_pixels(name: str) -> bool:
    import transformers

    try:
        cls = getattr(transformers, name)
        return getattr(cls, "main_input_name", "") == "pixel_values" and hasattr(cls, "config_class")
    except (AttributeError, ImportError):  # made for a library that is not installed
        return False


def timm_model(name: str) -> tuple[nn.Module | None, int, dict[str, Any]]:
    import timm

    model = timm.create_model(name)
    size = timm.data.resolve_model_data_config(model)["input_size"]
    return model, _count(model), {"size": tuple(size[1:])}


def transformers_model(name: str) -> tuple[nn.Module | None, int, dict[str, Any]]:
    import transformers

    cls = getattr(transformers, name)
    whys: list[str] = []
    for level in ("small", "fewer layers", "default"):
        try:
            config = cls.config_class()
            if level != "default":
                _shrink(config, level == "small")
            with torch.device("meta"):
                parameters = _count(cls(config))
            if parameters > MOST_PARAMETERS:
                whys.append(f"{level}: {parameters} parameters")
                continue
            torch.manual_seed(0)
            model = cls(config).eval()
            vision = getattr(config, "vision_config", None) or config
            side = _SIDES.get(name) or getattr(vision, "image_size", None) or 224
            size = tuple(side) if isinstance(side, (list, tuple)) else (side, side)
            with torch.no_grad():
                model(pixel_values=torch.zeros(1, 3, *size))
        except Exception as error:  # this size of it does not run
            whys.append(f"{level}: {first_line(error)}")
        else:
            return model, _count(model), {"size": size, "level": level}
    raise NotRun("; ".join(dict.fromkeys(whys)))


class NotRun(Exception):
    """The model itself does not run on one image alone."""


def _shrink(config: Any, narrow: bool) -> None:
    """Fewer layers, and where asked for a quarter of the width and pictures of at most 224 pixels."""
    for name, value in list(vars(config).items()):
        if hasattr(value, "model_type") and hasattr(value, "to_dict"):
            _shrink(value, narrow)
        elif isinstance(value, bool) or value is None:
            continue
        elif isinstance(value, int):
            if re.fullmatch(r"(num_hidden_layers|encoder_layers|decoder_layers|num_layers|depth)", name) and value > 3:
                setattr(config, name, 3)
            elif narrow and re.fullmatch(
                r"(hidden_size|intermediate_size|num_attention_heads|d_model|encoder_ffn_dim|decoder_ffn_dim"
                r"|encoder_attention_heads|decoder_attention_heads|hidden_dim|mlp_dim|num_key_value_heads|ffn_dim)",
                name,
            ):
                setattr(config, name, value // 4 if value % 4 == 0 and value > 4 else value)
            elif narrow and name == "image_size" and value > 256:
                setattr(config, name, 224)
        elif narrow and name == "image_size" and isinstance(value, (list, tuple)) and max(value) > 256:
            setattr(config, name, type(value)([224] * len(value)))
        elif name == "depths" and isinstance(value, (list, tuple)):
            setattr(config, name, type(value)(min(v, 2) for v in value))


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# one model


def examine(library: str, name: str, group: str) -> dict[str, Any]:
    record: dict[str, Any] = {"library": library, "name": name, "group": group}
    torch.manual_seed(0)
    try:
        model, record["parameters"], told = (timm_model if library == "timm" else transformers_model)(name)
        record |= told
        if model is None:
            return record | {"status": "skipped"}
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if (
                    parameter.ndim > 1
                    and parameter.numel()
                    and parameter.is_floating_point()
                    and parameter.abs().max() < 1e-4
                ):
                    nn.init.normal_(parameter, std=0.02)  # such as SAM's, which start at 1e-10
                if _QUERIES_AND_KEYS.search(key) and parameter.ndim > 1:
                    parameter.mul_(SHARPER)
        model.eval()
        with torch.no_grad(), Watcher(model) as watcher:
            pixels = torch.randn(1, 3, *told["size"])
            model(pixels) if library == "timm" else model(pixel_values=pixels)
    except NoAnswer:
        raise
    except Exception as error:
        return record | {"status": "not run", "why": first_line(error)}
    tokens, same = watcher.tokens(), watcher.isotropic()
    record |= {
        "attention": bool(tokens),
        "calls": len(tokens),
        "many": sum(call["queries"] > 1 for call in tokens),
        "channel_calls": sum(call["channels"] for call in watcher.calls),
        "tokens": same,
        "same": same is not None and not watcher.routes,
        "routes": sorted(watcher.routes),
        "kinds": sorted({call["kind"] for call in tokens}),
        "by": sorted({call["by"] for call in tokens}),
    }
    return record | verdict(model)


def verdict(model: nn.Module) -> dict[str, Any]:
    """Try a model: `rolled out`, `refused`, `crash` or `wrong`."""
    import traceback

    import numpy as np
    from skimage import data

    import vitscope
    from vitscope.attention.capture import capture
    from vitscope.attention.model_modes import eval_mode
    from vitscope.errors import VitscopeError

    found: dict[str, Any] = {}
    began = time.perf_counter()
    try:
        with torch.no_grad(), eval_mode(model), capture(model):
            pass
        scope = vitscope.load(model)
        e = scope.explain(data.astronaut(), method="rollout")
        total = float(e.map.sum() + e.prefix.sum())
        sane = bool(np.isfinite(e.map).all()) and 0 < total <= 1 + 1e-4 and float(e.map.min()) >= 0
        found |= {"total": total, "layout": str(e.layout), "peak": float(e.map.max() / max(e.map.mean(), 1e-12))}
        found |= check(scope, e.layout)
        if not sane:
            found |= {"status": "wrong", "why": f"the map sums to {total}"}
        elif found["difference"] is not None and not found["difference"] <= 1e-5:
            found |= {"status": "wrong", "why": f"chain and plain rollout differ by {found['difference']:.1e}"}
        elif found["tokens_seen"] not in (None, found["tokens_said"]):
            found |= {"status": "wrong", "why": f"{found['tokens_said']} tokens, {found['tokens_seen']} were seen"}
        else:
            found["status"] = "rolled out"
    except NoAnswer:
        raise
    except VitscopeError as error:
        found |= {"status": "refused", "why": f"{type(error).__name__}: {first_line(error)}"}
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        own = [f for f in traceback.extract_tb(error.__traceback__) if "vitscope" in f.filename]
        at = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else f"{Path(where.filename).name}:{where.lineno}"
        found |= {"status": "crash", "why": f"{type(error).__name__}: {first_line(error)} ({at})"}
    return found | {"seconds": round(time.perf_counter() - began, 1)}


def check(scope: Any, layout: Any) -> dict[str, Any]:
    """How the layers were understood, and how far chain and plain rollout are apart where both can be had."""
    from skimage import data

    from vitscope.attention import vecmat
    from vitscope.attention.capture import capture
    from vitscope.attention.model_modes import eval_mode
    from vitscope.images import Picture
    from vitscope.tracing.chain import operator_chain

    adapter = scope.adapter
    pixels = adapter.prepare(Picture(data.astronaut()))[0][None]
    size = tuple(pixels.shape[2:])
    with eval_mode(scope.model), torch.no_grad(), capture(scope.model) as captured:
        answer = adapter.answer(pixels)
    store = adapter.attention(captured, size, answer)
    found: dict[str, Any] = {"captured": len(captured.blocks), "layers": len(store), "pool": store.pool is not None}
    found["isotropic"], found["difference"] = store.chain is None, None
    trace = adapter.trace(size)
    found["tokens_seen"], found["tokens_said"] = None, layout.tokens
    if store.chain is None:
        with eval_mode(scope.model), torch.no_grad(), Watcher(scope.model) as watcher:
            adapter.answer(pixels)
        found["tokens_seen"] = watcher.isotropic()
    found["seen_channels"], found["exact"] = len(trace.channels), trace.exact
    if store.chain is None:
        layers = list(range(len(store)))
        with torch.no_grad():
            plain = store.rollout_from_readout(layers, vecmat, 0.5, 0.5)
        shape = (1, adapter.channels, *size)
        chain = operator_chain(adapter.answer, adapter.model, shape, trace, captured.recorded_calls)
        found["difference"] = float((plain - chain.vecmat(layers, vecmat, 0.5, 0.5)).abs().max())
        found["traced_isotropic"] = trace.isotropic
        if trace.layout != adapter.layout(size):
            found["other_layout"] = f"traced: {trace.layout}"
    return found


class NoAnswer(BaseException):
    """The time is over."""


def first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


# all models


def work(seconds: int) -> None:
    """Print records of the models named on standard input, one JSON line each."""
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def over(*_: Any) -> None:
        raise NoAnswer

    signal.signal(signal.SIGALRM, over)
    for line in sys.stdin:
        library, name, group = json.loads(line)
        began = time.perf_counter()
        signal.alarm(seconds)
        try:
            record = examine(library, name, group)
        except NoAnswer:
            record = {"library": library, "name": name, "group": group, "status": "crash", "attention": True}
            record["why"] = f"no answer within {seconds} seconds"
        signal.alarm(0)
        record["all_seconds"] = round(time.perf_counter() - began, 1)
        print(json.dumps(record), file=answers, flush=True)


def run_all(wanted: list[tuple[str, str, str]], given: argparse.Namespace) -> None:
    todo: queue.Queue[tuple[str, str, str]] = queue.Queue()
    for one in wanted:
        todo.put(one)
    lock, count = threading.Lock(), len(wanted)
    given.out.parent.mkdir(parents=True, exist_ok=True)

    def child() -> subprocess.Popen[str]:
        command = [sys.executable, __file__, "--work", "--seconds", str(given.seconds)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def hand_out() -> None:
        process = child()
        while True:
            try:
                one = todo.get_nowait()
            except queue.Empty:
                break
            process.stdin.write(json.dumps(one) + "\n")
            process.stdin.flush()
            ready, _, _ = select.select([process.stdout], [], [], given.seconds + 60)
            line = process.stdout.readline() if ready else ""
            if not line:
                process.kill()
                process.wait()
                why = "killed: it hangs or takes too much memory"
                record = {**dict(zip(("library", "name", "group"), one, strict=True)), "status": "crash", "why": why}
                line = json.dumps(record | {"attention": True}) + "\n"
                process = child()
            record = json.loads(line)
            with lock, given.out.open("a") as file:
                file.write(line)
                said = record.get("why") or record.get("layout", "") if record["status"] != "not run" else record["why"]
                rank = f"{count - todo.qsize()}/{count}"
                print(f"{rank} {record['group']}/{record['name']}: {record['status']} {said}", flush=True)
        process.stdin.close()
        process.wait()

    threads = [threading.Thread(target=hand_out) for _ in range(given.jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# the report


def report(records: list[dict[str, Any]]) -> str:
    """Tables of how many models have token attention and what became of them, and a line for each that failed."""
    kinds = ("rolled out", "refused", "wrong", "crash")
    heads = ["models", "with token attention", "rolled out", "share", "refused", "wrong", "crash"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]

    def row(called: str, mine: list[dict[str, Any]]) -> None:
        count = {kind: sum(r["status"] == kind for r in mine) for kind in kinds}
        share = f"{count['rolled out'] / len(mine):.0%}" if mine else "-"
        cells = [called, len(mine), count["rolled out"], share, *(count[kind] for kind in kinds[1:])]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")

    attending = [r for r in records if r.get("attention")]
    for library in sorted({r["library"] for r in attending}):
        mine = [r for r in attending if r["library"] == library]
        row(library, mine)
        row(f"{library}, where every layer sees all tokens", [r for r in mine if r.get("same")])
    row("all", attending)
    failed = sorted((r for r in attending if r["status"] in kinds[1:]), key=lambda r: r["name"])
    lines += ["", *(f"- {r['name']}: {r['status']}, {r.get('why', '')}" for r in failed)]
    without = [r for r in records if r.get("attention") is False]
    lines += ["", f"{len(without)} models ran and have no token attention."]
    for status, words in (("not run", "do not run on one image alone"), ("skipped", "are above the parameter limit")):
        left = [r for r in records if r["status"] == status and r.get("attention") is None]
        lines.append(f"{len(left)} models {words}.")
    return "\n".join(lines)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--library", choices=["timm", "transformers"])
    arguments.add_argument("--limit-parameters", type=int, default=40_000_000)
    arguments.add_argument("--only", default="*", help="a pattern of names")
    arguments.add_argument("--names", type=Path, help="a file of names, one a line")
    arguments.add_argument("--one-per-file", action="store_true", help="one model of each file, for a quick look")
    arguments.add_argument("--jobs", type=int, default=1)
    arguments.add_argument("--seconds", type=int, default=60, help="for each model")
    arguments.add_argument("--out", type=Path, default=Path("out/coverage.jsonl"))
    arguments.add_argument("--report", action="store_true", help="the tables alone")
    arguments.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.work:
        work(given.seconds)
        return
    read = lambda: [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.exists() else []  # noqa: E731
    if not given.report:
        done = {(record["library"], record["name"]) for record in read()}
        wanted: list[tuple[str, str, str]] = []
        if given.library in (None, "transformers"):
            wanted += [("transformers", name, group) for name, group in transformers_names()]
        if given.library in (None, "timm"):
            files = dict(timm_names())
            sizes = timm_sizes(given.out.with_suffix(".sizes.json"))
            run, left_out = in_order(timm_names(), sizes, given.limit_parameters)
            wanted += [("timm", name, files[name]) for name in run]
            given.out.parent.mkdir(parents=True, exist_ok=True)
            with given.out.open("a") as file:
                for name in left_out if given.only == "*" and not given.names else ():
                    record = {"library": "timm", "name": name, "group": files[name], "parameters": sizes[name]}
                    if ("timm", name) not in done:
                        file.write(json.dumps(record | {"status": "skipped"}) + "\n")
        wanted = [one for one in wanted if fnmatch.fnmatch(one[1], given.only)]
        if given.names:
            listed = given.names.read_text().split()
            wanted = [one for one in wanted if one[1] in listed]
        if given.one_per_file:
            wanted = list({one[::2]: one for one in reversed(wanted)}.values())[::-1]
        run_all([one for one in wanted if one[:2] not in done], given)
    print(report(read()))


if __name__ == "__main__":
    main()
