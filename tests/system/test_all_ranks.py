"""`Options(ranks="all")` on real gloo ranks: what the run tells of all, and what a death does."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from support.all_ranks import Ranks, rows_of
from support.journals import read_entries
from support.runs import offline_dirs, wandb_rows
from support.slurm_cluster import free_ports
from support.snippets import ROOT, Pages, Snippet

from fasttrack.journal.entries import Page
from fasttrack.journal.trouble import RanksStanding
from fasttrack.runs.local import LocalRun
from fasttrack.views.report import read_report
from fasttrack.views.web.page_run import PageRun

pages = Pages(ROOT / "docs" / "ranks.md")


@pages.runs("init_process_group()")
def test_the_page_shows_what_each_rank_does(tmp_path: Path, snippet: Snippet) -> None:
    """Two ranks, as torchrun starts them."""
    environment = f"""
        os.environ.update(
            MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE="True"
        )
        os.environ.update(WANDB_MODE="offline", FASTTRACK_BACKENDS="none")
        from fasttrack import ExperimentTracker, Options
        from support.snippets import training_script

        globals().update(training_script())
        exec({snippet.source()!r})
        dist.barrier()
        dist.destroy_process_group()
    """

    Ranks(2, environment).end()

    assert pages.not_run() == []
    (directory,) = (tmp_path / "wandb" / "fasttrack").iterdir()
    ours, _ = rows_of(directory)
    assert [(row.values["ranks/step"], row.values["ranks/missing"]) for row in ours] == [(20, 0)]


def test_slow_rank_is_named_and_metrics_are_those_that_the_ranks_gather_by_hand(
    tmp_path: Path,
) -> None:
    """Four ranks under DDP, one of which waits for its data: it is named, and no other."""
    ranks = Ranks(
        4,
        """
        class Data(torch.utils.data.Dataset):
            def __len__(self):
                return 10_000

            def __getitem__(self, index):
                if rank == 2:
                    time.sleep(0.03)
                return torch.randn(8)

        meet()
        torch.manual_seed(rank)
        tracker = track(options={"alerts": {"straggler": True}})
        assert tracker.is_active() is (rank == 0)
        model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(8, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        losses, norms, over = [], [], torch.zeros(1)
        for step, batch in enumerate(torch.utils.data.DataLoader(Data(), batch_size=1)):
            loss = model(batch).square().mean()
            optimizer.zero_grad()
            loss.backward()
            norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)) + rank
            optimizer.step()
            tracker.log_training_step(loss, step, 1, optimizer, grad_norm=norm)
            losses.append(loss.item())
            norms.append(norm)
            if step % 20 == 19:
                over[0] = float(rank == 0 and tracker._engine._gathered._named is not None)
                dist.broadcast(over, 0)
                if over:
                    break
        tracker.finish()
        lost = tracker.stats().describe_losses()
        print(json.dumps([losses, norms, lost, tracker.stats().call_us_p50 > 0]))
        dist.barrier()
        dist.destroy_process_group()
        """,
    )

    done = ranks.end()
    told = [json.loads(each.stdout) for each in done]
    (directory,) = (tmp_path / "wandb" / "fasttrack").iterdir()
    ours, logged = rows_of(directory)

    assert [(each[2], each[3]) for each in told] == [([], True)] * 4
    named = [row for row in ours if "ranks/straggler" in row.values]
    assert {row.values["ranks/straggler"] for row in named} == {2}
    assert named[0].time_s - logged[0].time_s <= 10.0
    pages = read_entries(directory, Page)
    summary = next(page.summary for page in pages if page.summary)
    assert summary["ranks/straggler_named"].startswith("rank 2 (")
    assert done[0].stderr.count("holds the other ranks up") == 1
    standing = read_entries(directory, RanksStanding)[0]
    assert standing.missing_ranks == 0
    assert [where.split(" (")[0] for where in standing.stragglers] == ["rank 2"]
    report = read_report(LocalRun(directory))
    assert [(each.kind, each.level) for each in report.alerts] == [("straggler", "WARN")]
    assert report.alerts[0].title == "rank 2 is slow"
    assert "alert:" not in done[0].stderr  # it was said
    assert report.verdict is not None
    assert report.ranks is not None
    (where,) = standing.stragglers
    assert (report.verdict.bound_by, report.verdict.rank) == ("others", where)
    assert str(report.verdict).startswith("waiting for others: ")
    assert report.ranks.tell(now=False).startswith(f"4 of 4 heard; {where} held the others up from")
    head = PageRun(LocalRun(directory), "0", lambda metric: True).pack()
    for said in (str(report.verdict), report.ranks.tell(now=False)):
        assert json.dumps(said).encode() in head
    assert "ranks" not in "".join(each.stderr for each in done[1:])
    windows = [row.values for row in ours if "ranks/step" in row.values]
    assert [row["ranks/step"] for row in windows] == list(range(19, len(told[0][0]), 20))
    for index, row in enumerate(windows):
        for metric, place in (("loss", 0), ("grad_norm", 1)):
            means = [math.fsum(each[place][20 * index :][:20]) / 20 for each in told]
            assert [row[f"ranks/{metric}/{name}"] for name in ("mean", "min", "max", "argmax")] == [
                *(math.fsum(means) / 4, min(means), max(means)),
                means.index(max(means)),
            ]
        assert (row["ranks/missing"], row["ranks/non_finite/max"]) == (0, 0)
    assert windows[-1]["ranks/data_wait_ms/argmax"] == 2
    assert windows[-1]["ranks/own_time_ms/argmax"] == 2


@pytest.mark.parametrize("killed", [0, 2])
def test_rank_that_is_killed_hangs_no_other_and_is_missing(tmp_path: Path, killed: int) -> None:
    """Rank 2: rank 0 says so in the run. Rank 0, with the store in it: the others just end."""
    ranks = Ranks(
        4,
        f"""
        from fasttrack.ranks import aggregate, member

        aggregate.SILENT_S = 3.0
        member.TELL_EVERY_S = 0.2
        meet()
        tracker = track()
        over = dist.distributed_c10d._get_default_store()
        dist.barrier()
        began_s = time.monotonic()
        for step in range(100_000):
            time.sleep(0.002)
            tracker.log_training_step(1.0 + rank, step, 1)
            if rank == {killed} and step == 500:
                os.kill(os.getpid(), signal.SIGKILL)
            lasts_s = time.monotonic() - began_s
            if rank == 0 and (tracker._engine._gathered._aggregator._missing or lasts_s > 30):
                break
            if rank and (lasts_s > 3 if {killed} == 0 else over.check(["over"])):
                break
        if rank == 0:
            over.set("over", "1")
        tracker.finish()
        os._exit(0)  # gloo's own end is not the matter here
        """,
        port=free_ports(1)[0] if killed == 0 else 0,
    )

    done = ranks.end(killed=killed)

    (directory,) = (tmp_path / "wandb" / "fasttrack").iterdir()
    ours, _ = rows_of(directory)
    windows = [row.values for row in ours if "ranks/loss/mean" in row.values]
    assert windows[0]["ranks/loss/mean"] == 2.5
    assert all("Traceback" not in each.stderr for each in done)
    if killed == 2:
        assert "nothing was heard of rank 2 (" in done[0].stderr
        assert 1 in {row.values["ranks/missing"] for row in ours}
        assert any(row["ranks/loss/mean"] == (1 + 2 + 4) / 3 for row in windows)


def test_tracker_may_be_made_before_the_ranks_meet_and_finished_after_they_part(
    tmp_path: Path,
) -> None:
    """As most scripts do. Rows reach W&B; calls of the run's page are other ranks' business."""
    ranks = Ranks(
        2,
        """
        tracker = track(options={"backends": ("wandb",)}, log_interval=5)
        for call in (tracker.update_config, tracker.log_config):
            call({"a": 1})
        tracker.describe(notes="text")
        tracker.log_media("text", "text", 0)
        with tracker.pause():
            meet()
        member = (tracker._engine or tracker._other)._member
        while member._kept is None:
            time.sleep(0.01)
        for step in range(60):
            tracker.log_training_step(torch.tensor(1.0 + rank), step, 1, extra={"further": 1})
            tracker.log_metrics({"other": step}, step)
            time.sleep(0.001)
        if os.fork() == 0:
            before = tracker.is_active()
            tracker.log_metrics({"other": 1}, 1)
            tracker.finish()
            os._exit(before)
        assert os.wait()[1] == 0
        dist.barrier()
        dist.destroy_process_group()
        tracker.finish()
        if rank:
            stats = tracker.stats()
            assert (stats.rows_written, stats.late_calls, stats.failed_calls) == (0, 0, 0), stats
            tracker.log_metrics({"other": 1}, 1)
            assert tracker.stats().late_calls == 1
        """,
    )

    done = ranks.end()

    (directory,) = (tmp_path / "wandb" / "fasttrack").iterdir()
    ours, logged = rows_of(directory)
    windows = [row.values for row in ours if "ranks/step" in row.values]
    assert [row["ranks/step"] for row in windows] == [15, 35, 55]
    assert [row["ranks/loss/mean"] for row in windows] == [1.5] * 3
    assert [row["ranks/missing"] for row in windows] == [0] * 3
    assert sum("other" in row.values for row in logged) == 60
    found = [row for row in wandb_rows(offline_dirs(tmp_path)[0]) if "ranks/step" in row]
    assert [(row["ranks/step"], row["ranks/loss/max"]) for row in found] == [
        (step, 2) for step in (15, 35, 55)
    ]
    assert "after finish()" not in done[0].stderr


def _began_ns(directory: Path) -> int:
    return min(path.stat().st_mtime_ns for path in directory.iterdir())


def test_ranks_that_are_restarted_hear_nothing_of_the_attempt_before(tmp_path: Path) -> None:
    """Its messages are still in the agent's store: the recording rank was the one that died."""
    log = """
        meet()
        tracker = track()
        member = (tracker._engine or tracker._other)._member
        while member._kept is None:
            time.sleep(0.01)
        dist.barrier()
        if {dies} and rank == 0:
            os._exit(0)
        for step in range(40):
            tracker.log_training_step({loss} + rank, step, 1)
        tracker.finish()
        if {dies}:
            os._exit(0)
        dist.barrier()
        dist.destroy_process_group()
        """
    first = Ranks(2, log.format(dies=True, loss=100.0))
    first.end()
    assert first.server is not None
    assert any(key.endswith("/ranks/0/1") for key in first.server.list_keys())
    for key in first.server.list_keys():
        if "fasttrack" not in key:  # with gloo's a group may meet dead ranks
            first.server.delete_key(key)

    Ranks(2, log.format(dies=False, loss=1.0), server=first.server).end()

    directory = max((tmp_path / "wandb" / "fasttrack").iterdir(), key=_began_ns)
    ours, _ = rows_of(directory)
    windows = [row.values for row in ours if "ranks/step" in row.values]
    told = [(row["ranks/step"], row["ranks/loss/mean"], row["ranks/missing"]) for row in windows]
    assert told == [(19, 1.5, 0), (39, 1.5, 0)]


