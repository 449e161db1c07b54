"""The command line of every verb: read settings, run, print, and turn errors into one line.

`cvmae VERB ...` and `python jobs/VERB.py ...` are the same. A verb is a line of `VERBS`, a function
that takes its settings and returns what is printed, and a file in `jobs/`.
"""

import difflib
import io
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, NoReturn

import tyro

from cvmae.config import PRESETS, Config, override, parse, read_config
from cvmae.plan.lines import Section, told
from cvmae.runtime.logs import setup_logging
from cvmae.runtime.preemption import PreemptedError
from cvmae.runtime.tables import printable, text_table
from cvmae.storage.folders import is_file, join, local_copy
from cvmae.storage.output import absolute_output
from cvmae.tracking.store import moved

__all__ = ["DRY_RUN", "VERBS", "Verb", "load", "main", "run_job"]

DRY_RUN = "--dry_run"
EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: "try again"


@dataclass(frozen=True, kw_only=True)
class Verb:
    """What a user can ask for; modules are imported when they are needed only."""

    does: str
    function: str  # module:name
    asks: str  # what --dry_run says, likewise
    tree: str = ""  # of settings, where it has a small one of its own
    resumes: bool = False  # with --resume, where it was interrupted


VERBS: dict[str, Verb] = {
    "validate": Verb(
        does="check a whole MEDS data set",
        function="cvmae.validate.validate:validate",
        asks="cvmae.dry_run.data_sets:validate_asked",
    ),
    "fit_statistics": Verb(
        does="fit code statistics and vocabulary on train",
        function="cvmae.statistics.fit:fit_statistics",
        asks="cvmae.dry_run.data_sets:fit_statistics_asked",
    ),
    "pretrain": Verb(
        does="pretrain one model under one masking policy",
        function="cvmae.train.pretrain:pretrain",
        resumes=True,
        asks="cvmae.dry_run.training:pretrain_asked",
    ),
    "sweep": Verb(
        does="pretrain every policy x epochs x axes x seed side by side",
        function="cvmae.sweep.driver:sweep",
        resumes=True,
        asks="cvmae.dry_run.training:sweep_asked",
    ),
    "finetune": Verb(
        does="train a pretrained encoder and a head with labels, and predict held_out",
        function="cvmae.train.finetune:finetune",
        resumes=True,
        asks="cvmae.dry_run.training:finetune_asked",
    ),
    "evaluate": Verb(
        does="compare models on the same hidden values, and write a report",
        function="cvmae.evaluate.evaluate:evaluate",
        asks="cvmae.dry_run.using:evaluate_asked",
    ),
    "embed": Verb(
        does="write an embedding for each subject and time",
        function="cvmae.infer.embed_set:embed",
        resumes=True,
        asks="cvmae.dry_run.using:embed_asked",
    ),
    "impute": Verb(
        does="write the expected value, with an interval, of rows that have none",
        function="cvmae.infer.impute_set:impute",
        resumes=True,
        asks="cvmae.dry_run.using:impute_asked",
    ),
    "export": Verb(
        does="write a model as a folder that can be handed on, with a card",
        function="cvmae.infer.export:export",
        asks="cvmae.dry_run.using:export_asked",
    ),
    "convert": Verb(
        does="write a public source as a MEDS data set",
        function="cvmae.convert.convert:convert",
        tree="cvmae.convert.settings:ConvertConfig",
        asks="cvmae.dry_run.data_sets:convert_asked",
    ),
    "synthesize": Verb(
        does="write a synthetic hospital as a MEDS data set",
        function="cvmae.synthetic.hospital:write_hospital",
        tree="cvmae.synthetic.hospital:SyntheticConfig",
        asks="cvmae.dry_run.data_sets:synthesize_asked",
    ),
    "plan": Verb(
        does="say what a hospital costs on a cluster",
        function="cvmae.plan.plan:plan",
        tree="cvmae.plan.settings:PlanConfig",
        asks="cvmae.dry_run.data_sets:plan_asked",
    ),
    "demo": Verb(
        does="all of it, small, on a synthetic hospital",
        function="cvmae.demo:demo",
        tree="cvmae.demo:DemoConfig",
        asks="cvmae.dry_run.data_sets:demo_asked",
    ),
}


def main(name: str = "") -> None:
    """Run the verb of a job, or the one that the command line names first."""
    setup_logging()  # a verb's modules may have something to say when they are imported
    argv = sys.argv[1:]
    if not name:
        if not argv or argv[0] in ("-h", "--help"):
            print(_overview())
            return
        name, *argv = argv
    if name not in VERBS:
        near = difflib.get_close_matches(name, VERBS, n=1)
        hint = f": perhaps {near[0]}" if near else f": there are {', '.join(VERBS)}"
        _exit(f"{name!r} is no verb{hint}; cvmae --help says what each does")
    verb = VERBS[name]
    tree = resolve_name(verb.tree) if verb.tree else None
    run_job(
        resolve_name(verb.function),
        argv,
        tree=tree,
        resumes=verb.resumes,
        asks=lambda config: resolve_name(verb.asks)(config),
    )


