"""Identity similarity: does the edited face still look like the same person?"""

from collections.abc import Callable

import numpy as np
import torch

DEFINITION = (
    "Cosine similarity of the ArcFace IR-SE50 embeddings of prediction and ground truth (256 px FFHQ crop, rows "
    "35 to 222, columns 32 to 219, pooled to 112 px); mean over frames. 1 = same face."
)
DEMO_DEFINITION = (
    "Not a face recognition score: cosine similarity of the demo bundle's perceptual features (spatial mean of its "
    "last tap) on the 256 px FFHQ crop, because the official IR-SE50 weights are not installed."
)


def identity_similarity(
    prediction: np.ndarray,
    ground_truth: np.ndarray,
    embed: Callable[[np.ndarray], torch.Tensor],
) -> np.ndarray:
    """Cosine of each pair, float64 [N] in [-1,1]. Both uint8 RGB [N,256,256,3] FFHQ crops; `embed` maps such an array
    to embeddings [N,D] of any length."""
    with torch.inference_mode():
        a, b = embed(prediction).double().cpu(), embed(ground_truth).double().cpu()
    return torch.nn.functional.cosine_similarity(a, b, dim=1).numpy()
