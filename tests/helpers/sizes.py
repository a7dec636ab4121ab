"""Sizes of tiny models, by the names that transformers gives them."""


def sizes(*, width=32, layers=2, heads=4, inner=48, side=32, patch=8):
    """Return the keywords of a configuration of transformers."""
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "image_size": side,
        "patch_size": patch,
    }
