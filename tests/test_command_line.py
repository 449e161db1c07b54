"""What a user meets who gets something wrong: one clear line and an exit code that is not 0."""

import io
import os
import shutil
import sys
import typing
from pathlib import Path
from pkgutil import resolve_name

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from cvmae.checkpoint import find_checkpoint
from cvmae.command_line import VERBS, load, main, run_job
from cvmae.config import PRESETS, Config, override, read_config, write_config
from cvmae.evaluate.evaluate import evaluate
from cvmae.storage.places import is_remote
from cvmae.train.pretrain import pretrain

FLAGS = ["--base", "tiny", "--scaling.num_workers", "0", "--data.min_count", "2"]


@pytest.fixture
def own_hospital(hospital: str, tmp_path: Path) -> Path:
    """A copy of the hospital, to be broken."""
    return Path(shutil.copytree(hospital, tmp_path / "hospital"))


def shards_of(root: Path) -> list[Path]:
    return sorted((root / "data").rglob("*.parquet"))


def cut_short(root: Path) -> None:
    shard = shards_of(root)[0]
    shard.write_bytes(shard.read_bytes()[:-100])


def drop_a_column(root: Path) -> None:
    shard = shards_of(root)[0]
    pq.write_table(pq.read_table(shard).drop_columns(["time"]), shard)


def change_a_type(root: Path) -> None:
    shard = shards_of(root)[0]
    table = pq.read_table(shard)
    text = pc.cast(table["subject_id"], pa.string())
    pq.write_table(table.set_column(0, "subject_id", text), shard)


def turn_rows_around(root: Path) -> None:
    shard = shards_of(root)[0]
    table = pq.read_table(shard)
    pq.write_table(table.take(list(range(table.num_rows - 1, -1, -1))), shard)


def repeat_a_shard(root: Path) -> None:
    shutil.copy(shards_of(root)[0], root / "data" / "again.parquet")


def remove_the_splits(root: Path) -> None:
    (root / "metadata" / "subject_splits.parquet").unlink()


def empty_the_train_split(root: Path) -> None:
    path = root / "metadata" / "subject_splits.parquet"
    table = pq.read_table(path)
    pq.write_table(table.filter(pc.not_equal(table["split"], "train")), path)


def empty_the_tuning_split(root: Path) -> None:
    path = root / "metadata" / "subject_splits.parquet"
    table = pq.read_table(path)
    pq.write_table(table.filter(pc.not_equal(table["split"], "tuning")), path)


def remove_the_shards(root: Path) -> None:
    shutil.rmtree(root / "data")
    (root / "data").mkdir()


def write_no_parquet(root: Path) -> None:
    shards_of(root)[0].write_text("subject_id,time,code,numeric_value\n", encoding="utf-8")


