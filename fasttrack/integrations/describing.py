"""What the adapters say of a training in words and names."""

from __future__ import annotations

import traceback
from typing import Any

from fasttrack.context.config import as_config
from fasttrack.handler_errors import is_handlers
from fasttrack.notices import say
from fasttrack.settings import resolve_mode
from fasttrack.tracker import ExperimentTracker

_OF_A_WHOLE_TRAINING = (  # which W&B's callback logs under these names, too
    "train_runtime",
    "train_samples_per_second",
    "train_steps_per_second",
    "train_loss",
    "total_flos",
)


def check_arguments(arguments: dict[str, Any]) -> None:
    """Raise for wrong arguments what `ExperimentTracker` would, without beginning a run."""
    resolve_mode(arguments.get("mode"), enabled=True)
    ExperimentTracker(**{**arguments, "enabled": False})


def rename(name: str) -> str:
    """Return a name of the Trainer's as W&B's callback writes it: `eval_loss` as `eval/loss`."""
    if name in _OF_A_WHOLE_TRAINING:
        return name
    for prefix in ("eval", "test"):
        if name.startswith(f"{prefix}_"):
            return f"{prefix}/{name[len(prefix) + 1 :]}"
    return f"train/{name}"


def describe_training(args: Any, model: Any) -> dict[str, Any]:
    """Return a Trainer's configuration; what of it cannot be read is left out, and said.

    Args:
        args: its TrainingArguments.
        model: whose own configuration stands before them, as W&B's callback has it.
    """
    found: dict[str, Any] = {}
    for what, read in (
        ("peft_config", lambda: {"peft_config": model.peft_config}),
        ("model.config", lambda: as_mapping(model.config)),
        ("the Trainer's arguments", lambda: as_mapping(args)),
        ("num_parameters", lambda: {"model/num_parameters": _count_parameters(model)}),
    ):
        try:
            found.update(read())
        except AttributeError:  # such a model has none
            pass
        except Exception as error:  # the model's own code runs here
            if is_handlers(error):
                raise
            say(f"{what} is not in the run's configuration: {error}")
    return found


def as_mapping(config: Any) -> dict[str, Any]:
    """Return a configuration of any kind that the tracker takes, or that says how it is one."""
    if hasattr(config, "to_dict"):
        return dict(config.to_dict())
    return as_config(config) or {}


def _count_parameters(model: Any) -> int:
    # DeepSpeed's stage 3 keeps the sizes elsewhere.
    return sum(getattr(one, "ds_numel", one.numel()) for one in model.parameters())


def describe_error(error: BaseException) -> str:
    """Return in one line what an exception says, and where it was raised."""
    text = "".join(traceback.format_exception_only(error)).strip().splitlines()
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{text[0] if text else type(error).__name__}{where}"
