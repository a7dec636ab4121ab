"""`docs/performance.md` and its two plots, from the figures in `performance.json` and from nothing else."""

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Rows = dict[str, dict[str, Any]]
NONE = "-"

INTRO = """# Speed and memory

<!-- written by python -m benchmarks.speed from performance.json: change the one or the other -->

`make bench` measures everything here and writes this page from its figures, [performance.json](performance.json),
alone. It has more rows than were run on this machine; those without figures are left out: the other packages at
5,330 tokens, but for the copied recipe.

Each row is a process of its own, in which the floor (the plain forward of the same model on the same pixels, or
forward and backward) and what stands beside it take turns; a ratio is the median of the ratios of neighbours, in
brackets the smallest and the largest. Memory is the peak of the process's resident memory during one call, less what
was resident before the first: the model is not counted. The photo is scikit-image's astronaut; float32, one photo at
a time, the embedded ViT-S/14 (DINOv2 trained further for saliency), unless a row says otherwise. What is compared runs
on pixels in memory.

The machine: {machine}. The figures are of the code at that date; the
[changelog](../CHANGELOG.md) says what has become faster since. It is shared: at times the same work took twice as
long, and what goes through memory suffered more than products of matrices. Rows that ran once or twice say little.
"""
CURVE = """## By the number of tokens

![Seconds against tokens](images/performance-time.png)

![Memory against tokens](images/performance-memory.png)

**Dense** is the widely copied recipe: eager attention with `output_attentions=True`, all matrices kept and
multiplied. At 10,817 tokens these would need 34 GB, at 21,317 tokens 131 GB (**arithmetic**: layers x heads x tokens
squared x 4 bytes).
"""
REACH = """## What is asked of it

*Asked* is the aim that was set before; ratios beside the floor, memory in MB beyond the model.
"""
GRADIENTS = """## Gradient methods

Beside a plain forward and backward to the pixels, parameters frozen, at 518 px. A row of `grad-rollout` is divided by
its sum, which is known only when the row is made: sums and product come from the same tiles, summed over heads. The
backward makes each layer's attention and its gradient in any case: `relevance`, `grad-rollout` and `grad-sam` take
their steps within it, and the gradients of queries, keys and values are added up from the same tiles. `legrad` frees
each part of the graph after its backward. Methods of the last block alone go back no further than to it.
`integrated-gradients` and `smoothgrad` take as many forwards and backwards as they have steps.
"""
PEERS = """## Beside other packages

One model in three libraries: the same weights, and the same logits to 4e-6 (`benchmarks/speed/models.py`); its head
is drawn at random. Each package is called as its documentation says, on pixels in memory, parameters frozen, and
vitscope on the very same model object in the same process, with the same method or, where it has none of them, the
nearest (`relevance` for DAAM, `input-x-gradient` with `gradient_rule="libra"` for LXT).
*Faster* and *less memory* say how many times more the package needs than vitscope. *Right* is Spearman's correlation
over patches of the package's map with what it claims to compute, made from all matrices in float64 up to 1,370 tokens
(`benchmarks/speed/twins.py`); in brackets vitscope's map with the same.
"""
LOST = """## Tried and lost

Measured in turn with what is there now; on an AMD EPYC where no other processor is named, on an Intel Xeon of the
Sapphire Rapids kind where it is.

- Powers of e instead of 2 in the tiles of attention: 1.25 times the processor time of a layer of rollout (1,370
  tokens, one thread).
- Tiles of 128 x 1,024, 192 x 384, 64 x 2,048 and 512 x 512 numbers instead of 256 x 512, and rows of 32 queries: 1.0
  to 1.2 times; rows of 32 over all keys 1.2 to 1.9 times. On the Xeon 256 x 1,024, all keys in equal parts, took .76 of
  256 x 512 at 577 tokens and .95 at 5,330, and won.
- Leaving out the bound that keeps denormal numbers away: 0 to 5 % less at 1,370 tokens, no less at 5,330; on the Xeon
  the bound takes 7 to 10 %. Won instead: it is left out for heads whose longest query and key are too short for such
  numbers, five of six. Bounds from the least and the greatest of each component hold for fewer heads (19 of 72 instead
  of 60 at 5,330 tokens) and take seven to ten times as long.
- On the Xeon, leaving out the log-sum-exp where every score is small, and multiplying rows by its power instead: .87
  times for such a head, but five of twelve layers have others among theirs, and to part the heads of a layer took 1.5
  to 1.9 times at 145 and 257 tokens.
- On the Xeon, torch's fused kernel with queries and keys exchanged, the weights of queries as values, and the
  log-sum-exp as a bias (1.4 times up to 577 tokens, 2.5 to 5.8 times above) or as one more component of the keys (1.1
  to 1.5 times).
- On the Xeon, one product of a vector with the tiles of all heads instead of one for each head: no quicker, and nine
  times further from the map before (2.5e-6 of its largest value instead of 2.7e-7, at 1,370 tokens).
- The matrix product alone is three quarters of a layer of rollout, two thirds on the Xeon, so little is left to win
  there in float32. Won: rows of tiles and of products that begin at multiples of 64 bytes; a product of 1,370 x 1,370
  numbers takes 55 ms instead of 80, written in six parts 57 instead of 107, a layer's scores .92 times. Padding the
  factors as well adds nothing.
- Of all queries rolled out at 518 px, 1.6 forwards cannot be reached in float32: a forward is 93 GFLOP (58 of linear
  maps, 35 of attention), the scores of twelve layers are 17 and eleven products of N x N matrices 57, together 1.8
  forwards at the same rate, before any power or sum (**arithmetic**). Won: the last layer is read, not multiplied.
- Relevance in tiles of one or two heads, of 64 or 128 queries, or over all keys, or with product and sum of heads in
  one operation: 1.0 to 1.2 times. Won, .8 times a layer together with the rows at 64 bytes: heads are not added up to
  rows where only their product is needed (`relevance`, `grad-sam`; not `grad-rollout`, which needs rows' sums first).
- Statistics: entropy from the product of a layer's attention with its keys needs as many operations as the scores;
  multiplying and adding logarithms takes 1.3 ms a layer (two threads), a dot product of each head 1.5 to 3. Distances
  of all patches kept for all layers: memory would no longer be linear; as windows of one table, turned round, 1.1 ms,
  no less than two operations for each chunk. Heads' products of several queries in one larger matrix: 1.5 to 2 times,
  by pairs of heads 1.2 times, by distances of rows 6 times. Kinds of heads by windows of both sums in one array: 1.4 to
  1.9 times. Won: one product for the scores of all heads (.8 times), planes of heads instead of their rows side by
  side, rows for the kinds of heads kept on the way instead of made again, squares before and not at each offset, and
  the first component of the features from powers of a matrix (8 ms instead of 32).
- Blocks from 4 MB on straight from the system instead of from the allocator's heap (32 MB): 309 to 320 MB instead of
  418 to 440 for rollout at 1022 px (8 MB: 339, 16 MB: 395), but 1.1 processor seconds in the system instead of .2, of
  14 in all. Won instead: large queries and keys are copied into memory of their own as they are made.
- That memory in pages of 2 MB, new for each forward, also for queries and keys of a few MB: such a page took 2.7 ms on
  a virtual machine, the copies of a forward at 518 px 70 ms instead of 5 in blocks of 31 MB that the allocator keeps.
- Rollout without the rows of little weight, in the astronaut at 518 px: those that together have a hundredth of a
  layer's weight are 3 to 17 % of its rows, a thousandth .3 to 4 %. A bound that means something saves next to nothing.
- Queries and keys in bfloat16: a product takes half the time, but torch returns it in bfloat16, too, where a score of
  20 is known to .06; float32 products by way of bfloat16 took 2.5 times as long as those in float32.
- With two threads, tiles of two or four heads instead of six, of 86 to 128 queries, or of 352 or all 1,370 keys: 1.0 to
  1.3 times.
- `relevance` after the backward instead of within it, kept for kernels that hide their backward and for windows: at
  518 px 1.20 to 1.22 instead of 1.05 to 1.12 times a forward and backward.
"""
_FORWARDS = "{images} forwards of whole images (its own, which leave tokens out, and 8 that try once whether they may)"
ASKED = {  # row: ways and what was asked of their ratio, or of their memory in MB
    "large-1": [("rollout", "`rollout`, ViT-L/32 at 384 px, one image", 1.02, None)],
    "large-8": [("rollout", "`rollout`, ViT-L/32 at 384 px, 8 images", 1.02, None)],
    "rollout-518": [("rollout", "`rollout`, 518 px", 1.15, None)],
    "rollout-1022": [("rollout", "`rollout`, 1022 px", 1.4, 300)],
    "default-518": [("auto", "the default method (`auto`), 518 px", 1.1, None)],
    "default-1022": [("auto", "the default method (`auto`), 1022 px", None, None)],
    "gradients-518": [(name, f"`{name}`, 518 px", 1.15, None) for name in ("relevance", "grad-rollout", "grad-sam")],
    "gradients-1022": [(name, f"`{name}`, 1022 px", 1.3, None) for name in ("relevance", "grad-rollout", "grad-sam")],
    "rollout-2044": [("rollout", "`rollout`, 2044 px, 21,317 tokens", 1.5, 2500)],
    "everything-518": [
        ("statistics", "attention statistics of all heads, 518 px", 1.5, None),
        ("queries", "all queries rolled out, 518 px", 1.6, None),
    ],
    "measure-224": [("measure", f"`measure`, default set, 224 px, beside {_FORWARDS}", 1.1, None)],
}


