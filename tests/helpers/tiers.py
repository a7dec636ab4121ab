"""Which tests `make test` leaves to `make test-all`: those with the marker `slow`, given by hand or here."""

import pytest

from tests.models.toys_traced import ROWS

COVERING = {  # of the zoo of traced models, one for each thing that a model may do
    "hf-clip": "two towers",
    "hf-yolos": "tokens in another order, a size asked for",
    "hf-dinov3": "RoPE, registers, other sizes",
    "hf-pixtral": "all images in one row",
    "hf-segformer": "reduced keys, patches that overlap",
    "timm-vit": "CLS, the fused kernel",
    "timm-vit-unfused": "an explicit softmax",
    "timm-vit-avg": "no CLS, the mean of patches",
    "timm-vit-map": "attention pooling",
    "timm-relpos-cls": "a bias of relative positions",
    "timm-naflexvit": "registers without CLS, images of their own shape",
    "timm-deit-distilled": "two tokens that are read",
    "timm-cait": "class attention after the blocks",
    "timm-convit": "a gate between two softmaxes",
    "timm-crossvit": "two branches",
    "timm-volo": "outlooks, and all tokens read",
    "timm-xcit": "attention between channels",
    "timm-swin-padded": "shifted windows, padded",
    "timm-maxvit-mlp-bias": "windows and grids among convolutions",
    "timm-mvitv2-cls": "pooled queries and keys",
    "timm-davit": "windows of tokens and of channels",
    "torchvision-vit": "nn.MultiheadAttention",
    "openclip-coca": "pooling by several queries",
}
TRACED = {row.name for row in ROWS}
SHARE = 3  # of the parametrisations of a test marked `spread`, each third is fast


def mark_slow(items):
    """Mark tests of Firefox and, of each test over the zoo, all models that cover nothing of their own."""
    kept, spare = set(), {}
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        if params.get("browser") == "firefox" or ("firefox" in item.fixturenames and "browser" not in params):
            item.add_marker(pytest.mark.slow)
        names = {getattr(one, "name", one) for one in params.values() if isinstance(one, str) or hasattr(one, "name")}
        if not names & TRACED:
            continue
        test = item.nodeid.partition("[")[0]
        if names & TRACED <= set(COVERING):
            kept.add(test)
        else:
            spare.setdefault(test, []).append(item)
    for test, others in spare.items():
        for item in others[test not in kept :]:  # one model is tried in any case
            item.add_marker(pytest.mark.slow)
    products = {}
    for item in items:
        if item.get_closest_marker("covering") and not item.get_closest_marker("slow"):
            products.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for product in products.values():
        for item in beyond_a_cover(product):
            item.add_marker(pytest.mark.slow)
    files = {}
    for item in items:
        if item.get_closest_marker("spread") and not item.get_closest_marker("slow"):
            files.setdefault(item.path, {}).setdefault(item.nodeid.partition("[")[0], []).append(item)
    for tests in files.values():
        for item in beyond_a_share(tests.values()):
            item.add_marker(pytest.mark.slow)


def beyond_a_share(tests):
    """Of some tests, each a list of its parametrisations, those left when each keeps a third, and the next another."""
    return [
        item
        for number, members in enumerate(tests)
        for place, item in enumerate(members)
        if (place + number) % min(SHARE, len(members))
    ]


def beyond_a_cover(product):
    """Of the tests of a product of parameters, those without which each value of each parameter still has a test."""
    values = {id(item): {(name, repr(value)) for name, value in item.callspec.params.items()} for item in product}
    wanted, left = set().union(*values.values()), list(product)
    while wanted:
        most = max(left, key=lambda item: len(values[id(item)] & wanted))
        wanted -= values[id(most)]
        left.remove(most)
    return left
