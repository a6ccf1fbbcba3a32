"""Loaders on published key lists in their published containers; bundles written, read and refused."""

import json
import multiprocessing

import official_keys
import pytest
import torch
from foreign_files import legacy, legacy_01, nvlabs_state, write_nvlabs
from official_keys import filled

import hdtalk
from hdtalk import weights
from hdtalk.errors import WeightsError
from hdtalk.files import file_hash
from hdtalk.generators.stylegan2 import Generator

TINY = dict(resolution=16, channel_base=128, channel_max=8, w_dim=8, z_dim=8, num_mapping_layers=2)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HDTALK_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    generator = Generator(**TINY).eval()
    generator.mean_latent.normal_()
    return generator


def test_key_lists_have_the_published_counts():
    assert official_keys.count(official_keys.rosinality()) == (171, 33_166_492)
    assert official_keys.count(official_keys.nvlabs()) == (182, 33_167_164)
    assert official_keys.count(official_keys.e4e_encoder()) == (621, 267_161_076)
    assert len(official_keys.ir_se50()) == 397
    assert len(official_keys.fan()) == 1129
    assert len(official_keys.bisenet()) == 191


# ------------------------------------------------------------------------------- official files, official sizes


@pytest.mark.slow
def test_official_generator_of_1024_px_in_three_containers(tmp_path):
    own = filled(official_keys.rosinality())
    average = torch.linspace(-1, 1, 512)
    torch.save({"g_ema": own, "latent_avg": average}, tmp_path / "config-f.pt")
    generator = weights.load_generator(tmp_path / "config-f.pt")
    assert (generator.resolution, generator.num_ws) == (1024, 18) and torch.equal(generator.mean_latent, average)
    loaded = generator.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in own.items())
    w = generator.mapping(torch.randn(1, 512))
    assert generator.synthesise(w, resolution=32).shape == (1, 3, 32, 32)

    theirs = filled(official_keys.nvlabs())
    write_nvlabs(tmp_path / "ffhq.pkl", theirs, 1024, num_fp16_res=0)
    from_pickle = weights.load_generator(tmp_path / "ffhq.pkl").state_dict()
    assert set(from_pickle) == set(loaded)
    assert torch.equal(from_pickle["convs.15.conv.weight"][0], theirs["synthesis.b1024.conv1.weight"])
    assert torch.equal(from_pickle["noises.noise_16"][0, 0], theirs["synthesis.b1024.conv1.noise_const"])
    del from_pickle, theirs

    weights.convert(tmp_path / "config-f.pt", tmp_path / "ours.safetensors")
    ours = weights.load_generator(tmp_path / "ours.safetensors").state_dict()
    assert all(torch.equal(ours[key], value) for key, value in loaded.items())


@pytest.mark.slow
def test_official_e4e_with_its_decoder(tmp_path):
    small_decoder = Generator(**TINY).state_dict()
    small_decoder.pop("mean_latent")
    encoder = filled(official_keys.e4e_encoder())
    average = torch.randn(18, 512)
    state = {f"encoder.{key}": value for key, value in encoder.items()}
    state |= {f"decoder.{key}": value for key, value in small_decoder.items()}
    opts = {"device": "cuda:0", "stylegan_size": 1024, "start_from_latent_avg": True, "encoder_type": "Encoder4Editing"}
    torch.save({"state_dict": state, "opts": opts, "latent_avg": average}, tmp_path / "e4e_ffhq_encode.pt")
    del state
    network = weights.load_encoder(tmp_path / "e4e_ffhq_encode.pt")
    loaded = network.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in encoder.items())
    assert torch.equal(loaded["mean_latent"], average) and set(loaded) == {*encoder, "mean_latent"}
    assert not any(parameter.requires_grad for parameter in network.parameters()) and not network.training


@pytest.mark.parametrize("zipped", [True, False])
def test_official_fan(tmp_path, zipped):
    state = filled(official_keys.fan(width=32))
    torch.save(state, tmp_path / "2DFAN4.pth.tar", _use_new_zipfile_serialization=zipped)
    network = weights.load_landmarker(tmp_path / "2DFAN4.pth.tar")
    assert all(torch.equal(network.state_dict()[key], value) for key, value in state.items())
    assert network.heatmaps(torch.zeros(1, 3, 256, 256)).shape == (1, 68, 64, 64)


