"""How far each trial of a sweep is, while it runs: a table on a terminal, lines in a job's log."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from cvmae.runtime.tables import text_table
from cvmae.runtime.terminal import Foot, foot_of_terminal
from cvmae.sweep.axes import short_name
from cvmae.sweep.budget import Budget
from cvmae.sweep.trials import Status, Trial, progress_of, trial_status

__all__ = ["LiveTable", "live_table"]

# A level of its own: what trials say of themselves is kept back in this process.
logger = logging.getLogger("cvmae.sweep")
logger.setLevel(logging.INFO)

LINE_EVERY_S = 30.0
DRAW_EVERY_S = 0.5
LINES_BESIDE = 6  # of the terminal, that are not rows: header, rule, totals, a line to spare


@dataclass(frozen=True, kw_only=True)
class _Row:
    """Where one trial stands."""

    trial: Trial
    status: str  # of `Status`, or "running"
    epoch: int
    tuning_mse: float | None

    @property
    def is_over(self) -> bool:
        return self.status in ("finished", "stopped", "failed")

    @property
    def epochs_left(self) -> int:
        return 0 if self.is_over else self.trial.config.train.epochs - self.epoch

    @property
    def reached(self) -> str:
        error = "" if self.tuning_mse is None else f", tuning {self.tuning_mse:.4f}"
        return f"epoch {self.epoch}/{self.trial.config.train.epochs}{error}"


class LiveTable:
    """Told what happens to trials, it shows where all of them stand."""

    def __init__(
        self,
        trials: Sequence[Trial],
        foot: Foot | None = None,
        clock: Callable[[], float] = time.monotonic,
        budget: Budget | None = None,
    ) -> None:
        """Read where the trials stand.

        Args:
            trials: Of the whole grid.
            foot: Where the table is drawn; None: lines are logged instead.
            clock: Seconds.
            budget: Decides which trials will begin; None: all.
        """
        self._rows = {trial.name: _row(trial) for trial in trials}
        self._foot, self._clock, self._budget = foot, clock, budget
        self._start = self._said = self._drawn = clock()
        self._epochs_done = 0  # in this attempt

    def begin(self, name: str) -> None:
        """Note that a trial begins or goes on."""
        self._rows[name] = replace(self._rows[name], status="running")
        self._show(f"trial {name} begins at {self._rows[name].reached}")

    def epoch(self, name: str, metrics: Mapping[str, float]) -> None:
        """Note a finished epoch; one that is reported again counts once."""
        row, epoch = self._rows[name], int(metrics["epoch"])
        self._epochs_done += max(epoch - row.epoch, 0)
        self._rows[name] = replace(row, epoch=epoch, tuning_mse=metrics["tuning_mse"])
        self._show()

    def end(self, name: str, status: Status) -> None:
        """Note a trial's end."""
        self._rows[name] = replace(self._rows[name], status=status)
        self._show(f"trial {name} {status} at {self._rows[name].reached}; {self.totals()}")

    def totals(self) -> str:
        """Say how many trials are over, how many run, and how long the rest takes at this pace."""
        rows = self._rows.values()
        over, running = sum(r.is_over for r in rows), sum(r.status == "running" for r in rows)
        left = sum(row.epochs_left for row in rows if row.status == "running")
        left += sum(row.epochs_left for row in self._to_begin())
        elapsed_s = self._clock() - self._start
        eta = "unknown"
        if not left or self._epochs_done:
            seconds = elapsed_s / max(self._epochs_done, 1) * left
            eta = f"{int(seconds // 3600):02d}:{time.strftime('%M:%S', time.gmtime(seconds))}"
        return f"{over} of {len(self._rows)} done, {running} running, ETA {eta}"

    def _to_begin(self) -> list[_Row]:
        """Return the trials that wait and that the budget lets begin, as far as one can see."""
        waiting = [r for r in self._rows.values() if not r.is_over and r.status != "running"]
        if self._budget is None:
            return waiting
        waiting.sort(key=lambda row: row.status == "new")  # the order in which they are run
        named = [(row.trial.name, row.trial.config.train.epochs) for row in waiting]
        begins = self._budget.foreseen(named)
        return [row for row in waiting if row.trial.name in begins]

    def _show(self, event: str = "") -> None:
        now = self._clock()
        if self._foot is not None:
            if event or now - self._drawn >= DRAW_EVERY_S:
                self._drawn = now
                self._foot.show(self.drawn(self._foot.size[1] - LINES_BESIDE))
        elif event:
            logger.info(event)
        elif now - self._said >= LINE_EVERY_S:
            self._said = now
            running = [row for row in self._rows.values() if row.status == "running"]
            reached = "; ".join(f"{row.trial.name} {row.reached}" for row in running)
            logger.info("%s; %s", self.totals(), reached)

    def drawn(self, room: int) -> str:
        """Return the table, of as many rows as there is room for: those that run come first."""
        rows = list(self._rows.values())
        if len(rows) > room:
            order = ("running", "unfinished", "failed", "new", "stopped", "finished")
            rows = sorted(rows, key=lambda row: order.index(row.status))[: max(room, 1)]
        more = len(self._rows) - len(rows)
        header, cells = _cells(rows)
        table = text_table(header, cells, align="<")
        return "\n".join([table, *([f"and {more} more"] if more else []), self.totals()])


@contextlib.contextmanager
def live_table(trials: Sequence[Trial], budget: Budget) -> Iterator[LiveTable]:
    """Yield the table of a sweep that runs while the block lasts; it stays as it was last."""
    with foot_of_terminal() as foot:
        table = LiveTable(trials, foot, budget=budget)
        yield table
        if foot is not None:
            foot.show(table.drawn(foot.size[1] - LINES_BESIDE))


def _row(trial: Trial) -> _Row:
    history = progress_of(trial.config.output_dir).history
    error = history[-1]["tuning_mse"] if history else None
    return _Row(trial=trial, status=trial_status(trial), epoch=len(history), tuning_mse=error)


def _cells(rows: Sequence[_Row]) -> tuple[list[str], list[list[str]]]:
    names = list(dict.fromkeys(name for row in rows for name in row.trial.axes))
    header = ["policy", *map(short_name, names), "seed", "epoch", "tuning error", "trial"]
    cells = [
        [
            row.trial.config.mask.policy,
            *(str(row.trial.axes.get(name, "-")) for name in names),
            str(row.trial.config.seed),
            f"{row.epoch}/{row.trial.config.train.epochs}",
            "-" if row.tuning_mse is None else f"{row.tuning_mse:.4f}",
            "" if row.status == "new" else row.status,
        ]
        for row in rows
    ]
    return header, cells
