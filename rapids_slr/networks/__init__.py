"""Networks: pixels to features, the teacher, and BatchNorm on new images."""

from rapids_slr.networks.batchnorm import recalibrate_batchnorm
from rapids_slr.networks.checkpoint import description, load_network, save_network
from rapids_slr.networks.embed import embed
from rapids_slr.networks.teacher import make_teacher, update_teacher
from rapids_slr.networks.two_branch import Outputs, TwoBranch

__all__ = [
    "Outputs",
    "TwoBranch",
    "description",
    "embed",
    "load_network",
    "make_teacher",
    "recalibrate_batchnorm",
    "save_network",
    "update_teacher",
]
