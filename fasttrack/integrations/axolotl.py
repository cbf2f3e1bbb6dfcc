"""axolotl: a plugin that its YAML names.

    plugins:
      - fasttrack.integrations.axolotl.FasttrackPlugin
    fasttrack:  # not needed: arguments of ExperimentTracker
      project: digits
      tags: {model: llama, dataset: lego, objective: sft, experiment_group: baseline}

axolotl trains with Hugging Face's Trainer, so the rest is `huggingface.py`'s.
"""

from __future__ import annotations

from typing import Any

from fasttrack.errors import ConfigurationError
from fasttrack.integrations.describing import as_mapping, check_arguments
from fasttrack.integrations.huggingface import FasttrackCallback

try:
    from axolotl.integrations.base import BasePlugin
    from pydantic import BaseModel
except ImportError as error:
    raise ImportError(
        "fasttrack.integrations.axolotl needs axolotl: pip install axolotl"
    ) from error

__all__ = ["FasttrackArgs", "FasttrackPlugin"]


class FasttrackArgs(BaseModel):
    """What the plugin adds to axolotl's configuration."""

    fasttrack: dict[str, Any] | None = None
    """Arguments of `ExperimentTracker`; numbers, text, lists and mappings as YAML has them."""


class FasttrackPlugin(BasePlugin):  # type: ignore[misc]
    """Record a training of axolotl's: what `FasttrackCallback` records, and the YAML itself.

    Threads: axolotl's.
    """

    def register(self, cfg: Any) -> None:
        """Check the YAML's section, before anything is loaded.

        Raises:
            ConfigurationError: an argument or environment variable is wrong, or there is no such.
        """
        try:
            check_arguments(_arguments(cfg))
        except TypeError as error:
            raise ConfigurationError(f"fasttrack: in the YAML: {error}") from error

    def get_input_args(self) -> str:
        """Return what the YAML's section may hold."""
        return f"{__name__}.{FasttrackArgs.__name__}"

    def add_callbacks_pre_trainer(self, cfg: Any, model: Any) -> list[Any]:
        """Return the callback, for the trainer that is made next."""
        given = _arguments(cfg)
        config = {"axolotl": _plain(cfg), **as_mapping(given.get("config"))}
        return [FasttrackCallback(**{**given, "config": config})]


def _arguments(cfg: Any) -> dict[str, Any]:
    given = _plain(cfg.get("fasttrack") or {})
    if not isinstance(given, dict):
        raise ConfigurationError(f"fasttrack: in the YAML is {given!r}, not a mapping of arguments")
    return given


def _plain(values: Any) -> Any:
    """Return what is inside axolotl's own kind of dictionary, which has None for every name."""
    return values.to_dict() if hasattr(type(values), "to_dict") else values
