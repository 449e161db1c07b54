"""What DeepSpeed is told: our settings, the user's file, and never two answers to one question."""

import json
from dataclasses import replace

import pytest

from cvmae.config import Config
from cvmae.settings import DeepspeedConfig, ScalingConfig, TrainConfig
from cvmae.train.deepspeed_settings import deepspeed_config


def with_file(tmp_path, text):
    path = tmp_path / "ds.json"
    path.write_text(text)
    return Config(deepspeed=DeepspeedConfig(stage=2, config_file=str(path)))


def test_our_settings_reach_deepspeed():
    config = Config(
        train=TrainConfig(accumulation_steps=3),
        deepspeed=DeepspeedConfig(stage=3, offload="parameters"),
    )
    told = deepspeed_config(config, bf16=True)
    assert told["zero_optimization"]["stage"] == 3
    assert told["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert told["zero_optimization"]["offload_param"]["device"] == "cpu"
    assert told["torch_autocast"] == {"enabled": True, "dtype": "bfloat16"}
    assert told["gradient_accumulation_steps"] == 3
    assert told["gradient_clipping"] == config.optim.clip_norm
    alone = deepspeed_config(Config(), bf16=False)
    assert not {"offload_optimizer", "offload_param"} & alone["zero_optimization"].keys()
    assert not alone["torch_autocast"]["enabled"]


def test_no_clipping_is_zero_in_deepspeeds_words():
    config = Config()
    config = replace(config, optim=replace(config.optim, clip_norm=None))
    assert deepspeed_config(config, bf16=False)["gradient_clipping"] == 0.0


def test_the_file_adds_what_we_do_not_set(tmp_path):
    text = json.dumps({"zero_optimization": {"reduce_bucket_size": 7}, "comms_logger": {"x": 1}})
    told = deepspeed_config(with_file(tmp_path, text), bf16=False)
    assert told["comms_logger"] == {"x": 1}
    assert told["zero_optimization"] == {"reduce_bucket_size": 7, "stage": 2}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"fp16": {}, "optimizer": {}}', "sets fp16, optimizer: these follow from train"),
        ('{"zero_optimization": {"stage": 1}}', "sets zero_optimization.stage: these follow"),
        ("{", "is no JSON"),
        ("[1]", "holds no JSON object"),
    ],
)
def test_a_file_that_says_it_again_or_nothing_is_refused(tmp_path, text, words):
    with pytest.raises(ValueError, match=words):
        deepspeed_config(with_file(tmp_path, text), bf16=False)


def test_a_missing_file_is_refused_by_name():
    config = Config(deepspeed=DeepspeedConfig(config_file="nowhere.json"))
    with pytest.raises(FileNotFoundError, match=r"deepspeed\.config_file='nowhere\.json'"):
        deepspeed_config(config, bf16=False)


def test_deepspeed_in_the_calling_process_is_refused():
    with pytest.raises(ValueError, match=r"train\.strategy='deepspeed' is not allowed: give ddp"):
        Config(train=TrainConfig(strategy="deepspeed"), scaling=ScalingConfig(num_workers=0))


def test_deepspeed_keeps_its_number_of_workers():
    deepspeed = TrainConfig(strategy="deepspeed")
    said = r"scaling\.min_workers=1 is not allowed: give 0 .* keeps its 2 workers.*--resume"
    with pytest.raises(ValueError, match=said):
        Config(train=deepspeed, scaling=ScalingConfig(num_workers=2, min_workers=1))
    Config(train=deepspeed, scaling=ScalingConfig(num_workers=2, min_workers=2))


def test_parameters_are_offloaded_at_stage_3_only():
    with pytest.raises(ValueError, match=r"deepspeed\.offload='parameters'"):
        DeepspeedConfig(stage=2, offload="parameters")
