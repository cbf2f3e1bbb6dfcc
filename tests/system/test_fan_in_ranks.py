"""One rank of each node tells for all of it, on real gloo ranks: the rows are as without."""

from __future__ import annotations

import json
import math
from pathlib import Path

from support.all_ranks import Ranks, rows_of

_FAN_IN = """
from fasttrack.ranks import aggregate, fan_in, member

fan_in.ABOVE_RANKS = 3
aggregate.SILENT_S = 3.0
member.TELL_EVERY_S = 0.2
meet()
tracker = track()
parts = tracker._engine or tracker._other

def way():
    way = parts._member._way
    return [type(way).__name__, getattr(way, "by_itself", None)]

def wait_for_ways():
    until_s = time.monotonic() + 60
    while parts._member._kept is None or getattr(parts._member._way, "_seeks", False):
        assert time.monotonic() < until_s
        time.sleep(0.01)
"""


def test_rows_are_those_that_the_ranks_of_two_nodes_gather_by_hand(tmp_path: Path) -> None:
    """To the last digit; ranks of the recording one's node tell by themselves."""
    ranks = Ranks(
        4,
        _FAN_IN
        + """
wait_for_ways()
dist.barrier()
losses = torch.rand(400, generator=torch.Generator().manual_seed(rank)).tolist()
for step, loss in enumerate(losses):
    tracker.log_training_step(loss, step, 1)
    time.sleep(0.002)
ours = way()
dist.barrier()
tracker.finish()
print(json.dumps([losses, ours, tracker.stats().describe_losses()]))
dist.barrier()
dist.destroy_process_group()
""",
        nodes=2,
    )

    told = [json.loads(each.stdout) for each in ranks.end()]

    (directory,) = (tmp_path / "wandb" / "fasttrack").iterdir()
    windows = [row.values for row in rows_of(directory)[0] if "ranks/step" in row.values]
    ways = [["NoneType", None], ["Follower", True], ["Leader", None], ["Follower", False]]
    assert [each[1:] for each in told] == [[way, []] for way in ways]
    assert [row["ranks/step"] for row in windows] == list(range(19, 400, 20))
    for index, row in enumerate(windows):
        means = [math.fsum(each[0][20 * index :][:20]) / 20 for each in told]
        assert [row[f"ranks/loss/{name}"] for name in ("mean", "min", "max", "argmax")] == [
            *(math.fsum(means) / 4, min(means), max(means)),
            means.index(max(means)),
        ]
        assert row["ranks/missing"] == 0


def test_where_the_rank_dies_that_tells_for_its_node_the_others_are_heard_on(
    tmp_path: Path,
) -> None:
    """They tell by themselves: only the dead one is missing."""
    ranks = Ranks(
        4,
        _FAN_IN
        + """
over = dist.distributed_c10d._get_default_store()
wait_for_ways()
dist.barrier()
before, began_s = way(), time.monotonic()
for step in range(100_000):
    time.sleep(0.002)
    tracker.log_training_step(1.0 + rank, step, 1)
    if rank == 2 and step == 500:
        os.kill(os.getpid(), signal.SIGKILL)
    if rank == 0:
        missing = parts._gathered._aggregator._missing
        if time.monotonic() - began_s > 40 or (missing and step % 20 == 19 and step > 3_000):
            break
    elif over.check(["over"]):
        break
if rank == 0:
    over.set("over", "1")
print(json.dumps([before, way()]), flush=True)
tracker.finish()
os._exit(0)  # gloo's own end is not the matter here
""",
        nodes=2,
    )

    done = ranks.end(killed=2)

    (directory,) = (tmp_path / "wandb" / "fasttrack").iterdir()
    windows = [row.values for row in rows_of(directory)[0] if "ranks/loss/mean" in row.values]
    assert json.loads(done[3].stdout) == [["Follower", False], ["Follower", True]]
    assert "nothing was heard of rank 2 (" in done[0].stderr
    assert "rank 3" not in done[0].stderr
    assert (windows[0]["ranks/loss/mean"], windows[0]["ranks/missing"]) == (2.5, 0)
    heard = [row for row in windows if row["ranks/loss/mean"] == (1 + 2 + 4) / 3]
    assert {row["ranks/missing"] for row in heard} == {1}
    assert all("Traceback" not in each.stderr for each in done)
