"""Maps of fixed photos while a model trains, with the real trainers and the real TensorBoard."""

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from tests.helpers.errors import raises
from vitscope.errors import ImageError, MissingDependencyError, UsageError
from vitscope.export import tensorboard, wandb
from vitscope.export._callback import LoggedPhotos
from vitscope.metrics.concentration import concentration

STEPS, EVERY = 6, 3


def examples(count=STEPS * 2):
    noise = torch.Generator().manual_seed(1)
    return [
        {"pixel_values": torch.randn(3, 64, 64, generator=noise), "labels": torch.tensor(n % 7)} for n in range(count)
    ]


def fresh(folder):
    from transformers import ViTForImageClassification

    return ViTForImageClassification.from_pretrained(folder)


def processor(picture):
    """A Pillow image as the tiny model's input."""
    return torch.from_numpy(np.asarray(picture.resize((64, 64)), np.float32).transpose(2, 0, 1).copy()) / 127.5 - 1


class RecordedCall(list):
    """A log that keeps what it is given."""

    def __call__(self, tag, explanation, step):
        self.append((tag, step, explanation.map))


def trained_by_transformers(folder, out, callbacks):
    from transformers import Trainer, TrainingArguments

    torch.manual_seed(0)
    model = fresh(folder)
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=STEPS,
        per_device_train_batch_size=2,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        learning_rate=0.1,
        seed=0,
        dataloader_pin_memory=False,
        logging_strategy="no",
    )
    Trainer(model=model, args=arguments, train_dataset=examples(), callbacks=callbacks).train()
    return model


def trained_by_lightning(folder, out, callbacks):
    import lightning.pytorch as pl

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = fresh(folder)

        def training_step(self, batch, _):
            return self.model(**batch).loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    torch.manual_seed(0)
    module = Module()
    trainer = pl.Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=out,
        callbacks=callbacks,
    )
    trainer.fit(module, DataLoader(examples(), batch_size=2))
    return module.model


def maps_of_transformers(*args, **kwargs):
    from vitscope.export.trainer import AttentionMaps

    return AttentionMaps(*args, **kwargs)


def maps_of_lightning(*args, **kwargs):
    from vitscope.export.lightning import AttentionMaps

    return AttentionMaps(*args, **kwargs)


TRAINERS = {
    "transformers": (trained_by_transformers, maps_of_transformers),
    "lightning": (trained_by_lightning, maps_of_lightning),
}


@pytest.mark.filterwarnings("ignore::UserWarning:lightning.*", "ignore:.isinstance.treespec:FutureWarning")
@pytest.mark.parametrize("name", [pytest.param("transformers", marks=pytest.mark.slow), "lightning"])
def test_photos_are_watched_and_training_is_not_changed(name, tiny_folder, photo, tmp_path):
    train, maps = TRAINERS[name]
    seen = RecordedCall()
    watcher = maps([photo, photo], seen, EVERY, processor=processor, method="rollout")
    watched, alone = train(tiny_folder, tmp_path, [watcher]), train(tiny_folder, tmp_path, [])
    assert [(tag, step) for tag, step, _ in seen] == [
        (tag, step) for step in (0, 3, 6) for tag in ("vitscope/chelsea", "vitscope/chelsea-2")
    ]
    assert not np.array_equal(seen[0][2], seen[-1][2])
    assert np.array_equal(seen[0][2], seen[1][2])
    for one, other in zip(watched.parameters(), alone.parameters(), strict=True):
        assert torch.equal(one, other)


def test_tensorboard_gets_picture_and_numbers(tiny_scope, photo, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    explanation = tiny_scope.explain(photo)
    with SummaryWriter(str(tmp_path)) as writer:
        tensorboard.logger(writer, cmap="viridis")("vitscope/cat", explanation, 7)
    events = EventAccumulator(str(tmp_path)).Reload()
    (shown,) = events.Images("vitscope/cat")
    assert shown.step == 7
    drawn = np.asarray(Image.open(io.BytesIO(shown.encoded_image_string)))
    assert np.array_equal(drawn, np.asarray(explanation.overlay(cmap="viridis")))
    for key, value in concentration(explanation).items():
        (scalar,) = events.Scalars(f"vitscope/cat/{key}")
        assert (scalar.step, scalar.value) == (7, pytest.approx(value, rel=1e-6))


def test_wandb_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'vitscope\[wandb\]'"):
        wandb.logger(object())


def test_nothing_to_watch_is_said_at_once(photo):
    with raises(UsageError, "export.photos-and-steps"):
        LoggedPhotos.read([], RecordedCall(), 100, {})
    with raises(UsageError, "export.photos-and-steps"):
        LoggedPhotos.read([photo], RecordedCall(), 0, {})
    with raises(ImageError, "images.not-found"):
        LoggedPhotos.read(["nowhere.jpg"], RecordedCall(), 1, {})
