"""The work spread over processes, each with its own expert and a share of the questions."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from medeyes_monai.errors import MedEyesError
from medeyes_monai.training.lost_items import LostItems
from preparing.configured import Configured, Item
from preparing.work import Done, prepare

READY = "ready"
_Message = str | Done | MedEyesError | None


def spread(
    configuration: tuple[list[str], dict[str, Any], dict[str, str]],
    items: Sequence[Item],
    jobs: int,
    max_lost: float,
) -> Iterator[str | Done]:
    """Do the work in several processes, each of which builds :class:`Configured` of a configuration.

    A process that finds this one gone ends after the question that it is at.

    Yields:
        :data:`READY` once all have built their expert, then what became of each question.

    Raises:
        MedEyesError: If one of them failed.
    """
    context = multiprocessing.get_context("spawn")
    workers: dict[Connection, Any] = {}
    for number in range(jobs):
        mine, theirs = context.Pipe(duplex=False)
        share = (configuration, list(items[number::jobs]), max_lost, theirs)
        process = context.Process(target=_work, args=share, daemon=True)
        process.start()
        theirs.close()
        workers[mine] = process
    try:
        yield from _received(workers)
    finally:
        for process in workers.values():
            process.terminate()
            process.join()


def _received(workers: Mapping[Connection, Any]) -> Iterator[str | Done]:
    still, ready = set(workers), 0
    while still:
        for connection in wait(list(still)):
            message = _read(connection, workers[connection])
            if isinstance(message, MedEyesError):
                raise message
            if message is None:
                still.discard(connection)
            elif message != READY:
                yield message
            elif (ready := ready + 1) == len(workers):
                yield READY


def _read(connection: Any, process: Any) -> _Message:
    try:
        message: _Message = connection.recv()
    except EOFError:
        process.join()
        return MedEyesError(
            f"a process ended with exit code {process.exitcode}; what it knew is kept, and the same command "
            "goes on from there"
        )
    return message


def _work(
    configuration: tuple[list[str], dict[str, Any], dict[str, str]],
    items: list[Item],
    max_lost: float,
    sink: Connection,
) -> None:
    """Prepare some questions in a process of its own, and send what became of them."""
    torch.set_num_threads(1)  # the processes share the CPUs
    try:
        configured = Configured(*configuration)
        _ = configured.memos, configured.dataset
        sink.send(READY)
        for done in prepare(configured, items, LostItems(max_lost)):
            sink.send(done)
        sink.send(None)
    except MedEyesError as error:
        sink.send(MedEyesError(str(error)))
    except (BrokenPipeError, ConnectionError, KeyboardInterrupt):
        return  # nobody is there to be told
