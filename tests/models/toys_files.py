"""What people have on disk, tiny: weights of training scripts, folders of timm and transformers, adapters of peft."""

import json
import warnings

import torch

WIDTH, CLASSES, SIDE = 192, 3, 64


def timm_model(**options):
    """A ViT of timm of the stated architecture, in evaluation mode."""
    import timm

    return timm.create_model("vit_tiny_patch16_224", **{"num_classes": CLASSES, "img_size": SIDE} | options).eval()


def vit(**options):
    """A tiny ViT classifier of transformers."""
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(ViTConfig(**small(**options))).eval()


def small(**options):
    """The keywords of a tiny ViT's config."""
    return {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "image_size": 32,
        "patch_size": 8,
    } | options


def timm_folder(folder, name="vit_tiny_patch16_224", **options):
    """A folder as timm itself writes it, and its model."""
    import timm
    from timm.models import save_for_hf

    tiny = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    model = timm.create_model(name, num_classes=CLASSES, **tiny).eval()
    save_for_hf(model, folder, model_args=tiny, model_config={"label_names": ["cat", "dog", "owl"]} | options)
    config = json.loads((folder / "config.json").read_text())
    config["model_args"].pop("num_classes", None)
    (folder / "config.json").write_text(json.dumps(config))
    return model


def lora_folder(folder, base, **options):
    """A folder of a LoRA adapter with a classifier of its own, and the model that computes with it unmerged."""
    from peft import LoraConfig, get_peft_model
    from transformers import ViTForImageClassification

    plain = ViTForImageClassification.from_pretrained(base, num_labels=5, ignore_mismatched_sizes=True)
    config = LoraConfig(target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"], r=4, **options)
    with warnings.catch_warnings():  # of names that transformers is about to drop
        warnings.simplefilter("ignore", FutureWarning)
        model = get_peft_model(plain, config).eval()
    for name, parameter in model.named_parameters():
        if "lora" in name or "modules_to_save" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return model


def code_folder(folder, marker):
    """A folder whose classes lie in files beside the weights; each writes `marker` where it runs."""
    model = vit(num_labels=5)
    model.save_pretrained(folder)
    ran = f"import pathlib\npathlib.Path({str(marker)!r}).write_text(__name__)\n"
    (folder / "configuration_mine.py").write_text(
        f"from transformers import ViTConfig\n{ran}class MineConfig(ViTConfig):\n    model_type = 'mine_vit'\n"
    )
    (folder / "modeling_mine.py").write_text(
        "from transformers import ViTForImageClassification\nfrom .configuration_mine import MineConfig\n"
        f"{ran}class MineForImageClassification(ViTForImageClassification):\n    config_class = MineConfig\n"
    )
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "mine_vit",
        "architectures": ["MineForImageClassification"],
        "auto_map": {
            "AutoConfig": "configuration_mine.MineConfig",
            "AutoModelForImageClassification": "modeling_mine.MineForImageClassification",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    return model
