"""Which network a checkpoint holds: recognises it by its keys, infers its sizes, and fills a fresh network strictly.

ARCHITECTURES is the list of what bundles and loaders may build; nothing else is ever imported on a file's word.
"""

import importlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from hdtalk import conversion
from hdtalk.checkpoints import Checkpoint, Record, Tensor, flatten, flatten_module, guarded
from hdtalk.errors import WeightsError


@dataclass(frozen=True)
class Recognised:
    """A network found in a checkpoint. `sizes`: its constructor's arguments; `state`: tensors, still on disk, under the
    constructed network's keys; `source`: where in the file they lie."""

    architecture: str
    sizes: dict[str, Any]
    state: Mapping[str, Tensor]
    source: str
    extras: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Architecture:
    """`network` is "module:Class", imported when first built; `what` names it in messages; `sizes` reads constructor
    arguments off a state dict's shapes, `constants` are further ones; `marks` are keys that only this network has.
    Keys that match `optional` may be missing or left over, keys that match `ignored` are passed over; `prefix` is where
    the file's network sits in ours."""

    network: str
    what: str
    marks: tuple[str, ...] = ()
    sizes: Callable[[Mapping[str, Tensor]], dict[str, Any]] = lambda state: {}
    constants: Mapping[str, Any] = field(default_factory=dict)
    optional: str = r"num_batches_tracked$"
    ignored: str = r"^$"
    prefix: str = ""


def recognise(checkpoint: Checkpoint) -> Recognised:
    """Name the network in `checkpoint`. Raises WeightsError when it holds none that is known."""
    with guarded(checkpoint.path):
        return _recognise(checkpoint)


def build(found: Recognised, path: Any, device: str | torch.device = "cpu") -> torch.nn.Module:
    """Construct the network and fill it with float32 weights, frozen and in eval mode.

    Loading is strict: missing, unexpected and misshapen keys are named. The global random state is not touched.
    """
    network = construct(found, path)
    own = network.state_dict()
    _check_names(own, found, path)
    state = _placed(found)
    for key, target in own.items():
        if key not in state:
            continue
        with guarded(path):
            values = state[key].load()
        if values.is_floating_point() and not torch.isfinite(values).all():
            raise WeightsError(f"{path}: {key} holds infinite or undefined numbers. Fetch or train the file again.")
        target.copy_(values)
    return network.requires_grad_(False).eval().to(device)


def describe(architecture: str, sizes: Mapping[str, Any]) -> dict[str, str]:
    """Metadata by which `recognise` knows a safetensors file again."""
    return {"architecture": architecture, "sizes": json.dumps(dict(sizes))}


def check(found: Recognised, path: Any) -> None:
    """Raise WeightsError unless names and shapes fit the network; reads no tensor."""
    _check_names(construct(found, path).state_dict(), found, path)


def construct(found: Recognised, path: Any) -> torch.nn.Module:
    """The network of `found`, its values arbitrary."""
    if found.architecture not in ARCHITECTURES:
        raise WeightsError(f"{path}: unknown architecture {found.architecture!r}; known: {', '.join(ARCHITECTURES)}.")
    architecture = ARCHITECTURES[found.architecture]
    if not architecture.network:
        raise WeightsError(f"{path}: holds {architecture.what}, which is recognised but has no use here.")
    try:
        with _WithoutInitialisation():
            module, _, name = architecture.network.partition(":")
            return getattr(importlib.import_module(module), name)(**architecture.constants, **found.sizes)
    except (TypeError, ValueError, AssertionError, KeyError, RuntimeError) as error:
        raise WeightsError(f"{path}: cannot build {architecture.what} from sizes {found.sizes} ({error}).") from None


def _check_names(own: Mapping[str, torch.Tensor], found: Recognised, path: Any) -> None:
    architecture, state = ARCHITECTURES[found.architecture], _placed(found)
    missing = [key for key in own if key not in state and not re.search(architecture.optional, key)]
    unexpected = [key for key in state if key not in own and not re.search(architecture.optional, key)]
    misshapen = [
        f"{key} is {list(state[key].shape)}, should be {list(own[key].shape)}"
        for key in own
        if key in state and tuple(state[key].shape) != tuple(own[key].shape)
    ]
    troubles = [
        f"{len(keys)} {word}: {', '.join(keys[:3])}{' ...' if len(keys) > 3 else ''}"
        for word, keys in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
        if keys
    ]
    if troubles:
        raise WeightsError(f"{path}: does not fit {architecture.what} ({'; '.join(troubles)}).")


