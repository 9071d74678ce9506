"""The methods by name, as on the command line. Adding one is one file and one line here."""

from nofinding.methods.ae import AE
from nofinding.methods.autoddpm import AutoDDPM
from nofinding.methods.conditioned_ddad import ConditionedDDAD
from nofinding.methods.diff3m import Diff3M
from nofinding.methods.diff3m_f import Diff3MF
from nofinding.methods.frozen_knn import FrozenKNN
from nofinding.methods.mean_grey import MeanGrey
from nofinding.methods.protocol import Detector
from nofinding.methods.synthetic import Synthetic
from nofinding.methods.thor import THOR
from nofinding.methods.thumbnail import Thumbnail
from nofinding.methods.wolleb import Wolleb
from nofinding.methods.zero_shot import ZeroShot

__all__ = ["METHODS", "Detector"]

METHODS: dict[str, type[Detector]] = {
    "diff3m-f": Diff3MF,
    "diff3m": Diff3M,
    "mean-grey": MeanGrey,
    "thumbnail": Thumbnail,
    "ae": AE,
    "frozen-knn": FrozenKNN,
    "synthetic": Synthetic,
    "conditioned-ddad": ConditionedDDAD,
    "autoddpm": AutoDDPM,
    "thor": THOR,
    "wolleb": Wolleb,
    "zero-shot": ZeroShot,
}
