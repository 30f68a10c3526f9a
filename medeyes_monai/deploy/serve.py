"""``python -m medeyes_monai.deploy.serve``: an HTTP service, for this machine alone unless told otherwise."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from medeyes_monai.errors import ConfigError, MedEyesError
from medeyes_monai.io.literals import check_words

__all__ = ["main"]

EXIT_ERROR = 2
LOCAL = ("127.0.0.1", "::1", "localhost")
SHORTEST_TOKEN = 16
GRACE_S = 30


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until stopped; return 0, or 2 after one line on stderr that says what is wrong.

    Args:
        arguments: Words of the command line; None for those of this process.
    """
    asked = _parser().parse_args(arguments)
    try:
        check_words(sys.argv[1:] if arguments is None else arguments)
        _serve(asked)
    except ImportError as error:
        print(
            f"error: {error}; install the extras: pip install 'medeyes-monai[deploy,serve]'", file=sys.stderr
        )
        return EXIT_ERROR
    except (MedEyesError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_ERROR
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m medeyes_monai.deploy.serve", description=__doc__)
    parser.add_argument("--model", default="bundle", help="folder of the bundle")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; others need a token")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--token-file", type=Path, help="file whose first line clients have to send")
    parser.add_argument("--places", type=int, default=8, help="most requests at a time; later ones get 429")
    parser.add_argument("--timeout", type=float, default=120.0, help="longest wait for an answer, seconds")
    parser.add_argument("--policy", metavar="FOLDER|NAME", help="a checkpoint directory or a hub name")
    parser.add_argument("--config", action="append", default=[], help="file that is laid over the bundle's")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override an id")
    return parser


def _serve(asked: argparse.Namespace) -> None:
    import uvicorn

    from medeyes_monai.deploy.model import load_bundle
    from medeyes_monai.deploy.service import ServiceSettings, create_app
    from medeyes_monai.io.configs import read_setting

    token = _token(asked.token_file)
    if asked.host not in LOCAL and token is None:
        raise ConfigError(f"to listen at {asked.host}, give --token-file, so that not everybody may ask")
    settings = dict(read_setting(text) for text in asked.set)
    app = create_app(
        lambda: load_bundle(asked.model, settings, policy=asked.policy, overlays=asked.config),
        ServiceSettings(token=token, places=asked.places, timeout_s=asked.timeout),
    )
    uvicorn.run(
        app,
        host=asked.host,
        port=asked.port,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )


def _token(file: Path | None) -> str | None:
    if file is None:
        return None
    if not file.is_file():
        raise ConfigError(f"{file} does not exist; it has to hold the token in its first line")
    token = (file.read_text("utf-8").splitlines() or [""])[0].strip()
    if len(token) < SHORTEST_TOKEN or not token.isascii():
        raise ConfigError(f"the token has to be at least {SHORTEST_TOKEN} ASCII letters")
    return token


if __name__ == "__main__":
    sys.exit(main())