def run_job(
    verb: Callable[[Any], str],
    argv: Sequence[str] | None = None,
    *,
    tree: type | None = None,
    resumes: bool = False,
    asks: Callable[[Any], Iterable[Section]] = lambda config: (),
) -> None:
    """Run a verb with the settings of the command line and print what it returns.

    With ``--dry_run`` anywhere on the line, it prints what the verb would ask for and write.

    Args:
        verb: What the job does.
        argv: Its flags; by default those of this process.
        tree: Its settings, where they are not those of `load`.
        resumes: It goes on with --resume where it was interrupted.
        asks: Yields the sections of a dry run, and refuses what the verb would.

    An error of the user's making ends the process with one line and exit code 1; any other
    keeps its traceback. A run that a signal has stopped after a checkpoint ends with exit code
    75, which makes a queue submit it again, with `--resume`.
    """
    setup_logging()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A unit may hold a sign that the terminal's encoding lacks: no reason to lose the table.
        sys.stdout.reconfigure(errors="backslashreplace")
    argv = sys.argv[1:] if argv is None else argv
    is_dry = DRY_RUN in argv
    argv = [token for token in argv if token != DRY_RUN]
    config: Any = load(argv) if tree is None else _load_tree(tree, argv)
    folder = getattr(config, "resume", "") or getattr(config, "output_dir", "")
    try:
        print(printable(told(asks(config)) if is_dry else verb(config)))
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(printable(f"cvmae: {error}"))
    except PreemptedError as error:
        print(f"cvmae: {error}; it goes on with --resume {folder}", file=sys.stderr)
        sys.exit(EXIT_PREEMPTED)
    except KeyboardInterrupt:
        # Whether the folder holds a run yet is not known here; with --resume it need not.
        way = (
            f"; the same line with --resume {folder} goes on from what is there"
            if resumes and folder
            else ""
        )
        print(f"cvmae: interrupted{way}", file=sys.stderr)
        sys.exit(130)


def load(argv: Sequence[str]) -> Config:
    """Read ``--base PRESET|FILE`` and ``--resume RUN_DIR`` anywhere, then dotted overrides.

    With ``--output_dir`` and ``--resume`` of one folder, a line begins its run or continues it,
    whatever is there: a queue may submit it again and again.

    Prints help or a message that suggests the right flag, and exits, as command lines do.

    Example:
        >>> load(["--mask.policy", "random", "--base", "tiny"]).model.width
        32
    """
    base, rest = _take_option(list(argv), "--base")
    resume, without = _take_option(list(rest), "--resume")
    output_dir = _take_option(rest, "--output_dir")[0] if resume else ""
    try:
        folder = absolute_output(resume, "resume") if resume else ""
        is_there = bool(resume) and is_file(join(folder, "config.yaml"))
        if resume and output_dir and absolute_output(output_dir) == folder:
            if is_there:
                base = ""
            else:
                resume, rest = "", without
        if base and resume:
            _exit("--base starts a new run and --resume continues one: give one of them")
        if resume and not is_there:
            _exit(
                f"--resume {resume}: no config.yaml there, so nothing to continue: begin with "
                f"--output_dir {resume}"
            )
        if resume:
            with local_copy(join(folder, "config.yaml")) as path:
                default = moved(read_config(path), folder)
        elif base and base not in PRESETS:
            default = override(read_config(base), {"output_dir": ""})
        else:
            default = PRESETS[base or "paper"]
        return parse(default, rest)
    except (ValueError, OSError) as error:
        _exit(str(error))


def _load_tree(tree: type, argv: Sequence[str]) -> Any:
    try:
        return tyro.cli(tree, args=list(argv), use_underscores=True)
    except ValueError as error:
        _exit(str(error))


def _overview() -> str:
    table = text_table(
        ("verb", "what it does"), [(name, verb.does) for name, verb in VERBS.items()], align="<"
    )
    flags = (
        f"cvmae VERB --help shows the flags of a verb; {DRY_RUN} among them prints what it would "
        "ask for and write."
    )
    return f"usage: cvmae VERB [FLAGS]\n\n{table}\n\n{flags}"


def _take_option(argv: list[str], option: str) -> tuple[str, list[str]]:
    """Return the option's value ('' where absent) and the line without it."""
    if sum(token == option or token.startswith(option + "=") for token in argv) > 1:
        _exit(f"{option} is given twice: give it once")
    for place, token in enumerate(argv):
        if token == option:
            if place + 1 == len(argv):
                _exit(f"{option} needs a value")
            return argv[place + 1], argv[:place] + argv[place + 2 :]
        if token.startswith(option + "="):
            return token.removeprefix(option + "="), argv[:place] + argv[place + 1 :]
    return "", argv


def _exit(message: str) -> NoReturn:
    raise SystemExit(f"cvmae: {message}") from sys.exc_info()[1]