def test_fan_as_torchscript_equals_its_state_dict(tmp_path):
    state = filled(official_keys.fan(num_modules=2, width=16))
    torch.save(state, tmp_path / "fan.pth")
    network = weights.load_landmarker(tmp_path / "fan.pth")
    images = torch.rand(1, 3, 256, 256)
    torch.jit.trace(network, images, strict=False, check_trace=False).save(str(tmp_path / "2DFAN4.zip"))
    other = weights.load_landmarker(tmp_path / "2DFAN4.zip")
    assert torch.equal(network.heatmaps(images), other.heatmaps(images))


def test_fan_as_torchscript_that_answers_the_last_stack_only(tmp_path):
    torch.save(filled(official_keys.fan(num_modules=1, width=16)), tmp_path / "fan.pth")
    network = weights.load_landmarker(tmp_path / "fan.pth")

    class LastStack(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fan = network

        def forward(self, images):
            return self.fan(images)[-1]

    images = torch.rand(1, 3, 256, 256)
    torch.jit.trace(LastStack(), images, check_trace=False).save(str(tmp_path / "2DFAN4.zip"))
    other = weights.load_landmarker(tmp_path / "2DFAN4.zip")
    assert torch.equal(network.heatmaps(images), other.heatmaps(images))


def test_official_parser_and_recogniser(tmp_path):
    state = filled(official_keys.bisenet())
    torch.save(state, tmp_path / "79999_iter.pth")
    network = weights.load_parser(tmp_path / "79999_iter.pth")
    assert all(torch.equal(network.state_dict()[key], value) for key, value in state.items())
    assert network.logits(torch.zeros(1, 3, 64, 64)).shape == (1, 19, 64, 64)

    shapes = official_keys.ir_se50()
    state = {key: value for key, value in filled(shapes).items() if not key.endswith("num_batches_tracked")}
    torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / "model_ir_se50.pth")
    network = weights.load_network(tmp_path / "model_ir_se50.pth", "identity")
    assert all(torch.equal(network.state_dict()[key], value) for key, value in state.items())


def parameters(state):
    return {name: torch.nn.Parameter(value) for name, value in state.items()}


@pytest.mark.parametrize("written", [legacy, legacy_01, lambda state: legacy_01(parameters(state))])
@pytest.mark.parametrize("net, keys", [("alex", official_keys.alexnet), ("vgg", official_keys.vgg16)])
def test_official_perceptual_backbones(tmp_path, net, keys, written):
    path = tmp_path / "backbone.pth"
    path.write_bytes(written(filled(keys())))
    loss = weights.load_perceptual(path, net)
    a, b = torch.rand(2, 2, 3, 64, 64) * 2 - 1
    distance = loss(a, b)
    assert distance.shape == (2,) and (distance > 0).all() and torch.equal(loss(a, a), torch.zeros(2))
    with pytest.raises(WeightsError, match="does not serve"):
        weights.load_perceptual(path, "vgg" if net == "alex" else "alex")


def test_lpips_package_gives_the_same_distance(tmp_path):
    import lpips

    state = filled(official_keys.alexnet())
    torch.save(state, tmp_path / "alexnet.pth")
    reference = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    names = [f"net.slice{k}.{index}" for k, index in zip(range(1, 6), (0, 3, 6, 8, 10), strict=True)]
    for name in names:
        index = name.rsplit(".", 1)[1]
        module = reference.get_submodule(name)
        module.weight.data.copy_(state[f"features.{index}.weight"])
        module.bias.data.copy_(state[f"features.{index}.bias"])
    a, b = torch.rand(2, 2, 3, 64, 64) * 2 - 1
    expected = reference(a, b).flatten()
    assert torch.allclose(weights.load_perceptual(tmp_path / "alexnet.pth")(a, b), expected, rtol=1e-4)


# ------------------------------------------------------------------------------------------- generators


def test_rosinality_files_of_every_kind(tmp_path, tiny):
    state = tiny.state_dict()
    average = state.pop("mean_latent")
    contents = {
        "converted": {"g_ema": state, "latent_avg": average},
        "training": {"g": state, "d": {"x": torch.ones(1)}, "g_ema": state, "g_optim": {}, "d_optim": {}},
        "flat": state,
        "parallel": {f"module.{key}": value for key, value in state.items()},
    }
    ws = torch.randn(2, tiny.num_ws, 8)
    for name, content in contents.items():
        torch.save(content, tmp_path / name)
        loaded = weights.load_generator(tmp_path / name)
        assert torch.equal(loaded.synthesise(ws), tiny.synthesise(ws)), name
        own = name == "converted"
        expected = average if own else tiny.estimate_mean_latent()
        assert torch.allclose(loaded.mean_latent, expected, atol=1e-6), name


