"""What nodes tell in their files, as rows; with clocks that are handed in."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from support.journals import finish, make_header

from fasttrack.alerts.judge import Judge
from fasttrack.alerts.settings import resolve_alerts
from fasttrack.journal.entries import encode
from fasttrack.journal.hardware import is_of_nodes
from fasttrack.journal.rows import Row
from fasttrack.journal.run_directory import node_names, node_path, segments
from fasttrack.journal.writer import SegmentWriter
from fasttrack.nodes.files import NodeFile, NodeReader, Sample
from fasttrack.nodes.gathering import Gathering
from fasttrack.nodes.meeting import Announcement, Meeting, has_ended, proof_of
from fasttrack.nodes.member import Visitor
from fasttrack.notices import Notices


class Job:
    """Some nodes and the rank that gathers what they tell."""

    def __init__(self, run_dir: Path, expected: int | None) -> None:
        writer = SegmentWriter(run_dir, make_header("ab12"))
        writer.close()
        self.segment = writer.path
        self.now_s = 100.0
        self.notices = Notices()
        self.gathering = Gathering(
            self.segment,
            15.0,
            expected,
            self.notices,
            clock=lambda: self.now_s,
            wall=lambda: 1000.0 + self.now_s,
        )
        self.files: dict[str, NodeFile] = {}

    def tell(self, *nodes: str, gpus: int = 1) -> None:
        """Have nodes tell something."""
        for node in nodes:
            if node not in self.files:
                path = node_path(self.segment, node)
                self.files[node] = NodeFile(path, {"kind": "node", "node": node})
            sample = Sample(999.0 + self.now_s, {"cpu_pct": 50.0}, [{"utilization": 97.0}] * gpus)
            self.files[node].add(sample.as_line())

    def rows(self, after_s: float = 0.0, *, last: bool = False) -> list[dict[str, float]]:
        """Return the rows that are due `after_s` later."""
        self.now_s += after_s
        return list(self.gathering.rows(last=last))


def test_each_interval_has_a_row_of_each_sample_and_one_that_counts(tmp_path: Path) -> None:
    """The first once all are there; no sample twice; at the end also what is not due."""
    job = Job(tmp_path, expected=2)
    job.tell("a")
    assert job.rows() == []  # b may be slower
    job.tell("b", gpus=2)
    first = job.rows(0.6)

    assert first == [
        {"host/a/age_s": 1.6, "host/a/cpu_pct": 50.0, "gpu/a/0/utilization": 97.0},
        {
            "host/b/age_s": 1.6,
            "host/b/cpu_pct": 50.0,
            "gpu/b/0/utilization": 97.0,
            "gpu/b/1/utilization": 97.0,
        },
        {"nodes/missing": 0, "nodes/sampled": 2},
    ]
    job.tell("a")
    assert job.rows(5.0) == []
    job.tell("a")
    assert [len(row) for row in job.rows(10.0)] == [3, 3, 2]
    assert job.rows(15.0) == [{"nodes/missing": 0, "nodes/sampled": 0}]
    job.tell("b")
    assert [len(row) for row in job.rows(1.0, last=True)] == [3, 2]
    assert job.rows(last=True) == []


def test_nodes_that_fall_silent_or_never_come_are_counted_and_named_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dead node; it may come back."""
    job = Job(tmp_path, expected=3)
    job.tell("a", "b")
    assert job.rows() == []
    assert job.rows(16.0)[-1] == {"nodes/missing": 1, "nodes/sampled": 2}
    counts = []
    for _ in range(5):
        job.tell("a")
        counts.append(job.rows(15.0)[-1]["nodes/missing"])
    assert counts == [1, 1, 1, 2, 2]
    job.tell("a", "b", "c")
    job.files["c"].add({"kind": "end", "time": 0.0, "why": "closed"})  # it has left in order
    assert job.rows(15.0)[-1] == {"nodes/missing": 0, "nodes/sampled": 3}
    job.tell("a", "b")
    assert job.rows(60.0)[-1] == {"nodes/missing": 0, "nodes/sampled": 2}

    said = capsys.readouterr().err
    assert said.count("nodes: nothing of b for 45 s") == 1
    assert said.count("of 3 nodes 1 have told nothing so far") == 1


def test_what_waited_before_the_first_rows_is_told_by_its_newest(tmp_path: Path) -> None:
    """A model may be compiled for long; the rest stays in the nodes' files."""
    job = Job(tmp_path, expected=None)
    for _ in range(3):
        job.tell("a")

    assert [len(row) for row in job.rows(600.0)] == [3, 2]


