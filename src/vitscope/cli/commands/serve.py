"""`vitscope serve`: the viewer as a local web app."""

from typing import Annotated

import typer

from vitscope.cli import console
from vitscope.cli.commands._options import DEFAULT_MODEL, Device, Dtype, Revision, load
from vitscope.errors import MissingDependencyError, UsageError, VitscopeError

__all__ = ["serve"]


def serve(
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="Model reference; several may be offered.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; beyond loopback a token is a must.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    token: Annotated[
        str | None, typer.Option(envvar="VITSCOPE_TOKEN", help="Your own; otherwise each launch makes one.")
    ] = None,
    no_token: Annotated[bool, typer.Option("--no-token", help="Let in whoever reaches it (loopback only).")] = False,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A name that this server is called by, as behind a proxy.")
    ] = None,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open it in the browser.")] = False,
    max_mb: Annotated[float, typer.Option(help="Of one photo's file.")] = 20,
    max_pixels: Annotated[float, typer.Option(help="Of one photo, in millions.")] = 25,
    max_size: Annotated[int, typer.Option(help="Input size that may be asked for.")] = 1036,
    seconds: Annotated[float, typer.Option(help="That the model may work on one question.")] = 300,
    queue: Annotated[int, typer.Option(help="Questions that may wait.")] = 16,
    keep_mb: Annotated[float, typer.Option(help="Of photos and views that are kept in memory.")] = 500,
    revision: Revision = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> None:
    """The viewer as a local web app: drop a photo, look around, hide patches, ask for any class. Ctrl-C ends it."""
    try:
        from vitscope.web import access, limits, server
    except ImportError as error:
        if error.name and error.name.partition(".")[0] == "vitscope":
            raise
        raise MissingDependencyError(error.name or "fastapi", "serve") from None

    most = limits.Limits(
        body_bytes=int(max_mb * 1e6),
        total_body_bytes=int(8 * max_mb * 1e6),
        pixels=int(max_pixels * 1e6),
        input_size=max_size,
        job_seconds=seconds,
        queue=queue,
        memory_bytes=int(keep_mb * 1e6),
    )
    references = list(dict.fromkeys(model or [DEFAULT_MODEL]))
    if revision is not None and len(references) > 1:
        raise UsageError("--revision is of one model", "start with one --model")
    access.make_access_policy(
        host, port, token, use_token=not no_token, host_names=allow_host or []
    )  # what is wrong is said before anything loads
    with server.listen(host, port) as listener:
        bound: int = listener.getsockname()[1]
        policy = access.make_access_policy(host, bound, token, use_token=not no_token, host_names=allow_host or [])
        scopes = {reference: load(reference, revision, device, dtype) for reference in references}
        address = server.url(host, bound, policy)

        def ready() -> None:
            console.out.print(address, markup=False, soft_wrap=True)
            console.note("listening; Ctrl-C ends it" + ("" if policy.token else "; no token: any program here may ask"))
            if open_:
                typer.launch(address)

        if not server.serve(scopes, policy, most, listener, ready):
            raise VitscopeError("a running explanation did not end in time and was cut off")
