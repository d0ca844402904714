"""Products keep to their own precision, and leave torch's settings as they were."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from rapids_slr.engine import blocks


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 5), (64, 64)])
def test_blocks_are_the_product(monkeypatch, rows, columns):
    monkeypatch.setattr(blocks, "BLOCK", rows)
    monkeypatch.setattr(blocks, "STRIP", columns)
    x_ND = np.random.default_rng(0).integers(-3, 4, (7, 2)).astype(np.float32)
    found_NN = np.zeros((7, 7), np.float32)
    for row, column, block_IJ in blocks.similarity_blocks(x_ND, x_ND):
        part = found_NN[row : row + len(block_IJ), column : column + block_IJ.shape[1]]
        assert not part.any(), "no entry comes twice"
        part[:] = block_IJ
    assert_array_equal(found_NN, x_ND @ x_ND.T)


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
@pytest.mark.parametrize("chosen", ["highest", "high", "medium"])
def test_products_have_their_precision_whatever_the_user_chose(chosen, precision, monkeypatch, torch_settings):
    settings = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
    torch.set_float32_matmul_precision(chosen)
    before, during = [setting.fp32_precision for setting in settings], []
    multiply = torch.mm

    def mm(*args, **options):
        during.extend(setting.fp32_precision for setting in settings)
        return multiply(*args, **options)

    monkeypatch.setattr(torch, "mm", mm)
    x = torch.ones(2, 3)
    blocks.product(x, x, torch.empty(2, 2), precision)
    with pytest.raises(RuntimeError):
        blocks.product(x, torch.ones(2, 4), torch.empty(2, 2), precision)
    assert during == [precision] * 4
    assert [setting.fp32_precision for setting in settings] == before
    assert torch.get_float32_matmul_precision() == chosen
    assert torch.backends.cuda.matmul.allow_tf32 == (chosen != "highest")


def test_products_leave_precision_to_the_setting_for_all_backends(torch_settings):
    torch.backends.fp32_precision = "tf32"
    blocks.product(torch.ones(2, 3), torch.ones(2, 3), torch.empty(2, 2), "ieee")
    assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    torch.backends.fp32_precision = "ieee"
    assert torch.backends.cuda.matmul.fp32_precision == "ieee"
