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


def frames_processor():
    return transformers.VideoMAEImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


@pytest.mark.parametrize("kind", toys_video.KINDS)
@pytest.mark.parametrize("with_processor", [False, True])
def test_a_head_on_a_video_model_takes_clips(kind, with_processor):
    inside = getattr(toys_video.classifier(kind), toys_video.classifier(kind).base_model_prefix)
    processor = frames_processor() if with_processor else None
    with raises(LayoutError, "models.takes-volumes", "models.takes-volumes.hint"):
        vitscope.load(Headed(inside).eval(), processor=processor)


def test_a_head_on_a_model_of_volumes_takes_volumes():
    with raises(LayoutError, "models.takes-volumes", "models.takes-volumes.hint") as caught:
        vitscope.load(Headed(volumes()).eval(), processor=VolumeProcessor((8, 16, 24)))
    assert "VolumeProcessor" in str(caught.value)


def wav2vec():
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    convolutions = {"conv_dim": (16,), "conv_stride": (5,), "conv_kernel": (10,)}
    positions = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    config = transformers.Wav2Vec2Config(**small, **convolutions, **positions)
    return transformers.Wav2Vec2ForSequenceClassification(config)


def test_models_of_sounds_that_are_not_known_are_named():
    for model in (wav2vec(), Headed(sounds())):
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
