"""Texts and pictures as targets, on tiny CLIP models of both libraries; several targets at the command line."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import vitscope
from tests.helpers.errors import raises
from vitscope.cli.main import app
from vitscope.errors import ModelError, UnknownNameError, UnsupportedError, UsageError
from vitscope.methods.targets import class_number, parse_target

PHOTO = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)


def test_a_text_is_a_target(clip_folder):
    from transformers import AutoTokenizer, CLIPModel

    scope = vitscope.load(clip_folder)
    e = scope.explain(PHOTO, method="relevance", target=vitscope.text("a cat"))
    assert e.target == "the text 'a cat'"
    model = CLIPModel.from_pretrained(clip_folder)
    pixels = scope.adapter.prepare(e.picture)[0][None]
    with torch.no_grad():
        given = AutoTokenizer.from_pretrained(clip_folder)(["a cat"], return_tensors="pt")
        output = model(pixel_values=pixels, input_ids=given["input_ids"], attention_mask=given["attention_mask"])
    assert e.score == pytest.approx((output.logits_per_image / model.logit_scale.exp()).item(), abs=1e-5)
    other = scope.explain(PHOTO, method="relevance", target=vitscope.text("a dog on a sofa"))
    assert not np.allclose(e.map, other.map, rtol=1e-3)


def test_a_processor_that_has_both_parts_brings_its_tokenizer(clip_folder):
    from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, CLIPProcessor

    processor = CLIPProcessor(
        AutoImageProcessor.from_pretrained(clip_folder), AutoTokenizer.from_pretrained(clip_folder)
    )
    scope = vitscope.load(CLIPModel.from_pretrained(clip_folder), processor=processor)
    wanted = vitscope.load(clip_folder).explain(PHOTO, method="relevance", target=vitscope.text("a cat"))
    got = scope.explain(PHOTO, method="relevance", target=vitscope.text("a cat"))
    np.testing.assert_allclose(got.map, wanted.map, rtol=1e-5)


def test_a_model_without_its_tokenizer_says_so(clip_folder):
    from transformers import CLIPModel

    scope = vitscope.load(CLIPModel.from_pretrained(clip_folder))
    with raises(ModelError, "models.no-tokenizer"):
        scope.explain(PHOTO, method="relevance", target=vitscope.text("a cat"))


def test_a_model_that_knows_no_texts_says_so(tiny_folder):
    with raises(UnsupportedError, "models.no-text-encoder"):
        vitscope.load(tiny_folder).explain(PHOTO, method="relevance", target=vitscope.text("a cat"))


def test_open_clip_texts():
    import open_clip

    torch.manual_seed(0)
    tower = {"layers": 2, "width": 32, "head_width": 16, "image_size": 32, "patch_size": 8}
    words = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    model = open_clip.CLIP(24, tower, words).eval()
    scope = vitscope.load(model)
    e = scope.explain(PHOTO, method="relevance", target=vitscope.text("a cat"))
    with torch.no_grad():
        image = model.encode_image(scope.adapter.prepare(e.picture)[0][None], normalize=True)
        text = model.encode_text(open_clip.tokenize(["a cat"]), normalize=True)
    assert e.score == pytest.approx((image @ text.T).item(), abs=1e-5)


@pytest.mark.slow
def test_open_clip_with_weights_of_ones_own_takes_texts_from_the_command_line(tmp_path, monkeypatch):
    import open_clip

    known = dict(open_clip.factory._MODEL_CONFIGS)
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", known)
    vision = {"layers": 2, "width": 32, "head_width": 16, "image_size": 32, "patch_size": 8}
    words = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    known["tiny"] = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": words}
    torch.manual_seed(0)
    model = open_clip.create_model("tiny", pretrained=None)
    torch.save(model.state_dict(), tmp_path / "own.pt")
    photo, out = tmp_path / "photo.png", tmp_path / "out"
    Image.fromarray(PHOTO).save(photo)
    reference = f"open_clip:tiny/{tmp_path / 'own.pt'}"
    asked = [str(photo), "--model", reference, "--method", "gradcam", "--target", "text:a cat", "-o", str(out)]
    told = CliRunner().invoke(app, ["explain", *asked])
    assert told.exit_code == 0, told.output
    e = vitscope.Explanation.load(out / "photo-gradcam")
    same = vitscope.load(model).explain(PHOTO, method="gradcam", target=vitscope.text("a cat"))
    assert e.score == pytest.approx(same.score, abs=1e-5)
    assert np.allclose(e.map, same.map, atol=1e-5 * np.abs(same.map).max())
    with raises(ModelError, "models.no-weights-file"):
        vitscope.load(f"open_clip:tiny/{tmp_path / 'other.pt'}")


def test_open_clip_texts_of_another_vocabulary_are_refused():
    import open_clip

    tower = {"layers": 2, "width": 32, "head_width": 16, "image_size": 32, "patch_size": 8}
    words = {"context_length": 12, "vocab_size": 32000, "width": 32, "heads": 2, "layers": 1}
    scope = vitscope.load(open_clip.CLIP(24, tower, words).eval())
    with raises(ModelError, "models.tokenizer-unknown"):
        scope.explain(PHOTO, method="relevance", target=vitscope.text("a cat"))


@pytest.mark.slow
def test_siglip_texts_are_padded_and_not_masked(clip_folder, tmp_path):
    """As SigLIP was trained: every text as long as its tower reads, its padding seen."""
    from transformers import AutoTokenizer, SiglipConfig, SiglipImageProcessor, SiglipModel

    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    ends = {"vocab_size": 16, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0}
    config = SiglipConfig(
        text_config=small | ends | {"max_position_embeddings": 12, "projection_size": 32},
        vision_config=small | {"image_size": 32, "patch_size": 8},
    )
    model = SiglipModel(config).eval()
    model.save_pretrained(tmp_path)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(clip_folder).save_pretrained(tmp_path)
    scope = vitscope.load(tmp_path)
    e = scope.explain(PHOTO, method="gradcam", target=vitscope.text("a cat"))
    ids = torch.tensor([[1, 4, 5, 2] + [0] * 8])  # [BOS] a cat [EOS] [PAD] ...
    with torch.no_grad():
        output = model(pixel_values=scope.adapter.prepare(e.picture)[0][None], input_ids=ids)
    cosine = (output.logits_per_image - model.logit_bias) / model.logit_scale.exp()
    assert e.score == pytest.approx(cosine.item(), abs=1e-5)


def test_a_class_is_told_by_the_nearest_of_its_names():
    labels = dict(enumerate(["tabby, tabby cat", "tiger cat", "hen"] + [f"thing {i}" for i in range(997)]))
    with pytest.raises(UnknownNameError) as told:
        class_number("tabbi", labels, 1000)
    assert str(told.value).startswith("no class is called 'tabbi' (did you mean 'tabby'? choices: tabby, tabby cat,")
    assert str(told.value).endswith("... 1,000 in all)")
    assert len(str(told.value)) < 300


def test_a_class_against_itself_and_a_text_without_words_are_refused(tiny_scope):
    with raises(UsageError, "methods.contrast-with-itself"):
        tiny_scope.explain(PHOTO, method="relevance", target="tabby - tabby")
    with raises(UsageError, "methods.empty-text"):
        vitscope.text(" ")


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize("words", [3, None, ["a cat", "a dog"]])
def test_what_is_no_text_is_refused(words):
    with raises(UsageError, "methods.text-kind", "methods.text-kind.hint"):
        vitscope.text(words)


def test_features_that_do_not_fit_are_refused(clip_folder):
    scope = vitscope.load(clip_folder)
    wrong = vitscope.text("a cat").with_features(torch.ones(1, 5))
    with raises(UsageError, "methods.feature-count"):
        scope.explain(PHOTO, method="relevance", target=wrong)


@pytest.mark.usefixtures("as_shipped")
class TestCommandLine:
    @pytest.fixture
    def run(self, monkeypatch, capsys):
        from vitscope.cli.main import main

        def run(*arguments):
            monkeypatch.setattr("sys.argv", ["vitscope", *map(str, arguments)])
            capsys.readouterr()
            with pytest.raises(SystemExit) as info:
                main()
            return info.value.code, capsys.readouterr()

        return run

    @pytest.fixture
    def photo(self, tmp_path):
        from PIL import Image

        path = tmp_path / "photo.png"
        Image.fromarray(PHOTO).save(path)
        return path

    def test_several_targets_go_side_by_side(self, run, tiny_folder, tmp_path, photo):
        out = tmp_path / "out"
        arguments = ["explain", photo, "--model", tiny_folder, "--method", "relevance", "--out", out, "--json"]
        code, said = run(*arguments, "--target", "tabby", "--target", "fox", "--target", "tabby - fox")
        assert code == 0, said.err
        results = json.loads(said.out)["results"]
        assert [r["target"] for r in results] == ["tabby", "fox", "tabby - fox"]
        assert {p.name for p in (out / "photo-relevance").iterdir()} == {"tabby", "fox", "tabby-fox"}
        code, plain = run(*arguments[:-1], "--force", "--target", "tabby", "--target", "fox")
        assert code == 0, plain.err
        assert plain.out.count("photo: top 5: ") == 1
        assert vitscope.Explanation.load(out / "photo-relevance" / "fox").target == "fox"
        scores = [r["score"] for r in results]
        assert scores[2] == pytest.approx(scores[0] - scores[1], abs=1e-5)

    def test_a_text_and_a_picture(self, run, clip_folder, tmp_path, photo):
        out = tmp_path / "out"
        arguments = ["explain", photo, "--model", clip_folder, "--method", "token-removal", "--out", out, "--json"]
        code, said = run(*arguments, "--target", "text:a cat", "--target", f"image:{photo}")
        assert code == 0, said.err
        first, second = json.loads(said.out)["results"]
        assert first["target"] == "the text 'a cat'"
        assert second["score"] == pytest.approx(1, abs=1e-4)

    def test_gradient_and_refinement_are_echoed(self, run, tiny_folder, tmp_path, photo):
        arguments = ["explain", photo, "--model", tiny_folder, "--out", tmp_path / "out", "--json"]
        more = ["--method", "input-x-gradient", "--gradient-rule", "libra", "--refine", "affinity"]
        code, said = run(*arguments, *more)
        assert code == 0, said.err
        told = json.loads(said.out)["results"][0]["provenance"]
        assert (told["gradient_rule"], told["refine"]) == ("libra", "affinity")
        code, said = run(*arguments, "--gradient-rule", "libre")
        assert code == 2
        assert "did you mean 'libra'" in said.err


def test_a_text_longer_than_the_model_reads_is_an_error(clip_folder):
    """77 positions: 75 words, start and end."""
    scope = vitscope.load(clip_folder)
    limit = scope.model.config.text_config.max_position_embeddings
    assert scope.explain(PHOTO, method="relevance", target=vitscope.text("a cat " * ((limit - 2) // 2))).score
    long = vitscope.text("a cat on a sofa " * 20)
    with raises(UsageError, "models.text-too-long", "models.text-too-long.hint") as caught:
        scope.explain(PHOTO, method="relevance", target=long)
    assert f"102 tokens, and this model reads {limit} at most" in caught.value.message
    with raises(UsageError, "models.text-too-long"):
        scope.validate(method="relevance", target=long)


@pytest.mark.slow
def test_a_text_longer_than_open_clip_reads_is_an_error():
    open_clip = pytest.importorskip("open_clip")
    tower = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
    words = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    scope = vitscope.load(open_clip.CLIP(24, tower, words).eval())
    fits, longer = "cat " * 14, "cat " * 15  # and start and end
    assert scope.explain(PHOTO, method="relevance", target=vitscope.text(fits)).score
    with raises(UsageError, "models.text-too-long") as caught:
        scope.explain(PHOTO, method="relevance", target=vitscope.text(longer))
    assert "17 tokens, and this model reads 16" in caught.value.message
    with raises(UsageError, "models.text-too-long"):
        scope.explain(PHOTO, method="relevance", target=vitscope.text("cat " * 400))


@pytest.mark.spread
@pytest.mark.parametrize("one", [np.int64(1), np.array(1), np.uint8(1), torch.tensor(1), torch.tensor(1).int(), "1"])
def test_numbers_of_numpy_and_torch_are_classes(tiny_scope, one):
    plain = tiny_scope.explain(PHOTO, method="relevance", target=1)
    score = pytest.approx(plain.score, abs=1e-5)
    assert tiny_scope.explain(PHOTO, method="relevance", target=one).score == score
    assert tiny_scope.explain([PHOTO, PHOTO], method="relevance", target=[one, 2])[0].score == score
    assert tiny_scope.explain(PHOTO, method="relevance", targets=[2, one])[1].score == score


@pytest.mark.parametrize(
    "wrong", [True, np.bool_(True), torch.tensor(True), 1.0, np.float32(1), torch.tensor(1.5), {"cat": 1}, b"cat"]
)
def test_what_is_no_class_is_refused(tiny_scope, wrong):
    with raises(UsageError, "engine.target-kind", "engine.target-kind.hint"):
        tiny_scope.explain(PHOTO, method="relevance", target=wrong)


@pytest.mark.parametrize("out", [-1, 10**6, np.int64(-3), torch.tensor(-1)])
def test_a_class_number_out_of_range_says_the_range(tiny_scope, out):
    with raises(UsageError, "methods.no-such-class", "methods.no-such-class.hint"):
        tiny_scope.explain(PHOTO, method="relevance", target=out)


def test_options_take_numbers_of_numpy(tiny_scope):
    given = {"head": np.int64(1), "layer": np.int32(0)}
    plain = tiny_scope.explain(PHOTO, method="attention", head=1, layer=0)
    np.testing.assert_array_equal(tiny_scope.explain(PHOTO, method="attention", method_options=given).map, plain.map)
    with raises(UsageError, "methods.not-a-text"):
        tiny_scope.explain(PHOTO, method="attention", method_options={"query": 3})


def test_two_texts_are_not_taken_for_one():
    with raises(UsageError, "methods.text-contrast", "methods.text-contrast.hint"):
        parse_target("text:a cat - text:a dog")
    assert parse_target("text:a cat - and a dog").words == "a cat - and a dog"
