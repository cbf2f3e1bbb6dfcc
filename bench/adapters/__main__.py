"""What does an adapter cost beside the framework's own? `python -m bench.adapters`.

Each framework reports to ours and to its own W&B integration, offline, in the same training: each
call that it makes of one of them is timed where it makes it. Of each kind of call the lowest decile
counts, which other processes disturb least; what a step costs is the sum of its calls. The step is
`lib/workload.py`'s of 1 ms. Trainers train four times: they log every step, or every tenth; they
call ours first, or theirs. With accelerate each has its own training, as the limit is one of the
median. What is not installed is skipped; the extras are `huggingface`, `accelerate`, `lightning`
and `deepspeed`. Some minutes.
"""

from __future__ import annotations

import importlib
import os
from importlib.util import find_spec

from bench.adapters.calls import Line
from bench.lib.arguments import chosen, make_parser
from bench.lib.measure import describe_machine, machine, table
from bench.lib.processes import call_in_new_process

_PACKAGES = {
    "huggingface": "transformers",
    "accelerate": "accelerate",
    "lightning": "lightning",
    "deepspeed": "deepspeed",
}
"""What has to be installed, by the module here. DeepSpeed is last: what it sets up stays."""
_HEADINGS = ("calls", "fasttrack, us", "W&B's, us", "ratio")


def measure(frameworks: list[str], steps: int, quick: bool) -> list[Line]:
    """Return what their modules measure. For a process of its own: they say much."""
    os.environ |= {"WANDB_MODE": "offline", "DS_ACCELERATOR": "cpu"}  # accelerate imports DeepSpeed
    modules = (importlib.import_module(f"bench.adapters.{name}") for name in frameworks)
    return [line for module in modules for line in module.measure(steps, quick)]


def _shown(line: Line) -> list[str]:
    ratios = [theirs / ours for ours, theirs in zip(line.ours_us, line.theirs_us, strict=True)]
    return [line.calls, *map(_range, (line.ours_us, line.theirs_us, ratios))]


def _range(values: list[float]) -> str:
    ends = dict.fromkeys(f"{value:,.1f}" for value in (min(values), max(values)))
    return " to ".join(ends)


def main() -> None:
    """Print the table."""
    parser = make_parser("bench.adapters", __doc__)
    parser.add_argument("--only", help="frameworks, separated by commas: " + ",".join(_PACKAGES))
    parser.add_argument("--steps", type=int, default=2000, help="of each training")
    parser.add_argument("--quick", action="store_true", help="of four trainings one")
    arguments = parser.parse_args()
    details, frameworks = machine(), []
    for name in chosen(parser, "--only", arguments.only, _PACKAGES):
        if find_spec(_PACKAGES[name]) is None:
            print(f"{name}: not installed, skipped (pip install -e '.[{name}]')", flush=True)
        else:
            frameworks.append(name)
    lines = call_in_new_process(measure, frameworks, arguments.steps, arguments.quick)
    told = [_shown(Line(*line)) for line in lines]
    print(f"{table(_HEADINGS, told)}\n\n{describe_machine(details)}")


if __name__ == "__main__":
    main()
