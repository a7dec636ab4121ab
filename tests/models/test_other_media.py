"""Models of clips, volumes and sounds that no adapter knows: the reason names the medium, not a size or an argument."""

import pytest
import torch
import transformers
from torch import nn

import vitscope
from tests.helpers.errors import raises
from tests.models import toys_video
from vitscope.errors import LayoutError, UsageError
from vitscope.media.volume import VolumeProcessor


class Headed(nn.Module):
    """A head of one's own behind the mean token of a model."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(32, 3)

    def forward(self, x):
        out = self.backbone(x)
        return self.head(out[0].mean(1))


def volumes():
    from monai.networks.nets import ViT

    sizes = {"img_size": (8, 16, 24), "patch_size": (4, 8, 6), "hidden_size": 32, "mlp_dim": 64}
    return ViT(1, **sizes, num_layers=1, num_heads=2)


def sounds():
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return transformers.ASTModel(transformers.ASTConfig(**small, max_length=96, num_mel_bins=48))


class Volumetric(nn.Module):
    """A Vision Transformer of volumes that no adapter knows."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv3d(1, 32, 4, 4), nn.Linear(32, 3)
        self.layer = nn.TransformerEncoderLayer(32, 2, 32, batch_first=True)

    def forward(self, x):
        return self.head(self.layer(self.stem(x).flatten(2).mT).mean(1))


@pytest.mark.parametrize("processor", [None, VolumeProcessor((8, 16, 24))])
def test_a_model_of_volumes_that_is_not_known_is_named(processor):
    with raises(LayoutError, "models.takes-volumes", "models.takes-volumes.hint") as caught:
        vitscope.load(Volumetric().eval(), processor=processor)
    assert processor is None or "VolumeProcessor" in str(caught.value)


def test_two_models_of_clips_in_one_module_are_refused():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = (toys_video.classifier("videomae", seed=n).videomae for n in range(2))

        def forward(self, x):
            return self.one(x)[0].mean(1) + self.other(x)[0].mean(1)

    with raises(LayoutError, "models.takes-volumes", "models.takes-volumes.hint"):
        vitscope.load(Both().eval())


def wav2vec():
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    convolutions = {"conv_dim": (16,), "conv_stride": (5,), "conv_kernel": (10,)}
    positions = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    config = transformers.Wav2Vec2Config(**small, **convolutions, **positions)
    return transformers.Wav2Vec2ForSequenceClassification(config)


def test_models_of_sounds_that_are_not_known_are_named():
    for model in (wav2vec(), Headed(wav2vec().wav2vec2)):
        with raises(LayoutError, "models.takes-sounds", "models.takes-sounds.hint"):
            vitscope.load(model.eval())
    with raises(LayoutError, "models.takes-sounds"):
        vitscope.load(wav2vec().eval(), processor=transformers.Wav2Vec2FeatureExtractor())


@pytest.mark.parametrize("option", [{"window": (0, 100)}, {"display": 0}, {"region": "whole"}])
def test_how_images_are_read_is_refused_for_other_media(option):
    made = {
        "clip": (toys_video.classifier("videomae"), None),
        "volume": (volumes(), VolumeProcessor((8, 16, 24))),
        "sound": (sounds(), None),
    }
    for medium, (model, processor) in made.items():
        with raises(UsageError, "models.options-of-images", "models.options-of-images.hint") as caught:
            vitscope.load(model, processor=processor, **option)
        assert medium in str(caught.value)


def test_rows_that_are_not_those_of_the_images_are_refused():
    """Space-only attention of TimeSformer answers with one row for each frame."""
    model = toys_video.classifier("timesformer", attention_type="space_only")
    with torch.no_grad():
        assert model(torch.zeros(1, 8, 3, 32, 32)).logits.shape == (8, 3)
    with raises(UsageError, "models.answer-rows", "models.one-number.hint") as caught:
        vitscope.load(model)
    assert "8 x 3" in str(caught.value)
