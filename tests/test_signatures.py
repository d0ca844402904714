"""Every call into CuPy, cuML, cuDF, RMM and numba.cuda fits the installed library. No GPU is needed."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from rapids_slr.kernels.runtime import SIMULATED

for library in ("cupy", "cuml", "cudf", "rmm", "numba_cuda"):
    pytest.importorskip(library, reason=f"{library} is not installed (pip install 'rapids-slr[cuda13]')")
if SIMULATED:
    pytest.skip("the simulator takes the place of numba.cuda", allow_module_level=True)

from tests.signatures import Reader, read_files  # noqa: E402

HOST = {
    "kernels/nearest.py": frozenset({"no_candidates", "rank"}),
    "rapids_slr/clustering/cameras.py": frozenset({"takes_centre", "centre_cameras"}),
}
"""Functions of the CPU whose names do not say so, and those that count cameras, which lie on the host."""


def test_every_call_fits():
    readers = read_files(Path(__file__).parents[1], HOST)
    assert [fault for reader in readers for fault in reader.faults] == []
    bound = {name for reader in readers for name in reader.bound}
    assert len(bound) > 40
    assert bound >= {
        "cuml.cluster.DBSCAN",
        "DBSCAN.fit_predict",
        "cuml.cluster.HDBSCAN",
        "cuml.manifold.UMAP",
        "cudf.DataFrame",
        "cudf.DataFrame.to_parquet",
        "pandas.DataFrame.groupby",
        "rmm.mr.PoolMemoryResource",
        "cupy.cuda.set_allocator",
        "cupy.from_dlpack",
        "cupy.searchsorted",
        "cupy.ndarray.astype",
        "numba.cuda.atomic.cas",
        "numba.cuda.grid",
    }


GOOD = """
    from numba import cuda

    def step_cuda(x, counts_K):
        import cupy
        from cuml.cluster import DBSCAN

        xp = array_module(x)
        found = DBSCAN(eps=0.5, metric="precomputed")
        labels = found.fit_predict(x, out_dtype="int32")
        y = xp.add(x, xp.full(3, np.float32(2), xp.float32), out=x)
        y = xp.repeat(y, 2).astype(xp.int64, copy=False).max(axis=0, keepdims=True)
        if xp is np:
            return np.repeat(y, counts_K)
        z = np.empty(3) if xp is np else xp.empty(3)
        settings = {}
        xp.concatenate([y, z], **settings)
        rmm = 1
        return xp.sqrt(y).sum() + found.labels_.sum() + np.iinfo(np.int32).max

    def step_cpu(x):
        return np.add.reduceat(x, [0]) + x.max(initial=-1)

    def step(x):
        xp = array_module(x)
        if xp is not np:
            return xp.sort(x)
        return np.partition(x, 3)

    @gpu("void(int64[::1])")
    def _kernel(x):
        cuda.atomic.add(x, cuda.grid(1), 1)
        cuda.syncthreads()
