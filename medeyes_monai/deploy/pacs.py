"""The way to and from a PACS: series come in by C-STORE, results go out by C-STORE."""

from __future__ import annotations

import io
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import Verification

from medeyes_monai.errors import MedEyesError

__all__ = ["PacsError", "Peer", "Receiver", "send"]

SECONDS = 30
UID = re.compile(r"[0-9.]{1,64}")
REFUSED, FULL = 0xC000, 0xA700
"""Status of a reply: cannot understand, out of resources."""


class PacsError(MedEyesError, RuntimeError):
    """A PACS cannot be reached or does not take an object."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another application.

    Args:
        host: Its address.
        port: Its port.
        title: Its application entity title.
        own_title: What we are called.
    """

    host: str
    port: int
    title: str = "ANY-SCP"
    own_title: str = "MEDEYES"


def send(files: Sequence[Path], peer: Peer) -> int:
    """Store DICOM files at a peer; return how many were stored, which is all of them.

    Args:
        files: The files. Others than DICOM files (``.dcm``) are not meant to be among them.
        peer: Where they go.

    Raises:
        PacsError: If the peer cannot be reached, or refuses one. The message names the file and the status.
    """
    objects = [(path, pydicom.dcmread(path)) for path in files]
    entity = _entity(peer.own_title)
    kinds = {(str(one.SOPClassUID), str(one.file_meta.TransferSyntaxUID)) for _, one in objects}
    entity.requested_contexts = [build_context(kind, syntax) for kind, syntax in sorted(kinds)]
    link = entity.associate(peer.host, peer.port, ae_title=peer.title)
    if not link.is_established:
        raise PacsError(f"no association with {peer.title} at {peer.host}:{peer.port}")
    try:
        for path, one in objects:
            _store(link, path, one)
    finally:
        link.release()
    return len(objects)


class Receiver:
    """Takes what a PACS sends, one folder for each study of an association, and calls back when that ends.

    What an association brought that was broken off is removed.

    Args:
        folder: Where studies lie.
        title: What we are called.
        done: Called with the folders that an association filled.
        max_bytes: Most bytes of an object; larger ones are refused.
    """

    def __init__(
        self,
        folder: Path,
        title: str = "MEDEYES",
        done: Callable[[Sequence[Path]], None] | None = None,
        max_bytes: int = 2**30,
    ) -> None:
        """Prepare; nothing listens yet."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.max_bytes = folder, max_bytes
        self._done = done
        self._places: dict[Any, dict[str, Path]] = {}
        self._entity = _entity(title)
        self._entity.supported_contexts = [*AllStoragePresentationContexts, build_context(Verification)]
        self._server: Any = None

    def start(self, port: int, host: str = "127.0.0.1") -> None:
        """Listen in a thread."""
        handlers = [
            (evt.EVT_C_STORE, self._take),
            (evt.EVT_C_ECHO, lambda _: 0),
            (evt.EVT_RELEASED, self._end),
            (evt.EVT_ABORTED, self._drop),
        ]
        self._server = self._entity.start_server((host, port), block=False, evt_handlers=handlers)

    def stop(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def _take(self, event: Any) -> int:
        """Write one object under names of our own making; return the status of the reply."""
        study, instance = self._names(event)
        if study is None or instance is None:
            return REFUSED
        packed = event.encoded_dataset()
        if len(packed) > self.max_bytes:
            return FULL
        places = self._places.setdefault(event.assoc, {})
        if study not in places:
            places[study] = Path(tempfile.mkdtemp(dir=self.folder))
        (places[study] / f"{instance}.dcm").write_bytes(packed)
        return 0

    def _names(self, event: Any) -> tuple[str | None, str | None]:
        instance = str(event.request.AffectedSOPInstanceUID or "")
        header = pydicom.dcmread(
            io.BytesIO(event.encoded_dataset()), stop_before_pixels=True, specific_tags=["StudyInstanceUID"]
        )
        study = str(header.get("StudyInstanceUID", ""))
        known = UID.fullmatch(study) and UID.fullmatch(instance)
        return (study, instance) if known else (None, None)

    def _end(self, event: Any) -> None:
        places = self._places.pop(event.assoc, {})
        if places and self._done is not None:
            self._done(list(places.values()))

    def _drop(self, event: Any) -> None:
        for place in self._places.pop(event.assoc, {}).values():
            shutil.rmtree(place, ignore_errors=True)


def _entity(title: str) -> AE:
    entity = AE(ae_title=title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = SECONDS
    return entity


def _store(link: Any, path: Path, one: pydicom.Dataset) -> None:
    status = link.send_c_store(one)
    code = status.get("Status") if status else None
    if code is None or not (code == 0 or 0xB000 <= code < 0xC000):  # the latter: stored, with a warning
        raise PacsError(f"{path.name}: not stored, status {'none' if code is None else hex(code)}")
