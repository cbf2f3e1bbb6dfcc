"""The rules that keep the package in layers; style.md says why."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.runs import make_tracker, run_dir
from support.wandb_server import WandbServer

import fasttrack

ROOT = Path(fasttrack.__file__).parent
MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}
BASE = {
    *("errors", "handler_errors", "latch", "notices", "opaque", "options", "redaction", "stats"),
    *("alerts.rules", "alerts.settings", "validation"),
}
# What the trainer may know of delivery: how it is started and ended, what it reports, the backends.
BORDER = {
    "delivery.backends.registry",
    "delivery.children",
    "delivery.events",
    "delivery.spawn",
}
# What each layer may import, itself aside. A module is of the layer that its name begins with; the
# longest name in the table counts. A new folder or module at the top gets a line here; nothing may
# import `tracker`, `engine` or `integrations` but who is allowed to below.
ALLOWED = {
    **dict.fromkeys(BASE, BASE),
    "alerts": BASE | {"journal"},
    "copies": BASE | {"hotpath", "preemption"},
    "exit_codes": BASE,
    "process_hooks": BASE | {"exit_codes", "sigterm"},
    "sigterm": BASE,
    "nodes.joining": {"*"},
    "nodes": BASE | {"context", "journal", "worker.gpu"},
    "preemption": BASE | {"context", "process_hooks"},
    "command": BASE,
    "journal": BASE,
    "goodput": BASE | {"journal"},
    "context": BASE,
    "settings": BASE | {"context", "delivery.backends.registry", "run_identity"},
    "run_identity": BASE | {"context", "journal", "settings"},
    "quick_calls": BASE,
    "media": BASE,
    "media.calls": {"engine", "quick_calls"},
    "collective": BASE | {"context", "hotpath"},
    "collective.calls": BASE | {"engine"},
    "hotpath": BASE | {"context", "media.types", "quick_calls"},
    "ranks": BASE | {"context", "hotpath", "journal", "quick_calls", "settings", "worker"},
    "ranks.recording": {"*"},
    "ranks.joining": {"*"},
    "artifacts": BASE | {"journal", "context"},
    "worker": BASE | {"hotpath", "journal", "context", "artifacts.snapshot", *BORDER},
    "worker.delivery_thread": BASE | {"delivery", "worker"},
    "delivery": BASE | {"alerts", "command", "goodput", "journal", "artifacts.snapshot"},
    "runs": BASE | {"goodput", "journal", "settings", "command", *BORDER},
    "views": BASE | {"goodput", "runs", "journal"},
    "doctor": BASE | {"runs", "journal", "context", "settings", "command"},
    "audit": BASE,
    "cli": BASE
    | {"runs", "views", "doctor", "audit", "journal", "context", "settings", "command", "demo"}
    | BORDER,
    "utilities": BASE | {"hotpath", "worker", "context"},
    "display": BASE,
    "flops": BASE,
    "timing_calls": BASE | {"quick_calls"},
    "run_page": {"engine", "errors", "journal.entries", "media.calls", "quick_calls"},
    "engine": {"*"},
    "life": {"*"},
    "tracker": BASE
    | {"settings", "engine", "display", "context", "hotpath", "audit", "copies", "exit_codes"}
    | {"nodes.joining", "nodes.member", "preemption", "quick_calls", "ranks.joining", "ranks.other"}
    | {"collective.calls", "run_page", "timing_calls"},
    "demo": {"*"},
    "testing": {"*"},
    "integrations": BASE
    | {"tracker", "context", "exit_codes", "settings", "sigterm"}
    | {"hotpath.capture", "hotpath.records"},
    "wandb": BASE | {"media", "settings", "tracker"},
    "__main__": {"cli"},
}
COMPOSERS = {  # who imports what wires others together
    "fasttrack.tracker": {"fasttrack", "fasttrack.testing"},
    "fasttrack.engine": {
        *("fasttrack.media.calls", "fasttrack.run_page", "fasttrack.tracker"),
        *("fasttrack.nodes.joining", "fasttrack.ranks.joining", "fasttrack.ranks.recording"),
        "fasttrack.collective.calls",
    },
}
HEAVY = {"torch", "numpy"}


def imports(module: str, *, typing_too: bool = True) -> Iterator[str]:
    """Yield the full name of everything that `module` imports, inside functions too."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.If)
            and "TYPE_CHECKING" in ast.unparse(node.test)
            and not typing_too
        ):
            skipped.update(inner for statement in node.body for inner in ast.walk(statement))
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative imports hide the layer"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


def layer_of(name: str) -> str:
    """Return the line of the table that a module, named without the package, is under."""
    while name not in ALLOWED:
        assert name, "give it a line in ALLOWED"
        name = name.rpartition(".")[0]
    return name


