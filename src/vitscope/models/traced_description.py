"""What `inspect` says of a traced model: its heads, layers, tokens, and how attention was recorded."""

from vitscope._messages import msg
from vitscope.attention import Dense, Factored
from vitscope.attention.recorder import AttentionRecorder
from vitscope.tracing.loops import join_recorded
from vitscope.tracing.trace import Trace

DIFFERENTIAL = msg(
    "models.differential-attention",
    "one attention is subtracted from another: averages over heads count both alike, as if they were added",
)


def describe_trace(found: Trace) -> dict[str, str]:
    """Describe the layers, and what each of them sees."""
    layers = [
        str(len(found.layers)),
        *([f"{len(found.loose)} without a residual connection"] if found.loose else []),
        *(["then attention pooling"] if found.pool is not None else []),
    ]
    facts: dict[str, str] = {
        "layers": ", ".join(layers),
        "tokens": "every layer sees all" if found.isotropic else "windows, merging or reduced keys: a chain",
    }
    if found.differential:
        facts["differential attention"] = DIFFERENTIAL
    if found.channels:
        facts["channel attention"] = f"{len(found.channels)} calls, left out: they mix channels, not tokens"
    return facts


def describe_kernels(found: Trace, recorder: AttentionRecorder) -> dict[str, str]:
    """Describe the heads, and how attention was recorded."""
    recorded = join_recorded(recorder.recorded_calls, found.loops)
    heads = {recorded[event].block.shape[1]: None for event in found.layers or sorted(recorded)}
    blocks = recorder.blocks
    fused = sum(isinstance(block, Factored) and block.lse is not None for block in blocks)
    dense = sum(isinstance(block, Dense) for block in blocks)
    kinds = (
        (len(blocks) - dense, f"as queries and keys{f' ({fused} with the kernel sums)' if fused else ''}"),
        (dense, "as the matrix that the model makes"),
    )
    return {
        "heads": " ".join(map(str, heads)),
        "attention": ", ".join(f"{n} calls recorded {how}" for n, how in kinds if n),
    }
