"""StyleGAN2 weights between their three published forms: TensorFlow variables, NVlabs keys, rosinality keys.

Nothing is rescaled except the resampling filters (NVlabs keeps them summing to 1, rosinality multiplies by the gain 4
beforehand), so conversion there and back returns the same numbers. Tensors stay on disk until they are loaded.
"""

import math
import re
from collections.abc import Callable, Mapping

import numpy as np
import torch

from hdtalk.checkpoints import Tensor
from hdtalk.errors import WeightsError


def nvlabs_to_rosinality(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """NVlabs `G_ema` (`mapping.*`, `synthesis.b{res}.*`) to rosinality's `g_ema` keys, with `mean_latent` for w_avg."""
    converted = {}
    for key, value in state.items():
        if key == "mapping.w_avg":
            converted["mean_latent"] = value
        elif match := re.fullmatch(r"mapping\.fc(\d+)\.(weight|bias)", key):
            converted[f"style.{int(match[1]) + 1}.{match[2]}"] = value
        elif key == "synthesis.b4.const":
            converted["input.input"] = _reshaped(value, (1, *value.shape))
        elif match := re.fullmatch(r"synthesis\.b(\d+)\.(conv0|conv1|torgb)\.(.+)", key):
            _convert_layer(converted, int(match[1]), match[2], match[3], value)
        elif not re.fullmatch(r"synthesis\.b\d+\.resample_filter", key):
            raise WeightsError(f"an unknown NVlabs key, {key}.")
    return {key: converted[key] for key in sorted(converted, key=_state_order)}


def rosinality_to_nvlabs(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse, on loaded tensors: rosinality keys (and `mean_latent`) to NVlabs `mapping.*` and `synthesis.*`."""
    converted = {}
    for key, value in state.items():
        if key == "mean_latent":
            converted["mapping.w_avg"] = value
        elif match := re.fullmatch(r"style\.(\d+)\.(weight|bias)", key):
            converted[f"mapping.fc{int(match[1]) - 1}.{match[2]}"] = value
        elif key == "input.input":
            converted["synthesis.b4.const"] = value[0]
        elif match := re.fullmatch(r"noises\.noise_(\d+)", key):
            index = int(match[1])
            side = 4 << (index + 1) // 2
            converted[f"synthesis.b{side}.conv{(index + 1) % 2}.noise_const"] = value[0, 0]
        elif match := re.fullmatch(r"(conv1|to_rgb1|convs\.\d+|to_rgbs\.\d+)\.(.+)", key):
            prefix = _nvlabs_layer(match[1])
            name, change = _TO_NVLABS[match[2]]
            if prefix.endswith("torgb") and name == "resample_filter":
                prefix = prefix.removesuffix(".torgb")  # the block's own filter, which up-samples the image
            converted[f"{prefix}.{name}"] = change(value)
        else:
            raise WeightsError(f"an unknown rosinality key, {key}.")
    # NVlabs also stores the (same) filter where it is not applied.
    if filters := [key for key in converted if key.endswith("resample_filter")]:
        kernel = converted[filters[0]]
        for side in _sides(converted):
            layers = ("", "conv0.", "conv1.") if side > 4 else ("", "conv1.")
            for layer in layers:
                converted.setdefault(f"synthesis.b{side}.{layer}resample_filter", kernel.clone())
    return converted


def tensorflow_to_nvlabs(variables: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Variables of the original TensorFlow `Gs` to NVlabs' PyTorch keys."""
    # A variable may be listed both by its network and by the component that owns it.
    state = {}
    kernel = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 64
    for name, value in variables.items():
        path = re.sub(r"^(G_)?(synthesis|mapping)/(G_)?\2/", r"\2/", name)
        if path == "dlatent_avg":
            state["mapping.w_avg"] = value
        elif match := re.fullmatch(r"mapping/Dense(\d+)/(weight|bias)", path):
            state[f"mapping.fc{match[1]}.{match[2]}"] = _transposed(value, (1, 0)) if match[2] == "weight" else value
        elif path == "synthesis/4x4/Const/const":
            state["synthesis.b4.const"] = _reshaped(value, value.shape[1:])
        elif match := re.fullmatch(r"synthesis/noise(\d+)", path):
            index = int(match[1])
            side = 4 << (index + 1) // 2
            state[f"synthesis.b{side}.conv{(index + 1) % 2}.noise_const"] = _reshaped(value, value.shape[2:])
        elif match := re.fullmatch(r"synthesis/(\d+)x\1/(Conv|Conv0_up|Conv1|ToRGB)/(\w+)", path):
            side, layer, part = int(match[1]), match[2], match[3]
            target = {"Conv": "conv1", "Conv0_up": "conv0", "Conv1": "conv1", "ToRGB": "torgb"}[layer]
            prefix = f"synthesis.b{side}.{target}"
            if part == "weight":
                value = _transposed(value, (3, 2, 0, 1))
                state[f"{prefix}.weight"] = _flipped(value) if layer == "Conv0_up" else value
            elif part == "mod_weight":
                state[f"{prefix}.affine.weight"] = _transposed(value, (1, 0))
            elif part == "mod_bias":
                state[f"{prefix}.affine.bias"] = derived(value, value.shape, lambda x: x + 1)
            elif part in ("bias", "noise_strength"):
                state[f"{prefix}.{part}"] = value
        elif path not in ("lod", "synthesis/lod"):
            raise WeightsError(f"an unknown TensorFlow variable, {name}.")
    for side in _sides(state):
        for layer in ("", "conv0.", "conv1.") if side > 4 else ("", "conv1."):
            state[f"synthesis.b{side}.{layer}resample_filter"] = from_array(kernel.numpy())
    return state


def derived(value: Tensor, shape: tuple[int, ...], change: Callable[[torch.Tensor], torch.Tensor]) -> Tensor:
    """`change(value)`, computed when it is loaded."""
    return Tensor(tuple(shape), value.dtype, lambda: change(value.load()).contiguous())


def from_array(array) -> Tensor:
    """A tensor that is already in memory, as a recorded or a real numpy array."""
    values = np.asarray(getattr(array, "values", array))
    native = values.astype(values.dtype.newbyteorder("="))
    tensor = torch.from_numpy(np.ascontiguousarray(native).reshape(values.shape))
    return Tensor(tuple(tensor.shape), tensor.dtype, tensor.clone)


def _sides(state: Mapping[str, object]) -> set[int]:
    """Resolutions of the synthesis blocks in a state dict with NVlabs' keys."""
    return {int(match[1]) for key in state if (match := re.match(r"synthesis\.b(\d+)\.", key))}


def _convert_layer(converted: dict[str, Tensor], side: int, layer: str, part: str, value: Tensor) -> None:
    """One NVlabs layer entry (`part` of block b{side}) into its rosinality name and shape."""
    index = int(math.log2(side)) - 3
    if layer == "torgb":
        prefix = "to_rgb1" if side == 4 else f"to_rgbs.{index}"
    else:
        prefix = "conv1" if side == 4 else f"convs.{2 * index + (layer == 'conv1')}"
    if part == "weight":
        converted[f"{prefix}.conv.weight"] = _reshaped(value, (1, *value.shape))
    elif part in ("affine.weight", "affine.bias"):
        converted[f"{prefix}.conv.modulation.{part.removeprefix('affine.')}"] = value
    elif part == "noise_strength":
        converted[f"{prefix}.noise.weight"] = _reshaped(value, (1,))
    elif part == "noise_const":
        number = 0 if side == 4 else 2 * index + 1 + (layer == "conv1")
        converted[f"noises.noise_{number}"] = _reshaped(value, (1, 1, *value.shape))
    elif part == "bias":
        rgb = layer == "torgb"
        converted[f"{prefix}.{'bias' if rgb else 'activate.bias'}"] = _reshaped(value, (1, 3, 1, 1)) if rgb else value
    elif part == "resample_filter":
        if layer == "conv0":  # the same filter up-samples the image, and is stored there by rosinality
            converted[f"{prefix}.conv.blur.kernel"] = derived(value, value.shape, lambda kernel: kernel * 4)
            converted[f"to_rgbs.{index}.upsample.kernel"] = derived(value, value.shape, lambda kernel: kernel * 4)
    else:
        raise WeightsError(f"an unknown NVlabs key, synthesis.b{side}.{layer}.{part}.")


def _nvlabs_layer(layer: str) -> str:
    """`convs.3` -> `synthesis.b16.conv1`, and so on."""
    if layer in ("conv1", "to_rgb1"):
        return f"synthesis.b4.{'conv1' if layer == 'conv1' else 'torgb'}"
    family, number = layer.split(".")
    if family == "to_rgbs":
        return f"synthesis.b{8 << int(number)}.torgb"
    return f"synthesis.b{8 << int(number) // 2}.conv{int(number) % 2}"


_TO_NVLABS: dict[str, tuple[str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "conv.weight": ("weight", lambda value: value[0]),
    "conv.modulation.weight": ("affine.weight", lambda value: value),
    "conv.modulation.bias": ("affine.bias", lambda value: value),
    "conv.blur.kernel": ("resample_filter", lambda value: value / 4),
    "upsample.kernel": ("resample_filter", lambda value: value / 4),
    "noise.weight": ("noise_strength", lambda value: value.reshape(())),
    "activate.bias": ("bias", lambda value: value),
    "bias": ("bias", lambda value: value.reshape(-1)),
}


def _state_order(key: str) -> tuple:
    families = ("style", "input", "conv1", "to_rgb1", "convs", "to_rgbs", "noises", "mean_latent")
    family, *rest = key.split(".")
    return families.index(family), [int(number) for number in re.findall(r"\d+", ".".join(rest))]


def _reshaped(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    return derived(value, shape, lambda tensor: tensor.reshape(shape))


def _transposed(value: Tensor, order: tuple[int, ...]) -> Tensor:
    return derived(value, tuple(value.shape[axis] for axis in order), lambda tensor: tensor.permute(order))


def _flipped(value: Tensor) -> Tensor:
    return derived(value, value.shape, lambda tensor: tensor.flip(2, 3))