def may_import(module: str, target: str) -> bool:
    """Return whether a module of the package may import another."""
    name, wanted = module.removeprefix("fasttrack."), target.removeprefix("fasttrack.")
    if module == "fasttrack" or wanted.split(".")[0] == name.split(".")[0]:
        return "worker.delivery_thread" not in (name, wanted) or wanted in (
            "worker.supervisor",
            "worker.delivery_report",
        )
    allowed = ALLOWED[layer_of(name)]
    return "*" in allowed or any(
        wanted == entry or wanted.startswith(f"{entry}.") for entry in allowed
    )


def loaded_with(module: str) -> set[str]:
    """Return the modules of ours that importing `module` may load, at once or later."""
    loaded: set[str] = set()
    waiting = [module]
    while waiting:
        current = waiting.pop()
        if current not in loaded:
            loaded.add(current)
            waiting += [n for n in imports(current, typing_too=False) if n in MODULES]
            waiting += [current.rpartition(".")[0]] if "." in current else []
    return loaded


def loaded_for_real(statement: str) -> set[str]:
    """Return what is in `sys.modules` after `statement`, in a new interpreter."""
    code = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return set(json.loads(result.stdout.splitlines()[-1]))


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"fasttrack"}))
def test_module_belongs_to_a_layer_and_imports_only_downwards(module: str) -> None:
    """Data flows hot path -> worker -> journal -> delivery; so does knowledge, in reverse."""
    ours = [name for name in imports(module) if name.split(".")[0] == "fasttrack"]

    assert [name for name in ours if not may_import(module, name)] == []


def test_layer_rule_notices_what_it_should() -> None:
    """The test of the test: some imports that must never pass, and some that must."""
    forbidden = [
        ("fasttrack.journal.writer", "fasttrack.hotpath.ring"),
        ("fasttrack.hotpath.capture", "fasttrack.worker.loop"),
        ("fasttrack.delivery.courier", "fasttrack.worker.loop"),
        ("fasttrack.worker.loop", "fasttrack.delivery.courier"),
        ("fasttrack.worker.supervisor", "fasttrack.delivery.run_delivery"),
        ("fasttrack.worker.supervisor", "fasttrack.worker.delivery_thread"),
        ("fasttrack.worker.loop", "fasttrack.tracker"),
        ("fasttrack.views.picture", "fasttrack.cli.shared"),
        ("fasttrack.runs.local", "fasttrack.views.picture"),
        ("fasttrack.doctor.checks", "fasttrack.delivery.courier"),
        ("fasttrack.integrations.huggingface", "fasttrack.engine"),
        ("fasttrack.errors", "fasttrack.journal.entries"),
    ]
    needed = [
        ("fasttrack.worker.supervisor", "fasttrack.delivery.events"),
        ("fasttrack.worker.delivery_thread", "fasttrack.delivery.run_delivery"),
        ("fasttrack.delivery.courier", "fasttrack.delivery.backends.base"),
        ("fasttrack.integrations.huggingface", "fasttrack.tracker"),
    ]

    assert [pair for pair in forbidden if may_import(*pair)] == []
    assert [pair for pair in needed if not may_import(*pair)] == []


@pytest.mark.parametrize("module", COMPOSERS)
def test_what_wires_the_parts_is_imported_from_above_only(module: str) -> None:
    """A part that knew its composer would tie the knot; integrations stand above the tracker."""
    importers = {name for name in MODULES if module in imports(name)}

    assert {
        n for n in importers if not n.startswith(("fasttrack.integrations", "fasttrack.wandb"))
    } <= (COMPOSERS[module] | {"fasttrack.demo"})


@pytest.mark.parametrize(
    ("package", "folder"),
    [
        ("wandb", "fasttrack.delivery.backends.wandb"),
        ("tensorboard", "fasttrack.delivery.backends.tensorboard"),
        ("mlflow", "fasttrack.delivery.backends.mlflow"),
        ("trackio", "fasttrack.delivery.backends.trackio"),
        ("tenacity", "fasttrack.delivery"),
        ("click", "fasttrack.cli"),
        ("rich", "fasttrack.cli"),
        ("matplotlib", "fasttrack.views"),
        ("bokeh", "fasttrack.views.web.library"),
    ],
)
def test_a_package_is_imported_in_one_folder_only(package: str, folder: str) -> None:
    """Whatever changes in it changes there. Types count: they are knowledge, too."""
    importers = {
        name for name in MODULES if any(target.split(".")[0] == package for target in imports(name))
    }

    assert importers, f"nothing imports {package} any more: drop the rule"
    assert [name for name in importers if not f"{name}.".startswith(f"{folder}.")] == []


