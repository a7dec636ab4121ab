"""The benchmark of coverage judges a model that vitscope knows nothing of."""

import pytest
from benchmarks.coverage import verdict

from tests.engine.toys_families import make


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize("family", ["timm", "generic"])
def test_a_plain_vit_is_rolled_out_and_its_chain_agrees(family: str) -> None:
    found = verdict(make(family).eval())
    assert (found["status"], found["layers"], found["isotropic"]) == ("rolled out", 2, True)
    assert 0 < found["difference"] < 1e-5
