"""IR-SE50 face recogniser (ArcFace): a measure of whether a person stays the same."""

import torch
import torch.nn.functional as F
from torch import nn

from hdtalk.models.irse import IRSEBackbone

ROWS_PX, COLUMNS_PX, SIDE_PX = slice(35, 223), slice(32, 220), 112  # the face in a 256 px FFHQ crop; the net's input


class IRSE50(IRSEBackbone):
    """Embedding of aligned faces, on the keys of `model_ir_se50.pth`."""

    def __init__(self):
        super().__init__()
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(512), nn.Dropout(), nn.Flatten(), nn.Linear(512 * 7 * 7, 512), nn.BatchNorm1d(512)
        )

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        """`faces`: RGB `[N, 3, 112, 112]` in [-1, 1] -> unit vectors `[N, 512]`."""
        return F.normalize(self.output_layer(self.stages(faces)[-1]), dim=1)

    def embed(self, crops: torch.Tensor) -> torch.Tensor:
        """`crops`: RGB `[N, 3, R, R]` in [-1, 1], FFHQ alignment, R >= 256 -> unit vectors `[N, 512]`."""
        if crops.shape[-1] != 256:
            crops = F.adaptive_avg_pool2d(crops, 256)
        return self(F.adaptive_avg_pool2d(crops[:, :, ROWS_PX, COLUMNS_PX], SIDE_PX))
