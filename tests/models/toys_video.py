"""Tiny video models of transformers with random weights: 8 frames of 32 x 32 pixels, patches of 8 x 8."""

import numpy as np
import torch
import transformers

FRAMES, SIDE, PATCH, CLASSES = 8, 32, 8, 3
KINDS = ("videomae", "vivit", "timesformer", "vjepa2")
TUBELET = {"videomae": 2, "vivit": 2, "timesformer": 1, "vjepa2": 2}
PREFIX = {"videomae": (), "vivit": ("cls",), "timesformer": ("cls",), "vjepa2": ("query",)}
_SHARED = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": SIDE,
    "num_frames": FRAMES,
    "num_labels": CLASSES,
}


def config(kind, **changes):
    if kind == "videomae":
        return transformers.VideoMAEConfig(**{"patch_size": PATCH, "tubelet_size": 2, **_SHARED, **changes})
    if kind == "vivit":
        return transformers.VivitConfig(**{"tubelet_size": [2, PATCH, PATCH], **_SHARED, **changes})
    if kind == "timesformer":
        return transformers.TimesformerConfig(**{"patch_size": PATCH, **_SHARED, **changes})
    own = {"crop_size": SIDE, "frames_per_clip": FRAMES, "tubelet_size": 2, "mlp_ratio": 2, "num_pooler_layers": 1}
    predictor = {"pred_hidden_size": 32, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1}
    given = {name: _SHARED[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_labels")}
    return transformers.VJEPA2Config(**{"patch_size": PATCH, **given, **own, **predictor, **changes})


def classifier(kind, seed=0, attention="sdpa", **changes):
    """A classifier whose attention is far from even: its queries and keys are enlarged."""
    torch.manual_seed(seed)
    classes = {
        "videomae": transformers.VideoMAEForVideoClassification,
        "vivit": transformers.VivitForVideoClassification,
        "timesformer": transformers.TimesformerForVideoClassification,
        "vjepa2": transformers.VJEPA2ForVideoClassification,
    }
    made = config(kind, **changes)
    made._attn_implementation = "eager" if kind == "timesformer" else attention  # which has its own alone
    model = classes[kind](made).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in ("query", "key", "q_proj", "k_proj", "qkv")) and parameter.ndim == 2:
                parameter.mul_(12)
            elif parameter.ndim >= 2:
                parameter.mul_(3)
            if "cls_token" in name or "query_tokens" in name or name.endswith("bias"):
                parameter.normal_(0, 0.3)
    return model


def frames(count=20, height=48, width=64, seed=0):
    """A moving blob on noise."""
    rng = np.random.default_rng(seed)
    made = rng.integers(0, 120, (count, height, width, 3), dtype=np.uint8)
    for n in range(count):
        left = n * (width - 16) // max(count - 1, 1)
        made[n, 12:30, left : left + 16] = (250, 200, 40)
    return made
