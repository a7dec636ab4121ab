"""timm's tag of pretrained weights is said only of a model that has them."""

import torch
from safetensors.torch import save_file

import vitscope
from tests.engine.toys_families import make
from vitscope.models.timm.classes import pretrained_tag


def test_the_tag_is_that_of_the_weights_in_the_file(tmp_path):
    model = make("timm")
    assert pretrained_tag(model) == ""  # random weights, under the configuration of pretrained ones
    assert vitscope.load(model).adapter.weights.startswith("sha256:")
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    model.pretrained_cfg = {**model.pretrained_cfg, "file": str(tmp_path / "model.safetensors")}
    tag = model.pretrained_cfg["tag"]
    assert tag
    assert vitscope.load(model).adapter.weights.split()[0] == tag
    with torch.no_grad():
        model.blocks[0].mlp.fc1.weight[0, 0] += 1
    assert pretrained_tag(model) == ""
