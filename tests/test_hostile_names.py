"""Names that a data set brings along stay names: no path, no markup, no command, no escape.

A hospital's codes, their descriptions, its files and a task have names that would be one of these
wherever they were taken at their word; verbs are run on it in a folder of their own.
"""

import contextlib
import html.parser
import io
import logging
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cvmae.config import PRESETS, override
from cvmae.evaluate.evaluate import evaluate
from cvmae.infer.embed_set import embed
from cvmae.infer.export import export
from cvmae.infer.impute_set import impute
from cvmae.runtime.logs import PrintableFormatter
from cvmae.runtime.tables import printable
from cvmae.statistics.fit import fit_statistics
from cvmae.storage.safe_names import safe_name
from cvmae.synthetic.hospital import SyntheticConfig, write_hospital
from cvmae.train.pretrain import pretrain
from cvmae.validate.validate import validate
from tests.train.planted import planted_labels, write_labels

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("drawn")]

CODES = (
    "LAB//../../../planted//mg",
    "LAB///etc/planted//mg",
    "LAB//<script>alert(1)</script>//<blink>",
    '"><img src=x onerror=alert(1)>LAB//',
    "LAB//$(touch planted)`touch planted`;touch planted//{{7*7}}",
    "LAB//" + "n" * 3000,
    "LAB//two\nlines\r\x1b[31m\x1b]0;planted\x07//mg",
    "LAB//$\\frac{a//$_%s",
)
TASK = "$(touch planted)<script>alert(2)<\nscript>" + "t" * 100
OWN_SCRIPTS = 1  # of the report: it sorts tables
SETTINGS = {
    "data.code_pattern": "LAB//",
    "data.min_count": 2,
    "data.unit_rows": 4000,
    "data.sequence_length": 32,
    "scaling.num_workers": 0,
    "train.epochs": 1,
    "evaluate.min_scored": 2,
    "evaluate.bootstrap_samples": 20,
}


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """A hospital with enough subjects for codes to be drawn one by one."""
    root = tmp_path_factory.mktemp("hospital") / "meds"
    return write_hospital(
        SyntheticConfig(
            root=str(root),
            num_subjects=90,
            num_codes=8,
            median_measurements=50,
            split_shares=(0.2, 0.15, 0.65),
            num_shards=3,
        )
    )


@pytest.fixture(scope="module")
def root(hospital, tmp_path_factory):
    """The hospital again, under names that nobody should give."""
    folder = tmp_path_factory.mktemp("hostile") / "meds"
    files = sorted(Path(hospital).glob("data/**/*.parquet"))
    columns = [pq.read_table(path)["code"].to_pylist() for path in files]
    labs = sorted({code for column in columns for code in column if code.startswith("LAB//")})
    hostile = dict(
        zip(labs, CODES * len(labs), strict=False)
    )  # further codes add to the first ones
    for number, (path, column) in enumerate(zip(files, columns, strict=True)):
        table = pq.read_table(path)
        codes = pa.array([hostile.get(code, code) for code in column])
        table = table.set_column(table.column_names.index("code"), "code", codes)
        target = folder / "data" / f"$(touch planted)<script>{number}.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, target)
    splits = Path("metadata/subject_splits.parquet")
    (folder / "metadata").mkdir()
    (folder / splits).write_bytes(Path(hospital, splits).read_bytes())
    described = CODES[:3]  # of the rest the code itself is shown
    names = {"code": described, "description": [f"<blink>planted</blink> {c}" for c in described]}
    pq.write_table(pa.table(names), folder / "metadata" / "codes.parquet")
    return folder


@pytest.fixture(scope="module")
def written(hospital, root, tmp_path_factory):
    """All that is written around the working folder, that folder, and all that is said."""
    around = tmp_path_factory.mktemp("around")
    here = around / "a" / "b" / "c"  # as deep as a path of the codes climbs
    here.mkdir(parents=True)
    labels = around / "labels" / TASK
    write_labels(labels / "0.parquet", planted_labels(hospital))
    said = io.StringIO()
    heard = logging.StreamHandler(said)
    heard.setFormatter(PrintableFormatter())
    logging.getLogger("cvmae").addHandler(heard)
    try:
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
            patch.chdir(here)
            _run_verbs(root, labels, here / "out")
    finally:
        logging.getLogger("cvmae").removeHandler(heard)
    return around, here, said.getvalue()


