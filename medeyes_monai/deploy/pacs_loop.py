"""``python -m medeyes_monai.deploy.pacs_loop``: answers studies that a PACS sends, and sends results back."""

from __future__ import annotations

import argparse
import logging
import queue
import shutil
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from medeyes_monai.deploy.model import BundleModel, load_bundle
from medeyes_monai.deploy.pacs import Peer, Receiver, send
from medeyes_monai.deploy.pipeline import answer_study, write_study
from medeyes_monai.deploy.questions import Question, read_questions
from medeyes_monai.errors import ConfigError, MedEyesError
from medeyes_monai.io.literals import check_words

__all__ = ["PacsLoop", "main"]

logger = logging.getLogger(__name__)
EXIT_ERROR, EXIT_STOPPED = 2, 130
MOST_WAITING = 1000


class PacsLoop:
    """Answers each study when the association that brought it ends, one after the other.

    A study and its results are removed from the disk when the results have been sent, or when it cannot be
    answered; why not is logged, without values of headers.

    Args:
        model: The model.
        questions: What is asked about each study.
        peer: Where results go.
        folder: Where studies lie meanwhile.
    """

    def __init__(self, model: BundleModel, questions: Sequence[Question], peer: Peer, folder: Path) -> None:
        """Prepare; nothing listens yet."""
        self.model, self.questions, self.peer = model, tuple(questions), peer
        self.receiver = Receiver(folder, peer.own_title, self._wait_for)
        self._waiting: queue.Queue[Path | None] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._work, daemon=True)

    def start(self, port: int, host: str = "127.0.0.1") -> None:
        """Listen, and answer in a thread."""
        self._thread.start()
        self.receiver.start(port, host)

    def stop(self) -> None:
        """Listen no more, and finish what has come."""
        self.receiver.stop()
        self._waiting.put(None)
        self._thread.join()

    def answer(self, study: Path) -> int:
        """Answer one study and send its results; return how many objects were sent.

        Raises:
            MedEyesError: If it cannot be answered, or the peer does not take the results.
        """
        with tempfile.TemporaryDirectory(prefix="results.") as name:
            written = write_study(Path(name), answer_study(self.model, study, self.questions))
            return send([path for path in written if path.suffix == ".dcm"], self.peer)

    def _wait_for(self, studies: Sequence[Path]) -> None:
        for study in studies:
            self._waiting.put(study)

    def _work(self) -> None:
        while (study := self._waiting.get()) is not None:
            try:
                logger.info("a study was answered with %d objects", self.answer(study))
            except MedEyesError as error:
                logger.error("a study was not answered: %s", error)
            except Exception as error:  # its text may quote a header; its kind may not
                logger.error("a study was not answered: %s", type(error).__name__)
            finally:
                shutil.rmtree(study, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until stopped; return 2 after one line on stderr if it cannot begin.

    Args:
        arguments: Words of the command line; None for those of this process.
    """
    asked = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("medeyes_monai").setLevel(logging.INFO)
    try:
        check_words(sys.argv[1:] if arguments is None else arguments)
        _serve(asked)
    except KeyboardInterrupt:
        return EXIT_STOPPED
    except (MedEyesError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_ERROR
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m medeyes_monai.deploy.pacs_loop", description=__doc__)
    parser.add_argument("--peer", required=True, metavar="TITLE@HOST:PORT", help="where results go")
    parser.add_argument("--questions", type=Path, required=True, help="JSON or YAML list of questions")
    parser.add_argument("--model", default="bundle", help="folder of the bundle")
    parser.add_argument("--policy", metavar="FOLDER|NAME", help="a checkpoint directory or a hub name")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at")
    parser.add_argument("--port", type=int, default=11112)
    parser.add_argument("--title", default="MEDEYES", help="what we are called")
    return parser


def _serve(asked: argparse.Namespace) -> None:
    peer, questions = read_peer(asked.peer, asked.title), read_questions(asked.questions)
    with tempfile.TemporaryDirectory(prefix="studies.") as folder:
        loop = PacsLoop(load_bundle(asked.model, policy=asked.policy), questions, peer, Path(folder))
        loop.start(asked.port, asked.host)
        try:
            threading.Event().wait()
        finally:
            loop.stop()


def read_peer(text: str, own_title: str) -> Peer:
    """Read ``TITLE@HOST:PORT``.

    Raises:
        ConfigError: If it is written otherwise.

    Example:
        >>> read_peer("ORTHANC@127.0.0.1:4242", "MEDEYES").port
        4242
    """
    title, at, place = text.partition("@")
    host, colon, port = place.rpartition(":")
    if not (title and at and host and colon and port.isdecimal()):
        raise ConfigError(f"a peer is written TITLE@HOST:PORT, got {text!r}")
    return Peer(host, int(port), title, own_title)


if __name__ == "__main__":
    sys.exit(main())
