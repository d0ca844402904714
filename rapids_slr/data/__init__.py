"""Images: from a folder, a .zip or the generator to batches on the training device."""

from rapids_slr.data.augment import augment, normalise
from rapids_slr.data.check import check_domain
from rapids_slr.data.collect import Collection, collect
from rapids_slr.data.domain import Domain, Split, summarise
from rapids_slr.data.drawn.synth import synth_domain, write_domain
from rapids_slr.data.faults import Fault
from rapids_slr.data.pack import pack
from rapids_slr.data.read import read_domain, scan_domain
from rapids_slr.data.sampler import identity_batches
from rapids_slr.data.store import ImageStore, load_images

__all__ = [
    "Collection",
    "Domain",
    "Fault",
    "ImageStore",
    "Split",
    "augment",
    "check_domain",
    "collect",
    "identity_batches",
    "load_images",
    "normalise",
    "pack",
    "read_domain",
    "scan_domain",
    "summarise",
    "synth_domain",
    "write_domain",
]