def ratio(row: dict[str, Any], way: str, floor: str = "plain", key: str = "seconds") -> list[float]:
    """Return the ratios of neighbours; of a way that ran once, that to the floor's median."""
    ways = row.get("ways", {})
    over, under = ways.get(way, {}).get(key) or [], ways.get(floor, {}).get(key) or []
    if not over or not under:
        return []
    if len(over) != len(under):
        return [statistics.median(over) / statistics.median(under)]
    return [a / b for a, b in zip(over, under, strict=True)]


def spread(values: Sequence[float]) -> str:
    """Return the median, and the smallest and the largest in brackets."""
    if not values:
        return NONE
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.median(values):.2f} [{min(values):.2f} {max(values):.2f}]"


def seconds(row: dict[str, Any], way: str) -> str:
    values = row.get("ways", {}).get(way, {}).get("seconds")
    return NONE if not values else f"{statistics.median(values):.3g}"


def megabytes(row: dict[str, Any], way: str) -> str:
    value = row.get("ways", {}).get(way, {}).get("mb")
    return NONE if value is None else f"{max(value, 0):,.0f}"


def table(heads: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    heads, rows = list(heads), list(rows)
    if not rows:
        return "Here is nothing: not measured yet."
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def reach(rows: Rows) -> list[list[str]]:
    """Return the lines of the table of aims; what was not measured, or failed, says so."""
    found = []
    for name, lines in ASKED.items():
        row = rows.get(name)
        for way, about, asked, most in lines if row else []:
            assert row is not None
            failed = row.get("crashed") or row["ways"][way].get("failed")
            cells = [about.format(images=row.get("images", "")), seconds(row, "plain") if not failed else NONE]
            cells.append(failed or spread(ratio(row, way)))
            cells.append(f"{asked:g}" if asked else NONE)
            cells.append(f"{megabytes(row, 'plain')} / {megabytes(row, way)}" if not failed else NONE)
            cells.append(f"{most:,}" if most else NONE)
            found.append(cells)
    return found


def process(row: dict[str, Any]) -> list[list[str]]:
    names = {
        "explain": "`vitscope explain photo.jpg`, whole process",
        "imports": "`import torch, transformers`, whole process",
        "torch": "`import torch`, whole process",
    }
    return [
        [
            about,
            spread(row["ways"][way]["seconds"]),
            spread(row["ways"][way]["cpu"]),
            megabytes(row, way),
            "4" if way == "explain" else NONE,
        ]
        for way, about in names.items()
    ]


def times(row: dict[str, Any]) -> tuple[str, str]:
    """Return how many times the seconds and the memory of vitscope a peer takes."""
    ways = row["ways"]
    if "plain of the peer" in ways:  # a process of its own: each beside its own floor
        other = ratio({"ways": {"plain": ways["plain of the peer"], "peer": ways["peer"]}}, "peer")
        ours = ratio(row, "vitscope")
        faster = [statistics.median(other) / statistics.median(ours)] if other and ours else []
    else:
        faster = ratio(row, "peer", "vitscope")
    mb, ours_mb = ways["peer"]["mb"], ways["vitscope"]["mb"]
    more = f"{mb / ours_mb:.2g}" if mb and ours_mb and ours_mb > 0 else NONE
    return f"{statistics.median(faster):.2f}" if faster else NONE, more


def beside(rows: Rows) -> str:
    """Return a table for each number of tokens."""
    parts = []
    counts = sorted({row["tokens"] for row in rows.values() if row["group"] == "peers" and "tokens" in row})
    heads = ["package", "floor, s", "vitscope", "package", "faster", "MB floor / vitscope / package", "less memory"]
    for count in counts:
        lines = []
        for row in rows.values():
            if row["group"] != "peers" or row.get("tokens") != count:
                continue
            told = " ".join(f"{name} {version}" for name, version in row.get("versions", {}).items())
            about = f"{row['about']} ({told})" if told else row["about"]
            problem = row.get("left_out") or row.get("failed") or row.get("ways", {}).get("peer", {}).get("failed")
            if problem:
                words = problem if row.get("left_out") else f"its own message: {problem}"
                lines.append([about, NONE, NONE, words.replace("|", "/"), NONE, NONE, NONE, NONE])
                continue
            floor = "plain of the peer" if "plain of the peer" in row["ways"] else "plain"
            faster, more = times(row)
            memory = " / ".join(megabytes(row, way) for way in ("plain", "vitscope", "peer"))
            right = row.get("spearman", {})
            shown = f"{right['peer']:.4f}" if "peer" in right else NONE
            shown += f" ({right['vitscope']:.4f})" if "vitscope" in right else ""
            ours = spread(ratio(row, "vitscope"))
            lines.append(
                [about, seconds(row, "plain"), ours, spread(ratio(row, "peer", floor)), faster, memory, more, shown]
            )
        parts.append(f"### {count:,} tokens\n\n{table([*heads, 'right'], lines)}")
    crashed = [f"`{name}`: {row['crashed']}" for name, row in rows.items() if "crashed" in row]
    if not parts:
        parts = [table([], [])]
    return "\n\n".join([*parts, *(["Ended without figures: " + "; ".join(crashed) + "."] if crashed else [])])


LINES = {  # what is plotted: row, way, label, colour, style
    "plain forward (the floor)": ("rollout", "plain", "#555555", "--"),
    "vitscope, rollout": ("rollout", "rollout", "#1f77b4", "-"),
    "dense rollout, eager": ("rollout", "dense", "#d62728", "-"),
    "plain forward and backward": ("gradients", "plain", "#999999", ":"),
    "vitscope, relevance": ("gradients", "relevance", "#2ca02c", "-"),
}


def points(rows: Rows, kind: str, way: str, memory: bool) -> list[tuple[int, float]]:
    """Return tokens and the value of each row that has it, by tokens."""
    found = []
    for name, row in rows.items():
        one = row.get("ways", {}).get(way, {})
        if not name.startswith(f"{kind}-") or "failed" in one or not one.get("seconds"):
            continue
        value = one["mb"] if memory else statistics.median(one["seconds"])
        if value and value > 0:
            found.append((row["tokens"], value))
    return sorted(found)


def plot(rows: Rows, file: Path, memory: bool) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    figure = Figure(figsize=(8, 4.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shown: set[int] = set()
    for label, (kind, way, colour, style) in LINES.items():
        if line := points(rows, kind, way, memory):
            shown |= {count for count, _ in line}
            axes.plot(*zip(*line, strict=True), style, color=colour, marker="o", markersize=4, label=label)
    axes.set(xscale="log", yscale="log", xlabel="tokens")
    axes.set_ylabel("MB beyond the model" if memory else "seconds, one photo")
    axes.xaxis.set_major_locator(FixedLocator(sorted(shown)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.grid(alpha=0.3)
    if shown:
        axes.legend(frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Software": None})


def gradient_methods(rows: Rows) -> list[list[str]]:
    """Return the lines of all gradient methods at 518 pixels, the cheapest first."""
    found = []
    for name in ("gradients-518", "each-gradient-518"):
        row = rows.get(name, {})
        for way in row.get("ways", {}):
            if way != "plain":
                memory = f"{megabytes(row, 'plain')} / {megabytes(row, way)}"
                values = ratio(row, way)
                cells = [f"`{way}`", row["ways"][way].get("failed") or spread(values), memory]
                found.append((statistics.median(values) if values else 0.0, cells))
    return [cells for _, cells in sorted(found, key=lambda one: one[0])]


def curve(rows: Rows) -> list[list[str]]:
    lines = []
    for kind, ways in (("rollout", ("rollout", "dense")), ("gradients", ("relevance", "grad-rollout", "grad-sam"))):
        for row in sorted(
            (row for name, row in rows.items() if name.startswith(f"{kind}-") and "ways" in row),
            key=lambda row: row["tokens"],
        ):
            for way in ways:
                if way in row["ways"]:
                    failed = row["ways"][way].get("failed")
                    lines.append(
                        [
                            f"{row['tokens']:,}",
                            way,
                            seconds(row, "plain"),
                            failed or spread(ratio(row, way)),
                            f"{megabytes(row, 'plain')} / {megabytes(row, way)}",
                        ]
                    )
    return lines


def page(told: dict[str, Any]) -> str:
    """Return the page's Markdown."""
    rows: Rows = told["rows"]
    here = told["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in here["versions"].items())
    dates = sorted(row["when"][:10] for row in rows.values() if "when" in row)
    load = max((row["load"] for row in rows.values() if "load" in row), default=0.0)
    machine = (
        f"{here['cpu']}, {here['cores']} cores, {here['threads']} threads; {here['system']}; {versions}; "
        f"allocator: {here['allocator']}"
    )
    heads = ["work", "floor, s", "ratio", "asked", "MB: floor / vitscope", "asked"]
    if dates:
        machine += (
            f"; {dates[0]}{'' if dates[0] == dates[-1] else f' to {dates[-1]}'}, load at most {load:.1f} before a row"
        )
    parts = [INTRO.format(machine=machine), REACH, table(heads, reach(rows))]
    if "ways" in rows.get("process", {}):
        heads = ["command, files warm", "seconds", "processor seconds", "MB, whole process", "asked, s"]
        parts.append(table(heads, process(rows["process"])))
    parts += [CURVE, table(["tokens", "method", "floor, s", "ratio", "MB: floor / it"], curve(rows))]
    parts += [GRADIENTS, table(["method", "ratio", "MB: floor / it"], gradient_methods(rows))]
    parts += [PEERS, beside(rows), LOST]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def write(told: dict[str, Any], folder: Path) -> None:
    """Write the page and its plots into a folder."""
    (folder / "performance.md").write_text(page(told), "utf-8")
    for name, memory in (("time", False), ("memory", True)):
        plot(told["rows"], folder / "images" / f"performance-{name}.png", memory)
