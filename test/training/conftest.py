"""Pictures to train on."""

import cv2
import numpy as np
import pytest
import torch


@pytest.fixture
def pictures(tmp_path):
    """A folder of four pictures of blocks, 128 x 160 pixels."""
    folder = tmp_path / 'pictures'
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(4):
        blocks = rng.integers(0, 256, (16, 20), dtype=np.uint8)
        picture = cv2.resize(blocks, (160, 128), interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(folder / f'{index}.png'), picture)
    return folder


@pytest.fixture
def one_thread():
    """As torchrun gives each process; sums of another number of threads round otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