def said_by(verb, flags, monkeypatch) -> str:
    """Return what the ended process says, after checking that it is one line."""
    monkeypatch.setattr(sys, "argv", ["job", *flags])
    with pytest.raises(SystemExit) as ended:
        run_job(verb)
    # A string as exit code is printed to standard error and gives exit code 1.
    message = ended.value.code
    assert isinstance(message, str)
    assert message.startswith("cvmae: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("break_it", "expected"),
    [
        (cut_short, "cannot be read as parquet"),
        (drop_a_column, "time"),
        (change_a_type, "subject_id"),
        (turn_rows_around, "row "),
        (repeat_a_shard, "again.parquet"),
        (remove_the_splits, "subject_splits.parquet"),
        (empty_the_train_split, "train"),
        (empty_the_tuning_split, "tuning"),
        (remove_the_shards, "data"),
        (write_no_parquet, "cannot be read as parquet"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_data_set_ends_pretrain_with_one_line(
    own_hospital, tmp_path, monkeypatch, break_it, expected
):
    break_it(own_hospital)
    flags = [*FLAGS, "--data.root", str(own_hospital), "--output_dir", str(tmp_path / "run")]
    assert expected in said_by(pretrain, flags, monkeypatch)


def test_a_tuning_split_without_measurements_is_refused(own_hospital, tmp_path, monkeypatch):
    splits = pq.read_table(own_hospital / "metadata" / "subject_splits.parquet")
    tuning = splits.filter(pc.equal(splits["split"], "tuning"))["subject_id"]
    for shard in shards_of(own_hospital):
        table = pq.read_table(shard)
        kept = pc.invert(pc.is_in(table["subject_id"], value_set=tuning.combine_chunks()))
        pq.write_table(table.filter(kept), shard)
    flags = [*FLAGS, "--data.root", str(own_hospital), "--output_dir", str(tmp_path / "run")]
    assert "tuning" in said_by(pretrain, flags, monkeypatch)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--train.accumulation_steps", "9"], "train.accumulation_steps=9"),
        (["--data.code_pattern", "^NOTHING"], "data.code_pattern"),
        (["--data.code_pattern", "("], "data.code_pattern"),
        (["--data.root", "no/such/folder"], "no/such/folder"),
        (["--data.root", ""], "data.root is empty"),
        (["--output_dir", ""], "output_dir is empty"),
        (["--data.codes_file", "no/such/file"], "no/such/file"),
    ],
)
def test_a_wrong_setting_ends_pretrain_with_one_line(
    hospital, tmp_path, monkeypatch, flags, expected
):
    usual = [*FLAGS, "--data.root", hospital, "--output_dir", str(tmp_path / "run")]
    assert expected in said_by(pretrain, [*usual, *flags], monkeypatch)


def test_an_output_folder_that_is_a_file_ends_with_one_line(hospital, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        flags = [*FLAGS, "--data.root", hospital, "--output_dir", str(folder)]
        assert "file" in said_by(pretrain, flags, monkeypatch)


def test_damaged_weights_end_evaluate_with_one_line(hospital, tiny, tmp_path, monkeypatch):
    weights = find_checkpoint(pretrain(tiny)) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    flags = ["--data.root", hospital, "--evaluate.checkpoints", f"cv={weights.parent}"]
    flags += ["--output_dir", str(tmp_path / "evaluation"), "--scaling.num_workers", "0"]
    assert "model.safetensors has 500 of" in said_by(evaluate, flags, monkeypatch)


@pytest.mark.parametrize(
    ("flags", "resumes", "way"),
    [
        (["--output_dir", "runs/cv"], True, "; the same line with --resume runs/cv goes on"),
        (["--output_dir", "evaluation"], False, "interrupted\n"),
        ([], True, "interrupted\n"),
    ],
)
def test_an_interrupted_job_says_how_to_go_on(monkeypatch, capsys, flags, resumes, way):
    def interrupted(config):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["job", *flags])
    with pytest.raises(SystemExit) as ended:
        run_job(interrupted, resumes=resumes)
    assert ended.value.code == 130
    assert way in capsys.readouterr().err


def test_evaluating_nothing_ends_with_one_line(hospital, tmp_path, monkeypatch):
    flags = ["--data.root", hospital, "--output_dir", str(tmp_path / "evaluation")]
    assert "evaluate.checkpoints" in said_by(evaluate, flags, monkeypatch)
    flags += ["--evaluate.checkpoints", f"cv={tmp_path}"]
    assert "checkpoint" in said_by(evaluate, flags, monkeypatch)


@pytest.mark.parametrize("flags", [["--mask.policyy", "cv"], ["--mask.policy", "cvv"]])
def test_a_misspelt_flag_or_value_suggests_the_right_one(capsys, flags):
    with pytest.raises(SystemExit) as ended:
        load(flags)
    assert ended.value.code not in (0, None)
    said = capsys.readouterr()
    assert "mask.policy" in said.err + said.out


TWO_LEVELS_AND_MORE = ["--mask.policy", "cv_two_level", "--mask.two_level_ratio", "published"]
TWO_LEVELS_AND_MORE += ["--mask.sharpness", "0.5"]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--mask.ratio", "1.5"], "mask.ratio"),
        (["--mask.policy", "table"], "mask.weights_file"),
        (["--mask.two_level_quantile", "75"], "mask.two_level_quantile"),
        (["--mask.two_level_chances", "0.8", "0"], "mask.two_level_chances"),
        (["--mask.two_level_chances", "1", "0.2"], "mask.two_level_chances"),
        (["--mask.sharpness", "-1"], "mask.sharpness"),
        (["--mask.anneal_from", "-1"], "mask.anneal_from"),
        (["--mask.anneal_epochs", "-1"], "mask.anneal_epochs"),
        (["--mask.uniform_share", "1.5"], "mask.uniform_share"),
        (TWO_LEVELS_AND_MORE, "mask.two_level_ratio"),
        (["--data.num_codes", "0"], "data.num_codes"),
        (["--data.clip_quantiles", "0.9", "0.1"], "data.clip_quantiles"),
        (["--evaluate.checkpoints", "runs/cv"], "evaluate.checkpoints"),
        (["--base", "no/such/preset"], "no/such/preset"),
        (["--base", "tiny", "--resume", "runs/cv"], "--resume"),
        (["--base", "tiny", "--base", "small"], "--base is given twice"),
        (["--resume", "no/such/run"], "--resume no/such/run"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_name(capsys, flags, expected):
    with pytest.raises(SystemExit) as ended:
        load(flags)
    assert ended.value.code not in (0, None)
    said = capsys.readouterr()
    assert expected in f"{said.err}{said.out}{ended.value.code}"


def test_the_base_may_stand_anywhere_and_later_flags_win():
    config = load(["--mask.policy", "random", "--base", "tiny", "--seed", "3"])
    assert (config.mask.policy, config.model.width, config.seed) == ("random", 32, 3)


def test_one_line_begins_a_run_and_continues_it_when_it_is_submitted_again(tmp_path):
    folder = str(tmp_path / "run")
    line = ["--base", "tiny", "--seed", "3", "--output_dir", folder, "--resume", folder]
    begun = load(line)
    assert (begun.resume, begun.output_dir, begun.model.width) == ("", folder, 32)
    os.mkdir(folder)
    write_config(override(begun, {"model.width": 48}), f"{folder}/config.yaml")
    again = load(line)
    assert (again.resume, again.output_dir, again.model.width, again.seed) == (
        folder,
        folder,
        48,
        3,
    )


@pytest.mark.parametrize(
    ("output_dir", "resume"),
    [
        ("{home}/run", "{home}/run/"),
        ("{home}/run", "~/run"),
        ("~/run/", "../home/run"),
        ("memory://home/run", "memory://home/run/"),
    ],
)
def test_a_folder_is_the_same_one_however_it_is_written(tmp_path, monkeypatch, output_dir, resume):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    output_dir, resume = output_dir.format(home=home), resume.format(home=home)
    line = [f"--output_dir={output_dir}", f"--resume={resume}", "--base=tiny"]
    assert load(line).resume == ""
    if not is_remote(resume):
        (home / "run").mkdir()
        write_config(override(PRESETS["tiny"], {"seed": 3}), home / "run" / "config.yaml")
        assert (load(line).resume, load(line).seed) == (resume, 3)
        assert load([f"--resume={resume}"]).output_dir == f"{home}/run"


@pytest.mark.parametrize("flags", [["--output_dir", "s3://k:s@b/x"], []])
def test_storage_that_cannot_be_looked_at_for_a_run_to_resume_ends_with_one_line(flags):
    with pytest.raises(SystemExit, match=r"^cvmae: output_dir is a s3:// URI with credentials"):
        load(["--resume", "s3://k:s@b/x", *flags])


def test_a_text_that_the_terminal_cannot_show_is_not_lost_with_the_work(monkeypatch):
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii"))
    run_job(lambda config: "LAB//X//\N{MICRO SIGN}mol/L", [])
    sys.stdout.flush()
    assert shown.getvalue() == rb"LAB//X//\xb5mol/L" + b"\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model.dropout: 0.1", r"model\.dropout is no setting of this version of cvmae: mend or"),
        ("mask.polic: cv", r"mask\.polic is no setting .*, perhaps mask\.policy: "),
        ("mask.policy: best", r"invalid choice 'best' .*\('random', .*, 'adaptive'\)\.$"),
        ("mask.ratio: 3", r"mask\.ratio=3\.0 is not allowed: give a share between 0 and 1$"),
        ("train.epochs: many", r"--train\.epochs: invalid literal .* 'many'$"),
    ],
)
def test_a_line_of_a_saved_file_that_is_not_allowed_is_named_and_no_other(tmp_path, text, said):
    path = tmp_path / "config.yaml"
    path.write_text(f"seed: 3\n{text}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=said) as caught:
        read_config(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "seed" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_saved_file_that_is_no_utf8_is_named(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_bytes(b"output_dir: \xb5\n")
    with pytest.raises(ValueError, match=r"config\.yaml is not valid YAML in UTF-8"):
        read_config(path)


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_is_a_function_of_its_settings_that_returns_what_is_printed(name):
    verb = VERBS[name]
    function = resolve_name(verb.function)
    tree = resolve_name(verb.tree) if verb.tree else Config
    hints = typing.get_type_hints(function)
    assert hints.pop("return") is str
    assert next(iter(hints.values())) is tree


def test_the_overview_names_every_verb(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cvmae"])
    main()
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines() if line} >= set(VERBS)


def test_a_misspelt_verb_suggests_the_right_one(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["cvmae", "pretrian", "--seed", "1"])
    with pytest.raises(SystemExit, match="'pretrian' is no verb: perhaps pretrain"):
        main()


def test_a_verb_takes_the_flags_behind_its_name(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cvmae", "pretrain", "--output_dir", ""])
    with pytest.raises(SystemExit, match=r"cvmae: data\.root is empty"):
        main()


def test_a_password_in_the_tracking_uri_is_not_written_down(tmp_path):
    config = override(PRESETS["tiny"], {"tracking.uri": "https://me:secret@host:5000/mlflow"})
    write_config(config, tmp_path / "config.yaml")
    assert "secret" not in (tmp_path / "config.yaml").read_text(encoding="utf-8")
    assert read_config(tmp_path / "config.yaml").tracking.uri == "https://host:5000/mlflow"


def test_settings_survive_their_file(tmp_path):
    config = override(
        PRESETS["small"],
        {"data.clip_quantiles": None, "sweep.seeds": [0, 1], "optim.lr": 3e-4, "seed": 7},
    )
    write_config(config, tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml") == config
