"""Notes on position embeddings that a model fits to an input of another size."""

import numpy as np
import pytest
import timm
import torch
import transformers
from torch import nn

import vitscope
from tests.models.sabotaged import D, Tiny
from tests.models.toys_traced import ROWS
from tests.models.traced_row import as_it_is
from vitscope.geometry import TokenLayout
from vitscope.models.bundled.dinov2 import Dinov2Processor

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
BUILT = {"image_size": 32, "patch_size": 8}
NOTES = {"tracing.note-interpolated", "tracing.note-cut"}


def told(scope, size):
    """What the notes of a map and of an attribution say of positions: the same."""
    e = scope.explain(np.zeros((*size, 3), np.uint8), method="random")
    found = scope.attribute(torch.zeros(1, 3, *e.region.input), method="random")
    notes = [[note for note in some if note.code in NOTES] for some in (e.provenance["notes"], found.notes[0])]
    assert notes[0] == notes[1]
    return [(note.code, note.params) for note in notes[0]]


def interpolated(own, used):
    return [("tracing.note-interpolated", {"own": own, "used": used})]


def processor(size):
    return transformers.ViTImageProcessor(size={"height": size[0], "width": size[1]})


TRANSFORMERS = {
    "ViT": lambda: transformers.ViTModel(transformers.ViTConfig(**SMALL, **BUILT)),
    "DINOv2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**SMALL, **BUILT)),
    "a classifier, traced": lambda: transformers.Dinov2ForImageClassification(
        transformers.Dinov2Config(**SMALL, **BUILT)
    ),
    "CLIP, traced": lambda: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**SMALL, **BUILT)),
    "BEiT": lambda: transformers.BeitModel(
        transformers.BeitConfig(**SMALL, **BUILT, use_absolute_position_embeddings=True)
    ),
}


@pytest.mark.spread
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_processor_of_another_size(name):
    """4 x 4 patches of 8 pixels were configured."""
    model = TRANSFORMERS[name]().eval()
    assert told(vitscope.load(model, processor=processor((32, 32))), (32, 32)) == []
    assert told(vitscope.load(model, processor=processor((48, 40))), (48, 40)) == interpolated("4 x 4", "6 x 5")


def test_as_many_patches_in_another_shape_are_as_the_bundled_model_was_measured():
    model = transformers.Dinov2Model(transformers.Dinov2Config(**SMALL, image_size=112, patch_size=14)).eval()
    edge = {"height": 112, "width": 112}
    bundled = vitscope.load(model, processor=Dinov2Processor(edge, edge, [0.5] * 3, [0.5] * 3, 1 / 255))
    other = vitscope.load(model, processor=processor((112, 112)))
    for size, notes in (((112, 112), (0, 0)), ((98, 126), (0, 1)), ((56, 56), (1, 1)), ((112, 224), (1, 1))):
        assert tuple(len(scope.adapter.notes_at(size)) for scope in (bundled, other)) == notes


def test_no_positions_are_interpolated_where_there_are_none():
    model = transformers.BeitModel(transformers.BeitConfig(**SMALL, **BUILT)).eval()
    assert told(vitscope.load(model, processor=processor((48, 48))), (48, 48)) == []


def test_a_size_that_is_asked_for_and_not_the_next_one():
    """timm's dynamic_img_size: the note is of the map that it is true of."""
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, dynamic_img_size=True
    )
    scope = vitscope.load(model.eval())
    photo = np.zeros((32, 32, 3), np.uint8)
    codes = [
        [note.code for note in scope.explain(photo, method="rollout", **size).provenance["notes"] if note.code in NOTES]
        for size in ({}, {"size": 48}, {})
    ]
    assert codes == [[], ["tracing.note-interpolated"], []]


class Cut(Tiny):
    """Takes as many position embeddings as there are patches, as vit-pytorch's ViT does."""

    def __init__(self, built=(48, 48)):
        super().__init__()
        del self.places
        self.pos_embedding = nn.Parameter(torch.randn(1, built[0] * built[1] // 64, D))

    def embed(self, x):
        x = self.stem(x).flatten(2).mT
        return x + self.pos_embedding[:, : x.shape[1]]


@pytest.mark.spread
@pytest.mark.parametrize("given", [False, True])
def test_position_embeddings_that_are_cut(given):
    layout = {"layout": TokenLayout(("cls",), (4, 4))} if given else {}
    scope = vitscope.load(Cut().eval(), processor=as_it_is((32, 32)), **layout)
    assert told(scope, (32, 32)) == [("tracing.note-cut", {"used": 16, "rows": 36})]
    scope = vitscope.load(Cut((32, 32)).eval(), processor=as_it_is((32, 32)), **layout)
    assert told(scope, (32, 32)) == []


@pytest.mark.spread
@pytest.mark.parametrize(
    "embed",
    [
        lambda self, x: torch.cat([self.places[:, 0][:, None], self.places[:, 1:12], self.places[:, -4:]], 1),
        lambda self, x: torch.cat([self.places[:, :8], self.places[:, 8:]], 1),
        lambda self, x: torch.cat([self.places[:, :6], self.places.narrow(1, 6, 10)], 1),
        lambda self, x: torch.cat(self.places.split(4, 1), 1),
        lambda self, x: self.places[:, torch.arange(16)],
    ],
    ids=["a number", "two halves", "narrow", "split", "indices"],
)
def test_all_of_them_in_parts_are_not_cut(embed):
    class Parts(Tiny):
        def embed(self, x):
            return self.stem(x).flatten(2).mT + embed(self, x)

    assert told(vitscope.load(Parts().eval(), processor=as_it_is((32, 32))), (32, 32)) == []


@pytest.mark.spread
@pytest.mark.parametrize("row", [row for row in ROWS if row.name != "timm-naflexvit"], ids=lambda row: row.name)
def test_at_its_own_size_no_model_of_the_zoo_has_a_note(row):
    """ViTDet leaves out the place of CLS, MViT has tables of relative places, YOLOS takes its own in three parts."""
    scope = vitscope.load(row.make().eval())
    assert told(scope, scope.adapter.input_size) == []


def test_a_layout_from_the_caller_is_no_reason_to_say_less():
    class Resized(Tiny):
        def embed(self, x):
            x = self.stem(x)
            grid = self.places.mT.unflatten(2, (4, 4))
            return (x + nn.functional.interpolate(grid, x.shape[2:], mode="bicubic")).flatten(2).mT

    model = Resized().eval()
    for size, grid in (((32, 32), "4 x 4"), ((40, 48), "5 x 6")):
        layout = TokenLayout(("cls",), (size[0] // 8, size[1] // 8))
        wanted = [] if grid == "4 x 4" else interpolated("4 x 4", grid)
        for options in ({}, {"layout": layout}):
            assert told(vitscope.load(model, processor=as_it_is(size), **options), size) == wanted
