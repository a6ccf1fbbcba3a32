"""StyleGAN2 weights of three origins make the same images, proved by NVlabs' formulas in plain float64."""

import numpy as np
import pytest
import torch
from foreign_files import nvlabs_state, write_nvlabs, write_tensorflow
from scipy.signal import convolve2d, correlate2d

from hdtalk import weights
from hdtalk.architectures import recognise
from hdtalk.checkpoints import Tensor, read_checkpoint
from hdtalk.conversion import nvlabs_to_rosinality, rosinality_to_nvlabs
from hdtalk.errors import WeightsError


def on_disk(state):
    return {key: Tensor(tuple(value.shape), value.dtype, value.clone) for key, value in state.items()}


def nvlabs_image(state, ws):
    """The synthesis network from its definition: zero-insertion, true convolution, un-scaled demodulation."""
    state = {key: value.double().numpy() for key, value in state.items()}
    kernel = state["synthesis.b4.resample_filter"]

    def enlarge(x, before, after):
        spread = np.zeros((x.shape[0], 2 * x.shape[1], 2 * x.shape[2]))
        spread[:, ::2, ::2] = x
        spread = np.pad(spread, ((0, 0), (before, after), (before, after)))
        return np.stack([convolve2d(plane, 4 * kernel, "valid") for plane in spread])

    def styles(prefix, w):
        return state[f"{prefix}.affine.weight"] @ w / np.sqrt(len(w)) + state[f"{prefix}.affine.bias"]

    def layer(prefix, x, w, up):
        weight = state[f"{prefix}.weight"] * styles(prefix, w)[None, :, None, None]
        weight /= np.sqrt((weight**2).sum((1, 2, 3), keepdims=True) + 1e-8)
        if up:
            x, combine = enlarge(x, 3, 2), convolve2d
        else:
            x, combine = np.pad(x, ((0, 0), (1, 1), (1, 1))), correlate2d
        y = np.stack(
            [sum(combine(plane, k, "valid") for plane, k in zip(x, kernels, strict=True)) for kernels in weight]
        )
        y += state[f"{prefix}.noise_const"] * state[f"{prefix}.noise_strength"]
        y += state[f"{prefix}.bias"][:, None, None]
        return np.where(y > 0, y, 0.2 * y) * np.sqrt(2)

    def rgb(prefix, x, w):
        weight = state[f"{prefix}.weight"][:, :, 0, 0] * styles(prefix, w) / np.sqrt(x.shape[0])
        return np.einsum("oc,chw->ohw", weight, x) + state[f"{prefix}.bias"][:, None, None]

    x = layer("synthesis.b4.conv1", state["synthesis.b4.const"], ws[0], up=False)
    image, side, row = rgb("synthesis.b4.torgb", x, ws[1]), 8, 1
    while f"synthesis.b{side}.conv0.weight" in state:
        x = layer(f"synthesis.b{side}.conv0", x, ws[row], up=True)
        x = layer(f"synthesis.b{side}.conv1", x, ws[row + 1], up=False)
        image = enlarge(image, 2, 1) + rgb(f"synthesis.b{side}.torgb", x, ws[row + 2])
        side, row = 2 * side, row + 2
    return image


def nvlabs_mapping(state, z):
    x = z / np.sqrt((z**2).mean() + 1e-8)
    layer = 0
    while f"mapping.fc{layer}.weight" in state:
        weight = state[f"mapping.fc{layer}.weight"].double().numpy()
        y = weight @ x * 0.01 / np.sqrt(weight.shape[1]) + 0.01 * state[f"mapping.fc{layer}.bias"].double().numpy()
        x, layer = np.where(y > 0, y, 0.2 * y) * np.sqrt(2), layer + 1
    return x


def tensorflow_variables(state):
    """The same network as TensorFlow names and lays it out."""
    found = {}
    for key, value in state.items():
        parts, value = key.split("."), value.numpy()
        if key == "mapping.w_avg":
            found["dlatent_avg"] = value
        elif parts[0] == "mapping":
            found[f"mapping/Dense{parts[1][2:]}/{parts[2]}"] = value.T if parts[2] == "weight" else value
        elif key == "synthesis.b4.const":
            found["synthesis/4x4/Const/const"] = value[None]
        elif parts[-1] == "noise_const":
            index = 2 * int(np.log2(value.shape[0])) - (5 if parts[2] == "conv0" else 4)
            found[f"synthesis/noise{index}"] = value[None, None]
        elif parts[-1] != "resample_filter":
            side = parts[1][1:]
            layer = {"conv0": "Conv0_up", "conv1": "Conv" if side == "4" else "Conv1", "torgb": "ToRGB"}[parts[2]]
            name = f"synthesis/{side}x{side}/{layer}"
            if parts[3:] == ["weight"]:
                flipped = value[:, :, ::-1, ::-1] if layer == "Conv0_up" else value
                found[f"{name}/weight"] = flipped.transpose(2, 3, 1, 0)
            elif parts[3:] == ["affine", "weight"]:
                found[f"{name}/mod_weight"] = value.T
            elif parts[3:] == ["affine", "bias"]:
                found[f"{name}/mod_bias"] = value - 1
            else:
                found[f"{name}/{parts[3]}"] = value
    return found


