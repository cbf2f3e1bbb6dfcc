"""`reduce` and `reduce_grad_norm` on four real ranks: sharded, replicated, mixed, and their rows.

One story, as each rank imports torch's parallel parts, for seconds. What is logged is compared with
values gathered by hand, by `full_tensor()`, and by a model that is on one rank.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.runs import journal_rows, run_script

_RANKS = 4

_STORY = """
import faulthandler, json, os, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")  # torch.distributed's own
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.distributed.tensor import Partial, Replicate, Shard, DTensor, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel, RowwiseParallel, parallelize_module)
from support.runs import make_tracker
from fasttrack import Options
from fasttrack.collective.reducer import Reducer
from fasttrack.notices import Notices

base, rank = Path(sys.argv[1]), 0
bond, last_end = os.pipe()  # ends with the last rank
others = []
while rank < 3:  # each is a fork of one that has imported all this
    if pid := os.fork():
        others.append(pid)
        break
    others = []
    rank += 1
if rank < 3:
    os.close(last_end)
os.environ["WANDB_DIR"] = str(base)
os.dup2(os.open(base / f"stderr{rank}", os.O_CREAT | os.O_WRONLY, 0o600), 2)
faulthandler.dump_traceback_later(100, exit=True)  # no rank outlives the test
dist.init_process_group(
    "gloo", store=dist.FileStore(str(base / "store"), 4), rank=rank, world_size=4)
mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
flat = init_device_mesh("cpu", (4,))
tracker = make_tracker(options=Options(backends=("none",), console=False))
results, said = {}, {}


def note(name, reduced, true):
    results[name] = [float(reduced), float(true)]
    tracker.log_metrics({name: reduced}, 0)


def gathered(value):
    every = [None] * 4
    dist.all_gather_object(every, value)
    return every


def true_norm(model):
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    grads = [g.full_tensor() if isinstance(g, DTensor) else g for g in grads]
    return torch.cat([g.double().flatten() for g in grads]).norm()


class Net(torch.nn.Module):
    def __init__(self, width=6):
        super().__init__()
        self.up = torch.nn.Linear(4, width)
        self.norm = torch.nn.LayerNorm(width)
        self.down = torch.nn.Linear(width, 5)
        self.free = torch.nn.Linear(5, 1)

    def forward(self, x):
        return self.free(self.down(self.norm(self.up(x))).relu())


def tensor_parallel(net):
    plan = {"up": ColwiseParallel(output_layouts=Replicate()),
            "down": RowwiseParallel(input_layouts=Replicate())}
    return parallelize_module(net, mesh["tp"], plan)


def trained(name, net, replica):
    torch.manual_seed(replica)
    net(torch.randn(8, 4)).square().sum().backward()
    norm = tracker.reduce_grad_norm(net)
    tracker.log_training_step(tracker.reduce(float(rank)), len(results), grad_norm=norm)
    note(name, norm, true_norm(net))
"""

_VALUES = """
torch.manual_seed(rank)
mine = torch.rand(3).tolist()
alike = [mine[0], torch.tensor(mine[0]), torch.tensor(mine[0]).double(), mine[0]][rank]
every = [row[0] for row in gathered([float(alike), mine])]
note("mean", tracker.reduce(alike), sum(every) / 4)
note("sum", tracker.reduce(alike, "sum"), sum(every))
note("max", tracker.reduce(alike, "max"), max(every))
note("min", tracker.reduce(alike, "min"), min(every))
note("norm", tracker.reduce(alike, op="norm"), sum(x * x for x in every) ** 0.5)
both = tracker.reduce({"a": mine[1], "b": mine[2]} if rank % 2 else {"b": mine[2], "a": mine[1]})
note("named/a", both["a"], sum(row[1] for row in gathered(mine)) / 4)
note("named/b", both["b"], sum(row[2] for row in gathered(mine)) / 4)
for op, some in (("mean", 1.5), ("sum", 3.0), ("max", 2.0), ("min", 1.0), ("norm", 5**0.5)):
    note(f"two of four/{op}", tracker.reduce(float(rank) if rank in (1, 2) else None, op), some)
