"""What can be wrong with a model reference before torch is imported and anything is loaded."""

from pathlib import Path

from vitscope._messages import msg
from vitscope.errors import ModelError, UsageError
from vitscope.models.bundled import catalogue
from vitscope.models.references.hub import OTHER_SOURCES


def check_reference(reference: str) -> None:
    """Check a reference as far as its text and the file system tell.

    Raises:
        UsageError: an empty reference, or embedded weights that do not exist.
        ModelError: a folder that does not exist.
    """
    if not reference.strip():
        raise UsageError(msg("models.no-reference", "the model reference is empty"), OTHER_SOURCES)
    scheme, colon, name = reference.partition(":")
    if colon and scheme == "embedded":
        if name not in catalogue.SHIPPED:
            catalogue.about(name)
        return
    path = Path(reference).expanduser()
    is_file = path.suffix[1:].isalpha()  # of weights, perhaps: what it lacks is said by those who read it
    if not is_file and not path.exists():
        no_such_folder(reference)


def no_such_folder(reference: str) -> None:
    """Raise a ModelError where a reference that is written as a path can only be a folder."""
    windows = len(reference) > 1 and reference[1] == ":"
    written = reference.startswith((".", "/", "~")) or reference.count("/") > 1 or "\\" in reference
    if windows or written:
        raise ModelError(
            msg("models.no-such-folder", "the model folder {folder} does not exist", folder=reference), OTHER_SOURCES
        )
