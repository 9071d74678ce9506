"""The methods by name, as on the command line. Adding one is one file and one line here."""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from nofinding.methods.base.protocol import Detector
from nofinding.methods.baselines.frozen_knn import FrozenKNN
from nofinding.methods.baselines.mean_grey import MeanGrey
from nofinding.methods.baselines.pca import PCA
from nofinding.methods.baselines.pixel_knn import PixelKNN
from nofinding.methods.baselines.thumbnail import Thumbnail
from nofinding.methods.diff3m.detector import Diff3M
from nofinding.methods.diff3m.feature_space.detector import Diff3MF
from nofinding.methods.frozen_features.cfa import CFA
from nofinding.methods.frozen_features.deep_knn import DeepKNN
from nofinding.methods.frozen_features.focal import FocalLesions
from nofinding.methods.frozen_features.mahalanobis import Mahalanobis
from nofinding.methods.frozen_features.mambaad import MambaAD
from nofinding.methods.frozen_features.padim import PaDiM
from nofinding.methods.frozen_features.patchcore import PatchCore
from nofinding.methods.frozen_features.rd4ad import RD4AD
from nofinding.methods.language.zero_shot import ZeroShot
from nofinding.methods.latent_diffusion.diad import DiAD
from nofinding.methods.latent_diffusion.invad import InvAD
from nofinding.methods.latent_diffusion.ldm_kl import LDMKL
from nofinding.methods.latent_diffusion.ldm_ood import LDMOOD
from nofinding.methods.latent_diffusion.mad_ad import MADAD
from nofinding.methods.pixel_diffusion.anoddpm import AnoDDPM
from nofinding.methods.pixel_diffusion.autoddpm import AutoDDPM
from nofinding.methods.pixel_diffusion.cddpm import CDDPM
from nofinding.methods.pixel_diffusion.checkerboard_ddpm import DDPMPCM
from nofinding.methods.pixel_diffusion.conditioned_ddad import ConditionedDDAD
from nofinding.methods.pixel_diffusion.ddpm import DDPM
from nofinding.methods.pixel_diffusion.diffpath import DiffPath
from nofinding.methods.pixel_diffusion.mddpm import MDDPM
from nofinding.methods.pixel_diffusion.osd_irf import OSDIRF
from nofinding.methods.pixel_diffusion.pddpm import PDDPM
from nofinding.methods.pixel_diffusion.restarted_ddpm import DDPMOOD
from nofinding.methods.pixel_diffusion.thor import THOR
from nofinding.methods.pixel_diffusion.wolleb import Wolleb
from nofinding.methods.reconstruction.ae_u import AEU
from nofinding.methods.reconstruction.autoencoder import AE
from nofinding.methods.reconstruction.ddad import DDAD, DDADIntra
from nofinding.methods.reconstruction.memae import MemAE
from nofinding.methods.reconstruction.refined_ddad import DDADASR, DDADASRIntra
from nofinding.methods.reconstruction.squid import SQUID
from nofinding.methods.reconstruction.vae import VAE
from nofinding.methods.self_supervised.synthetic import Synthetic

__all__ = ["METHODS", "Detector"]

METHODS: dict[str, type[Detector]] = {
    # Ours
    "diff3m-f": Diff3MF,
    "diff3m": Diff3M,
    "focal": FocalLesions,
    "synthetic": Synthetic,
    # Reconstruction
    "vae": VAE,
    "memae": MemAE,
    "ae-u": AEU,
    "ddad": DDAD,
    "ddad-intra": DDADIntra,
    "ddad-asr": DDADASR,
    "ddad-asr-intra": DDADASRIntra,
    "squid": SQUID,
    # Diffusion on pixels
    "ddpm": DDPM,
    "ddpm-pcm": DDPMPCM,
    "anoddpm": AnoDDPM,
    "pddpm": PDDPM,
    "cddpm": CDDPM,
    "mddpm": MDDPM,
    "conditioned-ddad": ConditionedDDAD,
    "autoddpm": AutoDDPM,
    "thor": THOR,
    "wolleb": Wolleb,
    "ddpm-ood": DDPMOOD,
    "osd-irf": OSDIRF,
    "diffpath": DiffPath,
    # Diffusion on latents and features
    "ldm-ood": LDMOOD,
    "ldm-kl": LDMKL,
    "diad": DiAD,
    "mad-ad": MADAD,
    "invad": InvAD,
    # Frozen features
    "patchcore": PatchCore,
    "padim": PaDiM,
    "cfa": CFA,
    "mahalanobis": Mahalanobis,
    "deep-knn": DeepKNN,
    "rd4ad": RD4AD,
    "mambaad": MambaAD,
    # Language and image
    "zero-shot": ZeroShot,
    # Baselines: what the others have to beat
    "ae": AE,
    "frozen-knn": FrozenKNN,
    "pca": PCA,
    "pixel-knn": PixelKNN,
    "thumbnail": Thumbnail,
    "mean-grey": MeanGrey,
}


class _Callable(ModuleType):
    """`nofinding.methods` is this package and, called, the listing of the Python interface."""

    def __call__(self) -> Any:
        return import_module("nofinding.api").listing()


sys.modules[__name__].__class__ = _Callable
