"""What a user asks for (a preset, then single options) -> the frozen configuration of a run; mistakes are errors."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from hdtalk.config import PAPER, EditConfig
from hdtalk.errors import UsageError

# names of the command line whose settings belong to a stage
SHORT = {
    "face": "faces.face",
    "on_missing_face": "faces.on_missing",
    "codec": "media.codec",
    "crf": "media.crf",
    "latent_space": "optimise.latent_space",
    "region": "stitch.region",
}
CHOICES = {
    "preset": ("fast", "paper"),
    "precision": ("auto", "float32", "bfloat16"),
    "audio_longer": ("pingpong", "loop", "freeze", "trim"),
    "audio_shorter": ("trim", "silence"),
    "faces.on_missing": ("keep", "interpolate", "fail"),
    "invert.optimiser": ("muon", "adam"),
    "optimise.latent_space": ("shot", "whitened", "w+"),
    "optimise.layer_groups": ("shared", "coarse", "thirds", "per-layer"),
    "optimise.optimiser": ("l-bfgs", "adam"),
    "optimise.smoothness": ("latent", "feature", "none"),
    "optimise.target_heatmaps": ("gaussian", "shifted"),
    "stitch.region": ("auto", "face", "head", "lower"),
}
POSITIVE = {"crop.scale", "faces.box_reference", "faces.refine_scale"}
POSITIVE |= {"optimise.sigma_cells", "optimise.start_scale", "optimise.start_length"}
LOWEST = {"media.audio_bitrate_per_channel": 8000}  # of all others but decibels: 0
HIGHEST = {"media.crf": 63, "invert.beta2": 0.9999, "crop.scale": 10, "faces.refine_scale": 10, "speech.strength": 10}
HIGHEST |= {"stitch.dilation": 1}
HIGHEST |= dict.fromkeys(("faces.smooth_sigma_s", "faces.smooth_mouth_eyes_sigma_s"), 10)
HIGHEST |= dict.fromkeys(("crop.centre_sigma_frames", "crop.axes_sigma_frames"), 1000)
HIGHEST |= dict.fromkeys(("optimise.start_smooth_frames", "optimise.rest_smooth_frames"), 1000)
LEAST_SIDE = 16  # pixels that LPIPS and SSIM need


def resolve(options: Mapping[str, Any]) -> EditConfig:
    """`options`: fields of `EditConfig`; a stage's settings as a mapping or dataclass (`optimise={"steps": 20}`), as a
    dotted name (`{"optimise.steps": 20}`) or by a short name of the command line (`latent_space="w+"`).

    The preset comes first, single options change it. Raises `UsageError` for unknown names and impossible values.
    """
    flat: dict[str, Any] = {}
    groups = {f.name: f.default_factory for f in dataclasses.fields(EditConfig) if dataclasses.is_dataclass(f.type)}
    for name, value in options.items():
        name = SHORT.get(name.replace("-", "_"), name)
        if name in groups and dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = dataclasses.asdict(value)
        if name in groups and isinstance(value, Mapping):
            flat |= {f"{name}.{key}": setting for key, setting in value.items()}
        else:
            flat[name] = value
    preset = _checked("preset", flat.pop("preset", EditConfig.preset), "fast")
    config = EditConfig(preset=preset)
    if preset == "paper":
        for name, value in PAPER.items():
            config = _with(config, name, value)
    for name, value in flat.items():
        config = _set(config, name, value)
    return config


def split_settings(texts: Sequence[str]) -> dict[str, str]:
    """Name -> value of `--set NAME=VALUE`, neither of them checked. Raises `UsageError` where the = is missing."""
    settings = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set {text}: expected NAME=VALUE, for example optimise.steps=60.")
        settings[name.strip()] = value.strip()
    return settings


def _set(config: EditConfig, name: str, value: Any) -> EditConfig:
    group, _, key = name.rpartition(".")
    owner = getattr(config, group, None) if group else config
    if not dataclasses.is_dataclass(owner) or key not in {f.name for f in dataclasses.fields(owner)}:
        known = [f.name for f in dataclasses.fields(owner if dataclasses.is_dataclass(owner) else config)]
        where = f" in {group}" if group and dataclasses.is_dataclass(owner) else ""
        raise UsageError(f"unknown option {name!r}. Known{where}: {', '.join(known)}.")
    default = getattr(owner, key)
    if dataclasses.is_dataclass(default):
        raise UsageError(f"option {name!r} holds several settings; give each as {name}.NAME.")
    value = _checked(name, value, default)
    return _with(config, group, {key: value}) if group else dataclasses.replace(config, **{key: value})


def _with(config: EditConfig, name: str, value: Any) -> EditConfig:
    if isinstance(value, Mapping):
        value = dataclasses.replace(getattr(config, name), **value)
    return dataclasses.replace(config, **{name: value})


def _checked(name: str, value: Any, default: Any) -> Any:
    """`value` in the default's type, one of the choices where there are some."""
    if isinstance(default, bool):
        truth = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if str(value).lower() not in truth:
            raise UsageError(f"{name}: {value!r} is neither true nor false.")
        return truth[str(value).lower()]
    if isinstance(default, tuple):
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, Sequence) or len(parts) != len(default):
            example = ",".join(str(part) for part in default)
            raise UsageError(f"{name}: {value!r}: expected {len(default)} numbers, as in {example}.")
        low, high = (_checked(name, part, one) for part, one in zip(parts, default, strict=True))
        if low > high:
            raise UsageError(f"{name}: {low:g},{high:g} is not possible; expected the lower one first.")
        return low, high
    try:
        number = isinstance(default, int) and not isinstance(value, str)
        if number and (isinstance(value, bool) or int(value) != value):
            raise UsageError(f"{name}: {value!r} is not a whole number.")
        value = type(default)(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(
            f"{name}: {value!r} is not a {'number' if not isinstance(default, str) else 'text'}."
        ) from error
    if name in CHOICES and value not in CHOICES[name]:
        raise UsageError(f"{name}: {value!r} is unknown. Known: {', '.join(CHOICES[name])}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{name}: {value} is not possible; expected a finite number.")
    if isinstance(value, str):
        return value
    if not name.endswith("_db") and value < (least := LOWEST.get(name, 0)):
        raise UsageError(f"{name}: {value} is not possible; expected {least} or more.")
    if name in POSITIVE and value <= 0:
        raise UsageError(f"{name}: {value} is not possible; expected more than 0.")
    if value > HIGHEST.get(name, value):
        raise UsageError(f"{name}: {value} is not possible; expected at most {HIGHEST[name]}.")
    if name.endswith("perceptual_side") and 0 < value < LEAST_SIDE:
        raise UsageError(f"{name}: {value} is not possible; expected 0, or {LEAST_SIDE} or more.")
    if name.endswith(("batch_size", "chunk_frames", "components", "_every")) and value < 1:
        raise UsageError(f"{name}: {value} is not possible; expected 1 or more.")
    return value