@pytest.fixture
def state():
    return nvlabs_state()


@pytest.fixture
def ws():
    return torch.randn(1, 6, 16, generator=torch.Generator().manual_seed(3))


def test_nvlabs_pickle_makes_the_image_of_the_formulas(tmp_path, state, ws):
    generator = weights.load_generator(write_nvlabs(tmp_path / "ffhq.pkl", state, 16, num_fp16_res=0))
    expected = nvlabs_image(state, ws[0].double().numpy())
    with torch.no_grad():
        actual = generator.synthesise(ws)[0].double().numpy()
    assert generator.resolution == 16 and generator.num_ws == 6
    assert np.abs(actual - expected).max() <= 1e-4 * expected.std()
    z = torch.randn(1, 16, generator=torch.Generator().manual_seed(4))
    expected_w = nvlabs_mapping(state, z[0].double().numpy())
    assert np.abs(generator.mapping(z)[0].detach().numpy() - expected_w).max() <= 1e-5 * np.abs(expected_w).max()
    assert torch.equal(generator.mean_latent, state["mapping.w_avg"])


def test_tensorflow_pickle_makes_the_same_generator(tmp_path, state):
    path = write_tensorflow(tmp_path / "stylegan2-ffhq-config-f.pkl", tensorflow_variables(state))
    loaded = weights.load_generator(path).state_dict()
    expected = nvlabs_to_rosinality(on_disk(state))
    for key, value in expected.items():
        assert torch.allclose(loaded[key], value.load(), atol=2e-7), key  # the +1 of mod_bias rounds


def test_there_and_back_is_bit_equal(state):
    there = {key: value.load() for key, value in nvlabs_to_rosinality(on_disk(state)).items()}
    back = rosinality_to_nvlabs(there)
    assert set(back) == set(state)
    assert all(torch.equal(back[key], value) and back[key].shape == value.shape for key, value in state.items())
    again = nvlabs_to_rosinality(on_disk(back))
    assert list(again) == list(there) and all(torch.equal(again[key].load(), value) for key, value in there.items())


def test_converted_shapes_are_known_before_loading(state):
    for key, tensor in nvlabs_to_rosinality(on_disk(state)).items():
        assert tuple(tensor.load().shape) == tensor.shape, key


def test_unknown_keys_are_named(state):
    with pytest.raises(WeightsError, match="synthesis.b4.conv1.extra"):
        nvlabs_to_rosinality(on_disk(state | {"synthesis.b4.conv1.extra": torch.ones(1)}))
    with pytest.raises(WeightsError, match="something.else"):
        rosinality_to_nvlabs({"something.else": torch.ones(1)})


@pytest.mark.parametrize(
    "options, clamp", [({"conv_clamp": 256, "num_fp16_res": 4}, 256.0), ({"num_fp16_res": 0}, None)]
)
def test_conv_clamp_comes_along(tmp_path, state, options, clamp):
    path = write_nvlabs(tmp_path / "x.pkl", state, 16, **options)
    assert recognise(read_checkpoint(path)).sizes.get("conv_clamp") == clamp


@pytest.mark.parametrize("keys", ["own", "nvlabs"])
def test_convert_writes_safetensors_that_load_alike(tmp_path, state, ws, keys):
    source = write_nvlabs(tmp_path / "ffhq.pkl", state, 16, conv_clamp=2.5, num_fp16_res=4)
    target = tmp_path / "converted.safetensors"
    weights.convert(source, target, keys=keys)
    first, second = weights.load_generator(source), weights.load_generator(target)
    assert torch.equal(first.synthesise(ws), second.synthesise(ws))
    assert torch.equal(first.mean_latent, second.mean_latent)
    assert target.stat().st_mode == source.stat().st_mode  # others may read it as any file
    if keys == "nvlabs":
        assert set(read_checkpoint(target).content) == set(state)


def test_channel_tables_are_inferred(tmp_path):
    for channels in [(8, 8, 8), (16, 8, 4), (8, 8, 4)]:
        found = recognise(read_checkpoint(write_nvlabs(tmp_path / "x.pkl", nvlabs_state(channels=channels), 16)))
        table = [min(found.sizes["channel_base"] // side, found.sizes["channel_max"]) for side in (4, 8, 16)]
        assert tuple(table) == channels and found.sizes["num_mapping_layers"] == 2 and found.sizes["w_dim"] == 16


def test_class_conditional_and_other_architectures_are_refused(tmp_path, state):
    with pytest.raises(WeightsError, match="class-conditional"):
        embedded = state | {"mapping.embed.weight": torch.ones(2, 2)}
        weights.load_generator(write_nvlabs(tmp_path / "x.pkl", embedded, 16))
    with pytest.raises(WeightsError, match="'resnet'"):
        weights.load_generator(write_nvlabs(tmp_path / "x.pkl", state, 16, architecture="resnet"))
