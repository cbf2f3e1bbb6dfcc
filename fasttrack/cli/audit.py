"""`fasttrack audit`: run a script and report which of its lines wait for the accelerator."""

from __future__ import annotations

import dataclasses
import io
import os
import runpy
import sys
import types
from typing import TYPE_CHECKING, Any

import click

from fasttrack.cli.shared import json_option, print_json
from fasttrack.context.distributed import is_main_process

if TYPE_CHECKING:
    from fasttrack.audit.session import Audit

_INTERRUPTED = 130
_MACHINERY = ("<frozen ", runpy.__file__, __file__)


@click.command("audit", context_settings={"allow_interspersed_args": False})
@click.option("-m", "is_module", is_flag=True, help="SCRIPT is a module's name, as for python -m.")
@json_option
@click.argument("script")
@click.argument("arguments", metavar="[ARGS]...", nargs=-1, type=click.UNPROCESSED)
def audit(script: str, arguments: tuple[str, ...], is_module: bool, as_json: bool) -> int:
    """Run SCRIPT as python does, and report the lines that wait for the accelerator.

    Each is reported with what waits (reading a value, a copy, a result whose size depends on
    values, any other synchronisation that CUDA's debug mode tells of), how often, and for how many
    milliseconds, on stderr when the script ends, whichever way it does. Under torchrun the main
    process reports. Where torch finds no accelerator, the script runs as ever and that is said.

    The audit slows the script: see the report's last lines. torch is imported before the script:
    set variables that it reads at its import, such as OMP_NUM_THREADS, in the environment.

    --json prints {devices, wall_s, wait_ms, overhead_s, operations, findings} instead, as the last
    line of stdout. A total_ms of null is not known.

    Exit code: the script's own; 2 where there is no such script.
    """
    if not is_module and not os.path.isfile(script):
        raise click.UsageError(f"there is no file {script!r}")
    from fasttrack.audit.session import Audit

    with Audit(silent=as_json or not is_main_process()) as audited:
        code = run(script, arguments, is_module=is_module)
    if as_json:
        print_json(describe(audited), indent=None)
    return code


def run(script: str, arguments: tuple[str, ...], *, is_module: bool) -> int:
    """Run a script or module as the main program; return the exit code that python would give.

    The program's traceback is printed as ever, and `sys.excepthook` is the program's own.
    """
    sys.argv = [script, *arguments]
    try:
        if is_module:
            sys.path[0] = os.getcwd()
            runpy.run_module(script, run_name="__main__", alter_sys=True)
        else:
            _run_file(os.path.abspath(script))
    except SystemExit as leaving:
        return _exit_code(leaving.code)
    except BaseException as error:
        _print_traceback(error)
        return _INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1
    return 0


def describe(audited: Audit) -> dict[str, object]:
    """Return what an audit found as plain values."""
    return {
        "devices": audited.devices,
        "wall_s": audited.wall_s,
        "wait_ms": audited.wait_ms,
        "overhead_s": audited.overhead_s,
        "operations": audited.operations,
        "findings": [dataclasses.asdict(finding) for finding in audited.findings],
    }


def _run_file(path: str) -> None:
    # runpy would take `__main__` away again before handlers at the interpreter's exit need it.
    main = types.ModuleType("__main__")
    main.__file__ = path
    main.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = main
    sys.path[0] = os.path.dirname(path)
    with io.open_code(path) as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    exec(code, main.__dict__)


def _exit_code(code: Any) -> int:
    if code is None or isinstance(code, int):
        return code or 0
    click.echo(code, err=True)
    return 1


def _print_traceback(error: BaseException) -> None:
    """Print it without the lines that ran the program, where the interpreter would have."""
    traceback = error.__traceback__
    while traceback and traceback.tb_frame.f_code.co_filename.startswith(_MACHINERY):
        traceback = traceback.tb_next
    error = error.with_traceback(traceback)
    # The tracker's handler at the interpreter's exit takes a run as failed that has these.
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, traceback
    sys.excepthook(type(error), error, traceback)
