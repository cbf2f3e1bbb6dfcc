"""The rules that keep the package in layers; style.md says why."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.runs import make_tracker, run_dir
from support.wandb_server import WandbServer

import fasttrack

ROOT = Path(fasttrack.__file__).parent
MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}
BASE = {"errors", "options", "notices", "stats"}
# What each layer may import, itself aside. A module is of the layer that its name begins with.
# A new folder or module at the top gets a line here; nothing may import `tracker` or `integrations`
# but the door, and what has no line in any list.
ALLOWED = {
    **dict.fromkeys(BASE, BASE),
    "process": BASE,
    "journal": BASE,
    "context": BASE,
    "hotpath": BASE,
    "delivery": BASE | {"journal", "context", "artifacts.staging"},
    "worker": BASE | {"hotpath", "journal", "context", "delivery.supervisor"},
    "artifacts": BASE | {"journal", "context"},
    "audit": BASE,
    "cli": BASE | {"audit", "journal", "context", "delivery", "demo", "picture"},
    "demo": {"*"},
    "picture": BASE,
    "__main__": {"cli"},
    "utilities": BASE | {"hotpath", "worker", "context"},
    "tracker": {"*"},
    "integrations": {"*"},
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


def may_import(module: str, target: str) -> bool:
    """Return whether a module of the package may import another."""
    name, wanted = module.removeprefix("fasttrack."), target.removeprefix("fasttrack.")
    layer = name.split(".")[0]
    if module == "fasttrack" or wanted.split(".")[0] == layer:
        return True
    allowed = ALLOWED[layer]
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

    assert module.split(".")[1] in ALLOWED, f"give {module} a line in ALLOWED"
    assert [name for name in ours if not may_import(module, name)] == []


def test_layer_rule_notices_what_it_should() -> None:
    """The test of the test: some imports that must never pass, and one that must."""
    forbidden = [
        ("fasttrack.journal.writer", "fasttrack.hotpath.ring"),
        ("fasttrack.hotpath.capture", "fasttrack.worker.loop"),
        ("fasttrack.delivery.courier", "fasttrack.worker.loop"),
        ("fasttrack.worker.loop", "fasttrack.delivery.courier"),
        ("fasttrack.worker.loop", "fasttrack.tracker"),
        ("fasttrack.errors", "fasttrack.journal.format"),
    ]

    assert [pair for pair in forbidden if may_import(*pair)] == []
    assert may_import("fasttrack.worker.loop", "fasttrack.worker.supervisor")


def test_only_the_door_and_the_integrations_import_the_tracker() -> None:
    """It is the one composer; a part that knew it would tie the knot."""
    importers = {name for name in MODULES if "fasttrack.tracker" in imports(name)}

    assert {name for name in importers if not name.startswith("fasttrack.integrations")} == {
        "fasttrack"
    }


def test_wandb_is_imported_in_one_file_only() -> None:
    """Whatever changes in wandb changes there."""
    importers = {
        name for name in MODULES if any(target.split(".")[0] == "wandb" for target in imports(name))
    }

    assert importers == {"fasttrack.delivery.backends.wandb"}


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
    directory = run_dir(tmp_path, tracker.get_run_id())

    loaded = loaded_for_real(
        "from fasttrack.delivery.__main__ import main\n"
        f"sys.argv = ['delivery', {str(directory)!r}]\n"
        "assert main() == 0"
    )

    assert {name for name in loaded if name.startswith(("torch", "numpy."))} == set()
    assert "wandb" in loaded


def test_training_process_does_not_load_wandb() -> None:
    """Its import takes seconds and its threads fight for the GIL."""
    loaded = loaded_for_real("import fasttrack; fasttrack.ExperimentTracker, fasttrack.tracker")

    assert "fasttrack.tracker" in loaded
    assert "wandb" not in loaded


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
    assert value.__name__ == name
    assert value.__module__ == fasttrack._HOMES[name]


def test_unknown_name_is_an_attribute_error_that_names_it() -> None:
    """As for any module."""
    with pytest.raises(AttributeError, match="'fasttrack' has no attribute 'Tracker'"):
        _ = fasttrack.Tracker  # type: ignore[attr-defined]
