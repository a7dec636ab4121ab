"""Changes of the score when parts of the image are covered, or their tokens left out."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitscope._messages import msg
from vitscope.errors import YES, Support, UsageError
from vitscope.geometry import TokenLayout
from vitscope.methods.base import method
from vitscope.methods.context import MethodContext


@method(
    "occlusion",
    passes="1 + windows forwards",
    source="Zeiler & Fergus 2014, section 4.2, in steps of patches",
    requires={"target"},
)
def occlusion(context: MethodContext, *, window: int = 2, stride: int = 1, fill: float = 0.0) -> Float[Tensor, "B N"]:
    """Cover one square of patches at a time and measure how far the score falls.

    Formula: `m_j = mean over the windows w that cover j of (y(x) - y(x with w flat))`.

    Args:
        context: the images, the model and the target.
        window: side of the covered square, in patches; of a clip or a volume, it lies in one plane of patches.
        stride: distance between windows, in patches; the last window ends at the edge.
        fill: the value of the covered normalised pixels; 0 is the mean colour of the training images.

    Returns:
        `(B, N)`, signed, in units of the score: the cost of covering one window; its sum has no meaning, since
        windows overlap; the prefix gets 0.

    Raises:
        UsageError: a window that does not fit the grid, or a stride with gaps.

    Cost: one forward a window, `batch_size` at a time, and their memory.
    Limits: a flat square is itself an object; evidence that appears twice is found in neither place.
    """
    (gh, gw), (rows, columns) = context.layout.grid, context.layout.shape[-2:]
    if not 1 <= window <= min(rows, columns) or not 1 <= stride <= window:
        raise UsageError.coded(
            "methods.bad-window",
            "{@O:window} must be 1 to {most} patches and {@O:stride} 1 to the window, not {window} and {stride}",
            most=min(rows, columns),
            window=window,
            stride=stride,
        )
    tops = [plane + r for plane in range(0, gh, rows) for r in _starts(rows, window, stride)]
    corners = [(r, c) for r in tops for c in _starts(columns, window, stride)]
    covered = torch.zeros(len(corners), gh, gw, dtype=torch.bool, device=context.pixels.device)
    for number, (r, c) in enumerate(corners):
        covered[number, r : r + window, c : c + window] = True
    pixels = context.pixels.detach()

    def run(rows: Tensor, numbers: Tensor) -> Tensor:
        mask = _in_pixels(covered[numbers].to(pixels.dtype), context.pixel_cells())[:, None]
        return context.scores(pixels[rows] * (1 - mask) + fill * mask, rows)

    drop = _precise(context.score.detach())[:, None] - _scores(context, len(corners), run)
    cover = covered.flatten(1).to(drop.dtype)
    return context.to_tokens(_on_grid(context, drop @ cover / cover.sum(0)))


def _one_image(layout: TokenLayout) -> Support:
    if layout.planes is None:
        return YES
    reason = msg("methods.one-image", "its masks are those of one image, and these patches lie on several planes")
    return Support.no(reason)


@method(
    "rise",
    passes="1 + masks forwards",
    source="Petsiuk, Das, Saenko 2018, equations 5 and 6",
    requires={"target"},
    supports=_one_image,
)
def rise(
    context: MethodContext, *, masks: int = 400, cells: int = 7, share: float = 0.5, fill: float = 0.0
) -> Float[Tensor, "B N"]:
    """Average random soft masks, each weighted by the score of the masked image.

    Formula: `m_p = 1/(S share) sum_s y(x M_s + fill (1 - M_s)) M_sp` for pixels p, then the mean over each patch; M_s
    is a grid of `cells` x `cells` zeros and ones, each one with probability `share`, enlarged bilinearly and shifted.

    Args:
        context: the images, the model and the target.
        masks: S; `seed` chooses them, the same for each image.
        cells: cells on a side of the coarse mask.
        share: probability that a cell is visible.
        fill: the value of the normalised pixels where the mask is 0.

    Returns:
        `(B, N)`, signed where scores are, in units of the score; its sum has no meaning; the prefix gets 0.

    Raises:
        UsageError: options out of range.

    Cost: `masks` forwards, `batch_size` at a time, and their memory.
    Limits: noisy: the error falls with the square root of `masks`; a score far from zero adds a constant with noise.
    """
    if masks < 1 or cells < 1 or not 0 < share < 1:
        raise UsageError.coded(
            "methods.bad-masks",
            "{@O:masks} and {@O:cells} must be at least 1 and {@O:share} in (0, 1), not {masks}, {cells}, {share}",
            masks=masks,
            cells=cells,
            share=share,
        )
    pixels = context.pixels.detach()
    size, draw = pixels.shape[2:], torch.Generator().manual_seed(context.seed)
    coarse = (torch.rand(masks, 1, cells, cells, generator=draw, dtype=torch.float32, device="cpu") < share).float()
    cell = [-(-n // cells) for n in size]
    shifts = torch.rand(masks, 2, generator=draw, dtype=torch.float32, device="cpu")
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
    each = context.sum_per_patch(torch.ones_like(total[:1]))
    return context.to_tokens(context.sum_per_patch(total) / (masks * share) / each)


@method(
    "token-removal",
    passes="1 + samples forwards, on fewer tokens",
    source="leaving tokens out: Naseer et al. 2021, section 3.1; mean effect of presence: Covert, Lundberg, Lee 2021",
    requires={"target", "order-free"},
)
def token_removal(context: MethodContext, *, samples: int = 256, keep: float = 0.5) -> Float[Tensor, "B N"]:
    """Remove patch tokens from the model and measure how far each one raises the score.

    Formula: `m_j = mean of y over the samples with j - mean of y over those without`, each sample a random `keep` of
    the patch tokens; with `samples=0`: `m_j = y(all) - y(all but j)`. Nothing is painted over.

    Args:
        context: the images, the model and the target.
        samples: number of random choices; `seed` draws them, the same for each image.
        keep: the share of patch tokens that go into the first block.

    Returns:
        `(B, N)`, signed, in units of the score; its sum has no meaning; the prefix gets 0.

    Raises:
        UsageError: options out of range.
        UnsupportedError: blocks that know positions by themselves: a missing token would move the others.

    Cost: `samples` forwards on a `keep` of the tokens, or with `samples=0` one forward a patch;
        `batch_size` at a time, and their memory.
    Limits: noisy with few samples: the error of a patch is near the spread of the scores times 2 / sqrt(samples). Only
        models that add their positions to the tokens support it.
    """
    count = context.layout.tokens - len(context.layout.prefix)
    kept_count = round(keep * count)
    if samples < 0 or samples == 1 or (samples and not 0 < kept_count < count):
        raise UsageError.coded(
            "methods.bad-samples",
            "{@O:samples} must be 0 or at least 2, and {@O:keep} a share that keeps some patches and not all, not "
            "{samples} and {keep}",
            samples=samples,
            keep=keep,
        )
    device = context.pixels.device
    if not samples:
        kept = ~torch.eye(count, dtype=torch.bool, device=device)
        return context.to_tokens(_on_grid(context, _precise(context.score.detach())[:, None] - _removed(context, kept)))
    draw = torch.Generator().manual_seed(context.seed)
    kept = torch.zeros(samples, count, dtype=torch.bool, device="cpu")
    for row in kept:
        row[torch.randperm(count, generator=draw, device="cpu")[:kept_count]] = True
    kept = kept.to(device)
    scores = _removed(context, kept)
    present = kept.to(scores.dtype)
    count_with = present.sum(0)
    score_with = scores @ present / count_with.clamp_min(1)
    score_without = scores @ (1 - present) / (samples - count_with).clamp_min(1)
    known = (count_with > 0) & (count_with < samples)
    return context.to_tokens(_on_grid(context, (score_with - score_without) * known))


def _removed(context: MethodContext, kept: Bool[Tensor, "S P"]) -> Float[Tensor, "B S"]:
    return _scores(context, len(kept), lambda rows, numbers: context.scores_with_patches(kept[numbers], rows))


def _scores(context: MethodContext, count: int, run: Callable[[Tensor, Tensor], Tensor]) -> Float[Tensor, "B S"]:
    """Return `run(images, numbers)` for `count` changes of each image, `batch_size` rows at a time."""
    images = len(context.pixels)
    parts = []
    with torch.no_grad():
        for rows in torch.split(torch.arange(images * count, device=context.pixels.device), context.batch_size):
            parts.append(run(rows // count, rows % count))
            context.progress(int(rows[-1]) + 1, images * count)
    return _precise(torch.cat(parts)).reshape(images, count)


def _precise(x: Tensor) -> Tensor:
    """Return a tensor in float32 or better: half precision would lose sums."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _starts(cells: int, window: int, stride: int) -> list[int]:
    return sorted({*range(0, cells - window + 1, stride), cells - window})


def _in_pixels(cells: Float[Tensor, "S gh gw"], numbers: tuple[Tensor, Tensor]) -> Float[Tensor, "S Hi Wi"]:
    """Return each pixel's cell; 0 for pixels without one."""
    rows, columns = numbers
    known = (rows >= 0)[:, None] & (columns >= 0)
    return cells[:, rows.clamp_min(0)][:, :, columns.clamp_min(0)] * known


def _on_grid(context: MethodContext, patches: Float[Tensor, "B P"]) -> Float[Tensor, "B gh gw"]:
    return patches.reshape(len(patches), *context.layout.grid)