def test_generator_from_an_e4e_file(tmp_path, tiny):
    state = tiny.state_dict()
    average = state.pop("mean_latent")
    content = {f"decoder.{key}": value for key, value in state.items()}
    content |= {f"encoder.{key}": torch.ones(1) for key in ("styles.0.linear.weight", "latlayer1.weight")}
    torch.save({"state_dict": content, "latent_avg": average.repeat(6, 1)}, tmp_path / "e4e.pt")
    ws = torch.randn(1, tiny.num_ws, 8)
    loaded = weights.load_generator(tmp_path / "e4e.pt")
    assert torch.equal(loaded.synthesise(ws), tiny.synthesise(ws)) and torch.equal(loaded.mean_latent, average)


def test_loading_does_not_touch_the_random_state(tmp_path, tiny):
    torch.save({"g_ema": tiny.state_dict()}, tmp_path / "x.pt")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    loaded = weights.load_generator(tmp_path / "x.pt")
    assert torch.equal(torch.get_rng_state(), before)
    assert not loaded.training and not any(parameter.requires_grad for parameter in loaded.parameters())


def test_missing_unexpected_and_misshapen_keys_are_named(tmp_path, tiny):
    state = tiny.state_dict()
    del state["conv1.noise.weight"], state["convs.1.activate.bias"]
    state |= {"surplus": torch.ones(1), "to_rgb1.bias": torch.ones(1, 4, 1, 1)}
    torch.save({"g_ema": state}, tmp_path / "x.pt")
    with pytest.raises(WeightsError) as caught:
        weights.load_generator(tmp_path / "x.pt")
    message = str(caught.value)
    assert "2 missing: conv1.noise.weight, convs.1.activate.bias" in message
    assert "1 unexpected: surplus" in message
    assert "1 misshapen: to_rgb1.bias is [1, 4, 1, 1], should be [1, 3, 1, 1]" in message


def test_undefined_numbers_are_refused(tmp_path, tiny):
    tiny.to_rgb1.bias.data[0, 1] = float("nan")
    torch.save({"g_ema": tiny.state_dict()}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match="to_rgb1.bias holds infinite or undefined"):
        weights.load_generator(tmp_path / "x.pt")


LOADERS = {
    "encoder": weights.load_encoder,
    "landmarker": weights.load_landmarker,
    "parser": weights.load_parser,
    "perceptual": weights.load_perceptual,
}


@pytest.mark.parametrize("role", LOADERS)
def test_wrong_file_for_a_role_says_what_it_holds(tmp_path, tiny, role):
    torch.save({"g_ema": tiny.state_dict()}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=f"x.pt: holds a StyleGAN2 generator, but the {role} must be"):
        LOADERS[role](tmp_path / "x.pt")


def test_unknown_networks_are_refused(tmp_path):
    torch.save({"fc.weight": torch.ones(2, 2), "fc.bias": torch.ones(2)}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match="no network known here.*fc.weight, fc.bias"):
        weights.load_generator(tmp_path / "x.pt")
    torch.save([1, 2], tmp_path / "x.pt")
    with pytest.raises(WeightsError, match="holds a list"):
        weights.load_generator(tmp_path / "x.pt")


# --------------------------------------------------------------------------------------------- bundles


@pytest.fixture
def folder(tmp_path, tiny):
    weights.write_bundle_file(
        tmp_path / "mine", "generator", tiny.state_dict(), "stylegan2", TINY, trained_on="nothing"
    )
    return tmp_path / "mine"


def test_bundle_file_is_written_and_read_back(folder, tiny):
    bundle = hdtalk.load_bundle(folder)
    ws = torch.randn(1, tiny.num_ws, 8)
    expected = tiny.synthesise(ws)
    assert bundle.name == "mine" and bundle.resolution == 16 and bundle.has("generator") and not bundle.has("encoder")
    assert bundle.generator is bundle.generator and bundle.generator.conv1.conv.weight.dtype == torch.float32
    assert (bundle.generator.synthesise(ws) - expected).abs().max() < 0.01 * expected.std()
    entry = json.loads((folder / "bundle.json").read_text())["files"][0]
    assert (
        entry["trained_on"] == "nothing" and entry["sizes"] == TINY and bundle.hashes == {"generator": entry["sha256"]}
    )


