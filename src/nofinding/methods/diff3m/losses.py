"""What Diff3M learns from: eq. 4, and of each film a part of its record hidden."""

from collections.abc import Sequence
from typing import Protocol

from jaxtyping import Float64
from torch import Generator, Tensor

from nofinding.functional.diffusion.sampler import add_noise
from nofinding.functional.noise import gaussian, integers, uniform
from nofinding.methods.diff3m.network import Diff3MNet
from nofinding.nets.ehr import drop_records
from nofinding.types import Batch

__all__ = ["LossOptions", "losses"]


class LossOptions(Protocol):
    """What `losses` reads of a method's config."""

    @property
    def drop_record(self) -> float: ...
    @property
    def drop_entry(self) -> float: ...
    @property
    def balance(self) -> float: ...


def losses(
    net: Diff3MNet,
    batch: Batch,
    rows: Sequence[Generator],
    abar: Float64[Tensor, " t"],
    options: LossOptions,
    *,
    regenerate: bool = True,
) -> dict[str, Tensor]:
    """Noise loss and regeneration loss of each image at a random t (eq. 4), averaged.

    Image and record are on the network's scale; `abar` is that of all steps.
    """
    x0, device = batch.image, batch.image.device
    t = integers(0, len(abar), rows)
    noise = gaussian(x0.shape[1:], rows).to(device)
    draws = uniform((batch.known.shape[1] + 1,), rows).to(device)
    x = add_noise(x0, noise, abar[t])
    known = drop_records(batch.known, draws, options.drop_record, options.drop_entry)
    context, _ = net.attend(x0, batch.ehr, known)
    eps, again = net(x, t.float().to(device), context, regenerate=regenerate)
    noise_loss = (noise - eps).square().mean()
    if not regenerate:
        return {"loss": noise_loss, "noise": noise_loss}
    again_loss = (x - again).square().mean()
    total = options.balance * noise_loss + (1 - options.balance) * again_loss
    return {"loss": total, "noise": noise_loss, "regeneration": again_loss}
