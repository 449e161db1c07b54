"""What every job does with its verb: read settings, run, print, and turn errors into one line."""

import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from cvmae.config import PRESETS, Config, override, parse, read_config
from cvmae.runtime.logs import setup_logging
from cvmae.runtime.preemption import PreemptedError
from cvmae.storage.folders import is_file, join, local_copy

__all__ = ["load", "run_job"]

EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: "try again"


def run_job(verb: Callable[[Config], str], *, resumes: bool = False) -> None:
    """Run a verb with the settings of the command line and print what it returns.

    Args:
        verb: What the job does.
        resumes: It goes on with --resume where it was interrupted.

    An error of the user's making ends the process with one line and exit code 1; any other
    keeps its traceback. A run that a signal has stopped after a checkpoint ends with exit code
    75, which tells a queue to submit it again, with `--resume`.
    """
    setup_logging()
    config = load(sys.argv[1:])
    try:
        print(verb(config))
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"cvmae: {error}")
    except PreemptedError as error:
        folder = config.resume or config.output_dir
        print(f"cvmae: {error}; it goes on with --resume {folder}", file=sys.stderr)
        sys.exit(EXIT_PREEMPTED)
    except KeyboardInterrupt:
        folder = config.resume or config.output_dir
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
    if resume and _take_option(rest, "--output_dir")[0] == resume:
        if is_file(join(resume, "config.yaml")):
            base = ""
        else:
            resume, rest = "", without
    if base and resume:
        _exit("--base starts a new run and --resume continues one: give one of them")
    try:
        if resume:
            if not is_file(join(resume, "config.yaml")):
                _exit(
                    f"--resume {resume}: no config.yaml there, so nothing to continue: begin with "
                    f"--output_dir {resume}"
                )
            with local_copy(join(resume, "config.yaml")) as path:
                default = override(read_config(path), {"output_dir": resume})
        elif base and base not in PRESETS:
            default = override(read_config(base), {"output_dir": ""})
        else:
            default = PRESETS[base or "paper"]
        return parse(default, rest)
    except (ValueError, FileNotFoundError) as error:
        _exit(str(error))


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
