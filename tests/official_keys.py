"""The published state dicts as names and shapes, written from their descriptions, and a rule that fills them."""

import math

import torch

Shapes = dict[str, tuple[int, ...]]


def filled(shapes: Shapes, scale: float = 0.1) -> dict[str, torch.Tensor]:
    """Waves whose frequency depends on the name; variances are positive, filters are the real ones."""
    state = {}
    for key, shape in shapes.items():
        count = math.prod(shape)
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(7)
            continue
        step = 1 + sum(key.encode()) % 97 / 31
        values = torch.sin(torch.arange(count, dtype=torch.float32).mul_(step))
        if key.endswith("running_var"):
            values = 1 + 0.5 * values
        elif key.endswith(("kernel", "resample_filter")):
            taps = torch.tensor([1.0, 3, 3, 1])
            values = torch.outer(taps, taps).flatten() / (16 if key.endswith("kernel") else 64)
        elif count > 1 << 16:
            values = values * 0.02
        else:
            values = values * scale
        state[key] = values.reshape(shape)
    return state


def batch_norm(prefix: str, width: int) -> Shapes:
    named = {f"{prefix}.{name}": (width,) for name in ("weight", "bias", "running_mean", "running_var")}
    return named | {f"{prefix}.num_batches_tracked": ()}


