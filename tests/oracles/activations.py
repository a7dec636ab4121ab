"""A layer's patch tokens and their gradients, by hooks and autograd of the plain model."""

import torch

from vitscope.images import load_image


def activations(scope, photo, target, layer, at):
    """Return the patch tokens at a place of a transformers model in float64 and their gradients, `(gh, gw, D)` each."""
    kept = {}
    blocks = next(m for m in scope.model.modules() if isinstance(m, torch.nn.ModuleList))
    block = blocks[layer]
    place = block.layernorm_before if at == "norm" else block

    def keep(_module, args, out):
        z = args[0] if at == "input" else out[0] if isinstance(out, tuple) else out
        z.retain_grad()
        kept["z"] = z

    handle = place.register_forward_hook(keep)
    pixels = scope.adapter.prepare(load_image(photo))[0][None].double().requires_grad_()
    answer = scope.model(pixel_values=pixels)
    handle.remove()
    score = answer.logits[0, target] if hasattr(answer, "logits") else (answer.pooler_output[0] ** 2).sum() / 2
    score.backward()
    scope.model.zero_grad()
    prefix, (gh, gw) = len(scope.layout.prefix), scope.layout.grid
    return [x[0, prefix:].reshape(gh, gw, -1).detach().numpy() for x in (kept["z"], kept["z"].grad)]