def test_the_trainer_loads_of_delivery_only_the_border() -> None:
    """Courier, backends and tenacity belong to another process, or to `delivery="thread"`."""
    border = {f"fasttrack.{name}" for name in BORDER}
    packages = {"fasttrack.delivery", "fasttrack.delivery.backends"}
    loaded = loaded_for_real(
        "import tempfile; from fasttrack import ExperimentTracker, Options\n"
        "with tempfile.TemporaryDirectory() as d, ExperimentTracker(\n"
        "    'x', mode='offline', options=Options(directory=d, console=False)\n"
        ") as tracker: tracker.log_training_step(1.0, 0)"
    )

    delivery = {n for n in loaded if n.startswith("fasttrack.delivery")}
    assert "fasttrack.delivery.spawn" in delivery <= border | packages
    assert loaded & {"tenacity", "wandb", "click", "rich", "fasttrack.worker.delivery_thread"} == (
        set()
    )


def test_a_rank_that_does_not_record_loads_next_to_nothing() -> None:
    """No torch of its own, no worker, no journal, no thread, no process, no file."""
    loaded = loaded_for_real(
        "import os, threading, fasttrack\n"
        "before = set(os.listdir('.'))\n"
        "with fasttrack.ExperimentTracker('x', enabled=False) as tracker:\n"
        "    tracker.log_training_step(1.0, 0)\n"
        "    tracker.log_metrics({'a': 1})\n"
        "assert threading.active_count() == 1 and set(os.listdir('.')) == before"
    )
    ours = {name for name in loaded if name.startswith("fasttrack.")}

    heavy = {"torch", "numpy", "orjson", "yaml", "tenacity", "wandb", "subprocess"}
    assert loaded & heavy == set()
    assert {name.split(".")[1] for name in ours} & {"engine", "worker", "hotpath", "journal"} == (
        set()
    )


def test_nothing_that_the_delivery_process_loads_imports_torch_or_numpy() -> None:
    """It would cost hundreds of megabytes and seconds; not even later, in a function."""
    ours = loaded_with("fasttrack.delivery.__main__")
    heavy = {
        name: HEAVY & {target.split(".")[0] for target in imports(name, typing_too=False)}
        for name in ours
    }

    assert "fasttrack.journal.reader" in ours
    assert {name: found for name, found in heavy.items() if found} == {}


def test_delivery_process_loads_neither_torch_nor_numpy_nor_wandb_at_its_start() -> None:
    """For real; wandb comes when a run is opened."""
    loaded = loaded_for_real("import fasttrack.delivery.__main__")

    assert "fasttrack.delivery.courier" in loaded
    assert loaded & {"torch", "numpy", "wandb"} == set()


def test_delivering_a_run_loads_neither_torch_nor_numpy(
    server: WandbServer, tmp_path: Path
) -> None:
    """wandb works without numpy; naming it lazily is fine, loading its submodules is not."""
    with make_tracker() as tracker:
        tracker.log_metrics({"a": 0.5, "b": 1}, 0)
        tracker.log_config({"lr": 0.1})
        tracker.log_media("picture", torch.zeros(3, 4, 4))  # an object, where rows have numbers
    directory = run_dir(tmp_path, tracker.get_run_id())

    loaded = loaded_for_real(
        "from fasttrack.delivery.__main__ import main\n"
        f"sys.argv = ['delivery', {str(directory)!r}]\n"
        "assert main() == 0"
    )

    assert {name for name in loaded if name.startswith(("torch", "numpy.", "pandas."))} == set()
    assert "wandb" in loaded


def test_door_itself_loads_nothing_heavy() -> None:
    """Names are loaded at first use; `is_main_process` needs no torch."""
    loaded = loaded_for_real("import fasttrack; fasttrack.is_main_process, fasttrack.Options")

    assert loaded & {"torch", "numpy", "wandb", "orjson", "fasttrack.tracker"} == set()


def test_all_is_sorted_and_is_what_is_public() -> None:
    """The list, the lazy table, the names that type checkers see and dir() are the same."""
    tree = ast.parse(MODULES["fasttrack"].read_text(encoding="utf-8"))
    for_type_checkers = [
        alias.asname
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("fasttrack")
        for alias in node.names
    ]

    assert fasttrack.__all__ == sorted(set(fasttrack.__all__))
    assert sorted(str(name) for name in for_type_checkers) == fasttrack.__all__
    assert sorted(fasttrack._HOMES) == fasttrack.__all__
    assert dir(fasttrack) == fasttrack.__all__


@pytest.mark.parametrize("name", fasttrack.__all__)
def test_every_public_name_resolves_to_what_its_home_defines(name: str) -> None:
    """And to the same object each time."""
    value = getattr(fasttrack, name)

    assert value is getattr(fasttrack, name)
    assert value.__name__.removeprefix("fasttrack.") == name
    assert value.__module__ == fasttrack._HOMES[name]


def test_unknown_name_is_an_attribute_error_that_names_it() -> None:
    """As for any module."""
    with pytest.raises(AttributeError, match="'fasttrack' has no attribute 'Tracker'"):
        _ = fasttrack.Tracker  # type: ignore[attr-defined]
