"""`vitscope serve`: the viewer as a local web app."""

from typing import Annotated

import typer

from vitscope._messages import msg
from vitscope.cli import console
from vitscope.cli.commands import _checks as checks
from vitscope.cli.commands import _options as opt
from vitscope.errors import UsageError, VitscopeError, require_package
from vitscope.models.bundled.catalogue import default_model


def serve(
    flags: opt.LoadFlags,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", metavar="MODEL", help=f"{opt.MODEL_HELP} May be repeated. {opt.DEFAULT_HELP}"),
    ] = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on; beyond loopback a token is required.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="PORT", help="Port to listen on; 0 chooses a free one.")
    ] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="TOKEN", envvar="VITSCOPE_TOKEN", help="Token that clients send; by default a new one each time."
        ),
    ] = None,
    no_token: Annotated[
        bool, typer.Option("--no-token", help="Require no token (loopback only): every local program has access.")
    ] = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Another host name of this server, such as a proxy's; may be repeated."),
    ] = None,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = False,
    max_mb: Annotated[float, typer.Option(metavar="MB", min=0.001, help="Largest image file.")] = 20,
    max_pixels: Annotated[
        float, typer.Option(metavar="MILLIONS", min=0.001, help="Largest image, in millions of pixels.")
    ] = 25,
    max_size: Annotated[
        int, typer.Option(metavar="PIXELS", min=16, max=8192, help="Largest input size of the model.")
    ] = 1036,
    seconds: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="Time limit of one request to the model.")
    ] = 300,
    queue: Annotated[int, typer.Option(metavar="COUNT", min=1, help="Requests that may wait for the model.")] = 16,
    keep_mb: Annotated[
        float, typer.Option(metavar="MB", min=0.001, help="Memory for uploaded images and finished views.")
    ] = 500,
) -> None:
    """Serve the viewer as a local web app: upload an image, hide patches, explain any class. Ctrl-C stops it."""
    references = list(dict.fromkeys(map(checks.check_model, model or [default_model()])))
    for package in ("fastapi", "starlette", "uvicorn"):
        require_package(package, extra="serve")
    from vitscope.web import access, limits, server

    most = limits.Limits(
        body_bytes=int(max_mb * 1e6),
        total_body_bytes=int(8 * max_mb * 1e6),
        pixels=int(max_pixels * 1e6),
        input_size=max_size,
        job_seconds=seconds,
        queue=queue,
        memory_bytes=int(keep_mb * 1e6),
    )
    if len(references) > 1 and (given := flags.changed()):
        raise UsageError.coded(
            "cli.option-several-models", "{option} is for a single model", "start with one --model", option=given[0]
        )

    def policy_for(port: int) -> access.AccessPolicy:
        return access.make_access_policy(host, port, token, use_token=not no_token, host_names=allow_host or [])

    policy_for(port)  # rejects wrong usage before any model is loaded
    with server.listen(host, port) as listener:
        bound: int = listener.getsockname()[1]
        policy = policy_for(bound)
        scopes = {reference: opt.load(reference, **flags.keywords()) for reference in references}
        url = server.url(host, bound, policy)

        def ready() -> None:
            console.print_line(url)
            access_note = "" if policy.token else "; no token: every program on this machine has access"
            console.print_note(f"listening; Ctrl-C stops it{access_note}")
            if open_:
                typer.launch(url)

        if not server.serve(scopes, policy, most, listener, ready):
            raise VitscopeError(msg("cli.shutdown-timeout", "a running request did not end in time and was cut off"))
