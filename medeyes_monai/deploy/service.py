"""The HTTP service: a study and a question in, an answer and links to its results out."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from starlette.requests import ClientDisconnect

from medeyes_monai import __version__
from medeyes_monai.deploy.guard import guard
from medeyes_monai.deploy.intake import Limits, receive
from medeyes_monai.deploy.jobs import FullError, Jobs, Place, StoppingError
from medeyes_monai.deploy.model import BundleModel
from medeyes_monai.deploy.pipeline import answer_image, answer_study
from medeyes_monai.deploy.plain import plain
from medeyes_monai.deploy.questions import Question
from medeyes_monai.deploy.results_store import Results
from medeyes_monai.deploy.upload import FORM, TooLargeError, Upload, read_form
from medeyes_monai.deploy.writers import write_results
from medeyes_monai.errors import ConfigError, MedEyesError

__all__ = ["ServiceSettings", "create_app"]

MEDIA = {".json": "application/json", ".pdf": "application/pdf", ".dcm": "application/dicom"}


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """How the service behaves.

    Args:
        folder: Where uploads and results lie; None makes a folder that goes with the service.
        token: What clients have to send as ``Authorization: Bearer ...``; None asks for nothing.
        places: Most requests that are received, waiting, or worked on; later ones get 429.
        timeout_s: Longest time from the end of an upload to its answer; then 504.
        upload_s: Longest time of an upload; then 408.
        keep: Most results that are kept.
        keep_s: How long results are kept.
        limits: How much is taken.
    """

    folder: Path | None = None
    token: str | None = field(default=None, repr=False)
    places: int = 8
    timeout_s: float = 120.0
    upload_s: float = 120.0
    keep: int = 100
    keep_s: float = 3600.0
    limits: Limits = field(default_factory=Limits)


def create_app(load: Callable[[], BundleModel], settings: ServiceSettings | None = None) -> FastAPI:
    """Return the service.

    Args:
        load: Loads the model; called once, when the service starts.
        settings: How it behaves.
    """
    chosen = settings or ServiceSettings()

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        root = Path(tempfile.mkdtemp(prefix="service.", dir=chosen.folder))
        app.state.service = _Service(load(), chosen, root)
        try:
            yield
        finally:
            await asyncio.to_thread(app.state.service.jobs.stop)
            shutil.rmtree(root, ignore_errors=True)

    app = FastAPI(
        title="medeyes_monai",
        version=__version__,
        lifespan=life,
        redoc_url=None,
        description="Answers questions about medical images. For research; not for clinical use.",
    )
    app.include_router(_router())
    app.middleware("http")(guard(chosen.token))
    return app


class _Service:
    """What the routes share."""

    def __init__(self, model: BundleModel, settings: ServiceSettings, root: Path) -> None:
        self.model, self.settings, self.root = model, settings, root
        self.jobs = Jobs(settings.places)
        self.results = Results(root / "results", settings.keep, settings.keep_s)

    async def answer(self, request: Request, place: Place) -> dict[str, Any]:
        """Take an upload, wait for its answer, and tell where its results lie."""
        with tempfile.TemporaryDirectory(prefix="upload.", dir=self.root, ignore_cleanup_errors=True) as name:
            folder = Path(name)
            reading = read_form(request, folder / "upload", self.settings.limits.upload_bytes)
            try:
                upload = await asyncio.wait_for(reading, self.settings.upload_s)
            except asyncio.TimeoutError as error:
                raise TooSlowError("the upload took too long", 408) from error
            identifier = request.state.identifier
            job = place.run(lambda: self.work(folder, upload, identifier))
            try:
                return await _finished(request, job, self.settings.timeout_s)
            except BaseException:  # nobody learns where the results lie
                job.add_done_callback(lambda _: self.results.remove(identifier))
                raise

    def work(self, folder: Path, upload: Upload, identifier: str) -> dict[str, Any]:
        """Answer and write, in the thread of the model."""
        unpacked = folder / "study"
        unpacked.mkdir()
        study = receive(upload.file, unpacked, self.settings.limits)
        started = time.monotonic()
        source, results = _asked(self.model, study, upload.question, self.settings.limits.voxels)
        write_results(self.results.folder(identifier), results, source)
        self.results.add(identifier)
        files = self.results.names(identifier)
        return {
            "id": identifier,
            "seconds": round(time.monotonic() - started, 3),
            **plain(results, source),
            "files": {name: f"/v1/answers/{identifier}/{name}" for name in files},
        }


def _asked(model: BundleModel, study: Path, question: Question, voxels: int) -> tuple[Any, Any]:
    if not study.is_dir():
        return None, answer_image(model, study, question, max_voxels=voxels)
    answered = answer_study(model, study, [question], max_voxels=voxels)
    if len(answered) > 1:
        raise ConfigError(f"the series holds {len(answered)} radiographs; send one")
    return answered[0].source, answered[0].results


async def _finished(request: Request, job: Future[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Wait for a job; give up when time is over or the client has left."""
    waiting, leaving = asyncio.wrap_future(job), asyncio.ensure_future(_left(request))
    try:
        both: list[asyncio.Future[Any]] = [waiting, leaving]
        await asyncio.wait(both, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return waiting.result()
        if leaving.done():
            raise TooSlowError(leaving.result(), 499)
        raise TooSlowError("the answer took too long; send less, or ask about fewer slices", 504)
    finally:
        leaving.cancel()
        waiting.cancel()


async def _left(request: Request) -> str:
    """Return when the client has left; ``is_disconnected`` does not see it behind a middleware."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    return "the client left"


class TooSlowError(Exception):
    """Time is over, or nobody waits any more.

    Args:
        reason: What is said.
        status: Number of the reply.
    """

    def __init__(self, reason: str, status: int) -> None:
        """Keep both."""
        super().__init__(reason)
        self.status = status


def _router() -> APIRouter:
    router = APIRouter()
    add = router.add_api_route
    add("/healthz", _health, summary="Whether the service lives")
    add("/readyz", _ready, summary="Whether a request would be taken")
    add(
        "/v1/answers",
        _ask,
        methods=["POST"],
        summary="Ask a question about a study",
        openapi_extra={"requestBody": FORM},
    )
    place = "/v1/answers/{identifier}"
    add(place + "/{name}", _file, response_class=FileResponse, summary="A file of an answer")
    add(place, _forget, methods=["DELETE"], status_code=204, summary="Forget an answer")
    return router


async def _health() -> dict[str, str]:
    return {"status": "alive"}


async def _ready(request: Request, response: Response) -> dict[str, Any]:
    free = request.app.state.service.jobs.free
    response.status_code = 200 if free else 503
    return {"ready": bool(free), "free_places": free}


def _file(request: Request, identifier: str, name: str) -> FileResponse:
    found = request.app.state.service.results.file(identifier, name)
    if found is None:
        raise HTTPException(404, "there is no such file, or it was kept long enough")
    return FileResponse(found, media_type=MEDIA[found.suffix], filename=name)


def _forget(request: Request, identifier: str) -> Response:
    if not request.app.state.service.results.remove(identifier):
        raise HTTPException(404, "there is no such answer, or it was kept long enough")
    return Response(status_code=204)


async def _ask(request: Request) -> JSONResponse:
    """Answer, or say in one line why not; what went wrong inside is named by its kind alone."""
    service: _Service = request.app.state.service
    request.state.identifier = uuid.uuid4().hex
    later = {"Retry-After": "5"}
    try:
        declared = request.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > service.settings.limits.upload_bytes:
            raise TooLargeError(service.settings.limits.upload_bytes)
        with service.jobs.place() as place:
            return JSONResponse(await service.answer(request, place), 200)
    except FullError:
        return JSONResponse({"error": "all places are taken; come again later"}, 429, later)
    except StoppingError:
        return JSONResponse({"error": "the service is stopping"}, 503, later)
    except TooLargeError as error:
        return JSONResponse({"error": str(error)}, 413, {"Connection": "close"})
    except TooSlowError as error:
        return JSONResponse({"error": str(error)}, error.status)
    except ClientDisconnect:
        return JSONResponse({"error": "the client left"}, 499)
    except MedEyesError as error:
        return JSONResponse({"error": str(error)}, 422)
