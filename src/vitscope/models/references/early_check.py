"""What can be wrong with a model reference before torch is imported and anything is loaded."""

from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path

from vitscope._messages import msg
from vitscope.errors import ModelError, UnknownNameError, UsageError
from vitscope.models.bundled import catalogue
from vitscope.models.references.hub import OTHER_SOURCES, ask_early
from vitscope.models.weights.foreign_files import WEIGHT_SUFFIXES, refuse_foreign

PACKAGE = "vitscope.models"  # of the registry of adapters
SCHEMES = ("open_clip", "timm", "torchvision")  # of the adapters that come with vitscope


def check_reference(reference: str) -> None:
    """Check a reference as far as its text and the file system tell.

    Raises:
        UsageError: an empty reference, or embedded weights that do not exist.
        ModelError: a folder or a file that does not exist, or a file that holds no weights of PyTorch.
    """
    if not reference.strip():
        raise UsageError(msg("models.no-reference", "the model reference is empty"), OTHER_SOURCES)
    scheme, colon, name = reference.partition(":")
    if colon and scheme == "embedded":
        if name not in catalogue.SHIPPED:
            catalogue.about(name)
        return
    path = Path(reference).expanduser()
    if path.is_dir() or (colon and scheme in SCHEMES):
        return
    if colon and len(scheme) > 1 and not path.exists():
        return  # of an adapter, perhaps
    if path.exists() or path.suffix.lower() in WEIGHT_SUFFIXES:
        refuse_foreign(path)
    elif reference in (*catalogue.NAMES, *catalogue.SHIPPED):
        raise bare_name(reference, f"embedded:{reference}")
    else:
        no_such_folder(reference)


def check_scheme(reference: str) -> None:
    """Check what stands before the colon of a reference: an adapter of vitscope's, or it may be one of a plug-in.

    Raises:
        UnknownNameError: no adapter is called so, and no plug-in with adapters is installed.
    """
    scheme, colon, _ = reference.partition(":")
    known = scheme in ("embedded", *SCHEMES) or len(scheme) == 1  # a drive of Windows
    if colon and not (known or Path(reference).expanduser().exists() or entry_points(group=PACKAGE)):
        raise no_such_scheme(scheme, (f"{name}:" for name in SCHEMES))


def ask_hub_early(reference: str, revision: str | None) -> None:
    """Ask the Hub for a model that only the Hub can have, before torch is imported; `reached` has the answer.

    A name without an owner is not asked for: it may be one of another library.

    Raises:
        ModelError: as by `reach_hub`.
    """
    if "/" in reference and ":" not in reference and not Path(reference).expanduser().exists():
        with catalogue.naming_variable(reference):
            ask_early(reference, revision)


def no_such_scheme(scheme: str, schemes: Iterable[str]) -> UnknownNameError:
    """Make the error for a reference that begins with what no adapter is called.

    Args:
        scheme: what stands before the colon.
        schemes: of the adapters, each with its colon.
    """
    kind = msg("models.reference-kind", "kind of model reference")
    return UnknownNameError(kind, f"{scheme}:", ["embedded:", *schemes, "HUB/ID", "FOLDER"])


def bare_name(reference: str, *meant: str) -> UsageError:
    """Make the error for a name without the library that has it; `meant` are the references with it."""
    return UsageError.coded(
        "models.bare-name",
        "there is no folder {name}, and a name without a library before it is an id on the Hub",
        "did you mean {@model={reference}}?",
        name=reference,
        reference=" / ".join(meant),
    )


def no_such_folder(reference: str) -> None:
    """Raise a ModelError where a reference that is written as a path can only be a folder."""
    windows = len(reference) > 1 and reference[1] == ":"
    written = reference.startswith((".", "/", "~")) or reference.count("/") > 1 or "\\" in reference
    if windows or written:
        raise ModelError(
            msg("models.no-such-folder", "the model folder {folder} does not exist", folder=reference), OTHER_SOURCES
        )
