"""The k largest numbers, against a full sort."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynconv_mt.search.topk import topk


@given(rows=st.integers(1, 4), size=st.integers(10, 3000), k=st.integers(1, 10), seed=st.integers(0, 1000))
def test_it_finds_what_a_sort_finds(rows: int, size: int, k: int, seed: int) -> None:
    x = torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))
    values, indices = topk(x, k)
    expected = x.sort(dim=1, descending=True)
    assert torch.equal(values, expected.values[:, :k])
    assert torch.equal(indices, expected.indices[:, :k])


@pytest.mark.parametrize("size", [20, 5000])
def test_equal_numbers_come_in_order(size: int) -> None:
    x = torch.full((2, size), -torch.inf)
    x[0, [17, 3, 11]] = 1.0
    x[1, 5] = 2.0
    values, indices = topk(x, 3)
    assert indices[0].tolist() == [3, 11, 17]
    assert values[1].tolist() == [2.0, -torch.inf, -torch.inf]
    assert indices[1, 0] == 5