def _placed(found: Recognised) -> dict[str, Tensor]:
    """The file's tensors under the names they have in the constructed network."""
    architecture = ARCHITECTURES[found.architecture]
    placed = {f"{architecture.prefix}{key}": tensor for key, tensor in found.state.items()}
    return {key: tensor for key, tensor in placed.items() if not re.search(architecture.ignored, key)}


class _WithoutInitialisation(TorchFunctionMode):
    """Skips random initialisation inside constructors: every value is overwritten, and the random state stays put."""

    SKIPPED = {torch.Tensor.normal_, torch.Tensor.uniform_, torch.nn.init.trunc_normal_, torch.nn.init.orthogonal_}
    EMPTY = {torch.randn, torch.rand}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in self.SKIPPED:
            return args[0]
        return (torch.empty if function in self.EMPTY else function)(*args, **(kwargs or {}))


# --------------------------------------------------------------------------------------- finding the state dict


def _recognise(checkpoint: Checkpoint) -> Recognised:
    content, metadata = checkpoint.content, checkpoint.metadata
    if "architecture" in metadata:
        sizes = json.loads(metadata.get("sizes", "{}"))
        return Recognised(metadata["architecture"], sizes, content, "safetensors with sizes")
    if checkpoint.container == "tensorflow-pickle":
        variables = dict(_tensorflow_variables(content[-1]))
        return _from_nvlabs(conversion.tensorflow_to_nvlabs(variables), {}, "TensorFlow pickle, Gs")
    if checkpoint.container == "nvlabs-pickle":
        module = content.get("G_ema")
        if not isinstance(module, Record):
            raise WeightsError(f"a pickle without G_ema (it holds {', '.join(map(str, content))[:80]}).")
        return _from_nvlabs(dict(flatten_module(module)), module, "NVlabs pickle, G_ema")
    if not isinstance(content, dict):
        raise WeightsError(f"holds a {type(content).__name__} where a state dict was expected.")
    options = json.loads(metadata.get("nvlabs_options", "null"))
    return _from_dict(content, checkpoint.container, {"_init_kwargs": options})


def _from_dict(content: dict, container: str, nvlabs_module: dict) -> Recognised:
    average = content.get("latent_avg")
    extras: dict[str, Any] = {"latent_avg": average} if isinstance(average, Tensor) else {}
    for key in ("g_ema", "state_dict", "params_ema", "params"):
        if isinstance(content.get(key), dict):
            state, source = dict(flatten(content[key])), f"{container}, {key}"
            break
    else:
        state, source = dict(flatten(content)), container
    wrapper = next(iter(state), "").partition(".")[0]  # "module" of DataParallel, or another module around the network
    inner = _below(state, f"{wrapper}.")
    if len(inner) == len(state) and not _is_known(state) and (wrapper == "module" or _is_known(inner)):
        state = inner
    if any(key.startswith("encoder.styles.") for key in state):
        extras["decoder"] = _below(state, "decoder.")
        state = _below(state, "encoder.")
    if "synthesis.b4.const" in state:
        return _from_nvlabs(state, nvlabs_module, source)
    for name, architecture in ARCHITECTURES.items():
        if _is_marked(state, architecture):
            return _with_average(Recognised(name, architecture.sizes(state), state, source, extras))
    if not state:
        raise WeightsError("holds no named tensors.")
    raise WeightsError(f"holds no network known here (its keys begin {', '.join(list(state)[:3])}).")


def _is_known(state: Mapping[str, Tensor]) -> bool:
    return any(_is_marked(state, architecture) for architecture in ARCHITECTURES.values())


def _is_marked(state: Mapping[str, Tensor], architecture: Architecture) -> bool:
    return bool(architecture.marks) and all(mark in state for mark in architecture.marks)


