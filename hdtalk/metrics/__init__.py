"""Measures of the paper's section IV, one file each; `METRICS` lists the columns of `hdtalk evaluate`, in order."""

from dataclasses import dataclass

from hdtalk.metrics import fid, identity, jitter, landmark_distance, lpips, lse, psnr, ssim


@dataclass(frozen=True)
class Metric:
    """One column. `better`: "lower" or "higher"; `perfect`: its value when a video is compared with itself (None: it
    depends on the video); `definition`: one exact sentence, printed with the numbers; `stand_in`: the sentence that
    replaces it when the published network is missing and the demo bundle's own takes its place ("" = no stand-in)."""

    better: str
    unit: str
    perfect: float | None
    definition: str
    stand_in: str = ""

    @property
    def arrow(self) -> str:
        return "↓" if self.better == "lower" else "↑"


STAND_IN_SUFFIX = "-demo"

METRICS: dict[str, Metric] = {
    "FID": Metric("lower", "", 0.0, fid.DEFINITION, fid.DEMO_DEFINITION),
    "PSNR": Metric("higher", "dB", float("inf"), psnr.DEFINITION),
    "SSIM": Metric("higher", "", 1.0, ssim.DEFINITION),
    "LPIPS": Metric("lower", "", 0.0, lpips.DEFINITION, lpips.DEMO_DEFINITION),
    "F-LD": Metric("lower", "px", 0.0, landmark_distance.F_LD_DEFINITION),
    "M-LD": Metric("lower", "px", 0.0, landmark_distance.M_LD_DEFINITION),
    "Jitter": Metric("lower", "px", 0.0, jitter.DEFINITION),
    "BG-jitter": Metric("lower", "grey", 0.0, jitter.BACKGROUND_DEFINITION),
    "ID": Metric("higher", "", 1.0, identity.DEFINITION, identity.DEMO_DEFINITION),
    "LSE-D": Metric("lower", "", None, lse.LSE_D_DEFINITION),
    "LSE-C": Metric("higher", "", None, lse.LSE_C_DEFINITION),
}
