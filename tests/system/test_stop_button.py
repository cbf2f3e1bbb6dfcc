"""W&B's stop button reaches the training, and costs it no row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.runs import HANG_GUARD_S, journal_rows, start_script

if TYPE_CHECKING:
    from support.wandb_server import WandbServer

pytestmark = pytest.mark.server


def test_stop_button_asks_the_program_to_stop_and_delivery_goes_on(
    server: WandbServer, tmp_path: Path
) -> None:
    """The client, which asks every 15 s, says the same of a fatal error: the server is asked."""
    program = start_script(
        """
        import time
        from support.runs import make_tracker

        tracker = make_tracker(mode="online")
        step = 0
        while not tracker.should_stop():
            tracker.log_metrics({"a": step / 4}, step)
            step += 1
            time.sleep(0.02)
        print(step, tracker.stop_reason())
        tracker.finish()
        """
    )
    assert server.wait_for(lambda: any(run.history for run in server.runs.values()), HANG_GUARD_S)
    (run,) = server.runs.values()
    run.stopped = True
    stdout, stderr = program.communicate(timeout=HANG_GUARD_S)

    assert program.returncode == 0, stderr
    steps, reason = stdout.split()
    assert reason == "wandb"
    assert "interrupted" not in stderr
    assert f"rows delivered: {steps}" in stderr
    assert [row["step"] for row in run.history] == list(range(int(steps)))
    assert len(journal_rows(tmp_path, run.id)) == int(steps)
    assert (run.state, run.exit_code) == ("finished", 0)