"""


def test_what_fits_is_no_fault():
    reader = Reader("good.py")
    assert reader.read(dedent(GOOD)) == []
    assert {"DBSCAN", "DBSCAN.fit_predict", "cupy.add", "cupy.ndarray.max", "numba.cuda.atomic.add"} <= set(
        reader.bound
    )


def test_the_kernel_of_the_docs_fits():
    page = (Path(__file__).parents[1] / "docs" / "add-a-kernel.md").read_text(encoding="utf-8")
    code = page.split("```python\n")[1].split("```")[0]
    assert Reader("kernels/sizes.py", twins=True).read(code) == []


BAD = {
    "a function that CuPy lacks": ("xp.flatten_all(x)", "cupy has no flatten_all"),
    "a keyword that CuPy lacks": ("xp.max(x, initial=-1)", "got an unexpected keyword argument 'initial'"),
    "too many arguments": ("xp.flatnonzero(x, 1)", "too many positional arguments"),
    "an argument left out": ("xp.searchsorted(x)", "missing a required argument: 'v'"),
    "a type that CuPy lacks": ("xp.empty(3, xp.float128x)", "cupy has no float128x"),
    "a ufunc of too few arrays": ("xp.maximum(x)", "cupy.maximum takes 2 arrays, got 1"),
    "a ufunc with where": ("xp.add(x, x, where=x)", "cupy.add does not take where"),
    "adding at indices": ("xp.add.at(x, x, 1)", "cupy.add.at is not what NumPy's is"),
    "reducing segments": ("xp.maximum.reduceat(x, x)", "cupy.maximum.reduceat is not what NumPy's is"),
    "repeat by counts": ("xp.repeat(x, xp.diff(x))", "cupy.repeat takes no array of counts"),
    "the method repeat by counts": ("x.repeat(counts)", "cupy.ndarray.repeat takes no array of counts"),
    "lexsort of a tuple": ("xp.lexsort((x, x))", "cupy.lexsort takes one stacked array"),
    "weights added in any order": ("xp.bincount(x, weights=x)", "cupy.bincount adds weights in any order"),
    "a method's keyword that CuPy lacks": ("x.max(initial=-1)", "got an unexpected keyword argument 'initial'"),
    "a method that CuPy lacks": ("x.setflags(write=False)", "cupy.ndarray has no setflags"),
    "NumPy on an array of CuPy": ("np.unique(x)", "np.unique on what may be an array of CuPy"),
    "NumPy within an expression": ("x + 2 * np.cumsum(x[1:])[0]", "np.cumsum on what may be an array of CuPy"),
    "NumPy where xp is CuPy": ("x = 1 if xp is np else np.sort(x)", "np.sort on what may be an array of CuPy"),
    "CuPy by its own name": ("import cupy; cupy.fromdlpack(x)", "cupy has no fromdlpack"),
    "a builtin of CuPy": ("import cupy; cupy.from_dlpack(x, stream=1)", "unexpected keyword argument 'stream'"),
    "a setting that cuML lacks": (
        "from cuml.cluster import DBSCAN; DBSCAN(epsilon=1)",
        "got an unexpected keyword argument 'epsilon'",
    ),
    "a setting of cuML by position": ("from cuml.cluster import DBSCAN; DBSCAN(0.5)", "too many positional"),
    "a setting of cuML behind its door": (
        "cluster = import_rapids('cuml.cluster', 'or not'); model = cluster.HDBSCAN(min_sample=1)",
        "got an unexpected keyword argument 'min_sample'",
    ),
    "a class that cuML lacks": ("from cuml.cluster import GraphDBSCAN", "has no GraphDBSCAN"),
    "a method's argument that cuML lacks": (
        "from cuml.cluster import DBSCAN; DBSCAN().fit_predict(x, dtype='int32')",
        "unexpected keyword argument 'dtype'",
    ),
    "a method of a named estimator": (
        "from cuml.cluster import HDBSCAN; model = HDBSCAN(); model.fit_predict(x, out_dtype='int32')",
        "unexpected keyword argument 'out_dtype'",
    ),
    "an argument that RMM lacks": (
        "import rmm; rmm.mr.PoolMemoryResource(rmm.mr.CudaMemoryResource(), initial_size=1)",
        "unexpected keyword argument 'initial_size'",
    ),
    "an argument of RMM left out": ("import rmm; rmm.mr.StatisticsResourceAdaptor()", "missing a required argument"),
    "a resource that RMM lacks": ("import rmm; rmm.mr.Pool()", "has no Pool"),
    "a function that cuDF lacks": ("import cudf; cudf.read_numpy('x')", "cudf has no read_numpy"),
    "a submodule that is not there": ("import cupyx.scipy.sparser", "No module named 'cupyx.scipy.sparser'"),
    "an atomic of Numba": ("from numba import cuda; cuda.atomic.cas(x, 0, 1)", "missing a required argument: 'val'"),
    "an atomic that Numba lacks": ("from numba import cuda; cuda.atomic.mul(x, 0, 1)", "has no mul"),
    "a stream of Numba": ("from numba import cuda; cuda.external_stream()", "missing a required argument: 'ptr'"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_found(name):
    code, text = BAD[name]
    source = "def step_cuda(x, counts):\n    xp = array_module(x)\n    " + code.replace("; ", "\n    ")
    faults = Reader("bad.py").read(source)
    assert len(faults) == 1, faults
    assert faults[0].startswith("bad.py:")
    assert text in faults[0]


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("rows.to_parquet(path, index_column=False)", None),
        ("rows.to_parquet()", "missing a required argument: 'path'"),
        ("rows.groupby('a', sorted=True)", "unexpected keyword argument 'sorted'"),
        ("rows.reset_index(1, 2, 3, 4, 5, 6, 7, 8, 9)", "too many positional arguments"),
        ("rows.to_arrow()", "pandas has no method to_arrow of tables"),
        ("rows.style_of()", "cudf has no method style_of of tables"),
        ("frames.DataFrame(rows, dtypes=int)", "unexpected keyword argument 'dtypes'"),
        ("frames.read_orca('x')", "cudf has no read_orca"),
    ],
)
def test_calls_of_tables(code, text):
    faults = Reader("tables.py", tables=True).read(f"def write(rows, path):\n    {code}")
    assert faults if text else not faults  # both take any further settings of to_parquet
    assert text is None or any(text in fault for fault in faults)


def test_the_host_may_use_numpy():
    source = "def table(x):\n    return np.sort(x)"
    assert Reader("rapids_slr/x.py").read(source) == []
    assert Reader("kernels/x.py", twins=True).read(source) == [
        "kernels/x.py:2: np.sort on what may be an array of CuPy; write xp.sort"
    ]
    assert Reader("kernels/x.py", twins=True, host=frozenset({"table"})).read(source) == []