note("pair", tracker.reduce(float(rank), "sum", group=mesh["tp"]), (1, 1, 5, 5)[rank])
pair = dist.new_group([1, 2])
in_pair = tracker.reduce(float(rank), "sum", group=pair)
said["pair"] = None if in_pair.isnan() else in_pair.item()
note("mesh", tracker.reduce(float(rank), "sum", group=mesh), 6)
bad = tracker.reduce({"bad": "text" if rank == 2 else 1.0, "good": 1.0})
said["bad"] = [bad["bad"].isnan().item(), bad["good"].item()]

weight = torch.arange(14.0).reshape(7, 2)
sharded = distribute_tensor(weight, mesh, [Shard(0), Shard(1)])
note("sharded mean", tracker.reduce(sharded.mean()), weight.mean())
note("sharded max", tracker.reduce(sharded.max()), 13)
note("norm partial", tracker.reduce(torch.linalg.vector_norm(sharded)), weight.norm())
note("replicated", tracker.reduce(distribute_tensor(torch.tensor(2.5), flat, [Replicate()])), 2.5)
on_pair = distribute_tensor(torch.tensor(3.0), mesh["tp"], [Replicate()]) * (rank // 2 + 1)
note("over another mesh", tracker.reduce(on_pair, "norm", group=mesh["dp"]), 45**0.5)
part = sharded.sum()
tracker.log_metrics({"local": part}, 0)  # refused: no rank has all of it

lonely = Reducer(Notices(), patience_s=0.2)
if rank == 0:
    lone = [lonely.values({"only": 1.0}, "mean", None)["only"],
            lonely.grad_norm([sharded, weight], None),
            lonely.values({"part": part}, "mean", None)["part"]]
    said["alone"] = [value.isnan().item() for value in lone]
dist.barrier()
said["late"] = lonely.values({"only": 1.0}, "mean", None)["only"].isnan().item()
for name in "ab":
    tracker.reduce({name: 1.0})
for name in "ab" if rank == 0 else "ba":
    said["order " + name] = tracker.reduce({name: float(rank)})[name].isnan().item()
"""

_NORMS = """
torch.manual_seed(0)
trained("fsdp2", fully_shard(Net(), mesh=flat), rank)  # five rows on four ranks: one has none
hybrid = Net()
fully_shard(hybrid.up, mesh=mesh)
trained("hsdp", fully_shard(hybrid, mesh=mesh), rank)
trained("tp", tensor_parallel(Net()), 0)
both = tensor_parallel(Net())
for block in (both.up, both.down, both):
    fully_shard(block, mesh=mesh["dp"])
trained("fsdp2 x tp", both, rank // 2)
mixed = Net()
fully_shard(mixed.down, mesh=flat)
trained("half of it sharded", mixed, 0)
frozen = Net()
frozen.up.requires_grad_(False)
trained("frozen", fully_shard(frozen, mesh=flat), rank)

shares = torch.nn.Linear(3, 2, bias=False)
whole = torch.nn.Parameter(distribute_tensor(torch.zeros(2, 3), mesh, [Replicate()] * 2))
whole.grad = DTensor.from_local(torch.full((2, 3), rank + 1.0), mesh, [Replicate(), Partial()])
shares.weight = whole
norm = tracker.reduce_grad_norm(shares)
note("shares of a sum", norm, (6 * (3, 3, 7, 7)[rank] ** 2) ** 0.5)

clipped = fully_shard(Net(), mesh=flat)
clipped(torch.ones(2, 4) + rank).sum().backward()
true = true_norm(clipped)
norm = torch.nn.utils.clip_grad_norm_(clipped.parameters(), 0.1)
note("clip_grad_norm_", tracker.reduce(norm), true)
tracker.log_training_step(0.5, 0, model=clipped)  # refused
"""

_PIPELINE = """
last = make_tracker(options=Options(backends=("none",), console=False, log_rank=3))
stage_of, pipe = rank % 2, mesh["tp"].get_group()
for number, schedule_of in enumerate((ScheduleGPipe, Schedule1F1B)):
    torch.manual_seed(1)
    net = Net(8)
    halves = [torch.nn.Sequential(net.up, net.norm),
              torch.nn.Sequential(net.down, torch.nn.ReLU(), net.free)]
    whole = torch.nn.Sequential(*halves)
    torch.manual_seed(10 + rank // 2)
    x, y = torch.randn(8, 4), torch.randn(8, 1)
    loss = torch.nn.functional.mse_loss(whole(x), y)
    loss.backward()
    norm = true_norm(whole)
    whole.zero_grad()
    stage = PipelineStage(halves[stage_of], stage_of, 2, torch.device("cpu"), group=pipe)
    schedule = schedule_of(stage, 4, loss_fn=torch.nn.functional.mse_loss)
    losses = []
    if stage_of == 0:
        schedule.step(x)
    else:
        schedule.step(target=y, losses=losses)
    mean = torch.stack(losses).mean() if losses else None
    global_norm = tracker.reduce_grad_norm(halves[stage_of], group=pipe)
    over_replicas = tracker.reduce(mean)
    last.log_training_step(mean, number, grad_norm=global_norm)
    name = schedule_of.__name__
    note(name + " loss", over_replicas, sum(gathered(float(loss))) / 4)
    note(name + " norm", global_norm, norm)
    said.setdefault("at the last", []).append([float(loss), float(norm)])
last.finish()
said["last"] = last.get_run_id()
"""

_END = """
ends = dist.new_group([0, 3])
if rank in (0, 3):
    tracker.reduce(1.0, group=ends)
dist.barrier()
if rank == 0:
    os.read(bond, 1)  # the last one is gone
    said["gone"] = tracker.reduce(1.0, group=ends).isnan().item()
    tracker.log_metrics({"after": 1.0}, 0)
tracker.finish()
said["run"] = tracker.get_run_id()
(base / f"told{rank}").write_text(json.dumps([results, said]))
for pid in others:
    os.waitpid(pid, 0)
os._exit(0)  # a process group that has lost a rank ends as it likes
"""


@dataclass(frozen=True)
class Rank:
    """What one rank told."""

    results: dict[str, list[float]]
    """By name: what `reduce` returned, and the truth."""
    said: dict[str, Any]
    stderr: str


@dataclass(frozen=True)
class Story:
    """What all ranks told, and the rows of the recording one."""

    ranks: list[Rank]
    base: Path

    def rows(self, run: str = "run", rank: int = 0) -> dict[int, dict[str, float]]:
        """Return what a run's journal holds, by step."""
        rows: dict[int, dict[str, float]] = {}
        for row in journal_rows(self.base, self.ranks[rank].said[run]):
            rows.setdefault(row.step, {}).update(row.values)
        return rows


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Four ranks, from the first import to the last barrier."""
    base = tmp_path_factory.mktemp("ranks")
    run_script(_STORY + _VALUES + _NORMS + _PIPELINE + _END, str(base), warnings=None)
    ranks = []
    for number in range(_RANKS):
        results, said = json.loads((base / f"told{number}").read_text())
        ranks.append(Rank(results, said, (base / f"stderr{number}").read_text()))
    return Story(ranks, base)


def test_what_is_reduced_is_the_truth_on_every_rank(story: Story) -> None:
    """Ops, names, ranks without a value, groups, meshes, DTensors, norms of every kind of model."""
    wrong = [
        (number, name, got, true)
        for number, rank in enumerate(story.ranks)
        for name, (got, true) in rank.results.items()
        if not math.isclose(got, true, rel_tol=1e-6)
    ]

    assert wrong == []
    assert set(story.ranks[3].results) == set(story.ranks[0].results)
    assert len(story.ranks[0].results) > 25


def test_the_rows_hold_what_was_reduced(story: Story) -> None:
    """To the last bit; and the global norms as `train/grad_norm`, with the mean loss of all."""
    results, rows = story.ranks[0].results, story.rows()

    logged = {name: value for name, value in rows[0].items() if name in results}
    assert logged == {name: got for name, (got, _) in results.items()}
    models = ("fsdp2", "hsdp", "tp", "fsdp2 x tp", "half of it sharded", "frozen")
    norms = [row["train/grad_norm"] for row in rows.values() if "train/grad_norm" in row]
    assert norms == [results[name][0] for name in models]
    assert [row["loss/total"] for row in rows.values() if "train/grad_norm" in row] == [1.5] * 6


def test_a_rank_that_passes_no_number_keeps_nobody_waiting(story: Story) -> None:
    """It takes part with NaN, and says so; the other value of the call is not harmed."""
    assert [rank.said["bad"] for rank in story.ranks] == [[True, 1.0]] * _RANKS
    assert [rank.stderr.count("bad: a str 'text'") for rank in story.ranks] == [0, 0, 1, 0]


def test_a_rank_outside_the_group_gets_nothing(story: Story) -> None:
    """Its own value would pass for the group's."""
    assert [rank.said["pair"] for rank in story.ranks] == [None, 3.0, 3.0, None]
    assert "this rank is not in the process group" in story.ranks[0].stderr


def test_what_only_one_rank_calls_is_refused_with_the_advice(story: Story) -> None:
    """It waits, says who is missing, and trains on; those that come later are told."""
    alone = story.ranks[0]
    assert alone.said["alone"] == [True] * 3
    for name in ("only", "reduce_grad_norm", "part"):
        assert (
            f"{name}: rank 1, 2, 3 of 4 ranks did not make this call within 0.2 s" in alone.stderr
        )
    assert "such as `if rank == 0`; not reduced" in alone.stderr
    assert [rank.said["late"] for rank in story.ranks] == [True] * _RANKS
    assert all("ranks did not make this call" in rank.stderr for rank in story.ranks)


def test_a_rank_that_is_gone_costs_the_value_and_not_the_run(story: Story) -> None:
    """The collective fails on the other; it is said, and what that logs next is there."""
    assert story.ranks[0].said["gone"] is True
    assert "reduce: raised RuntimeError(" in story.ranks[0].stderr
    assert story.rows()[0]["after"] == 1.0


def test_calls_in_different_order_are_refused_and_not_mixed(story: Story) -> None:
    """They are equally long, so that the collective itself notices nothing."""
    for rank in story.ranks:
        assert (rank.said["order a"], rank.said["order b"]) == (True, True)
        assert "the ranks made different calls of it" in rank.stderr


def test_a_part_is_refused_where_it_is_logged(story: Story) -> None:
    """A value and a model: the rows have none of them, and the advice is the call."""
    assert "local" not in story.rows()[0]
    assert "local: a DTensor of which this rank holds a part" in story.ranks[0].stderr
    assert "on every rank call tracker.reduce(tensor)" in story.ranks[0].stderr
    assert "a parameter is a sharded DTensor; pass grad_norm=" in story.ranks[0].stderr


def test_the_last_stage_records_the_pipelines_loss_and_whole_norm(story: Story) -> None:
    """`log_rank` is a rank of the last stage: GPipe, 1F1B."""
    last = story.ranks[3]
    rows = story.rows("last", rank=3)

    assert [rank.said["last"] for rank in story.ranks[:3]] == [None] * 3
    for step, (loss, norm) in enumerate(last.said["at the last"]):
        assert rows[step]["loss/total"] == pytest.approx(loss, rel=1e-6)
        assert rows[step]["train/grad_norm"] == pytest.approx(norm, rel=1e-6)