def test_a_file_whose_hash_its_bundle_does_not_state_is_hashed(folder):
    """A job would take up what another file gave."""
    listing = json.loads((folder / "bundle.json").read_text())
    stated = listing["files"][0].pop("sha256")
    (folder / "bundle.json").write_text(json.dumps(listing))
    assert hdtalk.load_bundle(folder).hashes == {"generator": stated}


def test_half_precision_is_used_only_where_it_keeps_the_numbers(tmp_path):
    from hdtalk.models.demo_backbone import DemoBackbone

    network = DemoBackbone(4)
    network.stages[0][0].weight.data[0] = 1e6
    network.stages[1][0].bias.data[:] = 1e-6
    path = weights.write_bundle_file(tmp_path, "perceptual", network.state_dict(), "demo_backbone", {"width": 4})
    loaded = weights.load_bundle(tmp_path).perceptual.backbone
    assert torch.equal(loaded.stages[0][0].weight, network.stages[0][0].weight)
    assert torch.equal(loaded.stages[1][0].bias, network.stages[1][0].bias)
    assert torch.equal(loaded.stages[2][0].weight, network.stages[2][0].weight.half().float())
    assert path.stat().st_size < 2.2 * sum(value.numel() for value in network.state_dict().values())


def test_a_role_is_replaced_not_doubled(folder, tiny):
    tiny.to_rgb1.bias.data += 1
    weights.write_bundle_file(folder, "generator", tiny.state_dict(), "stylegan2", TINY)
    assert len(json.loads((folder / "bundle.json").read_text())["files"]) == 1
    assert torch.equal(weights.load_bundle(folder).generator.to_rgb1.bias, tiny.to_rgb1.bias.half().float())


def _write_one(folder, role, architecture, network, sizes):
    torch.set_num_threads(1)  # a forked process has none of its parent's threads and would wait for them forever
    weights.write_bundle_file(folder, role, network, architecture, sizes)


def test_two_trainers_may_write_one_bundle_at_once(folder):
    from hdtalk.models.bisenet import BiSeNet
    from hdtalk.models.demo_backbone import DemoBackbone
    from hdtalk.models.fan import FAN

    jobs = [
        (folder, "perceptual", "demo_backbone", DemoBackbone(4).state_dict(), {"width": 4}),
        (folder, "parser", "bisenet", BiSeNet(width=8).state_dict(), {"width": 8}),
        (folder, "landmarker", "fan", FAN(1, 16).state_dict(), {"num_modules": 1, "channels": 16}),
    ]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_write_one, args=job) for job in jobs]
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join(timeout=120)
        assert [process.exitcode for process in processes] == [0, 0, 0]
    finally:
        for process in processes:
            process.kill()
    bundle = weights.load_bundle(folder)
    assert list(bundle.files) == ["generator", "landmarker", "parser", "perceptual"]
    assert bundle.parser.logits(torch.zeros(1, 3, 64, 64)).shape == (1, 19, 64, 64)
    assert bundle.landmarker.num_modules == 1
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}


def test_damaged_and_missing_files_are_told(folder):
    path = folder / "generator.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(WeightsError, match="generator.safetensors: sha256 is"):
        _ = weights.load_bundle(folder).generator
    path.unlink()
    with pytest.raises(WeightsError, match=r"generator.safetensors is missing \(its generator\)"):
        _ = weights.load_bundle(folder).generator
    with pytest.raises(WeightsError, match="bundle mine has no encoder"):
        _ = weights.load_bundle(folder).encoder


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"architecture": "os:system"}, "os:system cannot serve as generator"),
        ({"file": "../../etc/passwd"}, "not a plain file name"),
        ({"file": "/etc/passwd"}, "not a plain file name"),
        ({"role": "magic"}, "cannot serve as magic"),
        ({"surplus": 1}, "surplus"),
    ],
)
def test_hostile_or_damaged_lists_are_refused(folder, change, reason):
    listing = json.loads((folder / "bundle.json").read_text())
    listing["files"][0] |= change
    (folder / "bundle.json").write_text(json.dumps(listing))
    with pytest.raises(WeightsError, match=reason):
        weights.load_bundle(folder)


