"""Disks that are full, and directories that vanish or cannot be written."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from faults.rig import Scenario, Skip

if TYPE_CHECKING:
    from faults.rig import Bench

_DISK_KIB = 6 * 1024


class SmallDisk:
    """A tmpfs of a few MiB in a mount namespace of its own, which goes when its keeper is killed.

    Unprivileged users get it with a user namespace, root without. It is mounted over the run's
    `wandb` directory; the rig sees it through the keeper's root.
    """

    def __init__(self, bench: Bench) -> None:
        self._place = bench.base / "wandb"
        self._place.mkdir()
        script = (
            f"mount -t tmpfs -o size={_DISK_KIB}k,mode=0777 faults '{self._place}'"
            " && echo ready && exec sleep 100000"
        )
        for flags in (["--mount"], ["--user", "--map-root-user", "--mount"]):
            self._keeper = subprocess.Popen(
                ["unshare", *flags, "--propagation", "private", "sh", "-c", script],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=bench.environment(),
            )
            assert self._keeper.stdout is not None
            if self._keeper.stdout.readline().strip() == "ready":
                break
            self._keeper.communicate()
        else:
            raise Skip("no namespace with a tmpfs may be made here (unshare --user --mount)")
        pid = self._keeper.pid
        enter = ["nsenter", f"--mount=/proc/{pid}/ns/mnt"]
        if "--user" in flags:
            enter += [f"--user=/proc/{pid}/ns/user", "--preserve-credentials"]
        # The working directory does not follow into the namespace.
        bench.prefix = [*enter, "--", "sh", "-c", f"cd '{bench.base}' && exec \"$@\"", "sh"]
        bench.wandb = Path(f"/proc/{pid}/root{self._place}")
        bench.directories = [bench.wandb]
        bench.keepers.append(self._keeper)
        self._filler = bench.wandb / "filler"

    def fill(self, leave_bytes: int = 0) -> None:
        """Fill it but for some bytes."""
        with self._filler.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
            size = file.tell()
            file.truncate(max(0, size - leave_bytes))

    def free(self) -> None:
        """Make room again."""
        self._filler.unlink(missing_ok=True)


def _full(bench: Bench, phase: str, freed: bool) -> None:
    """Fill the disk before, or at a seeded row; free it at a later row, or after the end."""
    bench.may_lose = True
    disk = SmallDisk(bench)
    mode = "offline" if bench.seed % 2 else "online"
    hold = bench.base / "go on"
    if phase == "before":
        disk.fill(leave_bytes=bench.random.choice((8, 16, 64)) * 1024)
        trainer = bench.train(mode=mode, hold=str(hold), flush_every=0)
        trainer.await_note("open")
    else:
        trainer = bench.train(mode=mode, hold=str(hold), flush_every=0)
        trainer.await_row(bench.random.randrange(5, bench.scenario.rows // 2))
        disk.fill(leave_bytes=bench.random.choice((0, 0, 4096)))
    if freed and phase == "training" and bench.random.random() < 0.5:  # while rows are logged
        trainer.await_row(bench.random.randrange(bench.scenario.rows // 2, bench.scenario.rows - 9))
        disk.free()
    trainer.await_note("holding", 120.0)
    if freed:
        disk.free()
        hold.touch()
        trainer.await_end()
    else:
        hold.touch()
        trainer.await_end()
        bench.await_nobody()
        disk.free()
    bench.fault_is_over()


def _deleted(bench: Bench, what: str) -> None:
    """Delete what the run writes into, at a seeded row: the rows are lost, the trainer is not."""
    trainer = bench.train(mode="offline" if bench.seed % 2 else "online")
    trainer.await_row(bench.random.randrange(5, bench.scenario.rows - 20))
    target = trainer.run_dir if what == "run" else bench.base / "wandb"
    shutil.rmtree(target, ignore_errors=True)
    bench.expects_delivery = False
    bench.may_lose = True
    bench.fault_is_over()


def _read_only(bench: Bench) -> None:
    """Take away the right to write, at a seeded row, and give it back after the training."""
    bench.prefix = [*_unprivileged()]
    hold = bench.base / "go on"
    trainer = bench.train(mode="offline" if bench.seed % 2 else "online", hold=str(hold))
    trainer.await_row(bench.random.randrange(5, bench.scenario.rows - 20))
    places = [path for path in (bench.base / "wandb").rglob("*") if path.is_dir()]
    for place in places:
        place.chmod(0o500)
    trainer.await_note("holding")
    hold.touch()
    trainer.await_note("finishing")
    for place in places:
        if place.exists():
            place.chmod(0o700)
    bench.fault_is_over()


def _unprivileged() -> list[str]:
    """Return what runs a command as somebody whom permissions concern, root without its powers."""
    if os.geteuid():
        return []
    if shutil.which("setpriv") is None:
        raise Skip("needs setpriv, to run as root without its powers")
    drop = "-dac_override,-dac_read_search"
    return ["setpriv", f"--bounding-set={drop}", f"--inh-caps={drop}", "--"]


SCENARIOS: tuple[Scenario, ...] = (
    *(
        Scenario(
            name=f"disk-full-{phase}-{'freed' if freed else 'to-the-end'}",
            family="disk",
            act=partial(_full, phase=phase, freed=freed),
            promise="what the disk took arrives; the rest is counted; training goes on",
            fast=int((phase, freed) == ("training", True)),
        )
        for phase in ("before", "training")
        for freed in (True, False)
    ),
    *(
        Scenario(
            name=f"deleted-{what}",
            family="directories",
            act=partial(_deleted, what=what),
            promise="training goes on and ends; nothing is said to be delivered that is not",
            fast=int(what == "run"),
        )
        for what in ("run", "wandb")
    ),
    Scenario(
        name="read-only",
        family="directories",
        act=_read_only,
        promise="nothing is lost or doubled",
    ),
)