def _from_nvlabs(state: dict[str, Tensor], module: dict, source: str) -> Recognised:
    if any(key.startswith("mapping.embed.") for key in state):
        raise WeightsError("a class-conditional generator, which is not supported.")
    options = module.get("_init_kwargs") or {}
    options = options | (options.get("synthesis_kwargs") or {})
    if (options.get("architecture") or "skip") != "skip":
        raise WeightsError(f"a generator of the {options['architecture']!r} architecture; only 'skip' is supported.")
    clamp = options.get("conv_clamp", 256 if "num_fp16_res" not in options and module.get("_init_kwargs") else None)
    converted = conversion.nvlabs_to_rosinality(state)
    sizes = stylegan2_sizes(converted) | ({"conv_clamp": float(clamp)} if clamp else {})
    return Recognised("stylegan2", sizes, converted, source)


def _with_average(found: Recognised) -> Recognised:
    """Official files keep the average latent beside the state dict; here it is one of the network's buffers."""
    average = found.extras.get("latent_avg")
    if average is None or "mean_latent" in found.state or found.architecture not in ("stylegan2", "e4e"):
        return found
    if found.architecture == "e4e" and len(average.shape) == 1:
        rows = 2 * (found.sizes["resolution"].bit_length() - 1) - 2
        average = conversion.derived(average, (rows, *average.shape), lambda row: row.expand(rows, -1))
    return replace(found, state=dict(found.state) | {"mean_latent": average})


def decoder_of(found: Recognised) -> Recognised | None:
    """The generator that official e4e files carry beside the encoder, or None."""
    decoder = found.extras.get("decoder")
    if not decoder or "conv1.conv.weight" not in decoder:
        return None
    average = found.extras.get("latent_avg")
    if average is not None:
        decoder = dict(decoder) | {"mean_latent": conversion.derived(average, average.shape[-1:], _first_row)}
    return Recognised("stylegan2", stylegan2_sizes(decoder), decoder, f"{found.source}, decoder")


def _first_row(average: torch.Tensor) -> torch.Tensor:
    return average.reshape(-1, average.shape[-1])[0]


def _tensorflow_variables(network: Record) -> list[tuple[str, Tensor]]:
    """All variables of a dnnlib network and its components, named as in the file."""
    found = [(name, conversion.from_array(array)) for name, array in network.get("variables") or []]
    for component, inner in (network.get("components") or {}).items():
        found += [(f"{component}/{name}", tensor) for name, tensor in _tensorflow_variables(inner)]
    return found


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


# ------------------------------------------------------------------------------------------- sizes from shapes


def stylegan2_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Resolution and channel table of a generator in the rosinality form."""
    channels = {4: state["input.input"].shape[1]}
    for index in range(_count(state, r"to_rgbs\.(\d+)\.bias")):
        channels[8 << index] = state[f"to_rgbs.{index}.conv.weight"].shape[2]
    below = [(side, width) for side, width in channels.items() if width < channels[4]]
    side, width = below[0] if below else list(channels.items())[-1]
    return {
        "resolution": max(channels),
        "channel_base": side * width,
        "channel_max": channels[4],
        "w_dim": state["conv1.conv.modulation.weight"].shape[1],
        "z_dim": state["style.1.weight"].shape[1],
        "num_mapping_layers": _count(state, r"style\.(\d+)\.weight"),
    }


def _e4e_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    widths: list[int] = []
    units: list[int] = []
    for index in range(_count(state, r"body\.(\d+)\.res_layer\.1\.weight")):
        width = state[f"body.{index}.res_layer.1.weight"].shape[0]
        if not widths or width != widths[-1]:
            widths.append(width)
            units.append(0)
        units[-1] += 1
    num_styles = _count(state, r"styles\.(\d+)\.linear\.weight")
    return {
        "resolution": 1 << (num_styles + 2) // 2,
        "units": units,
        "channels": widths,
        "style_dim": state["styles.0.linear.weight"].shape[0],
        "input_size": 16 << _count(state, r"styles\.0\.convs\.(\d+)\.weight"),
    }


def _fan_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    landmarks, channels = state["l0.weight"].shape[:2]
    return {
        "num_modules": _count(state, r"l(\d+)\.weight"),
        "channels": channels,
        "num_landmarks": landmarks,
    }


def _bisenet_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "num_classes": state["conv_out.conv_out.weight"].shape[0],
        "width": state["cp.resnet.conv1.weight"].shape[0],
    }


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many different numbers appear in keys matching `pattern`."""
    return len({match[1] for key in state if (match := re.fullmatch(pattern, key))})