def _run_verbs(root: Path, labels: Path, out: Path) -> None:
    config = override(PRESETS["tiny"], {"data.root": str(root), **SETTINGS})
    run = out / "run"
    verbs = {
        validate: {},
        fit_statistics: {},
        pretrain: {"output_dir": run},
        evaluate: {"evaluate.checkpoints": [f"random={run}"], "evaluate.labels": labels},
        embed: {"infer.checkpoint": run, "infer.labels": labels},
        impute: {"infer.checkpoint": run},
        export: {"infer.checkpoint": run},
    }
    for verb, changes in verbs.items():
        given = override(config, {"output_dir": out / verb.__name__, **changes})
        print(printable(verb(given)))


class _Tags(html.parser.HTMLParser):
    """Collects what a browser would take for elements."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_nothing_is_written_but_to_the_output_folders(written):
    around, here, _ = written
    assert sorted(path.name for path in around.iterdir()) == ["a", "labels"]
    assert [path.name for path in (around / "a").rglob("*") if "out" not in path.parts] == [
        "b",
        "c",
    ]
    assert {path.name for path in here.iterdir()} == {"out"}
    assert sum(path.is_file() for path in (here / "out").rglob("*")) > 50
    assert not Path("/etc/planted").exists()
    assert [path for path in around.rglob("*") if re.match(r"(?i)planted", path.name)] == []


def test_the_report_shows_names_as_text(written):
    _, here, _ = written
    page = (here / "out" / "evaluate" / "report.html").read_text(encoding="utf-8")
    tags = _Tags()
    tags.feed(page)
    assert "&lt;blink&gt;planted&lt;/blink&gt;" in page  # names did reach it
    assert "alert(2)" in page
    assert {tag for tag, _ in tags.found} & {"blink", "iframe", "object", "embed"} == set()
    assert len([tag for tag, _ in tags.found if tag == "script"]) == OWN_SCRIPTS
    # Pictures are the report's own, and nothing acts when it is loaded or touched.
    assert {str(given.get("src"))[:22] for tag, given in tags.found if tag == "img"} == {
        "data:image/png;base64,"
    }
    assert [name for _, given in tags.found for name in given if name.startswith("on")] == []


def test_figures_are_drawn_whatever_a_code_is_called(written):
    _, here, said = written
    assert "is not drawn" not in said
    figures = {path.stem: path for path in (here / "out" / "evaluate/figures").glob("*.png")}
    assert {"codes", "cv_against_r2"} <= set(figures)  # what shows codes by name
    # No picture is as wide as a name is long.
    widths = [int.from_bytes(path.read_bytes()[16:20], "big") for path in figures.values()]
    assert 500 < min(widths) <= max(widths) < 3000


def test_what_is_said_moves_no_cursor(written):
    _, _, said = written
    assert "planted" in said
    assert sorted(set(re.findall(r"[^\x20-\x7e\n\t\xa0-\U0010ffff]", said))) == []


def test_files_of_a_task_lie_in_one_folder_that_every_system_takes(written):
    _, here, _ = written
    tasks = [
        path for path in (here / "out" / "evaluate" / "predictions").iterdir() if path.is_dir()
    ]
    assert [path.name for path in tasks] == [safe_name(TASK)]
    assert re.fullmatch(r"[\w.+-]+", tasks[0].name)


@pytest.mark.parametrize(
    "name", ["..", ".", ".hidden", "a/../b", "a\0b", "", "\n", TASK * 9, *CODES]
)
def test_a_safe_name_is_one_part_of_a_path_that_is_shown(name, tmp_path):
    safe = safe_name(name)
    (tmp_path / f"{safe}.parquet").touch()
    assert [path.stem for path in tmp_path.iterdir()] == [safe]
    assert not safe.startswith(".")
    assert re.fullmatch(r"[\w. -]+", safe_name(name, plus=False))  # MLflow's rule for metrics
