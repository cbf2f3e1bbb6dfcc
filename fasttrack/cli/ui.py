"""`fasttrack ui`: the page of `fasttrack report`, for all runs of a directory, as they go on."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from fasttrack.settings import resolve_base_dir


@click.command("ui")
@click.argument(
    "base",
    metavar="[DIR]",
    required=False,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="Where to listen; default: any free one.",
)
@click.option("--open", "opens", is_flag=True, help="Open it in the browser.")
def ui(base: Path | None, port: int, opens: bool) -> None:
    """Look at the runs under DIR in a browser while they go on; Ctrl-C ends it.

    DIR is the parent of wandb/; default WANDB_DIR, then here. Prints the URL to open. What is
    written appears within two seconds, new runs, too.

    Only this machine can connect, and only who has the URL: there is a token in it. Nothing can be
    changed through it. From another machine: ssh -L 8000:127.0.0.1:8000 HOST, there
    'fasttrack ui --port 8000', and the URL it prints opens here.

    Needs Bokeh: pip install 'fasttrack[report]'.
    """
    from fasttrack.views.web.server import RunServer

    with RunServer(base or resolve_base_dir(), port) as server:
        click.echo(server.url)
        if opens:
            click.launch(server.url)
        with contextlib.suppress(KeyboardInterrupt):  # it is how one ends it
            server.serve_forever()