def test_ranks_that_never_meet_leave_the_run_as_one_of_the_first_alone(tmp_path: Path) -> None:
    """No process group, no store: nothing is heard of the others, nothing hangs."""
    ranks = Ranks(
        2,
        """
        from fasttrack.ranks import member

        member.NO_STORE_S = 0.0
        tracker = track()
        for step in range(50):
            tracker.log_training_step(1.0, step, 1)
        tracker.finish()
        """,
    )

    first, second = ranks.end()

    (directory,) = (tmp_path / "wandb" / "fasttrack").iterdir()
    ours, logged = rows_of(directory)
    assert len(logged) == 50
    assert all(row.values["ranks/missing"] == 1 for row in ours)
    assert first.stderr.count("torch.distributed is not initialised") == 1
    assert second.stderr == ""


def test_one_rank_alone_is_all_ranks(tmp_path: Path) -> None:
    """No thread, and no row, that "main" would not have."""
    (one,) = Ranks(
        1,
        """
        import threading

        with track() as tracker:
            print([thread.name for thread in threading.enumerate()])
            for step in range(50):
                tracker.log_training_step(1.0, step, 1)
        """,
    ).end()

    (directory,) = (tmp_path / "wandb" / "fasttrack").iterdir()
    assert rows_of(directory)[0] == []
    assert "fasttrack-ranks" not in one.stdout
