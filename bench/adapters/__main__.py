"""What does the adapter cost beside the framework's own? `python -m bench.adapters`.

Lightning's Trainer reports to ours and to its WandbLogger, offline, in the same training: each call
that it makes of one of them is timed where it makes it. Of each kind of call the lowest decile
counts, which other processes disturb least; a step's calls are their sum. The step is
`lib/workload.py`'s of 1 ms; once ours is called first, once theirs. Needs the extra `lightning`;
about a minute.
"""

from __future__ import annotations

import logging
import time
import warnings
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import WandbLogger

from bench.lib.arguments import make_parser
from bench.lib.isolation import private_home
from bench.lib.measure import US, describe_machine, machine, percentile, table
from bench.lib.workload import Workload
from fasttrack import Options
from fasttrack.integrations.lightning import FasttrackCallback, FasttrackLogger

if TYPE_CHECKING:
    from pathlib import Path

_OURS = ("log_metrics", "save", "on_train_batch_start", "on_train_batch_end")
TAKEN: dict[tuple[str, str], list[float]] = {}
"""Seconds of each call, by whose it is and its name."""
_PERCENT = 10.0
_HEADINGS = (
    "logged",
    "first",
    "fasttrack, us/step",
    "WandbLogger, us/step",
    "ratio",
    "log_metrics alone",
)


class _Module(pl.LightningModule):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.layers = Workload().model

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        inputs, targets = batch
        loss = torch.nn.functional.mse_loss(self.layers(inputs), targets)
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters())


def _timed(kind: type, name: str, taken: list[float]) -> None:
    called = getattr(kind, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter()
        try:
            return called(*args, **kwargs)
        finally:
            taken.append(time.perf_counter() - begin)

    setattr(kind, name, timed)


def measure(base: Path, steps: int, every: int, *, first: bool) -> list[str]:
    """Return the line of the table for a training that logs every so many steps."""
    ours = FasttrackLogger(options=Options(wait_for_delivery="finish"))
    theirs = WandbLogger(save_dir=base, offline=True)
    for taken in TAKEN.values():
        taken.clear()
    trainer = pl.Trainer(
        logger=[ours, theirs] if first else [theirs, ours],
        callbacks=[FasttrackCallback(ours)],
        max_steps=steps,
        log_every_n_steps=every,
        default_root_dir=base,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data: Any = [(torch.randn(32, 64), torch.randn(32, 64))] * 100
    trainer.fit(_Module(), torch.utils.data.DataLoader(data, batch_size=None))
    ours.finish()
    theirs.experiment.finish()
    own = {name: percentile(TAKEN["ours", name], _PERCENT) * US for name in _OURS}
    other = percentile(TAKEN["theirs", "log_metrics"], _PERCENT) * US
    logged, each = own["log_metrics"] + own["save"], own["on_train_batch_start"]
    mine = each + own["on_train_batch_end"] + logged / every
    return [
        "each step" if every == 1 else f"every {every} steps",
        "fasttrack" if first else "WandbLogger",
        f"{mine:.1f}",
        f"{other / every:.1f}",
        f"{other / every / mine:.1f}",
        f"{own['log_metrics']:.1f}, {other:.1f} us",
    ]


def main() -> None:
    """Print the table."""
    parser = make_parser("bench.adapters", __doc__)
    parser.add_argument("--steps", type=int, default=2000)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for name in _OURS:
        kind = FasttrackLogger if hasattr(FasttrackLogger, name) else FasttrackCallback
        _timed(kind, name, TAKEN.setdefault(("ours", name), []))
    _timed(WandbLogger, "log_metrics", TAKEN.setdefault(("theirs", "log_metrics"), []))
    with private_home() as base:
        told = [
            measure(base, arguments.steps, every, first=first)
            for every in (1, 10)
            for first in (True, False)
        ]
    print(f"{table(_HEADINGS, told)}\n\n{describe_machine(machine())}")


if __name__ == "__main__":
    main()
