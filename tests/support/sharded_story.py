"""The script of four ranks that share values and models, in the parts that it is told in."""

from __future__ import annotations

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
from fasttrack.collective import agreement
from fasttrack.collective.reducer import Reducer
from fasttrack.context.group_store import group_store
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


def tensor_parallel(net, over=None):
    plan = {"up": ColwiseParallel(output_layouts=Replicate()),
            "down": RowwiseParallel(input_layouts=Replicate())}
    return parallelize_module(net, over or mesh["tp"], plan)


def backward(net, replica):
    torch.manual_seed(replica)
    net(torch.randn(8, 4)).square().sum().backward()
    return net


def trained(name, net, replica):
    backward(net, replica)
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
second = Reducer(Notices(), patience_s=0.2)  # of another tracker: "a" was asked of the first one
said["second"] = [second.values({"c": 1.0}, "mean", None)["c"].isnan().item()]
if rank == 0:
    said["second"].append(second.values({"a": 1.0}, "mean", None)["a"].isnan().item())
kept = dist.distributed_c10d._get_default_store()
dist.barrier()
before = kept.num_keys()
dist.barrier()
for number in range(20):
    tracker.reduce({f"new {number}": 1.0})
dist.barrier()
said["keys"] = kept.num_keys() - before
dist.barrier()
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

_TOGETHER = """
def track_all(patience_s=1e6, **options):  # where anybody waited for long, the story would end
    agreement.PATIENCE_S = patience_s
    options = Options(backends=("none",), console=False, ranks="all", **options)
    return make_tracker(options=options, log_interval=2)


every = track_all()
nets = {"fsdp2": backward(fully_shard(Net(), mesh=flat), rank)}
hybrid = Net()
fully_shard(hybrid.up, mesh=mesh)
nets["hsdp"] = backward(fully_shard(hybrid, mesh=mesh), rank)
nets["tp"] = backward(tensor_parallel(Net(8), flat), 0)
both = tensor_parallel(Net())
for block in (both.up, both.down, both):
    fully_shard(block, mesh=mesh["dp"])
nets["fsdp2 x tp"] = backward(both, rank // 2)
nets["shares of a sum"] = shares
loss = sharded.sum()  # a share of it on each rank
in_pair = distribute_tensor(weight + rank // 2, mesh["tp"], [Shard(0)]).max()
said["together"] = []
for number, (name, net) in enumerate(nets.items()):
    extra = {"rank": rank, "max": sharded.max(), "pair": in_pair}
    every.log_training_step(loss, 2 * number, 8, model=net, extra=extra)
    if rank == 0:  # at a step that is not logged nobody waits for others
        every.log_training_step(loss, 2 * number + 1, 8, model=net)
    said["together"].append(float(true_norm(net)))
norm = torch.linalg.vector_norm(sharded)
every.log_training_step(None, 10, grad_norm=norm, extra={"a": 1.0, "loss/aux": loss})
every.log_metrics({"eval": loss, "plain": 2.0}, 10)
whole = dist.get_world_size() * weight.sum()  # of no DTensor: no rank is asked
every.log_training_step(whole, 12, model=torch.nn.Linear(1, 1), grad_norm=1.0)
before_end = every._logger._together._agreements[0, 1, 2, 3]
key, number = before_end._key, before_end._number
own = group_store()
said["meetings"] = [number, own.check([f"{key}/{number - 1}"])]
dist.barrier()
said["left"] = [own.check([f"{key}/{i}{end}"]) for i in range(number - 1)
                for end in ("", "/number", "/call")]
if rank == 2:
    every.finish()  # the others are not kept waiting
every.log_training_step(loss, 14, model=nets["fsdp2"])
every.log_training_step(0.5, 16, model=backward(tensor_parallel(Net()), 0))  # on two ranks each
every.finish()
said["every"] = every.get_run_id()
said["lost"] = [every.stats().refused, every.stats().late_calls, every.stats().failed_calls]

lone = track_all(patience_s=0.3)
if rank == 0:
    lone.log_training_step(loss, 0, model=nets["fsdp2"], extra={"b": 1.0})
dist.barrier()
lone.log_training_step(loss, 2, model=nets["fsdp2"], extra={"b": 2.0})
lone.finish()
said["lone"] = lone.get_run_id()

different = track_all()
extra = {"only": loss} if rank == 3 else {}
different.log_training_step(loss, 0, extra=extra)
different.log_training_step(loss, 2)  # nobody asks any more
different.finish()
said["different"] = different.get_run_id()

budget = track_all(overhead_budget=0.5)
if rank == 0:
    budget.log_training_step(loss, 0)
budget.log_metrics({"eval": loss}, 0)
budget.finish()
said["budget"] = budget.get_run_id()
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

SHARDED_STORY = _STORY + _VALUES + _NORMS + _TOGETHER + _PIPELINE + _END
"""Each rank leaves what it found, and its stderr, in the folder that it is given."""
