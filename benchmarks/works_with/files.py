"""What people have on disk: files of weights, folders of timm and peft, checkpoints, code beside weights."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.works_with.table import REFUSED, row
from PIL import Image

import vitscope
from vitscope.errors import VitscopeError

KIND = "What people have on disk"
NAME = "vit_tiny_patch16_224"
TIMM, LIBRARY, PEFT = ("torch", "timm"), ("torch", "transformers"), ("torch", "transformers", "peft")
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8))


def folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="vitscope-"))


def timm_model(**options: Any) -> Any:
    import timm

    torch.manual_seed(0)
    return timm.create_model(NAME, **{"num_classes": 3, "img_size": 32, **options}).eval()


def small(**options: Any) -> dict[str, Any]:
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    return {**size, "image_size": 32, "patch_size": 8, **options}


def vit(**options: Any) -> Any:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    return ViTForImageClassification(ViTConfig(**small(**options))).eval()


def saved(content: Any, name: str = "best.pth") -> Path:
    path = folder() / name
    torch.save(content, path)
    return path


def logits(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        answer = model(pixels)
    return answer if isinstance(answer, torch.Tensor) else answer.logits


def far(ours: Any, theirs: Any, side: int = 32) -> float:
    pixels = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    return float((logits(ours, pixels) - logits(theirs, pixels)).abs().max())


def refused(call: Callable[[], object], code: str) -> float | str:
    try:
        call()
    except VitscopeError as error:
        return REFUSED if error.code == code else f"{error.code}, not {code}"
    return "not refused"


@row(KIND, "`--model timm:NAME --weights best.pth`", libraries=TIMM, against="the module that wrote the file")
def state_dict() -> float:
    model = timm_model()
    scope = vitscope.load(f"timm:{NAME}", weights=saved(model.state_dict()))
    theirs = vitscope.load(model).explain(PHOTO, method="rollout")
    return max(far(scope.model, model), float(np.abs(scope.explain(PHOTO, method="rollout").map - theirs.map).max()))


@row(KIND, "Lightning `.ckpt`: `state_dict`, prefix `model.`", libraries=TIMM, against="the module that wrote the file")
def lightning() -> float:
    model = timm_model()
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    file = saved({"state_dict": state, "hyper_parameters": {"lr": 1e-3}, "epoch": 3}, "last.ckpt")
    return far(vitscope.load(f"timm:{NAME}", weights=file).model, model)


@row(KIND, "checkpoint of DDP with `args`, `module.`", libraries=TIMM, against="the module that wrote the file")
def distributed() -> float:
    import argparse

    model = timm_model()
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    file = saved({"model": state, "args": argparse.Namespace(lr=1e-3)})
    return far(vitscope.load(f"timm:{NAME}", weights=file).model, model)


@row(KIND, "`torch.compile`d: names with `_orig_mod.`", libraries=TIMM, against="the module that wrote the file")
def compiled() -> float:
    model = timm_model(global_pool="avg")
    state = {f"_orig_mod.{name}": tensor for name, tensor in model.state_dict().items()}
    return far(vitscope.load(f"timm:{NAME}", weights=saved(state)).model, model)


@row(KIND, "`.safetensors` without a classifier", libraries=TIMM, against="timm's forward_features, pooled")
def features() -> float:
    from safetensors.torch import save_file

    model = timm_model()
    file = folder() / "model.safetensors"
    save_file({name: tensor for name, tensor in model.state_dict().items() if not name.startswith("head.")}, file)
    pixels = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        ours = vitscope.load(f"timm:{NAME}", weights=file).model(pixels)
        theirs = model.forward_head(model.forward_features(pixels), pre_logits=True)
    return float((ours - theirs).abs().max())


@row(KIND, "`--model torchvision:vit_b_32 --weights`", libraries=("torch", "torchvision"), against="the module itself")
def torchvision() -> float:
    from torchvision.models import vit_b_32

    model = vit_b_32(weights=None, num_classes=4, image_size=64).eval()
    return far(vitscope.load("torchvision:vit_b_32", weights=saved(model.state_dict())).model, model, 64)


@row(KIND, "a folder of transformers with `--weights`", libraries=LIBRARY, against="the module that wrote the file")
def transformers_weights() -> float:
    model, here = vit(num_labels=5), folder()
    vit(num_labels=2).save_pretrained(here)
    file = saved({"state_dict": {f"net.{name}": tensor for name, tensor in model.state_dict().items()}}, "h.ckpt")
    return far(vitscope.load(here, weights=file).model, model)


@row(KIND, "a Trainer's checkpoint without a processor", libraries=LIBRARY, against="the module, pixels made by hand")
def trainer() -> float:
    model, here = vit(num_labels=5), folder()
    model.save_pretrained(here)
    scope = vitscope.load(here)
    resized = np.asarray(PHOTO.resize((32, 32), Image.Resampling.BILINEAR), np.float32) / 255
    pixels = torch.from_numpy((resized - 0.5) / 0.5).permute(2, 0, 1)
    made = scope.engine.prepare(PHOTO).pixels
    return max(far(scope.model, model), float((made - pixels).abs().max()))


@row(KIND, "a LoRA adapter of peft", libraries=PEFT, against="the unmerged PeftModel", tolerance=1e-5)
def lora() -> float:
    import warnings

    from peft import LoraConfig, get_peft_model

    base, adapter = folder(), folder()
    vit(num_labels=5).save_pretrained(base)
    config = LoraConfig(target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"], r=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(type(vit()).from_pretrained(base), config).eval()
    for name, parameter in model.named_parameters():
        if "lora" in name or "modules_to_save" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(adapter)
    return far(vitscope.load(adapter).model, model)


def timm_folder(name: str) -> tuple[Any, Path]:
    import timm
    from timm.models import save_for_hf

    torch.manual_seed(0)
    here, tiny = folder(), {"embed_dim": 32, "depth": 2, "num_heads": 2}
    model = timm.create_model(name, num_classes=3, **tiny).eval()
    save_for_hf(model, here, model_args=tiny, model_config={"label_names": ["cat", "dog", "owl"]})
    return model, here


@row(KIND, "a timm folder as the Hub has it", libraries=TIMM, against="timm's module, its names, its size")
def timm_hub() -> float | str:
    model, here = timm_folder(NAME)
    scope = vitscope.load(here)
    if dict(scope.adapter.labels) != {0: "cat", 1: "dog", 2: "owl"}:
        return f"labels {scope.adapter.labels}"
    return far(scope.model, model, 224)


@row(KIND, "a timm folder at 384 pixels", libraries=TIMM, against="timm's module, its size")
def timm_hub_large() -> float | str:
    model, here = timm_folder("vit_tiny_patch16_384")
    scope = vitscope.load(here)
    return far(scope.model, model, 384) if scope.adapter.input_size == (384, 384) else str(scope.adapter.input_size)


def as_saved(kind: str, config: str, **options: Any) -> float | str:
    import transformers

    torch.manual_seed(0)
    model, here = getattr(transformers, kind)(getattr(transformers, config)(**options)).eval(), folder()
    model.save_pretrained(here)
    ours = vitscope.load(here).model
    return far(ours, model) if type(ours) is type(model) else type(ours).__name__


@row(KIND, "BeitForSemanticSegmentation with its head", libraries=LIBRARY, against="the class that wrote it")
def segmentation() -> float | str:
    more = {"out_indices": [1, 2, 3, 4], "use_auxiliary_head": False, "pool_scales": [1, 2], "num_labels": 4}
    return as_saved("BeitForSemanticSegmentation", "BeitConfig", **small(num_hidden_layers=4), **more)


@row(KIND, "YolosForObjectDetection with its head", libraries=LIBRARY, against="the class that wrote it")
def detection() -> float | str:
    more = {"num_detection_tokens": 5, "num_labels": 3}
    return as_saved("YolosForObjectDetection", "YolosConfig", **small(image_size=[32, 32]), **more)


@row(KIND, "code beside the weights, not trusted", libraries=LIBRARY, against="no line of it ran")
def code() -> float | str:
    here = folder()
    vit().save_pretrained(here)
    config = json.loads((here / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    (here / "config.json").write_text(json.dumps(config))
    (here / "mine.py").write_text("raise SystemExit('ran')\n")
    return refused(lambda: vitscope.load(here), "models.remote-code")


@row(KIND, "`--model best.pth` alone", libraries=TIMM, against="the architecture in the hint is right")
def alone() -> float | str:
    file = saved(timm_model(img_size=224).state_dict())
    try:
        vitscope.load(file)
    except VitscopeError as error:
        hint: Any = error.hint
        return REFUSED if hint.params["reference"] == f"timm:{NAME}" else str(error)
    return "not refused"


@row(KIND, "a pickled module", libraries=TIMM, against="its class is named")
def pickled() -> float | str:
    return refused(lambda: vitscope.load(f"timm:{NAME}", weights=saved(timm_model())), "models.weights-pickled")


@row(KIND, "weights of another architecture", libraries=TIMM, against="the first weight that differs is named")
def other() -> float | str:
    file = saved(timm_model().state_dict())
    return refused(lambda: vitscope.load("timm:vit_small_patch16_224", weights=file), "models.weights-shape")


@row(KIND, "a head under another name", libraries=TIMM, against="no random head is used")
def other_head() -> float | str:
    state = {name.replace("head.", "fc."): tensor for name, tensor in timm_model().state_dict().items()}
    return refused(lambda: vitscope.load(f"timm:{NAME}", weights=saved(state)), "models.weights-beyond")


@row(KIND, "`-m vit_tiny_patch16_224`", libraries=TIMM, against="did you mean timm:vit_tiny_patch16_224")
def bare() -> float | str:
    return refused(lambda: vitscope.load(NAME), "models.bare-name")


@row(KIND, "files of ONNX, Keras, Flax, GGUF, Git LFS", against="each is named")
def foreign() -> float | str:
    here, answers = folder(), []
    for name, content in (
        ("a.onnx", b"\x08\x07"),
        ("b.h5", b"\x89HDF"),
        ("c.msgpack", b"\x81"),
        ("d.gguf", b"GGUF"),
        ("e.pth", b"version https://git-lfs"),
    ):
        (here / name).write_bytes(content)
        answers.append(refused(lambda file=here / name: vitscope.load(file), "models.foreign-file"))
    return REFUSED if set(answers) == {REFUSED} else str(answers)
