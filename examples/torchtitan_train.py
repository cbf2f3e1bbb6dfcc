"""Train torchtitan's debug Llama, tracked: by the metrics processor that its configuration names.

    pip install fasttrack torchtitan
    torchrun --standalone --nproc_per_node=1 examples/torchtitan_train.py --steps 20

Started again after an interruption, it goes on with the run. The data are arithmetic sequences, so
that nothing is downloaded. What concerns the tracker is one line in `configuration`.

torchtitan 0.3 is made for accelerators and for a torch that is newer than 2.13. `make_do` lets it
train on the CPU, and with 2.13.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torchtitan.components.dataloader import BaseDataLoader
from torchtitan.components.tokenizer import BaseTokenizer
from torchtitan.models.common.attention import ScaledDotProductAttention
from torchtitan.models.llama3.config_registry import llama3_debugmodel
from torchtitan.tools.logging import init_logger

from fasttrack.integrations.torchtitan import FasttrackMetricsProcessor

Batch = tuple[dict[str, torch.Tensor], torch.Tensor]


class Sequences(BaseDataLoader):  # type: ignore[misc]
    """Batches of numbers below 29, each the one before it plus one."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseDataLoader.Config):  # type: ignore[misc]
        """As torchtitan's other parts have one."""

    def __init__(self, config: Config, *, local_batch_size: int, seq_len: int, **_: Any) -> None:
        """Begin with the first batch."""
        self.batches = 0
        self._shape = (local_batch_size, seq_len + 1)

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches without an end."""
        while True:
            self.batches += 1
            first = torch.arange(self._shape[0]).unsqueeze(1) + self.batches
            words = (first + torch.arange(self._shape[1])) % 29
            yield {"input": words[:, :-1].contiguous()}, words[:, 1:].contiguous()

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"batches": self.batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind a checkpoint's last batch."""
        self.batches = state["batches"]


class Numbers(BaseTokenizer):  # type: ignore[misc]
    """Words that are numbers already."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseTokenizer.Config):  # type: ignore[misc]
        """As torchtitan's other parts have one."""

    def __init__(self, config: Config, **_: Any) -> None:
        """Need nothing."""
        super().__init__()

    def encode(self, text: str) -> list[int]:
        """Return the numbers of a text."""
        return [int(word) for word in text.split()]

    def decode(self, numbers: list[int]) -> str:
        """Return the text of numbers."""
        return " ".join(map(str, numbers))

    def get_vocab_size(self) -> int:
        """Return the debug model's."""
        return 2048


class Cpu:
    """What torchtitan asks of `torch.cuda`, for the CPU."""

    def __getattr__(self, name: str) -> Any:
        """Return what torch has for it."""
        return getattr(torch.cpu, name)

    def get_device_name(self, device: Any = None) -> str:
        """Return a name that no table of peak FLOPS holds."""
        return "cpu"

    def get_device_properties(self, device: Any = None) -> Any:
        """Return a memory's size, which is not looked up."""
        return SimpleNamespace(name="cpu", total_memory=2**30)

    def memory_stats(self, device: Any = None) -> dict[str, int]:
        """Return nothing: there is no allocator of its own."""
        return {}

    def reset_peak_memory_stats(self, device: Any = None) -> None:
        """Do nothing."""

    def empty_cache(self) -> None:
        """Do nothing."""

    def current_device(self) -> int:
        """Return the only one's number."""
        return 0


def make_do() -> None:
    """Stand in for what torchtitan 0.3 does not find here."""
    if not hasattr(torch.distributed, "set_timeout"):  # as of torch 2.13
        vars(torch.distributed)["set_timeout"] = lambda timeout, group: None
    if not torch.accelerator.is_available():
        for name, module in list(sys.modules.items()):
            if name.startswith("torchtitan.") and "device_type" in vars(module):
                vars(module).update(device_type="cpu", device_module=Cpu())


def configuration(steps: int, dump_folder: str) -> Any:
    """Return torchtitan's debug configuration, one layer, saved every second step, tracked."""
    config = llama3_debugmodel()
    config.metrics = FasttrackMetricsProcessor.Config(log_freq=1, project="fasttrack-examples")
    config.dump_folder = dump_folder
    config.dataloader, config.tokenizer = Sequences.Config(), Numbers.Config()
    config.checkpoint.enable, config.checkpoint.interval = True, 2
    config.debug.enable_structured_logging = False
    config.activation_checkpoint = None
    config.training.steps = steps
    config.training.local_batch_size, config.training.seq_len = 2, 16
    config.training.mixed_precision_param = "float32"
    config.training.disable_cuda_graphs = True
    config.model_spec.model.layers = config.model_spec.model.layers[:1]
    for layer in config.model_spec.model.layers:  # the CPU has no backward of FlexAttention
        layer.attention.inner_attention = ScaledDotProductAttention.Config()
    return config


def train(config: Any) -> None:
    """Train as torchtitan's own `main` does."""
    trainer = config.build()
    try:
        trainer.train()
    finally:
        trainer.close()
        torch.distributed.destroy_process_group()


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--steps", type=int, default=20, help="in all, also when it goes on")
    parser.add_argument("--dump-folder", default="outputs")
    args = parser.parse_args()
    make_do()
    init_logger()
    train(configuration(args.steps, args.dump_folder))


if __name__ == "__main__":
    main()
