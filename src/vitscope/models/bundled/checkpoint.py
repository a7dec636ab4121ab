"""A DINOv2 backbone from an ONNX file: arrays under the names of transformers, its config and its image processor."""

import json
from typing import Any

import numpy as np
from jaxtyping import Float32

from vitscope._messages import msg
from vitscope.errors import ModelError
from vitscope.models.bundled.catalogue import WheelWeights
from vitscope.models.bundled.onnx import onnx_message, onnx_tensor

# inside `attention.`: the module names of the transformers that wrote the ONNX file, and those of transformers 5
_RENAME = {
    "attention.query": "q_proj",
    "attention.key": "k_proj",
    "attention.value": "v_proj",
    "output.dense": "o_proj",
}
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size")
_CONFIG = """{
  "architectures": ["Dinov2Model"], "model_type": "dinov2", "dtype": "float32", "num_channels": 3, "mlp_ratio": 4,
  "hidden_act": "gelu", "layer_norm_eps": 1e-06, "qkv_bias": true, "use_swiglu_ffn": false, "layerscale_value": 1.0,
  "apply_layernorm": true, "use_mask_token": true, "reshape_hidden_states": true, "initializer_range": 0.02,
  "attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0, "drop_path_rate": 0.0
}"""
_PROCESSOR = """{
  "image_processor_type": "BitImageProcessor", "do_convert_rgb": true, "do_resize": true, "resample": 3,
  "do_center_crop": true, "do_rescale": true, "rescale_factor": 0.00392156862745098,
  "do_normalize": true, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]
}"""


def dinov2_config(entry: WheelWeights) -> dict[str, Any]:
    """Return the config.json of the weights."""
    return dict(json.loads(_CONFIG)) | {key: getattr(entry, key) for key in _SIZES}


def dinov2_processor(entry: WheelWeights) -> dict[str, Any]:
    """Return the preprocessor_config.json of the weights."""
    edge = entry.image_size
    sizes = {"size": {"shortest_edge": edge}, "crop_size": {"height": edge, "width": edge}}
    return dict(json.loads(_PROCESSOR)) | sizes


def dinov2_tensors(entry: WheelWeights, onnx: bytes) -> dict[str, Float32[np.ndarray, "..."]]:
    """Return the tensors of `Dinov2Model` from the bytes of the ONNX file, contiguous.

    Raises:
        ModelError: a tensor is missing, has another shape, or does not belong there.
    """
    shapes = _shapes(entry)
    try:
        (model,) = onnx_message(memoryview(onnx))[7]
        graph = onnx_message(model)
        given = dict(map(onnx_tensor, graph[5]))
        found = {_rename(name): array for name, array in given.items() if name.startswith("backbone.")}
        for node in map(onnx_message, graph[1]):
            weight = str(node.get(1, [b""])[-1], "utf-8")
            if bytes(node[4][0]) == b"MatMul" and weight in given:  # x @ W: the linear layer's W transposed
                path = str(node[3][0], "utf-8").strip("/").rpartition("/")[0].replace("/", ".")
                found[f"{_rename(path)}.weight"] = given[weight].T
        _, patches, width = shapes["embeddings.position_embeddings"]
        nameless = [array for name, array in given.items() if name.startswith("onnx::")]
        position = [[a for a in nameless if a.shape == (1, n, width)] for n in (1, patches - 1)]
        (cls_position,), (patch_position,) = position
    except (LookupError, ValueError, TypeError) as error:
        problem = msg(
            "models.other-onnx-graph",
            "{file} is not the expected ONNX graph: {reason}",
            file=entry.member,
            reason=repr(error),
        )
        raise ModelError(problem, entry.hint) from error
    found["embeddings.position_embeddings"] = np.concatenate([cls_position, patch_position], axis=1)
    found["embeddings.mask_token"] = np.zeros((1, width), np.float32)  # used in pretraining only; not in the file
    wrong = [n for n in shapes.keys() | found.keys() if n not in found or found[n].shape != shapes.get(n)]
    if wrong:
        raise ModelError.coded(
            "models.other-onnx-tensors",
            "{file} has other tensors than Dinov2Model: {names}",
            file=entry.member,
            names=", ".join(sorted(wrong)[:3]),
        )
    return {name: np.ascontiguousarray(found[name], np.float32) for name in shapes}


def _rename(path: str) -> str:
    for old, new in _RENAME.items():
        path = path.replace(f".attention.{old}", f".attention.{new}")
    return path.removeprefix("backbone.")


def _shapes(entry: WheelWeights) -> dict[str, tuple[int, ...]]:
    """Return every tensor of `Dinov2Model` with its shape."""
    width, hidden, patch = entry.hidden_size, 4 * entry.hidden_size, entry.patch_size
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.cls_token": (1, 1, width),
        "embeddings.mask_token": (1, width),
        "embeddings.position_embeddings": (1, 1 + (entry.image_size // patch) ** 2, width),
        "embeddings.patch_embeddings.projection.weight": (width, 3, patch, patch),
        "embeddings.patch_embeddings.projection.bias": (width,),
    }
    linear = dict.fromkeys([f"attention.{x}_proj" for x in "qkvo"], (width, width))
    linear |= {"mlp.fc1": (hidden, width), "mlp.fc2": (width, hidden)}
    for block in [f"encoder.layer.{n}" for n in range(entry.num_hidden_layers)]:
        for x, shape in linear.items():
            shapes |= {f"{block}.{x}.weight": shape, f"{block}.{x}.bias": shape[:1]}
        for half in "12":  # attention, then MLP
            shapes |= {f"{block}.norm{half}.weight": (width,), f"{block}.norm{half}.bias": (width,)}
            shapes |= {f"{block}.layer_scale{half}.lambda1": (width,)}
    return shapes | {"layernorm.weight": (width,), "layernorm.bias": (width,)}
