"""Foreign checkpoint files: what is read, and that nothing in them ever runs."""

import io
import os
import pickle
import random
import struct
import zipfile

import numpy as np
import pytest
import torch
from foreign_files import Persistent, foreign_modules, legacy, legacy_01, nvlabs_state, write_nvlabs, write_tensorflow
from safetensors.torch import save_file

from hdtalk.checkpoints import Record, Tensor, flatten, flatten_module, guarded, read_checkpoint
from hdtalk.errors import WeightsError


class Evil:
    """Unpickled the ordinary way, it creates the file `mark`."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.fixture
def mark(tmp_path):
    return tmp_path / "executed"


def refuse(path, mark, match="refused"):
    with pytest.raises(WeightsError, match=match) as caught:
        read_checkpoint(path)
    assert caught.value.exit_code == 4 and "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert not mark.exists()


def test_the_payload_of_these_tests_is_live(mark):
    pickle.loads(pickle.dumps(Evil(mark)))
    assert mark.exists()


@pytest.mark.parametrize("protocol", range(2, 6))
def test_bare_pickle_that_calls_the_shell(tmp_path, mark, protocol):
    path = tmp_path / "ffhq.pkl"
    path.write_bytes(pickle.dumps({"G_ema": Evil(mark)}, protocol))
    refuse(path, mark, "posix.system")


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_file_that_calls_the_shell(tmp_path, mark, zipped):
    path = tmp_path / "model.pth"
    torch.save({"conv.weight": torch.ones(2), "more": Evil(mark)}, path, _use_new_zipfile_serialization=zipped)
    refuse(path, mark, "posix.system")


def test_persistent_object_whose_source_would_run(tmp_path, mark):
    path = tmp_path / "ffhq.pkl"
    with foreign_modules() as names:
        source = f"import os; os.system('touch {mark}')"
        path.write_bytes(pickle.dumps({"G_ema": Persistent(names.reconstruct, "Generator", {"a": 1}, source)}))
    checkpoint = read_checkpoint(path)  # the source is data: kept out, never compiled
    assert checkpoint.content["G_ema"] == {"a": 1} and checkpoint.content["G_ema"].kind == "Generator"
    assert not mark.exists()


def test_persistent_object_with_a_call_inside_its_state(tmp_path, mark):
    path = tmp_path / "ffhq.pkl"
    with foreign_modules() as names:
        path.write_bytes(pickle.dumps({"G_ema": Persistent(names.reconstruct, "Generator", {"a": Evil(mark)})}))
    refuse(path, mark, "posix.system")


def test_storage_whose_bytes_are_another_evil_file(tmp_path, mark):
    class Storage:
        def __init__(self, raw):
            self.raw = raw

        def __reduce__(self):
            return torch.storage._load_from_bytes, (self.raw,)

    for number, raw in enumerate([legacy(Evil(mark)), pickle.dumps(Evil(mark))]):
        path = tmp_path / f"{number}.pkl"
        path.write_bytes(pickle.dumps({"G_ema": Storage(raw)}))
        refuse(path, mark)


def test_torchscript_archive_with_evil_index_and_code(tmp_path, mark):
    good = tmp_path / "good.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(good))
    path = tmp_path / "bad.pt"
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("/data.pkl"):
                content = pickle.dumps(Evil(mark), 2)
            target.writestr(name, content)
    refuse(path, mark, "posix.system")


REFUSED = {
    "evaluates": b"c__builtin__\neval\n(Vos.getpid()\ntR.",
    "gets an attribute": b"cbuiltins\ngetattr\n(ctorch\nload\nVx\ntR.",
    "imports through a dotted name": b"\x8c\x05torch\x8c\x0ehub.load_state\x93.",
    "an attribute of an allowed module": b"ctorch\nload\n.",
    "instances by the old opcodes": b"(ios\nsystem\n.",
    "an extension code": b"\x82\x01.",
    "alters an allowed function": b"ctorch._utils\n_rebuild_parameter\n}Vx\nK\x01sb.",
    "alters an allowed class": b"ccollections\nOrderedDict\nN}Vx\nK\x01s\x86b.",
    "calls a plain object": b"K\x01(K\x01tR.",
    "persistent id of another kind": b"Vhttp://example.org\nQ.",
    "an array of objects": b"cnumpy\ndtype\n(VO8\nK\x00K\x01tR.",
    "an array on text": b"cnumpy._core.numeric\n_frombuffer\n(Vx\ncnumpy\ndtype\n(Vf4\ntR(K\x01tVC\ntR.",
    "an array past its bytes": b"cnumpy.core.numeric\n_frombuffer\n(C\x01xcnumpy\ndtype\n(Vf4\ntR(K\x01tVC\ntR.",
    "a huge memo index": b"Nr\xff\xff\xff\xff" + b"cos\nsystem\n.",
    "new object of an allowed function": b"ctorch._utils\n_rebuild_parameter\n)\x81.",
}


@pytest.mark.parametrize("program", REFUSED.values(), ids=REFUSED)
def test_small_programs_are_refused(tmp_path, mark, program):
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x04" + program)
    refuse(path, mark, "refused|damaged")


def test_reading_leaves_no_trace_in_the_reader(tmp_path):
    """A class or function that one file could alter would betray the next file."""
    import hdtalk.checkpoints as module

    before = {name: vars(value).copy() for name, value in vars(module).items() if isinstance(value, type)}
    for program in REFUSED.values():
        path = tmp_path / "x.pkl"
        path.write_bytes(b"\x80\x04" + program)
        with pytest.raises(WeightsError):
            read_checkpoint(path)
    after = {name: vars(value).copy() for name, value in vars(module).items() if isinstance(value, type)}
    assert before == after


def tensor_program(offset, shape, stride):
    """A legacy torch.save whose only tensor claims this part of a storage that holds 0, 1, ... 5."""
    buffer = io.BytesIO()
    pickler = pickle._Pickler(buffer, 2)
    storage = object()
    pickler.persistent_id = lambda item: (
        ("storage", torch.FloatStorage, "0", "cpu", 6, None) if item is storage else None
    )

    class Claim:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (storage, offset, shape, stride, False, {})

    pickler.dump({"w": Claim()})
    heads = b"".join(pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    tail = pickle.dumps(["0"], 2) + struct.pack("<q", 6) + np.arange(6, dtype="<f4").tobytes()
    return heads + buffer.getvalue() + tail


@pytest.mark.parametrize(
    "offset, shape, stride, expected",
    [
        (1, (2, 2), (3, 1), [[1, 2], [4, 5]]),
        (0, (3, 2), (1, 3), [[0, 3], [1, 4], [2, 5]]),
        (2, (3,), (0,), [2, 2, 2]),
        (0, (0, 4), (4, 1), np.zeros((0, 4)).tolist()),
    ],
)
def test_views_are_read_as_stored(tmp_path, offset, shape, stride, expected):
    path = tmp_path / "x.pth"
    path.write_bytes(tensor_program(offset, shape, stride))
    assert read_checkpoint(path).content["w"].load().tolist() == expected


@pytest.mark.parametrize(
    "offset, shape, stride",
    [
        (1, (6,), (1,)),
        (0, (2, 4), (3, 1)),
        (-1, (2,), (1,)),
        (0, (1 << 40,), (0,)),
        (0, (2,), (-1,)),
        (0, (2,), (1, 1)),
    ],
)
def test_tensors_that_reach_past_their_storage_are_refused(tmp_path, offset, shape, stride):
    path = tmp_path / "x.pth"
    path.write_bytes(tensor_program(offset, shape, stride))
    with pytest.raises(WeightsError, match="refused|past its storage"):
        read_checkpoint(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_every_type_survives(tmp_path, zipped):
    dtypes = [
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.uint8,
        torch.bool,
    ]
    state = {str(dtype): torch.tensor([[0, 1], [1, 0]]).to(dtype) for dtype in dtypes}
    state["transposed"] = torch.arange(6.0).reshape(2, 3).t()
    state["scalar"] = torch.tensor(3.5)
    shared = torch.arange(10.0)
    state["front"], state["back"] = shared[:4], shared[4:]
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "x", _use_new_zipfile_serialization=zipped)
    checkpoint = read_checkpoint(tmp_path / "x")
    assert checkpoint.container == ("torch" if zipped else "torch-legacy") and checkpoint.content["epoch"] == 3
    read = dict(flatten(checkpoint.content["state_dict"]))
    for key, value in state.items():
        loaded = read[key].load()
        assert torch.equal(loaded, value) and loaded.dtype == value.dtype and read[key].shape == tuple(value.shape)
        assert loaded.is_contiguous()


@pytest.mark.parametrize("wrap", [lambda tensor: tensor, torch.nn.Parameter])
def test_the_oldest_tensors(tmp_path, wrap):
    value = torch.arange(6.0).reshape(2, 3)
    path = tmp_path / "x.pth"
    path.write_bytes(legacy_01({"w": wrap(value), "bias": wrap(value[0].clone())}))
    read = dict(flatten(read_checkpoint(path).content))
    assert torch.equal(read["w"].load(), value) and read["w"].shape == (2, 3) and read["w"].dtype == torch.float32
    assert torch.equal(read["bias"].load(), value[0])
    path.write_bytes(legacy_01({"w": wrap(value)}).replace(b"K\x02K\x03\x86", b"K\x03K\x03\x86"))
    with pytest.raises(WeightsError, match="past its storage"):
        read_checkpoint(path)


def test_training_checkpoint_with_optimiser_and_arguments(tmp_path):
    from argparse import Namespace

    network = torch.nn.Linear(3, 2)
    optimiser = {"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(2, 3)}}, "param_groups": [{"lr": 0.1}]}
    torch.save({"g_ema": network.state_dict(), "g_optim": optimiser, "args": Namespace(size=256)}, tmp_path / "x")
    content = read_checkpoint(tmp_path / "x").content
    assert content["args"] == {"size": 256} and isinstance(content["args"], Record)
    assert list(dict(flatten(content["g_ema"]))) == ["weight", "bias"]


def test_a_small_file_that_unfolds_into_millions_of_names_is_refused(tmp_path):
    content = {"weight": torch.zeros(1)}
    for _ in range(30):
        content = {"a": content, "b": content}
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match="refused, its content is nested"):
        list(flatten(read_checkpoint(tmp_path / "x.pt").content))


def test_whole_modules_are_refused_by_name(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=r"torch\.nn\.modules\.linear\.Linear.*Nothing was run"):
        read_checkpoint(tmp_path / "x.pt")


def test_nvlabs_pickle_gives_state_and_options(tmp_path):
    state = nvlabs_state()
    path = write_nvlabs(tmp_path / "ffhq.pkl", state, 16, conv_clamp=256, num_fp16_res=4)
    checkpoint = read_checkpoint(path)
    assert checkpoint.container == "nvlabs-pickle"
    module = checkpoint.content["G_ema"]
    read = dict(flatten_module(module))
    assert set(read) == set(state)
    assert all(torch.equal(read[key].load(), value) for key, value in state.items())
    assert module["_init_kwargs"]["synthesis_kwargs"]["conv_clamp"] == 256 and module["weight_gain"] == 0.25


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize(
    "weight",
    [np.arange(6.0).reshape(2, 3, order="F"), np.arange(6)[::2], np.arange(24.0).reshape(2, 3, 4).swapaxes(1, 2)],
    ids=["columns first", "strided", "axes moved"],
)
def test_tensorflow_pickle_gives_variables(tmp_path, protocol, weight):
    arrays = {"dlatent_avg": np.arange(4, dtype=np.float32), "mapping/Dense0/weight": weight}
    checkpoint = read_checkpoint(write_tensorflow(tmp_path / "x.pkl", arrays, protocol))
    assert checkpoint.container == "tensorflow-pickle"
    average = checkpoint.content[2]
    assert average["variables"][0][0] == "dlatent_avg" and average["variables"][0][1].values.tolist() == [0, 1, 2, 3]
    name, array = average["components"]["mapping"]["variables"][0]
    assert name == "Dense0/weight" and np.array_equal(array.values, arrays["mapping/Dense0/weight"])


def test_torchscript_gives_the_state_dict_without_its_code(tmp_path):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU()).eval()
    torch.jit.trace(network, torch.ones(1, 3, 8, 8)).save(str(tmp_path / "x.zip"))
    checkpoint = read_checkpoint(tmp_path / "x.zip")
    read = {key: value.load() for key, value in flatten(checkpoint.content)}
    assert checkpoint.container == "torchscript" and set(read) == set(network.state_dict())
    assert all(torch.equal(read[key], value) for key, value in network.state_dict().items())


CONTAINERS = {
    "torch": lambda path: torch.save({"a": torch.arange(20.0), "b": torch.ones(3, 3)}, path),
    "legacy": lambda path: path.write_bytes(legacy({"a": torch.arange(20.0), "b": torch.ones(3, 3)})),
    "script": lambda path: torch.jit.script(torch.nn.Linear(4, 4)).save(str(path)),
    "nvlabs": lambda path: write_nvlabs(path, {"mapping.w_avg": torch.ones(8), "synthesis.b4.const": torch.ones(4)}, 4),
    "tensorflow": lambda path: write_tensorflow(path, {"mapping/Dense0/weight": np.ones((4, 4), np.float32)}),
    "safetensors": lambda path: save_file({"a": torch.arange(20.0), "b": torch.ones(3, 3)}, path),
}


def read_all(path):
    with guarded(path):
        return _read_all(path)


def _read_all(path):
    content, tensors = read_checkpoint(path).content, []

    def visit(item, depth=0):
        if isinstance(item, Tensor):
            tensors.append(item.load())
        elif isinstance(item, dict) and depth < 40:
            for value in item.values():
                visit(value, depth + 1)

    visit(content)
    return tensors


@pytest.mark.parametrize("container", CONTAINERS)
def test_cut_off_files_are_refused(tmp_path, container):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    CONTAINERS[container](whole)
    content = whole.read_bytes()
    assert len(read_all(whole)) == {"tensorflow": 0, "nvlabs": 5}.get(container, 2)
    for length in {0, 1, 7, 20, 64, len(content) // 4, len(content) // 2, len(content) * 3 // 4, len(content) - 1}:
        cut.write_bytes(content[:length])
        with pytest.raises(WeightsError):
            read_all(cut)


@pytest.mark.parametrize("container", CONTAINERS)
def test_damaged_files_fail_in_one_way_only(tmp_path, container):
    whole, damaged = tmp_path / "whole", tmp_path / "damaged"
    CONTAINERS[container](whole)
    content = whole.read_bytes()
    random.seed(container)
    for _ in range(80):
        changed = bytearray(content)
        for _ in range(random.choice([1, 1, 4])):
            changed[random.randrange(len(changed))] = random.randrange(256)
        damaged.write_bytes(changed)
        try:
            read_all(damaged)
        except WeightsError as error:
            assert str(damaged) in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    "content, what",
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>confirm</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "placeholder"),
        (b"PNG....", "not a checkpoint"),
    ],
)
def test_other_files_are_named(tmp_path, content, what):
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=what):
        read_checkpoint(path)


def test_missing_files_and_folders(tmp_path):
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(WeightsError, match="cannot read"):
            read_checkpoint(path)
