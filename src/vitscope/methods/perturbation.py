"""What the score does when parts of the picture are covered, or their tokens really left out."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitscope.errors import UsageError
from vitscope.methods.base import method
from vitscope.methods.context import MethodContext

__all__ = ["occlusion", "rise", "token_removal"]


@method(
    "occlusion",
    passes="1 + windows forwards",
    source="Zeiler & Fergus 2014, section 4.2, in steps of patches",
    requires={"target"},
)
def occlusion(context: MethodContext, *, window: int = 2, stride: int = 1, fill: float = 0.0) -> Float[Tensor, "B N"]:
    """How much the score falls when a patch is covered.

    Formula: `m_j = mean over the windows w that cover j of (y(x) - y(x with w flat))`.

    Args:
        context: the images, the model and the target.
        window: side of the square that is covered, in patches.
        stride: its steps, in patches; the last window ends at the edge.
        fill: the flat value of the normalised pixels; 0 is the mean colour of the training pictures.

    Returns:
        `(B, N)`, signed, in units of the score: what covering one window costs; its sum says nothing, since
        windows overlap; the prefix gets 0.

    Raises:
        UsageError: a window that does not fit the grid, or a stride with gaps.

    Cost: one forward a window, `batch_size` at a time; memory of so many.
    Limits: a flat square is itself something to see; evidence that stands in two places hides in neither.
    """
    gh, gw = context.layout.grid
    if not 1 <= window <= min(gh, gw) or not 1 <= stride <= window:
        raise UsageError(f"window is 1 to {min(gh, gw)} patches and stride 1 to the window, not {window} and {stride}")
    corners = [(r, c) for r in _starts(gh, window, stride) for c in _starts(gw, window, stride)]
    covered = torch.zeros(len(corners), gh, gw, dtype=torch.bool, device=context.pixels.device)
    for number, (r, c) in enumerate(corners):
        covered[number, r : r + window, c : c + window] = True
    pixels = context.pixels.detach()

    def run(rows: Tensor, numbers: Tensor) -> Tensor:
        mask = _in_pixels(covered[numbers].to(pixels.dtype), pixels.shape[2:])[:, None]
        return context.scores(pixels[rows] * (1 - mask) + fill * mask, rows)

    drop = _precise(context.score.detach())[:, None] - _scores(context, len(corners), run)
    cover = covered.flatten(1).to(drop.dtype)
    return context.whole(_laid(context, drop @ cover / cover.sum(0)))


@method(
    "rise",
    passes="1 + masks forwards",
    source="Petsiuk, Das, Saenko 2018, equations 5 and 6",
    requires={"target"},
)
def rise(
    context: MethodContext, *, masks: int = 400, cells: int = 7, share: float = 0.5, fill: float = 0.0
) -> Float[Tensor, "B N"]:
    """The mean score of the random soft masks that leave a place visible.

    Formula: `m_p = 1/(S share) sum_s y(x M_s + fill (1 - M_s)) M_sp` for pixels p, then the mean over each patch; M_s
    is a grid of `cells` x `cells` zeros and ones, each one with probability `share`, enlarged bilinearly and shifted.

    Args:
        context: the images, the model and the target.
        masks: S; `seed` chooses them, the same for each picture.
        cells: cells on a side of the coarse mask.
        share: how likely a cell is visible.
        fill: the flat value of the normalised pixels where nothing is visible.

    Returns:
        `(B, N)`, signed where scores are, in units of the score; its sum says nothing; the prefix gets 0.

    Raises:
        UsageError: options out of range.

    Cost: `masks` forwards, `batch_size` at a time; memory of so many.
    Limits: noisy: its error falls with the root of `masks`; a score far from zero adds a constant with its own noise.
    """
    if masks < 1 or cells < 1 or not 0 < share < 1:
        raise UsageError(f"masks and cells are at least 1, share is in (0, 1), not {masks}, {cells}, {share}")
    pixels = context.pixels.detach()
    size, draw = pixels.shape[2:], torch.Generator().manual_seed(context.seed)
    coarse = (torch.rand(masks, 1, cells, cells, generator=draw) < share).float()
    cell = [-(-n // cells) for n in size]
    shifts = torch.rand(masks, 2, generator=draw)
    enlarged = [(cells + 1) * c for c in cell]

    def mask_of(number: int) -> Tensor:
        whole = torch.nn.functional.interpolate(coarse[number : number + 1], enlarged, mode="bilinear")[0, 0]
        top, left = (int(shifts[number, axis] * cell[axis]) for axis in (0, 1))
        return whole[top : top + size[0], left : left + size[1]]

    total = _precise(pixels.new_zeros(len(pixels), *size))

    def run(rows: Tensor, numbers: Tensor) -> Tensor:
        mask = torch.stack([mask_of(int(n)) for n in numbers]).to(pixels)
        scores = context.scores(pixels[rows] * mask[:, None] + fill * (1 - mask[:, None]), rows)
        total.index_add_(0, rows, (mask * scores[:, None, None]).to(total.dtype))
        return scores

    _scores(context, masks, run)
    each = context.per_patch(torch.ones_like(total[:1]))
    return context.whole(context.per_patch(total) / (masks * share) / each)


@method(
    "token-removal",
    passes="1 + samples forwards, on fewer tokens",
    source="leaving tokens out: Naseer et al. 2021, section 3.1; mean effect of presence: Covert, Lundberg, Lee 2021",
    requires={"target", "order-free"},
)
def token_removal(context: MethodContext, *, samples: int = 256, keep: float = 0.5) -> Float[Tensor, "B N"]:
    """How much the score rises by a patch's token being there: tokens are really left out, nothing is painted over.

    Formula: `m_j = mean of y over the samples with j - mean of y over those without`, each sample a random `keep` of
    the patch tokens; with `samples=0`: `m_j = y(all) - y(all but j)`.

    Args:
        context: the images, the model and the target.
        samples: how many random choices; `seed` draws them, the same for each picture.
        keep: the share of patch tokens that go into the first block.

    Returns:
        `(B, N)`, signed, in units of the score; its sum says nothing; the prefix gets 0.

    Raises:
        UsageError: options out of range.
        MethodError: blocks that know places by themselves: what is left out would move the others.

    Cost: `samples` forwards on a `keep` of the tokens, or with `samples=0` one forward a patch;
        `batch_size` at a time, memory of so many.
    Limits: noisy with few samples: the error of a patch is near the spread of the scores times 2 / sqrt(samples); only
        ViTs can do it, and only those whose places are added to the tokens.
    """
    count = context.layout.tokens - len(context.layout.prefix)
    kept_count = round(keep * count)
    if samples < 0 or samples == 1 or (samples and not 0 < kept_count < count):
        raise UsageError(f"samples is 0 or at least 2 and keep a share inside (0, 1), not {samples} and {keep}")
    device = context.pixels.device
    if not samples:
        kept = ~torch.eye(count, dtype=torch.bool, device=device)
        return context.whole(_laid(context, _precise(context.score.detach())[:, None] - _removed(context, kept)))
    draw = torch.Generator().manual_seed(context.seed)
    kept = torch.zeros(samples, count, dtype=torch.bool)
    for row in kept:
        row[torch.randperm(count, generator=draw)[:kept_count]] = True
    kept = kept.to(device)
    scores = _removed(context, kept)
    there = kept.to(scores.dtype)
    there_count = there.sum(0)
    with_it = scores @ there / there_count.clamp_min(1)
    without = scores @ (1 - there) / (samples - there_count).clamp_min(1)
    known = (there_count > 0) & (there_count < samples)
    return context.whole(_laid(context, (with_it - without) * known))


def _removed(context: MethodContext, kept: Bool[Tensor, "S P"]) -> Float[Tensor, "B S"]:
    return _scores(context, len(kept), lambda rows, numbers: context.scores_keeping(kept[numbers], rows))


def _scores(context: MethodContext, count: int, run: Callable[[Tensor, Tensor], Tensor]) -> Float[Tensor, "B S"]:
    """`run(pictures, numbers)` for `count` changes of each picture, `batch` rows at a time."""
    pictures = len(context.pixels)
    parts = []
    with torch.no_grad():
        for rows in torch.split(torch.arange(pictures * count, device=context.pixels.device), context.batch):
            parts.append(run(rows // count, rows % count))
            context.tick(int(rows[-1]) + 1, pictures * count)
    return _precise(torch.cat(parts)).reshape(pictures, count)


def _precise(x: Tensor) -> Tensor:
    """Half precision would lose what is added up."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _starts(cells: int, window: int, stride: int) -> list[int]:
    return sorted({*range(0, cells - window + 1, stride), cells - window})


def _in_pixels(cells: Float[Tensor, "S gh gw"], size: torch.Size) -> Float[Tensor, "S Hi Wi"]:
    rows, columns = (torch.arange(n, device=cells.device) * c // n for n, c in zip(size, cells.shape[1:], strict=True))
    return cells[:, rows][:, :, columns]


def _laid(context: MethodContext, patches: Float[Tensor, "B P"]) -> Float[Tensor, "B gh gw"]:
    return patches.reshape(len(patches), *context.layout.grid)
