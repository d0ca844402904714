import importlib.metadata
import platform


def versions():
    names = ("rapids-slr", "torch", "torchvision", "numpy", "numba", "scikit-learn", "cupy-cuda13x", "cuml-cu13")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
