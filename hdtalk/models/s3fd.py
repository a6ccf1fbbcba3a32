"""S3FD, the published face detector that the published landmark network was used with (Zhang et al., ICCV 2017)."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import nms

LONG_SIDE_PX = 640  # pictures are shrunk to this before the network looks
MEAN_BGR = (104.0, 117.0, 123.0)
STAGES = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))  # VGG-16: convolutions and channels per stage
HEADS = {"conv3_3_norm": 256, "conv4_3_norm": 512, "conv5_3_norm": 512, "fc7": 1024, "conv6_2": 512, "conv7_2": 256}
VARIANCES = (0.1, 0.2)


class S3FD(nn.Module):
    """VGG-16 with a head at each of six scales (strides 4 to 128), on the keys of `s3fd-619a316812.pth`."""

    def __init__(self):
        super().__init__()
        channels = 3
        for stage, (depth, width) in enumerate(STAGES, 1):
            for k in range(1, depth + 1):
                self.add_module(f"conv{stage}_{k}", nn.Conv2d(channels, width, 3, 1, 1))
                channels = width
        self.fc6, self.fc7 = nn.Conv2d(512, 1024, 3, 1, 3), nn.Conv2d(1024, 1024, 1)
        self.conv6_1, self.conv6_2 = nn.Conv2d(1024, 256, 1), nn.Conv2d(256, 512, 3, 2, 1)
        self.conv7_1, self.conv7_2 = nn.Conv2d(512, 128, 1), nn.Conv2d(128, 256, 3, 2, 1)
        for stage in (3, 4, 5):
            self.add_module(f"conv{stage}_3_norm", _Norm(STAGES[stage - 1][1]))
        for name, width in HEADS.items():
            classes = 4 if name == "conv3_3_norm" else 2
            self.add_module(f"{name}_mbox_conf", nn.Conv2d(width, classes, 3, 1, 1))
            self.add_module(f"{name}_mbox_loc", nn.Conv2d(width, 4, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """`images`: RGB `[N, 3, H, W]` in 0..255 -> per scale logits (nothing, face) `[N, 2, h, w]` and boxes as
        offsets from the anchors `[N, 4, h, w]`."""
        mean = images.new_tensor(MEAN_BGR)[:, None, None]
        x, maps = (images.flip(1) - mean).contiguous(memory_format=torch.channels_last), {}
        for stage, (depth, _) in enumerate(STAGES, 1):
            for k in range(1, depth + 1):
                x = F.relu(getattr(self, f"conv{stage}_{k}")(x))
            if stage >= 3:
                maps[f"conv{stage}_3_norm"] = getattr(self, f"conv{stage}_3_norm")(x)
            x = F.max_pool2d(x, 2)
        for name in ("fc6", "fc7", "conv6_1", "conv6_2", "conv7_1", "conv7_2"):
            x = maps[name] = F.relu(getattr(self, name)(x))
        answers = []
        for name in HEADS:
            logits, box = (getattr(self, f"{name}_mbox_{kind}")(maps[name]) for kind in ("conf", "loc"))
            if logits.shape[1] == 4:  # the finest scale has three guesses at "nothing"; the strongest counts
                logits = torch.cat([logits[:, :3].amax(1, keepdim=True), logits[:, 3:]], 1)
            answers.append((logits, box))
        return answers

    @torch.no_grad()
    def detect(
        self, frames: np.ndarray, threshold: float = 0.5, overlap: float = 0.3, batch_size: int = 4
    ) -> list[np.ndarray]:
        """`frames`: uint8 RGB `[T, H, W, 3]` -> per frame float32 `[K, 5]`: x0, y0, x1, y1 in pixels, score in [0, 1].

        Best first. `threshold`: lowest score kept; of boxes that share more than `overlap` of their union, the best is.
        """
        frames = np.asarray(frames)
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
            raise ValueError(f"frames must be uint8 [T, H, W, 3], got {frames.dtype} {list(frames.shape)}")
        height, width = frames.shape[1:3]
        shrink = min(1.0, LONG_SIDE_PX / max(height, width))
        size = max(32, round(height * shrink)), max(32, round(width * shrink))
        scale = np.array([width / size[1], height / size[0]] * 2, np.float32)
        parameter, found = self.fc7.weight, []
        for start in range(0, len(frames), batch_size):
            part = torch.from_numpy(np.ascontiguousarray(frames[start : start + batch_size])).to(parameter.device)
            images = part.permute(0, 3, 1, 2).float()
            if size != (height, width):
                images = F.interpolate(images, size, mode="bilinear", antialias=True)
            answers = self(images.to(parameter.dtype))
            for k in range(len(part)):
                boxes, scores = _decode([(logits[k].float(), box[k].float()) for logits, box in answers], threshold)
                kept = nms(boxes, scores, overlap)  # best first
                boxes = boxes[kept].cpu().numpy() * scale
                boxes = boxes.clip(0, np.array([width, height] * 2, np.float32))
                found.append(np.concatenate([boxes, scores[kept, None].cpu().numpy()], 1).astype(np.float32))
        return found


def _decode(answers, threshold):
    """Boxes `[K, 4]` in pixels of the network's input and their scores `[K]`, of all scales of one image."""
    boxes, scores = [], []
    for level, (logits, offsets) in enumerate(answers):
        score = logits.softmax(0)[1]
        rows, columns = (score >= threshold).nonzero(as_tuple=True)
        stride = 4 << level
        side = 4.0 * stride  # of this scale's square anchors
        centre = (torch.stack([columns, rows], 1) + 0.5) * stride
        offset = offsets[:, rows, columns].t()
        centre = centre + offset[:, :2] * VARIANCES[0] * side
        half = side / 2 * (offset[:, 2:] * VARIANCES[1]).exp()
        boxes.append(torch.cat([centre - half, centre + half], 1))
        scores.append(score[rows, columns])
    return torch.cat(boxes), torch.cat(scores)


class _Norm(nn.Module):
    """Length one over the channels, then a learned scale per channel."""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x):
        return x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10) * self.weight[:, None, None]
