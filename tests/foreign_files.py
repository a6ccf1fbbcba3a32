"""Writes the containers of other projects: NVlabs pickles of both eras, with the globals the real files have."""

import contextlib
import io
import pickle
import struct
import sys
import types
from pathlib import Path

import numpy as np
import torch

SOURCE = "raise AssertionError('module_src was executed')"


def _stand_in(module: str, name: str, **members):
    kind = type(name, (), {"__module__": module, "__qualname__": name, **members})
    return kind


@contextlib.contextmanager
def foreign_modules():
    """`torch_utils.persistence`, `dnnlib.util` and `dnnlib.tflib.network`, importable while pickling."""

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("called while reading")

    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    easy_dict = type("EasyDict", (dict,), {"__module__": "dnnlib.util", "__qualname__": "EasyDict"})
    network = _stand_in("dnnlib.tflib.network", "Network")
    found = {}
    for name in (
        "torch_utils",
        "torch_utils.persistence",
        "dnnlib",
        "dnnlib.util",
        "dnnlib.tflib",
        "dnnlib.tflib.network",
    ):
        found[name] = types.ModuleType(name)
    found["torch_utils.persistence"]._reconstruct_persistent_obj = _reconstruct_persistent_obj
    found["dnnlib.util"].EasyDict = easy_dict
    found["dnnlib.tflib.network"].Network = network
    sys.modules.update(found)
    try:
        yield types.SimpleNamespace(reconstruct=_reconstruct_persistent_obj, EasyDict=easy_dict, Network=network)
    finally:
        for name in found:
            sys.modules.pop(name, None)


class Persistent:
    """An object as NVlabs' persistence pickles it: source code, class name and state."""

    def __init__(self, reconstruct, class_name, state, source=SOURCE):
        self.reconstruct = reconstruct
        self.meta = dict(type="class", version=6, module_src=source, class_name=class_name, state=state)

    def __reduce__(self):
        return self.reconstruct, (self.meta,)


def module_tree(reconstruct, state: dict[str, torch.Tensor], class_name="Module", **attributes) -> Persistent:
    """A persistent torch module whose parameters, buffers and sub-modules hold `state`."""
    own, children = {}, {}
    for key, value in state.items():
        head, _, rest = key.partition(".")
        if rest:
            children.setdefault(head, {})[rest] = value
        else:
            own[head] = value
    buffers = {key: value for key, value in own.items() if key in ("w_avg", "resample_filter", "noise_const")}
    parameters = {key: torch.nn.Parameter(value) for key, value in own.items() if key not in buffers}
    modules = {key: module_tree(reconstruct, child) for key, child in children.items()}
    gain = {"weight_gain": np.float64(0.25), "training": False, "_non_persistent_buffers_set": set()}
    inner = dict(_parameters=parameters, _buffers=buffers, _modules=modules, **gain, **attributes)
    return Persistent(reconstruct, class_name, inner)


def write_nvlabs(path: Path, state: dict[str, torch.Tensor], resolution: int, **synthesis) -> Path:
    """A pickle like ffhq.pkl, with G, D, G_ema, training_set_kwargs and augment_pipe."""
    with foreign_modules() as names:
        init = dict(z_dim=16, c_dim=0, w_dim=16, img_resolution=resolution, img_channels=3)
        init["synthesis_kwargs"] = names.EasyDict(channel_base=128, channel_max=16, **synthesis)
        generator = module_tree(names.reconstruct, state, "Generator", _init_args=(), _init_kwargs=names.EasyDict(init))
        other = module_tree(names.reconstruct, {"b4.out.weight": torch.ones(2, 2)}, "Discriminator")
        stale = module_tree(names.reconstruct, {key: value + 1 for key, value in state.items()}, "Generator")
        content = dict(G=stale, D=other, G_ema=generator, training_set_kwargs=None, augment_pipe=None)
        path.write_bytes(pickle.dumps(content, protocol=4))
    return path