@pytest.mark.parametrize("sizes", [{"resolution": 17}, {"nonsense": 1}, {"resolution": "x"}])
def test_impossible_sizes_are_refused(folder, sizes):
    listing = json.loads((folder / "bundle.json").read_text())
    listing["files"][0]["sizes"] = sizes
    (folder / "bundle.json").write_text(json.dumps(listing))
    with pytest.raises(WeightsError, match="cannot build a StyleGAN2 generator"):
        _ = weights.load_bundle(folder).generator


def test_no_bundle_there(tmp_path):
    with pytest.raises(WeightsError, match="no bundle there"):
        weights.load_bundle(tmp_path / "none")
    with pytest.raises(WeightsError, match="hdtalk weights fetch ffhq"):
        weights.load_bundle("ffhq")


def test_wrong_architecture_for_a_role_is_not_written(tmp_path):
    with pytest.raises(WeightsError, match="'parser' takes bisenet"):
        weights.write_bundle_file(tmp_path, "parser", {}, "fan", {})


# ----------------------------------------------------------------------------------------------- store


def test_adopted_by_structure_and_served_by_the_ffhq_bundle(tmp_path, home):
    state = filled(official_keys.fan(num_modules=1, width=16))
    torch.save(state, tmp_path / "my fan.pth")
    entry = weights.adopt(tmp_path / "my fan.pth")
    assert entry.role == "landmarker" and (home / "weights" / entry.file).is_file() and " " not in entry.file
    bundle = weights.load_bundle("ffhq", complete=False)
    assert bundle.has("landmarker") and bundle.landmarker.num_modules == 1
    assert "generator" in weights.missing_roles(bundle) and "landmarker" not in weights.missing_roles(bundle)
    assert weights.load_bundle(bundle.name, complete=False).hashes["landmarker"] == entry.sha256
    weights.adopt(tmp_path / "my fan.pth")
    assert len(list(weights.installed_files())) == 1
    assert bundle.borrowed == dict.fromkeys(("speech", "detector", "landmarker_eval"), "demo")


def test_ones_own_networks_serve_before_the_demo_s(home):
    entry = weights.adopt(weights.demo_folder() / "speech.safetensors")
    bundle = weights.load_bundle("ffhq", complete=False)
    assert entry.role == "speech" and "speech" not in bundle.borrowed and bundle.hashes["speech"] == entry.sha256
    with pytest.raises(WeightsError, match="num_ws 14, but bundle ffhq takes 18"):
        weights.adopt(weights.demo_folder() / "mouth_codes.safetensors")


def test_adopted_by_hash_under_the_official_name(tmp_path, home, monkeypatch):
    from dataclasses import replace

    from hdtalk import registry, store

    path = tmp_path / "renamed.bin"
    torch.save(filled(official_keys.fan(num_modules=1, width=16)), path)
    known = replace(registry.OFFICIAL_FILES[3], sha256=file_hash(path)[:10])
    monkeypatch.setattr(store, "OFFICIAL_FILES", (known,))
    assert weights.adopt(path).file == known.name and (home / "weights" / known.name).is_file()


def test_files_of_other_sizes_are_not_adopted(tmp_path):
    write_nvlabs(tmp_path / "x.pkl", nvlabs_state(), 16)
    with pytest.raises(WeightsError, match="resolution 16, but bundle ffhq takes 1024.*bundle.json"):
        weights.adopt(tmp_path / "x.pkl")
    (tmp_path / "y").write_text("nothing")
    with pytest.raises(WeightsError, match="not a checkpoint"):
        weights.adopt(tmp_path / "y")
    assert not list(weights.installed_files())


def test_auto_takes_the_best_bundle_and_says_which(monkeypatch, caplog, folder):
    from hdtalk import weights as module

    monkeypatch.setattr(module, "demo_folder", lambda: folder)
    with caplog.at_level("INFO"):
        assert weights.load_bundle("auto").resolution == 16
    assert "ffhq is not complete: no generator, encoder" in caplog.text
    monkeypatch.setattr(module, "missing_roles", lambda bundle: [])
    with caplog.at_level("INFO"):
        assert weights.load_bundle("auto").name == "ffhq"
    assert "bundle ffhq, 1024 px (the best one installed)" in caplog.text
