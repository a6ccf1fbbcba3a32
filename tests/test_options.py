"""Presets and single options become one frozen configuration; mistakes are named."""

import dataclasses

import pytest

from hdtalk.config import PAPER, EditConfig, OptimiseConfig
from hdtalk.errors import UsageError
from hdtalk.options import CHOICES, SHORT, resolve


def test_no_options_give_the_defaults():
    assert resolve({}) == EditConfig()


def test_paper_preset_sets_the_paper_s_constants_and_single_options_change_them():
    config = resolve({"preset": "paper"})
    optimise = config.optimise
    assert (optimise.lambda_lpips, optimise.lambda_fan, optimise.lambda_smooth) == (1.0, 5e-3, 1e-4)
    assert (optimise.steps, optimise.learning_rate, optimise.latent_space) == (300, 1e-3, "w+")
    assert not optimise.joint and config.stitch.steps == 100 and config.invert.passes == 300
    invert = config.invert
    assert (invert.optimiser, invert.learning_rate, invert.lambda_locality) == ("adam", 3e-5, 1.0)
    assert resolve({"preset": "paper", "optimise.steps": 7}).optimise == dataclasses.replace(optimise, steps=7)


def test_paper_table_names_existing_fields():
    for name, value in PAPER.items():
        group = getattr(EditConfig(), name)
        if isinstance(value, dict):
            assert set(value) <= {f.name for f in dataclasses.fields(group)}


@pytest.mark.parametrize(
    "options",
    [
        {"optimise": {"steps": 9}},
        {"optimise.steps": 9},
        {"optimise.steps": "9"},
        {"optimise.steps": 9.0},
        {"optimise": OptimiseConfig(steps=9)},
    ],
)
def test_stage_settings_in_any_form(options):
    assert resolve(options).optimise == OptimiseConfig(steps=9)


def test_short_names_reach_their_stage():
    for short, target in SHORT.items():
        group, key = target.split(".")
        value = CHOICES.get(target, (str(getattr(getattr(EditConfig(), group), key)),))[-1]
        assert str(getattr(getattr(resolve({short: value}), group), key)) == value


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"presets": "fast"}, "presets"),
        ({"preset": "slow"}, "fast, paper"),
        ({"optimise.step": 3}, "in optimise"),
        ({"nothing.step": 3}, "'nothing.step'. Known: preset"),
        ({"speech.lips_heard_db": "14"}, "2 numbers, as in 14.0,24.0"),
        ({"speech.lips_heard_db": "14,loud"}, "number"),
        ({"speech.own_words_heard": (0.3, float("nan"))}, "finite"),
        ({"speech.strength": -5}, "0 or more"),
        ({"speech.strength": 1e30}, "at most 10"),
        ({"stitch.dilation": 1e9}, "at most 1"),
        ({"speech.lips_heard_db": "24,14"}, "lower one first"),
        ({"stitch.dilation": -0.1}, "stitch.dilation: -0.1 is not possible; expected 0 or more"),
        ({"invert.beta2": 1}, "at most 0.9999"),
        ({"crop.scale": 1e6}, "at most 10"),
        ({"optimise.start_scale": 0}, "more than 0"),
        ({"invert.perceptual_side": 8}, "0, or 16 or more"),
        ({"media.audio_bitrate_per_channel": 1}, "8000 or more"),
        ({"optimise": 3}, "optimise.NAME"),
        ({"optimise.steps": "many"}, "number"),
        ({"audio_longer": "stretch"}, "pingpong, loop, freeze, trim"),
        ({"seed": -1}, "seed"),
        ({"trim_start": float("nan")}, "trim_start"),
        ({"stitch.batch_size": 0}, "1 or more"),
        ({"overwrite": "perhaps"}, "neither"),
        ({"crf": 18.9}, "media.crf: 18.9 is not a whole number"),
        ({"seed": 1.5}, "whole number"),
        ({"invert": {"steps": True}}, "whole number"),
        ({"seed": float("inf")}, "number"),
    ],
)
def test_mistakes_are_named(options, hint):
    with pytest.raises(UsageError, match=hint):
        resolve(options)


def test_every_default_is_possible():
    """Given by name, every setting may be what it is."""
    config = EditConfig()
    groups = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    for name, value in groups.items():
        assert resolve({name: dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value}) == config
    assert resolve({"speech.lips_heard_db": (-6, 3)}).speech.lips_heard_db == (-6.0, 3.0)  # decibels have a sign


def test_settings_of_the_speech_reach_the_run():
    assert resolve({"speech.strength": "0.5"}).speech.strength == 0.5
    for pair in ("10,20", [10, 20], ("10", 20.0)):
        assert resolve({"speech.lips_heard_db": pair}).speech.lips_heard_db == (10.0, 20.0)
    assert resolve({"speech": {"shot_emotion": False}}).speech.shot_emotion is False
    assert resolve({}).speech.carry and not resolve({"preset": "paper"}).speech.carry
    with pytest.raises(UsageError, match="speech"):
        resolve({"speech.loudness": 1})


@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
def test_numbers_are_finite(value):
    with pytest.raises(UsageError, match="finite"):
        resolve({"speech.lips_dip_s": value})