def test_a_file_is_read_as_far_as_it_is_whole(tmp_path: Path) -> None:
    """A process that is killed leaves half a line; what else is no line of ours is passed over."""
    job = Job(tmp_path, expected=1)
    job.tell("a")
    path = node_path(job.segment, "a")
    with path.open("ab") as file:
        file.write(b'{"kind":"lost","samples":3}\n{"kind":"sample","time":"x"}\n[]\n')
        file.write(b'{"kind":"sample","time":1,"host":{"a":"text"},"gpus":[]}\n{"kind":"sam')
    reader = NodeReader(path)

    assert [sample.host for sample in reader.read()] == [{"cpu_pct": 50.0}]
    assert reader.bad_lines == 3
    with path.open("ab") as file:
        file.write(b'ple","time":2.5,"host":{},"gpus":[{"power_w":3}]}\n')
    assert reader.read() == [Sample(2.5, {}, [{"power_w": 3}])]
    assert reader.read() == []


def test_one_process_of_a_node_and_attempt_writes_its_file(tmp_path: Path) -> None:
    """Another is refused; other attempts' files, and files of other kinds, are none of it."""
    job = Job(tmp_path, expected=1)
    job.tell("a")
    with pytest.raises(FileExistsError):
        NodeFile(node_path(job.segment, "a"), {})
    (tmp_path / "node-b-0002.jsonl").touch()
    (tmp_path / "node-.jsonl").touch()

    assert node_names(job.segment) == ["a"]
    assert segments(tmp_path) == [job.segment]
    assert node_path(job.segment, "a").stat().st_mode & 0o777 == 0o600


def test_a_run_that_stalls_is_noticed_although_its_hardware_goes_on_to_be_told() -> None:
    """Rows of nodes say nothing of training, in whatever way they were read; rules see them."""
    judge = Judge(resolve_alerts(["stall=600", "gpu/a/0/temperature > 90"], (), 0.2))
    judge.begin(1)
    for seq in range(20):
        judge.see([Row(seq, seq, float(seq), {"loss/total": 1.0})])
    found = []
    for seq in range(20, 70):
        found += judge.wait(15.0, 15.0 * seq)
        hot: dict[str, float] = {"host/a/age_s": 0.5, "gpu/a/0/temperature": 95.0}
        found += judge.see(
            [Row(seq, 19, 15.0 * seq, values) for values in (hot, {"nodes/missing": 0.0})]
        )

    assert [finding.kind for finding in found] == ["rule", "stall"]
    assert not is_of_nodes(Row(0, 0, 0.0, {"host/a": 1.0}))
    assert not is_of_nodes(Row(0, 0, 0.0, {}))


def test_a_visitor_whose_run_is_over_looks_for_no_other_and_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unless it knows the run by its id alone: then another attempt may begin, for a while."""
    now_s, rests = [0.0], []

    class Impatient(Visitor):
        """Rests for no time at all, and ends the run at its first rest with a file."""

        def rest(self, seconds: float) -> bool:
            rests.append(seconds)
            now_s[0] += max(seconds, 0.01)
            if list(tmp_path.glob("*/node-*")) and not has_ended(segment):
                with segment.open("ab") as file:
                    file.write(encode(finish()))
            return False

    monkeypatch.setenv("SLURM_JOB_ID", "19")
    for run_id, waits in ((None, 1), ("given", 600)):
        writer = SegmentWriter(tmp_path / (run_id or "told"), make_header("told"))
        writer.close()
        segment = writer.path
        meeting = Meeting(tmp_path, run_id, time.time())
        if run_id is None:
            told = Announcement(
                segment=str(segment),
                proof=proof_of(segment) or "",
                interval_s=15.0,
                time_s=time.time(),
            )
            assert not meeting.announce(told)  # there is no store, but a job
        rests.clear()
        Impatient(meeting, "a", 15.0, Notices(), clock=lambda: now_s[0]).run()
        lines = node_path(segment, "a").read_text().splitlines()
        assert [json.loads(line)["kind"] for line in lines] == ["node", "sample", "end"]
        assert waits <= len(rests) <= waits + 2
        for path in tmp_path.glob("*/node-*"):
            path.unlink()
        meeting.end()
    assert capsys.readouterr().err == ""
