"""The names of metrics that tell of nodes' hardware, and the rows that hold nothing else."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fasttrack.journal.rows import Row

MISSING = "nodes/missing"
"""How many nodes nothing is known of."""
SAMPLED = "nodes/sampled"
"""How many nodes have told something since the last row of this name."""
_HOST, _AGE = "host/", "/age_s"
_OF_NODE = re.compile(r"host/[^/]+/.|gpu/[^/]+/\d+/.")


def age_metric(node: str) -> str:
    """Return the metric that a node's row begins with: how old its sample was."""
    return f"{_HOST}{node}{_AGE}"


def host_metric(node: str, name: str) -> str:
    """Return the metric of a figure of a node's host."""
    return f"{_HOST}{node}/{name}"


def gpu_metric(node: str, index: int, name: str) -> str:
    """Return the metric of a figure of a node's GPU."""
    return f"gpu/{node}/{index}/{name}"


def tells_of_node(metric: str) -> bool:
    """Return whether a metric looks like one of a node's."""
    return _OF_NODE.match(metric) is not None


def is_of_nodes(row: Row) -> bool:
    """Return whether a row tells of hardware only: that there is one says nothing of training."""
    names = row.names
    first = next(iter(row.values), "") if names is None else names.in_order[0]
    return first == MISSING or (first.startswith(_HOST) and first.endswith(_AGE))
