"""What an import brings along: not the libraries that only some of the package needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ["torch", "numba", "numpy", "scipy.sparse", "sklearn", "pandas", "pyarrow", "pydantic", "matplotlib"]
LABELS = ["torch", "numba", "numpy"]


@pytest.mark.parametrize(
    ("code", "needed"),
    [
        ("from rapids_slr import SLR", LABELS),
        ("from rapids_slr import JaccardDBSCAN", LABELS),
        ("from rapids_slr.refinement import SLR, Refined, SoftRows; SLR(alpha=0.3)", LABELS),
        ("from rapids_slr.clustering import JaccardDBSCAN, cluster_hdbscan; repr(JaccardDBSCAN(k1=3))", LABELS),
        ("import torch; from rapids_slr import SLR; SLR(hard='argmax').update(torch.arange(9))", LABELS),
        ("import rapids_slr.clustering.keys, rapids_slr.refinement.slr.keys", []),
        ("import rapids_slr.cli", []),
    ],
)
def test_only_what_is_needed_is_imported(code, needed):
    code += f"\nimport sys; print(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == needed
