"""Every registered metric says what it is; the columns of the paper's tables are all there."""

import pytest

from hdtalk.metrics import METRICS


@pytest.mark.parametrize("name", METRICS)
def test_a_column_is_fully_described(name):
    metric = METRICS[name]
    assert metric.better in ("lower", "higher")
    assert len(metric.definition) > 50 and metric.definition.endswith(".")
    if metric.stand_in:
        assert "Not " in metric.stand_in and "demo bundle" in metric.stand_in


def test_the_papers_columns_are_registered():
    assert {"FID", "PSNR", "SSIM", "LPIPS", "F-LD", "M-LD", "Jitter", "ID", "LSE-C", "LSE-D"} <= set(METRICS)
