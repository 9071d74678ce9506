"""Where objects go once they are written: into an archive (STOW-RS), or to a peer (C-STORE)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nofinding.errors import UserError

if TYPE_CHECKING:
    from nofinding.clinical.network.dicomweb import Archive
    from nofinding.clinical.network.outgoing import Outgoing, Refused

__all__ = ["Way", "way_to"]


@dataclass(frozen=True)
class Way:
    """How objects leave, and where to, in words."""

    to: str
    deliver: Callable[[Sequence["Outgoing"]], Sequence["Refused"]]

    def __call__(self, paths: Sequence[Path]) -> None:
        """Sends the objects in these files, of ours. Raises UserError where some are not taken."""
        from nofinding.clinical.network.outgoing import outgoing

        refused = self.deliver([outgoing(path) for path in paths])
        if refused:
            first = refused[0]
            raise UserError(
                f"{self.to}: {len(refused)} of {len(paths)} objects are not taken, for example "
                f"{first.name}: {first.why}"
            )


def way_to(archive: "Archive | None", peer: str | None, title: str) -> Way | None:
    """The way to the peer if one is named, else into the archive; None where neither is.

    Raises UserError for what is no peer, or no title.
    """
    if peer is not None:
        from nofinding.clinical.network.send import Peer, require_title, send

        to, ours = Peer.parse(peer), require_title(title, "--title")
        return Way(f"--peer {to}", lambda objects: send(objects, to, title=ours))
    return None if archive is None else Way(archive.name, archive.store)