ARCHITECTURES: dict[str, Architecture] = {
    "stylegan2": Architecture(
        "hdtalk.generators.stylegan2:Generator",
        "a StyleGAN2 generator",
        ("input.input", "conv1.conv.modulation.weight"),
        stylegan2_sizes,
        optional=r"^mean_latent$",
    ),
    "e4e": Architecture(
        "hdtalk.models.e4e:Encoder4Editing",
        "an e4e encoder",
        ("styles.0.linear.weight", "latlayer1.weight"),
        _e4e_sizes,
    ),
    "irse50": Architecture(
        "hdtalk.models.irse50:IRSE50",
        "an IR-SE50 face recogniser",
        ("output_layer.3.weight", "body.0.res_layer.1.weight"),
    ),
    "fan": Architecture(
        "hdtalk.models.fan:FAN", "a FAN landmark network", ("l0.weight", "conv_last0.weight"), _fan_sizes
    ),
    "bisenet": Architecture(
        "hdtalk.models.bisenet:BiSeNet",
        "a BiSeNet face parser",
        ("cp.arm16.conv_atten.weight", "conv_out.conv_out.weight"),
        _bisenet_sizes,
    ),
    "alexnet": Architecture(
        "hdtalk.losses.perceptual:PerceptualLoss",
        "AlexNet features",
        ("features.3.weight", "features.8.weight"),
        lambda state: {"net": "alex"},
        prefix="backbone.",
        ignored=r"^backbone\.classifier\.",
    ),
    "vgg16": Architecture(
        "hdtalk.losses.perceptual:PerceptualLoss",
        "VGG-16 features",
        ("features.2.weight", "features.28.weight"),
        lambda state: {"net": "vgg"},
        prefix="backbone.",
        ignored=r"^backbone\.classifier\.",
    ),
    "demo_backbone": Architecture(
        "hdtalk.losses.perceptual:PerceptualLoss",
        "the demo bundle's perceptual backbone",
        constants={"net": "demo"},
        prefix="backbone.",
    ),
    "face_detector": Architecture("hdtalk.models.face_detector:FaceDetector", "the demo bundle's face detector"),
    "integral_regressor": Architecture("hdtalk.models.integral_regressor:IntegralRegressor", "a landmark regressor"),
    "close_regressor": Architecture("hdtalk.models.integral_regressor:CloseRegressor", "a landmark regressor"),
    "speech": Architecture("hdtalk.models.speech:SpeechModel", "the speech networks"),
    "mouth_codes": Architecture("hdtalk.models.mouth_codes:MouthCodes", "codes of mouths that talk"),
    "s3fd": Architecture("hdtalk.models.s3fd:S3FD", "an S3FD face detector", ("conv3_3_norm.weight",)),
    "retinaface": Architecture("", "a RetinaFace detector", ("BboxHead.0.conv1x1.weight",)),
    "inception": Architecture(
        "hdtalk.models.fid_inception:FIDInception", "the FID Inception network", ("Mixed_7c.branch_pool.conv.weight",)
    ),
    "syncnet": Architecture("hdtalk.models.syncnet:SyncNet", "SyncNet", ("netcnnaud.0.weight", "netcnnlip.0.weight")),
}

# Which architectures can serve a role in a bundle.
ROLES = {
    "generator": ("stylegan2",),
    "encoder": ("e4e",),
    "landmarker": ("fan",),
    "landmarker_eval": ("fan", "integral_regressor", "close_regressor"),
    "parser": ("bisenet",),
    "perceptual": ("alexnet", "vgg16", "demo_backbone"),
    "detector": ("face_detector", "s3fd"),
    "speech": ("speech",),
    "mouth_codes": ("mouth_codes",),
    "identity": ("irse50",),
    "fid": ("inception",),
    "sync": ("syncnet",),
}

JUDGES = ("landmarker_eval", "identity", "fid", "sync")  # roles that only measure: no picture depends on them
