"""Which medium a file holds by its name, so that a model of images refuses a film, a sound or a volume."""

from pathlib import PurePath
from typing import Any

from vitscope.errors import ImageError

_MEDIA = {
    **dict.fromkeys((".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"), "video"),
    **dict.fromkeys((".wav", ".flac", ".mp3", ".ogg", ".m4a"), "sound"),
    **dict.fromkeys((".nii", ".nii.gz", ".mgz", ".nrrd"), "volume"),
}


def require_image_file(source: Any, model: str) -> None:
    """Raise an ImageError for a file whose name says that it is no image."""
    name = str(source).lower() if isinstance(source, (str, PurePath)) else ""
    medium = next((medium for suffix, medium in _MEDIA.items() if name.endswith(suffix)), None)
    if medium is not None:
        raise ImageError.coded(
            "models.other-medium",
            "{source} is a {medium}, and {model} takes images",
            "use a {medium} model, or save an image of it",
            source=source,
            medium=medium,
            model=model,
        )
