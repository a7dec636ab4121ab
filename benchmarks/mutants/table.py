"""Mutants: one-line changes that break vitscope, each named by what it breaks, with the tests that should notice."""

from dataclasses import dataclass
from pathlib import Path

SOURCE = Path("src/vitscope")


@dataclass(frozen=True)
class Mutant:
    """One change of one line.

    Attributes:
        name: what it breaks.
        file: below `src/vitscope`.
        old: text that stands once in the file; new: what takes its place.
        tests: files below `tests` that are expected to fail.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def applied(self, text: str) -> str:
        """Return the file's text with the mutation.

        Raises:
            ValueError: `old` does not stand exactly once in `text`.
        """
        if (count := text.count(self.old)) != 1:
            raise ValueError(f"{self.name}: {self.old!r} stands {count} times in {self.file}")
        return text.replace(self.old, self.new)


_TABLE: dict[str, tuple[list[str], list[tuple[str, str, str]]]] = {
    "models/weights/weights_match.py": (
        ["models/test_references_files.py", "models/test_weights_file.py"],
        [
            ("weights without a place are dropped", "if missing or unexpected:", "if missing:"),
            ("missing parameters stay random", "if missing or unexpected:", "if unexpected:"),
        ],
    ),
    "models/weights/weights_file.py": (
        ["models/test_weights_file.py", "models/test_references_code.py"],
        [
            ("a pickle's code runs", "weights_only=True)", "weights_only=False)"),
            ("the weights of the moment come before their average", '"state_dict_ema", "model_ema", ', ""),
        ],
    ),
    "models/transformers/loading.py": (
        ["models/test_references_code.py"],
        [
            ("code beside weights runs unasked", "trust_remote_code: bool = False", "trust_remote_code: bool = True"),
            ("every head is left out", "return found if takes_pixels else", "return transformers.AutoModel if 1 else"),
        ],
    ),
    "tracing/loops.py": (
        ["models/test_traced_sabotaged.py"],
        [
            (
                "heads in a loop are added as queries",
                'axis, blocks = (1 if over == "heads" else 2)',
                'axis, blocks = (2 if over == "heads" else 1)',
            ),
            (
                "chunks of queries are no loop",
                "if set(queries) != {keys} and sum(queries) != keys:",
                "if set(queries) != {keys}:",
            ),
        ],
    ),
    "tracing/effect.py": (
        ["models/test_traced_sabotaged.py"],
        [("the image may reach CLS beside attention", "if alone and float(", "if False and float(")],
    ),
    "attention/blocks.py": (
        ["attention/test_store.py", "attention/test_capture.py", "methods/test_attention_gradient.py"],
        [
            ("scores are not scaled", "sel]) * self.scale, _precise", "sel]), _precise"),
            (
                "a bias is left out of rows",
                "if self.bias is not None:\n            scores",
                "if self.bias is None:\n            scores",
            ),
            (
                "a mean over heads in the exponent is a sum",
                "flatten(0, 1) + math.log(h)",
                "flatten(0, 1) + 0 * math.log(h)",
            ),
            (
                "the gradient of attention reads keys for values",
                "_precise(block.v).transpose",
                "_precise(block.k).transpose",
            ),
        ],
    ),
    "attention/tile_gradients.py": (
        ["attention/test_store.py", "attention/test_backward.py"],
        [
            ("relevance in tiles is not cut off", "slope.clamp_(min=0)", "slope"),
            ("relevance within the backward is not cut off", "clamp(product, min=0,", "clamp(product, min=-1e9,"),
            ("gradients of scores lack the softmax's own part", "queries], value=-1)", "queries], value=0)"),
            (
                "gradients of keys lack the scale",
                "self.q[heads, queries], alpha=weight * self.scale",
                "self.q[heads, queries]",
            ),
            ("two passes over the tiles count twice", "not self.begun, True", "True, True"),
        ],
    ),
    "attention/backward.py": (
        ["attention/test_backward.py"],
        [
            ("a layer takes its step before a later one", "or waiting[-1] != layer", "or False"),
            ("parts of gradients count as all", "if inputs.complete else None", "if inputs.begun else None"),
        ],
    ),
    "metrics/attention_streaming.py": (
        ["metrics/test_attention_statistics.py"],
        [
            ("entropy is in bits", "(0, 2, 3)) * -math.log(2)", "(0, 2, 3)) * -1.0"),
            ("prefix queries count as patches", "weights[0, :p] = 0", "weights[0, :p] = 1"),
            (
                "a head agrees with itself",
                "cosines.diagonal(dim1=1, dim2=2).zero_()",
                "cosines.diagonal(dim1=1, dim2=2)",
            ),
            (
                "distances on the photo are those of its height",
                "else [self.cell, (height * y, width * x)]",
                "else [self.cell, (height * y, width * y)]",
            ),
        ],
    ),
    "attention/tiles.py": (
        ["attention/test_tiles.py", "attention/test_store.py"],
        [
            ("tiles forget the log-sum-exp's base", "(lse * -_LOG2_E)", "(lse * -1.0)"),
            ("the additional component is not scaled", "lse[..., None] / -scale", "-lse[..., None]"),
            ("weights become denormal numbers", "if heads.start <= head < heads.stop:", "if False:"),
        ],
    ),
    "attention/operators.py": (
        ["attention/test_store.py", "methods/test_attention_gradient.py"],
        [
            ("only the first chunk of queries counts", "out = out + (part", "out = (part"),
            ("negative relevance is not cut off", ".clamp_min(0).mean(1)", ".mean(1)"),
            ("a single weight counts as one", "r[here, single[here]][:, None] * rows", "rows"),
            ("values are taken to the keys", "torch.bmm(fused, v[..., None]", "torch.bmm(fused.mT, v[..., None]"),
        ],
    ),
    "attention/store.py": (
        ["methods/test_rollout.py", "attention/test_store.py", "methods/test_rollout_variants.py"],
        [
            ("layers are multiplied in the wrong order", "for layer in reversed(layers):", "for layer in layers:"),
            ("the residual path is lost", "r = torch.add(attended, r, alpha=residual) if", "r = attended if"),
            (
                "a query's patch is off by the prefix",
                "len(prefix) + self.layout.patch_number(query)",
                "self.layout.patch_number(query)",
            ),
        ],
    ),
    "methods/rollout.py": (
        ["methods/test_rollout.py"],
        [
            (
                "rollout swaps residual and attention",
                "attend, residual_weight, 1 - residual_weight",
                "attend, 1 - residual_weight, residual_weight",
            ),
        ],
    ),
    "methods/head_fusion.py": (
        ["methods/test_rollout.py"],
        [
            ("discarding forgets the prefix", "indices[..., :weakest] + prefix", "indices[..., :weakest]"),
            ("max and min over heads are swapped", 'if heads == "max"', 'if heads == "min"'),
        ],
    ),
    "methods/rollout_variants.py": (
        ["methods/test_rollout_variants.py"],
        [
            ("lengths of values are not weighed", "(rows * lengths[:, :, None]).sum(1)", "rows.sum(1)"),
            ("sinks are kept", "others = (~sinks)", "others = (sinks | ~sinks)"),
        ],
    ),
    "models/stacked.py": (
        ["models/test_transformers_video.py", "models/test_monai.py"],
        [
            (
                "the frames of a tubelet are mixed up",
                "cut.transpose(-4, -3).reshape(*image.shape[:-2], *self.shape)",
                "cut.reshape(*image.shape[:-2], *self.shape)",
            ),
        ],
    ),
    "models/transformers/video.py": (
        ["models/test_transformers_video.py"],
        [
            ("the CLS of a batch is that of other clips", ".reshape(-1)[: len(weights)]", "[:, 0]"),
        ],
    ),
    "media/clip_explanation.py": (
        ["media/test_clip.py"],
        [
            ("each frame has a map of its own scale", "raster.limits(self.map, style.norm)", "None"),
        ],
    ),
    "geometry.py": (
        ["test_geometry.py", "methods/test_rollout.py", "render/test_raster.py", "attention/test_store.py"],
        [
            (
                "a query's row and column are swapped",
                "np.ravel_multi_index(place, self.shape)",
                "np.ravel_multi_index(place[::-1], self.shape[::-1])",
            ),
            ("the mean reads the prefix, too", "slice(None) if self.pool_prefix else patches", "slice(None)"),
            ("registers lie among the patches", "x[..., len(self.prefix) :]", "x[..., : self.grid[0] * self.grid[1]]"),
            ("the distillation token is not read", "first if self.pool_prefix else slice(1)", "slice(1)"),
            ("a crop starts at the corner", "return (resized - crop) // 2 if", "return 0 if"),
            ("a crop's axes are swapped", "sx, sy = w / rw, h / rh", "sy, sx = w / rw, h / rh"),
            (
                "a map is laid transposed",
                "rows @ np.asarray(grid, np.float32) @ columns.T",
                "rows @ np.asarray(grid, np.float32).T @ columns.T",
            ),
            ("patches lie half a pixel off", "pixels.stop) + 0.5 - low)", "pixels.stop) - low)"),
        ],
    ),
    "attention/gradient_rules.py": (
        ["attention/test_gradient_rules.py"],
        [
            ("queries and keys carry the gradient of LibraGrad", "return q.detach(), k.detach(), v", "return q, k, v"),
            (
                "AttnLRP's products pass the whole gradient",
                "return scale_gradient(x, 0.5)",
                "return scale_gradient(x, 1.0)",
            ),
            ("a layer norm's mean has no gradient", "grad = grad - grad.mean(", "grad = grad - 0 * grad.mean("),
        ],
    ),
    "methods/cam.py": (
        ["methods/test_cam.py"],
        [
            (
                "Grad-CAM sums gradients",
                "(z * grad.mean((1, 2), keepdim=True)).sum(-1)",
                "(z * grad.sum((1, 2), keepdim=True)).sum(-1)",
            ),
        ],
    ),
    "methods/legrad.py": (
        ["methods/test_rollout_variants.py"],
        [
            ("LeGrad keeps negative gradients", ".clamp_(min=0).sum((1, 2))", ".sum((1, 2))"),
        ],
    ),
    "methods/targets.py": (
        ["methods/test_targets.py"],
        [
            (
                "a contrast of classes is their sum",
                "answer[:, first] - answer[:, second]",
                "answer[:, first] + answer[:, second]",
            ),
        ],
    ),
    "models/answers/answers.py": (
        ["models/test_answers.py"],
        [
            ("answer-first-of-several", "    if len(main) > 1:", "    if len(main) > 99:"),
            ("answer-hidden-states-count", "if not _SIDE.search(path[len(start) :])", "if True"),
            ("answer-index-counts-from-one", "        key = int(index)", "        key = int(index) - 1"),
        ],
    ),
    "tracing/trace.py": (
        ["models/test_answers.py", "models/test_answers_transformers.py"],
        [
            ("trace-unread-layers-count", "for call in joined if call.event in counted)", "for call in joined)"),
            ("trace-channels-last-is-first", "return 3 if placed ==", "return 1 if placed =="),
        ],
    ),
    "tracing/network.py": (
        ["models/test_answers_transformers.py"],
        [
            (
                "network-long-skips-are-mlps",
                "if not branch.just_joined or not any(new <= one for one in self.joins):",
                "if False:",
            )
        ],
    ),
    "methods/places.py": (
        ["methods/test_places.py"],
        [
            ("place-box-edges-swapped", "_overlap(ys, self.box[1::2])", "_overlap(ys, self.box[::2])"),
            ("place-mean-is-sum", "w / w.sum()", "w / 1.0"),
            ("place-next-query", "return answer[:, self.index]", "return answer[:, self.index - 1]"),
        ],
    ),
    "models/pixels/measured_region.py": (
        ["models/test_preprocessing_region.py"],
        [("a processor that mirrors is measured as one that does not", "if (scales < 0).any():", "if False:")],
    ),
    "models/pixels/preprocessing.py": (
        ["models/test_preprocessing.py"],
        [
            ("another size swaps height and width", "resize((made[1], made[0])", "resize((made[0], made[1])"),
            ("another size is not normalised", "(part @ matrix + offset).permute", "part.permute"),
        ],
    ),
    "models/transformers/adapter.py": (
        ["models/test_preprocessing.py"],
        [("positions are not interpolated", "!= self.input_size and", "== self.input_size and")],
    ),
    "models/transformers/processor.py": (
        ["models/test_preprocessing.py"],
        [("NaFlex patches are cut by columns", "permute(0, 2, 4, 3, 5, 1)", "permute(0, 4, 2, 3, 5, 1)")],
    ),
    "models/base.py": (
        ["engine/test_runner_predictions.py", "engine/test_runner_changed_models.py"],
        [
            ("weights are those that were loaded", "if now != self._seen.weights:", "if False:"),
            ("one logit has a softmax", "if classes == 1 or (self", "if (self"),
            ("what the caller says of classes is not heard", "if given is None else given)", ")"),
            ("a regression has probabilities", 'self.scores == "values" and given is None', "False"),
        ],
    ),
    "models/answers/answer_kind.py": (
        ["models/test_answer_kind.py"],
        [
            ("features are class scores", "    if not computed:\n        names", "    if True:\n        names"),
            ("probabilities are scores", "answer, ends)) is not None", "answer, ends)) is None and False"),
        ],
    ),
    "models/timm/classes.py": (
        ["models/test_answer_kind.py"],
        [
            (
                "any thousand classes are ImageNet's",
                "if not pretrained and not _has_pretrained",
                "if False and _has_pretrained",
            )
        ],
    ),
    "models/answers/labels.py": (
        ["models/test_labels.py"],
        [("names are not counted", "if sorted(labels) == list(range(count)):", "if True:")],
    ),
    "methods/class_names.py": (
        ["methods/test_class_names.py"],
        [
            ("case is never looked at", "for fold in (str, str.casefold):", "for fold in (str.casefold,):"),
            ("the first of two classes is meant", "    if len(found) == 1:", "    if found:"),
        ],
    ),
    "engine/finite.py": (
        ["engine/test_finite.py"],
        [
            ("NaN is an answer", "    if bool(answer.detach().isfinite().all()):", "    if True:"),
            ("NaN is attention", "    if not sums or bool(", "    if not sums or True or bool("),
        ],
    ),
    "metrics/target_score.py": (
        ["metrics/test_faithfulness.py", "metrics/test_measurement.py"],
        [
            ("a probability is the logit", "        return scores.softmax(-1)", "        return scores"),
        ],
    ),
    "attention/changes.py": (
        ["attention/test_capture.py", "engine/test_runner_interrupts.py"],
        [
            ("hooks stay", "self.on_exit(partial(remove_hook, module, number))", "pass"),
            (
                "what an interrupt left is not undone",
                "            finally:\n                changes.undo()\n",
                "            finally:\n                pass\n",
            ),
        ],
    ),
    "attention/model_lock.py": (
        ["engine/test_runner_threads.py"],
        [
            ("two threads run one model", "if not all(hold._is_lent for hold in in_the_way):", "if False:"),
            ("a model is lent while its weights are others", "if not all(hold.pristine for hold in own):", "if False:"),
            ("a model and its part are different models", "found.add(id(module))", "found.add(id(model))"),
        ],
    ),
    "attention/model_modes.py": (
        ["attention/test_capture.py", "methods/test_attention_gradient.py"],
        [
            ("parameters stay frozen", "parameter.requires_grad_, True", "parameter.requires_grad_, False"),
            ("modes and attributes stay changed", "partial(_put_back, own, plain)", "partial(dict, plain)"),
        ],
    ),
    "attention/recorder.py": (
        ["attention/test_capture.py"],
        [("two forwards are one", "if self._forwards > 1:", "if self._forwards > 2:")],
    ),
    "metrics/faithfulness.py": (
        ["metrics/test_faithfulness.py"],
        [
            (
                "an area under a curve is left of it",
                "((y[1:] + y[:-1]) * np.diff(x)).sum() / 2",
                "(y[:-1] * np.diff(x)).sum()",
            ),
            ("AOPC has the other sign", "drops, x = scores[0] - scores,", "drops, x = scores - scores[0],"),
            (
                "deletion takes the coldest patches first",
                'Measure("deletion", "lower", lambda m, p: top_masks(m.order',
                'Measure("deletion", "lower", lambda m, p: top_masks(m.order[::-1]',
            ),
            (
                "SaCo's sign is turned",
                "drop[..., i] >= drop[..., j], weight, -weight",
                "drop[..., i] >= drop[..., j], -weight, weight",
            ),
        ],
    ),
    "metrics/perturb.py": (
        ["metrics/test_faithfulness.py"],
        [
            ("the black baseline is zero", "return black", "return torch.zeros_like(pixels)"),
            ("a blurred baseline blurs along one axis", ".transpose(1, 2)\n    return precise", "\n    return precise"),
            ("removal keeps what it should drop", "self.run(pixels, ~covered)", "self.run(pixels, covered)"),
        ],
    ),
    "metrics/ranking.py": (
        ["metrics/test_perturb.py", "metrics/test_faithfulness.py"],
        [
            ("equal patches keep their order", "np.lexsort((chance, -flat))", "np.argsort(-flat, kind='stable')"),
        ],
    ),
    "metrics/localisation.py": (
        ["metrics/test_localisation.py"],
        [
            ("an AUC counts the ground", "auc=_area(tp / on, (count - tp)", "auc=_area((count - tp) / on, (tp)"),
            ("precision is recall", "/ on * (tp / count)", "/ on * (tp / on)"),
            ("pointing takes the coldest pixel", "np.nanmax(heat)", "np.nanmin(heat)"),
        ],
    ),
    "batch/output.py": (
        ["batch/test_output.py", "batch/test_run.py"],
        [
            ("a resumed batch makes everything again", "            if shard is None:", "            if True:"),
            ("a changed source is resumed", "elif shard.digest != task.digest:", "elif False:"),
            ("damaged shards count as finished", "self.damaged[shard.file] = error.message", "self._shards[0] = shard"),
        ],
    ),
    "_files.py": (
        ["batch/test_output.py", "bench/test_run_log.py"],
        [
            ("a batch with other options is resumed", "    if changed:", "    if False:"),
        ],
    ),
    "web/access.py": (
        ["web/test_middleware.py"],
        [
            ("no token is asked for", "if self.token is None or", "if self.token or"),
            (
                "any signature is a session",
                "return session if session and valid else",
                "return session if session else",
            ),
            ("pages of other origins are let in", "if origin is not None and", "if origin is None and"),
            ("any host name is this server", "if name in self.host_names or is_loopback(name):", "if name:"),
        ],
    ),
    "cli/main.py": (
        ["cli/test_main.py", "cli/test_explain.py", "cli/test_explain_inputs.py"],
        [
            ("wrong usage exits with 1", "        code = 2\n", "        code = 1\n"),
            ("an interrupt exits with 0", "_INTERRUPTED = 130", "_INTERRUPTED = 0"),
        ],
    ),
    "viewer/attention_payload.py": (
        ["viewer/test_attention_payload.py"],
        [
            ("the page's scores lose the scale", "block.q[0].double() * block.scale", "block.q[0].double()"),
            ("the page's weights lose the step", "step**2 / s, 0", "step / s, 0"),
            ("the page's error is that of one layer", "values = torch.cat(parts)", "values = parts[0]"),
        ],
    ),
    "_documents.py": (
        ["test_documents.py", "test_explanation.py"],
        [
            ("what was changed is read", "if seal != _hash(document):", "if seal is None:"),
            (
                "files are not hashed",
                'if hashlib.file_digest(file, "sha256").hexdigest() != record.sha256:',
                "if False:",
            ),
            ("a key that comes twice is one", "if len(found) < len(pairs):", "if False:"),
            ("headers of arrays are believed", "and len(data) - begin == 4 * count", ""),
        ],
    ),
    "render/raster.py": (
        ["render/test_raster.py"],
        [
            ("colours start at the middle", "np.clip((values - low) / span", "np.clip((values) / span"),
        ],
    ),
}

MUTANTS = tuple(
    Mutant(name, file, old, new, tuple(tests)) for file, (tests, lines) in _TABLE.items() for name, old, new in lines
)
