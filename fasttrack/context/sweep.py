"""What a W&B sweep's agent has chosen for the trial that this process is."""

from __future__ import annotations

from typing import Any


def read_parameters(path: str) -> dict[str, Any]:
    """Return the parameters that an agent has written to WANDB_SWEEP_PARAM_PATH, by name.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such file.
    """
    import yaml  # only a trial needs it here

    try:
        with open(path, encoding="utf-8") as file:
            written = yaml.safe_load(file)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from error
    if not isinstance(written, dict):
        raise ValueError(f"{path} holds no parameters")
    return {
        str(name): described["value"]
        for name, described in written.items()
        if isinstance(described, dict) and "value" in described and name != "_wandb"
    }
