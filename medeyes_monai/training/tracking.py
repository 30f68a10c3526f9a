"""Experiment trackers beside TensorBoard: MLflow by MONAI's handler, Weights & Biases by ignite's logger."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from ignite.engine import Engine, Events
from ignite.handlers.wandb_logger import WandBLogger
from monai.handlers import MLFlowHandler
from monai.utils import optional_import, path_to_sqlite_uri

from medeyes_monai.errors import ConfigError
from medeyes_monai.training.handlers import numbers_of
from medeyes_monai.trajectory import Picture

__all__ = ["MLflowTracker", "TrackingService", "WandBTracker", "make_tracker"]

TrackingService = Literal["mlflow", "wandb"]


class MLflowTracker(MLFlowHandler):
    """MONAI's MLflow handler, which logs every number of each update, and pictures.

    Runs are kept where ``MLFLOW_TRACKING_URI`` says, else in ``mlruns.db`` of the output folder. A run that
    was interrupted and is resumed goes on in its MLflow run.

    Args:
        directory: The run's output folder; its name is the name of the run.
        project: Name of the experiment.
        settings: Parameters of the run.
    """

    def __init__(self, directory: str | Path, project: str, settings: Mapping[str, Any]) -> None:
        """Open the store."""
        folder = Path(directory).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(
            tracking_uri=path_to_sqlite_uri(folder / "mlruns.db"),
            epoch_log=False,
            output_transform=numbers_of,
            experiment_name=project,
            run_name=folder.name,
            experiment_param=dict(settings),
            close_on_complete=True,
        )

    def add_image(self, tag: str, picture: Picture, step: int, dataformats: str = "HWC") -> None:
        """Log a picture, as TensorBoard's writer does.

        Args:
            tag: Its name.
            picture: The picture.
            step: The update it belongs to.
            dataformats: Order of its axes; only this one is known.
        """
        self.client.log_image(self.cur_run.info.run_id, picture, key=tag.replace("/", "_"), step=step)


class WandBTracker:
    """Logs every number of each update, and pictures, through ignite's logger of Weights & Biases.

    ``WANDB_MODE=offline`` keeps a run on this machine.

    Args:
        directory: The run's output folder; its name is the name of the run.
        project: Name of the project.
        settings: Parameters of the run.
    """

    def __init__(self, directory: str | Path, project: str, settings: Mapping[str, Any]) -> None:
        """Remember what to open."""
        self.folder = Path(directory).resolve()
        self.project, self.settings = project, dict(settings)
        self._logger: Any = None

    def attach(self, engine: Engine) -> None:
        """Follow an engine whose output is one dictionary in a list."""
        engine.add_event_handler(Events.STARTED, self._open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._write)
        engine.add_event_handler(Events.COMPLETED, self._close)

    def add_image(self, tag: str, picture: Picture, step: int, dataformats: str = "HWC") -> None:
        """Log a picture, as TensorBoard's writer does.

        Args:
            tag: Its name.
            picture: The picture.
            step: The update it belongs to.
            dataformats: Order of its axes; only this one is known.
        """
        self._logger.log({tag: self._logger.Image(picture)}, step=step)

    def _open(self, engine: Engine) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._logger = WandBLogger(
            project=self.project, name=self.folder.name, dir=str(self.folder), config=self.settings
        )

    def _write(self, engine: Engine) -> None:
        self._logger.log(numbers_of(engine.state.output), step=engine.state.iteration)

    def _close(self, engine: Engine) -> None:
        self._logger.close()


_TRACKERS: dict[str, type[MLflowTracker | WandBTracker]] = {"mlflow": MLflowTracker, "wandb": WandBTracker}


def make_tracker(
    service: TrackingService,
    directory: str | Path,
    project: str = "medeyes_monai",
    settings: Mapping[str, Any] | None = None,
) -> MLflowTracker | WandBTracker:
    """Make the handler of an experiment tracker.

    Args:
        service: Which one.
        directory: The run's output folder.
        project: Name of the experiment or project.
        settings: Parameters of the run.

    Raises:
        ConfigError: If the service is unknown or its package is not installed.

    Example:
        >>> make_tracker("tensorbord", "runs/a")
        Traceback (most recent call last):
        medeyes_monai.errors.ConfigError: unknown tracker 'tensorbord'; choose one of ('mlflow', 'wandb')
    """
    if service not in get_args(TrackingService):
        raise ConfigError(f"unknown tracker {service!r}; choose one of {get_args(TrackingService)}")
    if not optional_import(service)[1]:
        raise ConfigError(
            f"the tracker {service} needs its package: pip install 'medeyes-monai[{service}]', or set "
            "tracker to null"
        )
    return _TRACKERS[service](directory, project, settings or {})
