"""Slow twins for video models: dense operators in float64, made of what the modules' eager attention computes."""

import numpy as np
import torch


class Attentions:
    """The attention of each call of one forward, in order, and the gradient of a class's logit with respect to it."""

    def __init__(self, model, clip, target=None):
        self.found, handles = [], []
        for name, module in model.named_modules():
            if name.endswith("attention.attention") and hasattr(module, "qkv"):
                handles.append(module.register_forward_hook(self._from_qkv))
            else:
                handles.append(module.register_forward_hook(self._returned))
        with torch.enable_grad():
            self.logits = model(**{model.main_input_name: clip}).logits
        for handle in handles:
            handle.remove()
        self.target = int(self.logits[0].argmax()) if target is None else target
        score = self.logits[0, self.target]
        for call in self.found:
            (grad,) = torch.autograd.grad(score, call["graph"], retain_graph=True)
            call["grad"] = (grad if call["values"] is None else self._by_values(grad, call)).detach().numpy()
            call["attention"] = call["attention"].detach().numpy()
        self.logits = self.logits.detach()

    def _returned(self, module, args, output):
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if torch.is_tensor(weights) and weights.ndim == 4 and not any(weights is call["graph"] for call in self.found):
            self.found.append({"attention": weights, "graph": weights, "values": None})

    def _from_qkv(self, module, args, output):
        x = args[0]
        b, n, d = x.shape
        q, k, v = module.qkv(x).reshape(b, n, 3, module.num_heads, -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) * module.scale).softmax(-1)
        assert torch.allclose((weights @ v).transpose(1, 2).reshape(b, n, d), output[0])
        self.found.append({"attention": weights, "graph": output[0], "values": v})

    @staticmethod
    def _by_values(grad, call):
        b, heads, n, _ = call["attention"].shape
        by_head = grad.reshape(b, n, heads, -1).transpose(1, 2)
        return by_head @ call["values"].transpose(-1, -2)


def mean_heads(call):
    return call["attention"].mean(1)


def positive(call):
    return (call["attention"] * call["grad"]).clip(0).mean(1)


def row(kind, attentions, weigh, skip, branch, frames=8, patches=16):
    """The readout row times every layer's dense operator `skip I + branch A`, and the prefix's share before it."""
    calls = [weigh(call) for call in attentions.found]
    if kind == "timesformer":
        return _divided(calls, skip, branch, frames, patches)
    if kind == "vjepa2":
        *layers, pool = calls
        start, prefix = branch * pool[0, 0], np.array([skip])
    else:
        layers, count = calls, calls[0].shape[-1]
        start, prefix = np.full(count, 1 / count), np.zeros(0)
        if kind == "vivit":
            start, prefix = np.eye(count)[0], None
    for weights in reversed(layers):
        start = skip * start + branch * (start @ weights[0])
    return np.concatenate([prefix, start]) if prefix is not None else start


def _divided(calls, skip, branch, frames, patches):
    """Time, then space: `(1 + T P) x (1 + T P)` operators on CLS and the tokens, frame by frame."""
    size = 1 + frames * patches
    place = lambda t, p: 1 + t * patches + p  # noqa: E731
    weights = np.eye(size)[0]
    for number in reversed(range(len(calls) // 2)):
        time, space = calls[2 * number], calls[2 * number + 1]  # (P, T, T) and (T, 1 + P, 1 + P)
        temporal, spatial = np.eye(size), skip * np.eye(size)
        for p in range(patches):
            for t in range(frames):
                temporal[place(t, p), place(t, p)] = skip
                for s in range(frames):
                    temporal[place(t, p), place(s, p)] += branch * time[p, t, s]
        for t in range(frames):
            columns = [0, *(place(t, q) for q in range(patches))]
            spatial[0, columns] += branch * space[t, 0] / frames
            for p in range(patches):
                spatial[place(t, p), columns] += branch * space[t, 1 + p]
        weights = weights @ spatial @ temporal
    return weights


NORMS = {
    "videomae": "videomae.encoder.layer.1.layernorm_before",
    "vivit": "vivit.layers.1.layernorm_before",
    "timesformer": "timesformer.encoder.layer.1.temporal_layernorm",
    "vjepa2": "pooler.cross_attention_layer.layer_norm1",
}


def gradcam(kind, model, clip, target, prefix):
    """Grad-CAM at the last layer's first norm, by a hook: over all patch tokens of all frames."""
    seen = []
    handle = model.get_submodule(NORMS[kind]).register_forward_hook(lambda m, args, out: seen.append(out))
    logits = model(**{model.main_input_name: clip}).logits
    handle.remove()
    (grad,) = torch.autograd.grad(logits[0, target], seen)
    if kind == "timesformer":  # a row of frames for each place, and no prefix
        tokens, grad = (x.transpose(0, 1).flatten(0, 1).detach().numpy() for x in (seen[0], grad))
    else:
        tokens, grad = (x[0, prefix:].detach().numpy() for x in (seen[0], grad))
    return (tokens @ grad.mean(0)).clip(0)