def write_tensorflow(path: Path, variables: dict[str, np.ndarray], protocol: int = 4) -> Path:
    """A pickle like stylegan2-ffhq-config-f.pkl: (G, D, Gs), each with its own variables and its components'."""
    with foreign_modules() as names:

        def network(own, components=None):
            made = names.Network()
            made.__dict__.update(version=4, name="G", static_kwargs=names.EasyDict(fmap_base=1), variables=own)
            made.__dict__.update(components=names.EasyDict(components or {}), build_module_src=SOURCE)
            return made

        def below(prefix):
            return [(name.removeprefix(prefix), value) for name, value in variables.items() if name.startswith(prefix)]

        own = [(name, value) for name, value in variables.items() if "/" not in name]
        parts = {part: network(below(f"{part}/")) for part in ("synthesis", "mapping")}
        content = (network([]), network([]), network(own, parts))
        path.write_bytes(pickle.dumps(content, protocol))
    return path


def legacy(content) -> bytes:
    """torch.save as before PyTorch 1.6."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def legacy_01(content) -> bytes:
    """torch.save of 0.1: a tensor is made empty and then given storage and shape; parameters wrap theirs."""
    storages: list[torch.Tensor] = []

    class Pickler(pickle.Pickler):
        def persistent_id(self, item):
            if not isinstance(item, Storage):
                return None
            storages.append(item.tensor)
            return "storage", torch.FloatStorage, str(len(storages) - 1), "cpu", item.tensor.numel(), None

        def reducer_override(self, item):
            if isinstance(item, torch.nn.Parameter):
                return torch.nn.Parameter, (item.data,), (True, False, {})
            if isinstance(item, torch.Tensor):
                return torch.FloatTensor, (), (Storage(item), 0, tuple(item.shape), item.stride())
            return NotImplemented

    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(content)
    heads = [pickle.dumps(head, 2) for head in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    numbers = [struct.pack("<q", tensor.numel()) + tensor.numpy().tobytes() for tensor in storages]
    keys = pickle.dumps([str(k) for k in range(len(storages))], 2)
    return b"".join([*heads, buffer.getvalue(), keys, *numbers])


class Storage:
    def __init__(self, tensor):
        self.tensor = tensor


def nvlabs_state(resolution=16, channels=(8, 6, 3), w_dim=16, num_mapping_layers=2, seed=0) -> dict[str, torch.Tensor]:
    """Random weights under NVlabs' keys, in NVlabs' order (synthesis first)."""
    random = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(shape, generator=random)

    taps = torch.tensor([1.0, 3, 3, 1])
    kernel = torch.outer(taps, taps) / 64
    state, previous = {"synthesis.b4.const": noise(channels[0], 4, 4)}, channels[0]
    for index, side in enumerate(2**k for k in range(2, resolution.bit_length())):
        width = channels[index]
        block = f"synthesis.b{side}"
        state[f"{block}.resample_filter"] = kernel.clone()
        for layer, inputs in (("conv0", previous), ("conv1", width)) if side > 4 else (("conv1", width),):
            state[f"{block}.{layer}.weight"] = noise(width, inputs, 3, 3)
            state[f"{block}.{layer}.noise_strength"] = noise() * 0.3
            state[f"{block}.{layer}.bias"] = noise(width)
            state[f"{block}.{layer}.resample_filter"] = kernel.clone()
            state[f"{block}.{layer}.noise_const"] = noise(side, side)
            state[f"{block}.{layer}.affine.weight"] = noise(inputs, w_dim)
            state[f"{block}.{layer}.affine.bias"] = 1 + 0.1 * noise(inputs)
        state[f"{block}.torgb.weight"] = noise(3, width, 1, 1)
        state[f"{block}.torgb.bias"] = noise(3)
        state[f"{block}.torgb.affine.weight"] = noise(width, w_dim)
        state[f"{block}.torgb.affine.bias"] = 1 + 0.1 * noise(width)
        previous = width
    state["mapping.w_avg"] = noise(w_dim)
    for layer in range(num_mapping_layers):
        state[f"mapping.fc{layer}.weight"] = noise(w_dim, w_dim) * 100
        state[f"mapping.fc{layer}.bias"] = noise(w_dim)
    return state
