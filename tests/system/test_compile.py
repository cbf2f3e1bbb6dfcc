"""torch.compile and the logging calls: one graph break each, nothing of ours compiled or timed."""

from __future__ import annotations

import pytest
from support.runs import run_script

PROGRAM = """
    import sys

    import torch

    from fasttrack import ExperimentTracker, Options

    if {inert}:
        import os

        os.environ.update(RANK="1", WORLD_SIZE="2")
    tracker = ExperimentTracker(
        log_interval={interval}, options=Options(backends=("none",), console=False)
    )
    assert "torch._dynamo" not in sys.modules  # it takes seconds to import
    graphs = []

    def backend(module, inputs):
        graphs.append([str(node.target) for node in module.graph.nodes if "call" in node.op])
        return module.forward

    net = torch.nn.Linear(4, 4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    @torch.compile(backend=backend)
    def train_step(x, step):
        loss = net(x).square().mean()
        {calls}
        return loss * 2
"""
STEP = "tracker.log_training_step(loss, step, 4, optimizer, net, extra={'a': loss})"
METRICS = "tracker.log_metrics({'b': loss, 'c': {'d': 1}}, step)"


def program(*calls: str, end: str, inert: bool = False, interval: int = 1) -> str:
    """Return a script whose compiled step makes these calls."""
    source = PROGRAM.replace("{inert}", str(inert)).replace("{interval}", str(interval))
    return source.replace("{calls}", "\n        ".join(calls) or "pass") + end


@pytest.mark.parametrize("inert", [False, True], ids=["recording", "inert"])
def test_each_call_is_one_graph_break_and_nothing_of_ours_is_compiled(inert: bool) -> None:
    """On every rank. Two calls cut a step in three, whatever they log, and every row is right.

    Dynamo traced into them: it broke the graph three times, warned of `Tensor.item()` in our file,
    and its compiling counted as the calls' time.
    """
    end = """
    losses = [train_step(torch.full((2, 4), float(s)), s).item() / 2 for s in range(20)]
    breaks = len(torch._dynamo.utils.counters["graph_break"])
    logged, stats = [], tracker.stats()
    if tracker.is_active():
        from support.journals import read_rows

        tracker.flush()
        rows = read_rows(tracker.get_run_dir())
        logged = [row.values["loss/total"] for row in rows if "loss/total" in row.values]
        assert [row.step for row in rows if "b" in row.values] == list(range(20))
    print(len(graphs), breaks, logged == losses, stats.call_us_p99 < 50_000)
    """
    # Dynamo itself looks at `loss.grad`, which warns.
    result = run_script(program(STEP, METRICS, end=end, inert=inert), warnings="default")
    graphs, breaks, right, quick = result.stdout.split()

    assert int(graphs) <= 2 * 3  # each part at most twice: step is a number, then any
    assert int(breaks) == 2  # kinds of: the two calls
    assert (right, quick) == (str(not inert), "True")
    assert "Graph break" not in result.stderr
    assert "perf_counter" not in result.stderr


def test_fullgraph_is_refused_by_torch_in_clear_words() -> None:
    """A graph without a break cannot hold a call; torch names it, and we what to do."""
    end = """
    compiled = torch.compile(train_step.__wrapped__, backend=backend, fullgraph=True)
    try:
        compiled(torch.ones(2, 4), 0)
    except torch._dynamo.exc.Unsupported as error:
        print("log_metrics" in str(error), "call them outside of what is compiled" in str(error))
    """
    result = run_script(program(METRICS, end=end))

    assert result.stdout == "True True\n"
