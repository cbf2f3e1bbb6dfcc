"""axolotl's plugin, loaded by its name as the YAML gives it, in a training of the Trainer.

With axolotl installed, its own plugin manager and dictionary do it: `pip install --no-deps
axolotl addict peft`. Without, as in CI (it asks for CUDA's packages), it is done by what of
their interface matters, written down below.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel
from support.journals import read_entries, read_headers
from support.late import Late

from fasttrack import ConfigurationError
from fasttrack.journal.entries import Finish

if TYPE_CHECKING:
    from support import tiny_trainer as tiny
else:
    tiny = Late("support.tiny_trainer")

NAME = "fasttrack.integrations.axolotl.FasttrackPlugin"


class _DictDefault(dict[str, Any]):
    """axolotl's configuration: None for a name that is not there."""

    def __missing__(self, name: str) -> None:
        return None

    def to_dict(self) -> dict[str, Any]:
        return dict(self)


class _PluginManager:
    """axolotl's, as far as a plugin's life goes: made by name, given the YAML, asked."""

    def __init__(self) -> None:
        self.plugins: dict[str, Any] = {}

    def register(self, name: str) -> None:
        module, _, kind = name.rpartition(".")
        self.plugins[name] = getattr(importlib.import_module(module), kind)()

    def get_input_args(self) -> list[str]:
        return [plugin.get_input_args() for plugin in self.plugins.values()]

    def add_callbacks_pre_trainer(self, cfg: Any, model: Any) -> list[Any]:
        return [
            callback
            for plugin in self.plugins.values()
            for callback in plugin.add_callbacks_pre_trainer(cfg, model)
        ]


def _interface() -> dict[str, ModuleType]:
    names = ("axolotl", "axolotl.integrations", "axolotl.integrations.base")
    modules = {name: ModuleType(name) for name in names}
    vars(modules[names[-1]]).update(BasePlugin=object, PluginManager=_PluginManager)
    return modules


class Axolotl:
    """What axolotl does with a YAML that names the plugin, up to the trainer."""

    def __init__(self, manager: Any, configuration: type[dict[str, Any]]) -> None:
        """Take the real ones, or those above."""
        self._manager, self._configuration = manager, configuration

    def read(self, **yaml: Any) -> Any:
        """Load the plugins and give them the YAML's content, which is returned."""
        cfg = self._configuration({"plugins": [NAME], "learning_rate": 0.01, **yaml})
        self._manager.register(NAME)
        for plugin in self._manager.plugins.values():
            plugin.register(cfg)
        return cfg

    def input_arguments(self) -> type[BaseModel]:
        """Return the model by which axolotl extends its schema."""
        (name,) = self._manager.get_input_args()
        module, _, kind = name.rpartition(".")
        found: type[BaseModel] = getattr(importlib.import_module(module), kind)
        return found

    def callbacks(self, cfg: Any) -> list[Any]:
        """Return what its builder gives the trainer."""
        return list(self._manager.add_callbacks_pre_trainer(cfg, model=None))


@pytest.fixture
def axolotl(monkeypatch: pytest.MonkeyPatch) -> Axolotl:
    """The real one, where it is installed."""
    monkeypatch.setenv("FASTTRACK_BACKENDS", "none")
    monkeypatch.setenv("WANDB_CONSOLE", "off")
    try:
        from axolotl.integrations.base import PluginManager
        from axolotl.utils.dict import DictDefault
    except ImportError:
        for name, module in _interface().items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.delitem(sys.modules, "fasttrack.integrations.axolotl", raising=False)
        return Axolotl(_PluginManager(), _DictDefault)
    monkeypatch.setattr(PluginManager, "_instance", None)
    return Axolotl(PluginManager.get_instance(), DictDefault)


def test_a_training_of_axolotls_is_recorded_with_its_yaml(tmp_path: Path, axolotl: Axolotl) -> None:
    """Rows as the Trainer reports them; the section's arguments are the tracker's."""
    section = {"project": "lego", "config": {"width": 3}}
    cfg = axolotl.read(fasttrack=section, hub_token="hunter2")
    (callback,) = axolotl.callbacks(cfg)
    trainer = tiny.make_trainer(tmp_path / "out", callback)
    trainer.train()
    callback._end()

    (run,) = tiny.runs_of(tmp_path)
    assert tiny.recorded(run) == tiny.reported(trainer.state.log_history)
    (header,) = read_headers(run)
    assert (header.project, header.config["width"]) == ("lego", 3)
    assert header.config["axolotl"]["learning_rate"] == 0.01
    assert header.config["axolotl"]["plugins"] == [NAME]
    assert "hunter2" not in str(header)
    assert read_entries(run, Finish)[-1].exit_code == 0


def test_the_section_may_be_left_out(axolotl: Axolotl) -> None:
    """And is in axolotl's schema."""
    cfg = axolotl.read()

    assert len(axolotl.callbacks(cfg)) == 1
    assert axolotl.input_arguments().model_validate({}).model_dump() == {"fasttrack": None}


@pytest.mark.parametrize(
    ("section", "said"),
    [({"mode": "of course"}, "mode"), ({"projekt": "lego"}, "projekt"), ("lego", "not a mapping")],
)
def test_a_wrong_section_is_refused_before_anything_is_loaded(
    axolotl: Axolotl, section: Any, said: str
) -> None:
    """By one error, which names what is wrong."""
    with pytest.raises(ConfigurationError, match=said):
        axolotl.read(fasttrack=section)


def test_without_axolotl_the_import_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """In words that its plugin manager's one line in the log leaves out."""
    monkeypatch.delitem(sys.modules, "fasttrack.integrations.axolotl", raising=False)
    monkeypatch.setitem(sys.modules, "axolotl.integrations.base", None)
    with pytest.raises(ImportError, match="pip install axolotl"):
        importlib.import_module("fasttrack.integrations.axolotl")
