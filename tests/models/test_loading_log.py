"""`logging.getLogger("vitscope")` at DEBUG: every decision about adapter, layout, readout and preprocessing."""

import logging

import pytest
import torch
import transformers

import vitscope
from tests.models import toys
from tests.models.toys_generic import Fused
from tests.models.toys_generic import made as made_generic


@pytest.fixture
def logged(caplog):
    caplog.set_level(logging.DEBUG, "vitscope")

    def lines(model, **options):
        caplog.clear()
        vitscope.load(model, **options)
        assert all(record.name.startswith(("vitscope.models.", "vitscope.tracing.")) for record in caplog.records)
        return caplog.text

    return lines


def test_a_known_model_type(logged):
    text = logged(toys.ROWS[0].model())
    assert "adapter 'transformers', because transformers defines its class" in text
    assert "known for the model type 'vit'" in text
    assert "readout of ViTForImageClassification: pooling 'cls'" in text
    assert "no processor given: ViTImageProcessor" in text
    assert "preprocessing of ViTForImageClassification: ViTImageProcessor" in text


def test_a_traced_model_type(logged):
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=28, patch_size=7, mlp_ratio=2
    )
    torch.manual_seed(0)
    text = logged(transformers.Dinov2ForImageClassification(config).eval())
    assert "layout of Dinov2ForImageClassification: traced, none is known" in text
    assert "at 28 x 28 pixels, traced: " in text
    assert "readout of Dinov2ForImageClassification: pooling 'mean', weights of its own" in text


def test_a_module_of_no_library(logged):
    text = logged(made_generic(Fused))
    assert "adapter 'generic', because no adapter knows its class" in text
    assert "input size of ViT: 32 x 32, the first that it accepts" in text
    assert "preprocessing of ViT: the whole image resized to 32 x 32" in text
    assert "layout of ViT: traced" in text


def test_a_layout_from_the_caller(logged):
    layout = vitscope.TokenLayout(("cls",), (4, 4))
    assert f"layout of ViT: given, {layout}" in logged(made_generic(Fused), layout=layout)


def test_nothing_is_logged_unless_asked(caplog):
    vitscope.load(made_generic(Fused))
    assert not caplog.records


@pytest.fixture
def drawing_bars():
    """Transformers draws its bars, as it does where nobody has said otherwise."""
    from transformers.utils import logging as bars

    before = bars.is_progress_bar_enabled()
    bars.enable_progress_bar()
    yield bars
    (bars.enable_progress_bar if before else bars.disable_progress_bar)()


def test_no_bar_is_drawn_and_what_the_caller_set_stays(tiny_folder, tmp_path, drawing_bars, capfd):
    transformers.AutoModel.from_pretrained(tiny_folder)
    assert "Loading weights" in capfd.readouterr().err  # so the bar would be seen
    drawn = []

    def hook(factory, args, keywords):
        drawn.append(keywords)
        return factory(*args, **keywords)

    drawing_bars.set_tqdm_hook(hook)
    try:
        vitscope.load(tiny_folder)
        assert capfd.readouterr().err == ""
        assert drawn
        assert all(keywords["disable"] for keywords in drawn)
        (tmp_path / "config.json").write_bytes((tiny_folder / "config.json").read_bytes())
        (tmp_path / "model.safetensors").write_bytes(b"no weights")
        with pytest.raises(vitscope.ModelError):
            vitscope.load(tmp_path)
    finally:
        assert drawing_bars.set_tqdm_hook(None) is hook
    assert drawing_bars.is_progress_bar_enabled()
    transformers.AutoModel.from_pretrained(tiny_folder)
    assert "Loading weights" in capfd.readouterr().err
