"""The options of commands that take one model or two."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from vitscope._messages import msg
from vitscope.cli.commands import _checks as checks
from vitscope.cli.commands import _options as opt
from vitscope.errors import UsageError
from vitscope.models.bundled.catalogue import default_model

if TYPE_CHECKING:
    from vitscope.scope import Scope


def check_two_models(value: list[str] | None) -> list[str] | None:
    """Check model references, one or two."""
    if value and len(value) > 2:
        raise UsageError(
            msg("cli.too-many-models", "{count} models are named, and two at most stand side by side", count=len(value))
        )
    return [checks.check_model(one) for one in value or ()] or None


@dataclass(frozen=True)
class TwoModels(opt.LoadFlags):
    """One model, or two that are shown side by side; all flags but `--weights` are those of both."""

    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            callback=check_two_models,
            help=f"{opt.MODEL_HELP} Given twice, two models stand side by side. {opt.DEFAULT_HELP}",
        ),
    ] = None

    def load(self) -> "list[Scope]":
        """Load the models; show the progress of a download."""
        named = self.model or [checks.check_model(default_model())]
        if len(named) > 1 and self.weights:
            raise UsageError(
                msg("cli.weights-of-two", "--weights would be those of both models"),
                msg("cli.weights-of-two.hint", "name the model with other weights by its own folder or file"),
            )
        return [opt.load(one, **self.keywords()) for one in named]
