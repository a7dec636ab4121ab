"""The Hugging Face Hub within a deadline: whether a model can be reached, and which revision is in the cache."""

import difflib
import logging
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from vitscope._messages import Message, msg
from vitscope.errors import ModelError, first_line
from vitscope.models.bundled.catalogue import DEFAULT_MODEL

log = logging.getLogger(__name__)

HUB_SECONDS = 12.0
OTHER_SOURCES = msg(
    "models.other-sources.hint",
    "use {@model={model}}, or a local folder written by save_pretrained",
    model=DEFAULT_MODEL,
)
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
T = TypeVar("T")
_answers: dict[tuple[str, str | None], bool] = {}  # of the Hub, asked before torch was imported; each is used once


def reach_hub(reference: str, revision: str | None, file: str = "config.json") -> bool:
    """Ask the Hub for a model within a deadline, without retries.

    Returns:
        True where the Hub answers, False where only the local cache has the model.

    Raises:
        ModelError: no such model, no permission, or neither the Hub nor the cache has it.
    """
    if not _HUB_ID.fullmatch(reference):
        raise ModelError(
            msg("models.no-folder-nor-id", "'{reference}' is neither a folder nor a Hub id", reference=reference),
            OTHER_SOURCES,
        )
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    url = hf_hub_url(reference, file, revision=revision)
    try:
        within(HUB_SECONDS, lambda: get_hf_file_metadata(url, timeout=HUB_SECONDS / 2))
    except GatedRepoError:
        raise ModelError(
            msg("models.gated", "access to {reference} on the Hub is gated", reference=reference),
            msg("models.gated.hint", "accept its terms on the Hub and log in"),
        ) from None
    except RepositoryNotFoundError:
        raise ModelError(
            msg("models.not-on-hub", "the Hub has no model {reference}, or it is private", reference=reference),
            _near_or_other(reference),
        ) from None
    except Exception as error:  # whatever a broken connection raises, the cache may still have the model
        if isinstance(try_to_load_from_cache(reference, file, revision=revision), str):
            log.debug("the Hub is unreachable (%s): %s is taken from the local cache", first_line(error), reference)
            return False
        if isinstance(error, HfHubHTTPError):
            problem = msg(
                "models.hub-refused",
                "the Hub refused {reference}: {reason}",
                reference=reference,
                reason=first_line(error),
            )
            raise ModelError(problem, OTHER_SOURCES) from None
        problem = msg(
            "models.hub-unreachable",
            "the Hub is unreachable and {reference} is not in its local cache",
            reference=reference,
        )
        raise ModelError(problem, _near_or_other(reference)) from None
    return True


def _near_or_other(reference: str) -> Message:
    """Return a hint: the model of nearly the same name that is in the local cache, else where others come from."""
    from huggingface_hub.constants import HF_HUB_CACHE

    cached = [path.name.removeprefix("models--").replace("--", "/", 1) for path in Path(HF_HUB_CACHE).glob("models--*")]
    if near := difflib.get_close_matches(reference, cached, n=1, cutoff=0.8):
        return msg("models.near-in-cache.hint", "did you mean {@model={name}}? it is in the local cache", name=near[0])
    return OTHER_SOURCES


def ask_early(reference: str, revision: str | None) -> None:
    """Ask the Hub for a model, and keep the answer for `reached`; see `reach_hub`."""
    _answers[reference, revision] = reach_hub(reference, revision)


def reached(reference: str, revision: str | None) -> bool:
    """Return whether the Hub answers for a model, asked now unless `ask_early` did; see `reach_hub`."""
    known = _answers.pop((reference, revision), None)
    return reach_hub(reference, revision) if known is None else known


def not_loaded(reference: str, error: Exception) -> ModelError:
    """Make the error for a model whose loader failed."""
    if "trust_remote_code" in str(error):
        return remote_code(reference)
    reason = first_line(error)
    if "Weights only load failed" in str(error):  # torch's words advise to run whatever the file holds
        reason = msg(
            "models.objects-in-weights",
            "its weights are pickled with objects that are no tensors, and to read these would run code of the file's",
        )
    problem = msg(
        "models.not-loaded", "the model {reference} cannot be loaded: {reason}", reference=reference, reason=reason
    )
    return ModelError(problem, OTHER_SOURCES)


def remote_code(reference: str, files: str = "") -> ModelError:
    """Make the error for a model or processor that exists only in code of its own, which nobody allowed to run."""
    return ModelError.coded(
        "models.remote-code",
        "{reference} needs code that lies beside its weights{files}, and that code is not run",
        "read that code, and where you trust it, add {@trust_remote_code=True}",
        reference=reference,
        files=f" ({files})" if files else "",
    )


def cached_revision(reference: str, revision: str | None) -> str:
    """Return `revision:COMMIT` for a model that came from the Hub, or an empty string."""
    if Path(reference).is_dir():
        return ""
    cached = cached_file(reference, "config.json", revision)
    return f"revision:{cached.parent.name}" if cached else ""


def cached_file(reference: str, file: str, revision: str | None) -> Path | None:
    """Return a file of a repository in the local cache, or None."""
    from huggingface_hub import try_to_load_from_cache

    if not _HUB_ID.fullmatch(reference):
        return None
    found = try_to_load_from_cache(reference, file, revision=revision)
    return Path(found) if isinstance(found, str) else None


def fetch_file(reference: str, file: str, revision: str | None, *, local: bool) -> Path | None:
    """Return a file of a repository, fetched unless only local files may be used; None where it cannot be had."""
    from huggingface_hub import hf_hub_download

    if not _HUB_ID.fullmatch(reference):
        return None
    try:
        return Path(hf_hub_download(reference, file, revision=revision, local_files_only=local))
    except Exception as error:  # the loader, which needs it as well, says what is wrong
        log.debug("%s of %s: %s", file, reference, first_line(error))
        return None


def fetch_folder(reference: str, revision: str | None, files: Sequence[str], *, local: bool) -> Path:
    """Return the folder with the first of these files that a repository has, and its config.json.

    Raises:
        ModelError: a repository with none of them, or a download that failed.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    options: dict[str, Any] = {"revision": revision, "local_files_only": local}
    try:
        folder = Path(hf_hub_download(reference, "config.json", **options)).parent
        for name in files:
            try:
                hf_hub_download(reference, name, **options)
            except EntryNotFoundError:
                continue
            break
    except Exception as error:  # whatever a broken connection raises
        raise not_loaded(reference, error) from error
    return folder


def within(seconds: float, call: Callable[[], T]) -> T:
    """Return the result of `call`, or raise TimeoutError: a hanging connection must not hang the caller."""
    result: list[T] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            result.append(call())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if failure:
        raise failure[0]
    if not result:
        raise TimeoutError(f"no answer within {seconds} seconds")
    return result[0]
