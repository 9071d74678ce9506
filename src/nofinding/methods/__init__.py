"""The methods by name, as on the command line. Adding one is one file and one line here."""

from nofinding.methods.ae import AE
from nofinding.methods.cfa import CFA
from nofinding.methods.deep_knn import DeepKNN
from nofinding.methods.diff3m import Diff3M
from nofinding.methods.diff3m_f import Diff3MF
from nofinding.methods.frozen_knn import FrozenKNN
from nofinding.methods.mahalanobis import Mahalanobis
from nofinding.methods.mean_grey import MeanGrey
from nofinding.methods.padim import PaDiM
from nofinding.methods.patchcore import PatchCore
from nofinding.methods.protocol import Detector
from nofinding.methods.synthetic import Synthetic
from nofinding.methods.thumbnail import Thumbnail

__all__ = ["METHODS", "Detector"]

METHODS: dict[str, type[Detector]] = {
    "diff3m-f": Diff3MF,
    "diff3m": Diff3M,
    "mean-grey": MeanGrey,
    "thumbnail": Thumbnail,
    "ae": AE,
    "frozen-knn": FrozenKNN,
    "synthetic": Synthetic,
    "patchcore": PatchCore,
    "mahalanobis": Mahalanobis,
    "padim": PaDiM,
    "cfa": CFA,
    "deep-knn": DeepKNN,
}
