"""A tiny random ViT classifier on disk."""

import torch

from tests.helpers.sizes import sizes

LABELS = ("tabby", "<b>hound</b>", "teapot", "kite", "[red]robin[/]", "fox", "ant")


def save_tiny(folder):
    """Write it as `save_pretrained` does: 3 layers, 2 heads, 64 px, patch 16, 7 classes."""
    from transformers import ViTConfig, ViTForImageClassification
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    config = ViTConfig(
        **sizes(layers=3, heads=2, inner=64, side=64, patch=16),
        initializer_range=0.5,
        id2label=dict(enumerate(LABELS)),
        label2id={label: number for number, label in enumerate(LABELS)},
    )
    ViTForImageClassification(config).eval().save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
