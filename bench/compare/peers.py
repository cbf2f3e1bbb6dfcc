"""Other trackers as ways of logging, each used as its documentation says for a tight loop.

All get the same scalars at every step, the loss as `float(loss)`, and keep their defaults, what
they record beside the metrics included, so that each costs what its users pay: local or offline,
for nothing here uses the network (`private_home`). torch is imported before them.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sqlite3
import struct
import threading
import zipfile
from functools import partial
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.lib.scalars import LOSS
from bench.lib.ways import Kind, WandbInline, Way

if TYPE_CHECKING:
    from bench.lib.scalars import Scalars
    from bench.lib.workload import Workload


class WandbThread(WandbInline):
    """What people write by hand: a queue without a limit, and a thread that calls `run.log`."""

    def open(self) -> None:
        super().open()
        self._queue: queue.Queue[tuple[Scalars, int] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def log(self, scalars: Scalars, step: int) -> None:
        loss: Any = scalars[LOSS]
        scalars[LOSS] = loss.detach()
        self._queue.put((scalars, step))

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()
        super().close()

    def _drain(self) -> None:
        while (item := self._queue.get()) is not None:
            super().log(*item)


class TensorBoard(Way):
    """`add_scalar` for each metric: `add_scalars` would open an event file for each."""

    def __init__(self, work: Workload) -> None:
        super().__init__(work)
        from torch.utils.tensorboard import SummaryWriter

        self._start = partial(SummaryWriter, str(Path.home() / "tensorboard"))

    def open(self) -> None:
        self._writer = self._start()

    def log(self, scalars: Scalars, step: int) -> None:
        scalars[LOSS] = float(scalars[LOSS])
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()

    def arrived(self) -> int | None:
        (file,) = (Path.home() / "tensorboard").iterdir()
        events = -1  # the first one is the file's version
        with file.open("rb") as stream:
            # Length, its checksum, the event, and its checksum.
            while len(header := stream.read(12)) == 12:
                stream.seek(struct.unpack("<QI", header)[0] + 4, os.SEEK_CUR)
                events += 1
        return events // self._work.metrics


class MLflow(Way):
    """`mlflow.log_metrics` of all in one call, into SQLite.

    `synchronous=False` is its queue; `open` makes the database, which users pay once.
    """

    def __init__(self, work: Workload, synchronous: bool = True) -> None:
        super().__init__(work)
        import mlflow

        self._mlflow: Any = mlflow
        self._synchronous = synchronous
        self._database = Path.home() / "mlflow.db"

    def open(self) -> None:
        self._mlflow.set_tracking_uri(f"sqlite:///{self._database}")
        artifacts = (Path.home() / "mlflow").as_uri()
        experiment = self._mlflow.create_experiment("bench", artifact_location=artifacts)
        self._mlflow.start_run(experiment_id=experiment)

    def log(self, scalars: Scalars, step: int) -> None:
        scalars[LOSS] = float(scalars[LOSS])
        self._mlflow.log_metrics(scalars, step=step, synchronous=self._synchronous)

    def close(self) -> None:
        if not self._synchronous:
            self._mlflow.flush_async_logging()
        self._mlflow.end_run()

    def arrived(self) -> int | None:
        return _rows_in_table(self._database, "metrics") // self._work.metrics


class Trackio(Way):
    """`trackio.log`, into its local SQLite."""

    def __init__(self, work: Workload) -> None:
        super().__init__(work)
        self._directory = Path.home() / "trackio"
        os.environ["TRACKIO_DIR"] = str(self._directory)
        import trackio

        self._trackio: Any = trackio

    def open(self) -> None:
        self._trackio.init(project="bench", name="run", embed=False)

    def log(self, scalars: Scalars, step: int) -> None:
        scalars[LOSS] = float(scalars[LOSS])
        self._trackio.log(scalars, step=step)

    def close(self) -> None:
        self._trackio.finish()

    def arrived(self) -> int | None:
        return _rows_in_table(self._directory / "bench.db", "metrics")


class SwanLab(Way):
    """`swanlab.log`, offline."""

    def __init__(self, work: Workload) -> None:
        super().__init__(work)
        import swanlab

        self._swanlab = swanlab
        self._directory = Path.home() / "swanlab"

    def open(self) -> None:
        self._swanlab.init(project="bench", mode="offline", log_dir=str(self._directory))

    def log(self, scalars: Scalars, step: int) -> None:
        scalars[LOSS] = float(scalars[LOSS])
        self._swanlab.log(scalars, step=step)

    def close(self) -> None:
        self._swanlab.finish()

    def arrived(self) -> int | None:
        from swanlab.proto.swanlab.record.v1.record_pb2 import Record

        from bench.lib.internals import read_payloads

        (file,) = self._directory.glob("run-*/run-*.swanlab")  # framed as `.wandb` files are
        records = map(Record.FromString, read_payloads(file))
        scalars = [r.scalar.key for r in records if r.HasField("scalar")]
        return len([key for key in scalars if not key.startswith("__")]) // self._work.metrics


class Aim(Way):
    """`Run.track` of all in one call, into a local repository."""

    def __init__(self, work: Workload) -> None:
        super().__init__(work)
        import aim

        self._start = partial(aim.Run, repo=str(Path.home()), experiment="bench")

    def open(self) -> None:
        self._run = self._start()

    def log(self, scalars: Scalars, step: int) -> None:
        scalars[LOSS] = float(scalars[LOSS])
        self._run.track(scalars, step=step)

    def close(self) -> None:
        self._run.close()

    def arrived(self) -> int | None:
        from aim.storage.rockscontainer import RocksContainer

        (chunk,) = (Path.home() / ".aim/seqs/chunks").iterdir()
        keys = (key for key, _ in RocksContainer(str(chunk), read_only=True).items())
        values = sum(key.startswith(b"seqs\xfev2") and b"\xfeval\xfe\xfe" in key for key in keys)
        return int(values // self._work.metrics)


class Comet(Way):
    """`OfflineExperiment.log_metrics` of all in one call; not the host, for that asks the cloud."""

    def __init__(self, work: Workload) -> None:
        super().__init__(work)
        import comet_ml

        self._start = partial(
            comet_ml.OfflineExperiment,
            project_name="bench",
            offline_directory=str(Path.home()),
            log_env_host=False,
        )

    def open(self) -> None:
        self._experiment = self._start()

    def log(self, scalars: Scalars, step: int) -> None:
        scalars[LOSS] = float(scalars[LOSS])
        self._experiment.log_metrics(scalars, step=step)

    def close(self) -> None:
        self._experiment.end()

    def arrived(self) -> int | None:
        (file,) = Path.home().glob("*.zip")
        with zipfile.ZipFile(file).open("messages.json") as lines:
            values = sum(b'"metric_msg"' in line and b'"sys.' not in line for line in lines)
        return values // self._work.metrics


def _rows_in_table(database: Path, table: str) -> int:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        (count,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(count)


PEERS = {
    "wandb-thread": Kind("a queue and a thread around `wandb.log`", WandbThread, "wandb"),
    "tensorboard": Kind("TensorBoard `SummaryWriter`", TensorBoard, "tensorboard"),
    "mlflow": Kind("MLflow, SQLite", MLflow, "mlflow"),
    "mlflow-async": Kind(
        "MLflow, SQLite, `synchronous=False`", partial(MLflow, synchronous=False), "mlflow"
    ),
    "trackio": Kind("trackio, local", Trackio, "trackio"),
    "swanlab": Kind("SwanLab, offline", SwanLab, "swanlab"),
    "aim": Kind("Aim, local", Aim, "aim"),
    "comet": Kind("Comet, `OfflineExperiment`", Comet, "comet_ml"),
}


def versions() -> dict[str, str]:
    """Return the versions of the packages that the installed peers come from."""
    packages = packages_distributions()
    modules = {peer.module for peer in PEERS.values() if peer.is_installed()}
    return {name: version(name) for module in sorted(modules) for name in packages[module]}
