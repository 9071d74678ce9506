"""A phantom film and where its finding is: small, picklable, and a pure function of four values."""

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float
from scipy.ndimage import binary_dilation

from nofinding.datasets.phantom.anatomy import Anatomy, anatomy
from nofinding.datasets.phantom.anomalies import changed_anatomy, changed_tissue
from nofinding.datasets.phantom.patients import patient, stream
from nofinding.datasets.phantom.render import (
    RENDER_VERSION,
    attenuate,
    detect,
    develop,
    film,
    rays,
    thickness,
    window,
)
from nofinding.types import Lesion, Pixels

__all__ = ["VISIBLE", "PhantomFilm", "PhantomLesion"]

VISIBLE = 0.03  # change of the noise-free film, on its scale of 0 to 1, that counts as visible
_TOUCHED = 0.01  # change of the share of photons let through, relative, that is more than scatter


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomFilm:
    """The film of phantom patient `index`. Calling it renders it: (size, size), float32, [0, 1]."""

    seed: int
    index: int
    size: int
    kind: str | None = None
    """The finding, or None for a film without one."""

    def __call__(self) -> Pixels:
        """The film, with quantum noise, which is the same whatever the finding."""
        noise = stream(self.seed, self.index, "noise").standard_normal(
            (self.size, self.size), np.float32
        )
        return self._render(noise)

    def clean(self) -> Pixels:
        """The film without quantum noise."""
        return self._render(None)

    def fingerprint(self) -> str:
        """SHA-256 (hex) of all that the film depends on: equal for equal pixels."""
        return _fingerprint("film", self)

    def body(self) -> Anatomy:
        """The anatomy shown, with the finding's changes to it."""
        ehr = patient(self.seed, self.index)
        normal = anatomy(ehr, self.seed, self.index)
        return changed_anatomy(self.kind, normal, ehr, self._rng()) if self.kind else normal

    def primaries(self) -> tuple[Pixels, Pixels]:
        """The share of photons that cross the patient unscattered: without and with the finding."""
        ehr = patient(self.seed, self.index)
        normal = anatomy(ehr, self.seed, self.index)
        grid = rays(normal, self.size)
        maps = thickness(normal, grid)
        without = attenuate(maps, normal, self.size)
        if self.kind is None:
            return without, without
        body = self.body()
        if body != normal:
            maps = thickness(body, grid)
        maps = changed_tissue(self.kind, maps, body, grid, self._rng())
        return without, attenuate(maps, body, self.size)

    def twin(self) -> "PhantomFilm":
        """The same patient without the finding."""
        return PhantomFilm(seed=self.seed, index=self.index, size=self.size)

    def _rng(self) -> np.random.Generator:
        return stream(self.seed, self.index, f"finding {self.kind}")

    def _render(self, noise: Float[np.ndarray, "h w"] | None) -> Pixels:
        body = self.body()
        if self.kind in (None, "conditional"):
            # A conditional film is, to the last bit, a normal film of another heart.
            return film(body, self.size, noise)
        without, primary = self.primaries()
        # The window of the normal chest, or else a finding would change the grey of all the film.
        shown = window(detect(without, body.exposure), body)
        return develop(detect(primary, body.exposure, noise), shown)


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomLesion:
    """Where the finding of a film is. Calling it gives (size, size) bool, True on the finding.

    True where the finding changed the tissue along the rays and the noise-free film by more than
    VISIBLE. Changes by scatter alone, all round a large finding, do not count.
    """

    film: PhantomFilm

    def __call__(self) -> Lesion:
        """The mask, on the grid of the film."""
        twin = self.film.twin()
        visible = np.abs(self.film.clean() - twin.clean()) > VISIBLE
        before, after = self.film.primaries()
        touched = np.abs(after - before) > _TOUCHED * before
        mask: Lesion = visible & binary_dilation(touched)
        return mask

    def fingerprint(self) -> str:
        """SHA-256 (hex) of all that the mask depends on."""
        return _fingerprint("lesion", self.film)


def _fingerprint(what: str, film: PhantomFilm) -> str:
    text = json.dumps([what, RENDER_VERSION, asdict(film)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