def rosinality(resolution: int = 1024, multiplier: int = 2) -> Shapes:
    width = {4: 512, 8: 512, 16: 512, 32: 512} | {
        side: 256 * multiplier * 64 // side for side in (64, 128, 256, 512, 1024)
    }
    shapes: Shapes = {}
    for k in range(1, 9):
        shapes |= {f"style.{k}.weight": (512, 512), f"style.{k}.bias": (512,)}
    shapes["input.input"] = (1, 512, 4, 4)

    def modulated(prefix, out, into, kernel, blur=False):
        found = {f"{prefix}.conv.weight": (1, out, into, kernel, kernel)}
        if blur:
            found[f"{prefix}.conv.blur.kernel"] = (4, 4)
        return found | {f"{prefix}.conv.modulation.weight": (into, 512), f"{prefix}.conv.modulation.bias": (into,)}

    def styled(prefix, out, into, blur=False):
        noise = {f"{prefix}.noise.weight": (1,), f"{prefix}.activate.bias": (out,)}
        return modulated(prefix, out, into, 3, blur) | noise

    shapes |= styled("conv1", 512, 512)
    shapes |= {"to_rgb1.bias": (1, 3, 1, 1)} | modulated("to_rgb1", 3, 512, 1)
    sides = [2**k for k in range(3, int(math.log2(resolution)) + 1)]
    for i, side in enumerate(sides):
        shapes |= styled(f"convs.{2 * i}", width[side], width[side // 2], blur=True)
        shapes |= styled(f"convs.{2 * i + 1}", width[side], width[side])
    for i, side in enumerate(sides):
        shapes |= {f"to_rgbs.{i}.bias": (1, 3, 1, 1), f"to_rgbs.{i}.upsample.kernel": (4, 4)}
        shapes |= modulated(f"to_rgbs.{i}", 3, width[side], 1)
    for k in range(2 * len(sides) + 1):
        shapes[f"noises.noise_{k}"] = (1, 1, 2 ** ((k + 5) // 2), 2 ** ((k + 5) // 2))
    return shapes


def nvlabs(resolution: int = 1024, channel_base: int = 32768) -> Shapes:
    shapes: Shapes = {"synthesis.b4.const": (512, 4, 4)}
    into = 512
    for side in [2**k for k in range(2, int(math.log2(resolution)) + 1)]:
        out, block = min(channel_base // side, 512), f"synthesis.b{side}"
        shapes[f"{block}.resample_filter"] = (4, 4)
        for layer, width in (("conv0", into), ("conv1", out)) if side > 4 else (("conv1", out),):
            shapes |= {f"{block}.{layer}.weight": (out, width, 3, 3), f"{block}.{layer}.noise_strength": ()}
            shapes |= {f"{block}.{layer}.bias": (out,), f"{block}.{layer}.resample_filter": (4, 4)}
            shapes |= {f"{block}.{layer}.noise_const": (side, side)}
            shapes |= {f"{block}.{layer}.affine.weight": (width, 512), f"{block}.{layer}.affine.bias": (width,)}
        shapes |= {f"{block}.torgb.weight": (3, out, 1, 1), f"{block}.torgb.bias": (3,)}
        shapes |= {f"{block}.torgb.affine.weight": (out, 512), f"{block}.torgb.affine.bias": (out,)}
        into = out
    shapes["mapping.w_avg"] = (512,)
    for k in range(8):
        shapes |= {f"mapping.fc{k}.weight": (512, 512), f"mapping.fc{k}.bias": (512,)}
    return shapes


def ir_se_body() -> Shapes:
    shapes = {"input_layer.0.weight": (64, 3, 3, 3)} | batch_norm("input_layer.1", 64) | {"input_layer.2.weight": (64,)}
    index, into = 0, 64
    for out, units in ((64, 3), (128, 4), (256, 14), (512, 3)):
        for _ in range(units):
            unit = f"body.{index}"
            if into != out:
                shapes |= {f"{unit}.shortcut_layer.0.weight": (out, into, 1, 1)} | batch_norm(
                    f"{unit}.shortcut_layer.1", out
                )
            shapes |= batch_norm(f"{unit}.res_layer.0", into)
            shapes |= {f"{unit}.res_layer.1.weight": (out, into, 3, 3), f"{unit}.res_layer.2.weight": (out,)}
            shapes |= {f"{unit}.res_layer.3.weight": (out, out, 3, 3)} | batch_norm(f"{unit}.res_layer.4", out)
            shapes |= {f"{unit}.res_layer.5.fc1.weight": (out // 16, out, 1, 1)}
            shapes |= {f"{unit}.res_layer.5.fc2.weight": (out, out // 16, 1, 1)}
            index, into = index + 1, out
    return shapes


def e4e_encoder(resolution: int = 1024) -> Shapes:
    shapes = ir_se_body()
    for i in range(2 * int(math.log2(resolution)) - 2):
        for j in range(4 if i < 3 else 5 if i < 7 else 6):
            shapes |= {f"styles.{i}.convs.{2 * j}.weight": (512, 512, 3, 3), f"styles.{i}.convs.{2 * j}.bias": (512,)}
        shapes |= {f"styles.{i}.linear.weight": (512, 512), f"styles.{i}.linear.bias": (512,)}
    for name, into in (("latlayer1", 256), ("latlayer2", 128)):
        shapes |= {f"{name}.weight": (512, into, 1, 1), f"{name}.bias": (512,)}
    return shapes


def ir_se50() -> Shapes:
    head = batch_norm("output_layer.0", 512) | {"output_layer.3.weight": (512, 25088), "output_layer.3.bias": (512,)}
    return ir_se_body() | head | batch_norm("output_layer.4", 512)


def fan(num_modules: int = 4, width: int = 256, num_landmarks: int = 68) -> Shapes:
    def conv(name, out, into, kernel, bias=True):
        return {f"{name}.weight": (out, into, kernel, kernel)} | ({f"{name}.bias": (out,)} if bias else {})

    def block(name, into, out):
        shapes: Shapes = {}
        widths = [into, out // 2, out // 4, out // 4]
        for k in (1, 2, 3):
            shapes |= batch_norm(f"{name}.bn{k}", widths[k - 1])
            shapes |= conv(f"{name}.conv{k}", widths[k], widths[k - 1], 3, bias=False)
        if into != out:
            shapes |= batch_norm(f"{name}.downsample.0", into) | conv(f"{name}.downsample.2", out, into, 1, bias=False)
        return shapes

    shapes = conv("conv1", width // 4, 3, 7) | batch_norm("bn1", width // 4)
    shapes |= block("conv2", width // 4, width // 2) | block("conv3", width // 2, width // 2)
    shapes |= block("conv4", width // 2, width)
    for m in range(num_modules):
        for level in (4, 3, 2, 1):
            for branch in (1, 2, 3):
                shapes |= block(f"m{m}.b{branch}_{level}", width, width)
        shapes |= block(f"m{m}.b2_plus_1", width, width) | block(f"top_m_{m}", width, width)
        shapes |= conv(f"conv_last{m}", width, width, 1) | batch_norm(f"bn_end{m}", width)
        shapes |= conv(f"l{m}", num_landmarks, width, 1)
        if m < num_modules - 1:
            shapes |= conv(f"bl{m}", width, width, 1) | conv(f"al{m}", width, num_landmarks, 1)
    return shapes


def bisenet(num_classes: int = 19) -> Shapes:
    def conv_bn(name, out, into, kernel):
        return {f"{name}.conv.weight": (out, into, kernel, kernel)} | batch_norm(f"{name}.bn", out)

    shapes = {"cp.resnet.conv1.weight": (64, 3, 7, 7)} | batch_norm("cp.resnet.bn1", 64)
    into = 64
    for stage, out in enumerate((64, 128, 256, 512), 1):
        for unit in (0, 1):
            name = f"cp.resnet.layer{stage}.{unit}"
            shapes |= {f"{name}.conv1.weight": (out, into, 3, 3)} | batch_norm(f"{name}.bn1", out)
            shapes |= {f"{name}.conv2.weight": (out, out, 3, 3)} | batch_norm(f"{name}.bn2", out)
            if into != out:
                shapes |= {f"{name}.downsample.0.weight": (out, into, 1, 1)} | batch_norm(f"{name}.downsample.1", out)
            into = out
    for arm, width in (("arm16", 256), ("arm32", 512)):
        shapes |= conv_bn(f"cp.{arm}.conv", 128, width, 3) | {f"cp.{arm}.conv_atten.weight": (128, 128, 1, 1)}
        shapes |= batch_norm(f"cp.{arm}.bn_atten", 128)
    shapes |= conv_bn("cp.conv_head32", 128, 128, 3) | conv_bn("cp.conv_head16", 128, 128, 3)
    shapes |= conv_bn("cp.conv_avg", 128, 512, 1) | conv_bn("ffm.convblk", 256, 256, 1)
    shapes |= {"ffm.conv1.weight": (64, 256, 1, 1), "ffm.conv2.weight": (256, 64, 1, 1)}
    for name, into, middle in (("conv_out", 256, 256), ("conv_out16", 128, 64), ("conv_out32", 128, 64)):
        shapes |= conv_bn(f"{name}.conv", middle, into, 3) | {f"{name}.conv_out.weight": (num_classes, middle, 1, 1)}
    return shapes


def alexnet() -> Shapes:
    shapes: Shapes = {}
    for index, out, into, kernel in (
        (0, 64, 3, 11),
        (3, 192, 64, 5),
        (6, 384, 192, 3),
        (8, 256, 384, 3),
        (10, 256, 256, 3),
    ):
        shapes |= {f"features.{index}.weight": (out, into, kernel, kernel), f"features.{index}.bias": (out,)}
    return shapes | {"classifier.6.weight": (1000, 16), "classifier.6.bias": (1000,)}  # the rest is not read


def vgg16() -> Shapes:
    shapes: Shapes = {}
    indices = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    widths = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    for index, into, out in zip(indices, widths, widths[1:], strict=False):
        shapes |= {f"features.{index}.weight": (out, into, 3, 3), f"features.{index}.bias": (out,)}
    return shapes | {"classifier.6.weight": (1000, 16), "classifier.6.bias": (1000,)}


def count(shapes: Shapes) -> tuple[int, int]:
    """Tensors, and numbers in them."""
    return len(shapes), sum(math.prod(shape) for shape in shapes.values())
